"""Class weights as Keras's `fit` takes them."""

import numpy as np

from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data


def class_weights(config: RunConfig, data: Data) -> dict[int, float] | None:
    """Each class's weight as Keras's `fit` takes them, or None."""
    described = config.training.class_weight
    if described is None:
        return None
    classes = 2 if config.task == "binary" else data.outputs
    if described == "balanced":
        labels = data.y_train.argmax(axis=1) if data.y_train.ndim == 2 else data.y_train.astype(int)
        counts = np.bincount(labels, minlength=classes)
        return {label: len(labels) / (classes * count) for label, count in enumerate(counts.tolist()) if count}
    if sorted(described) != list(range(classes)):
        raise ValueError(
            f"training.class_weight must give a weight to each class from 0 to {classes - 1}, "
            f"received {sorted(described)}"
        )
    return dict(described)
