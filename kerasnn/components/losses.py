"""Losses by name."""

from typing import Any

import keras
from keras import ops

from kerasnn.config import catalog


@keras.saving.register_keras_serializable(package="kerasnn")
class SmoothedSparseCategoricalCrossentropy(keras.losses.Loss):
    """Cross-entropy of integer labels with label smoothing, which Keras has for one-hot labels only.

    Formula: `-sum over c of q[c] * log(p[c])`, with `q = (1 - s) * onehot(y) + s / classes` and s the smoothing.

    Args:
        from_logits: whether predictions are logits instead of probabilities.
        label_smoothing: fraction of the label's weight that is distributed uniformly over all classes, in [0, 1).
        options: `name`, `reduction` and `dtype` of `keras.losses.Loss`.

    Call arguments: labels `(batch, ...)` or `(batch, ..., 1)`, predictions `(batch, ..., classes)`.

    Reference: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016;
        `keras.losses.CategoricalCrossentropy`.
    """

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0, **options: Any) -> None:
        super().__init__(**{"name": "sparse_categorical_crossentropy"} | options)
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if len(y_true.shape) == len(y_pred.shape):
            y_true = ops.squeeze(y_true, axis=-1)
        one_hot = ops.one_hot(ops.cast(y_true, "int32"), y_pred.shape[-1], dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(one_hot, y_pred, self.from_logits, self.label_smoothing)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"from_logits": self.from_logits, "label_smoothing": self.label_smoothing}


def get(spec: object) -> keras.losses.Loss:
    """A new loss, a mean over the examples.

    Args:
        spec: a name or a mapping of a name and arguments; see `kerasnn.config.catalog.LOSSES`.

    Raises:
        ValueError: if the spec is wrong.

    >>> get({"name": "sparse_categorical_crossentropy", "label_smoothing": 0.1}).label_smoothing
    0.1
    """
    name, arguments = catalog.check("loss", catalog.LOSSES, spec)
    if name == "sparse_categorical_crossentropy" and (smoothing := arguments.pop("label_smoothing", 0.0)):
        arguments.pop("ignore_class", None)
        return SmoothedSparseCategoricalCrossentropy(label_smoothing=smoothing, **arguments)
    return catalog.keras_class(keras.losses, name)(**arguments)
