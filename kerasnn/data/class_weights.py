"""Class weights of a run."""

import numpy as np

from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data


def class_weights(config: RunConfig, data: Data) -> dict[int, float] | None:
    """The weight of each class as Keras's `fit` takes it, from `training.class_weight`.

    Formula for `balanced`: weight = examples / (classes · examples of the class)

    Raises:
        ValueError: one line, unless every class has a weight.
    """
    weights = config.training.class_weight
    if weights is None:
        return None
    classes = 2 if config.task == "binary" else data.outputs
    if weights == "balanced":
        labels = data.y_train.argmax(axis=1) if data.y_train.ndim == 2 else data.y_train.astype(int)
        counts = np.bincount(labels, minlength=classes)
        return {label: len(labels) / (classes * count) for label, count in enumerate(counts.tolist()) if count}
    if sorted(weights) != list(range(classes)):
        raise ValueError(
            f"training.class_weight must give a weight to each class from 0 to {classes - 1}, "
            f"received {sorted(weights)}"
        )
    return dict(weights)
