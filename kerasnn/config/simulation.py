"""The learning rates of a schedule, without a model."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kerasnn.config.curve import Curve, values_by_update
from kerasnn.config.schedules import get


def simulate(
    schedule: str | dict[str, Any] | Callable[[float], float],
    epochs: int,
    updates_per_epoch: int = 1,
    learning_rate: float = 1.0,
) -> np.ndarray:
    """The learning rate of every update of a run.

    Args:
        schedule: a schedule, its name or description, or any function of the fractional epoch.
        epochs: the run's length in epochs.
        updates_per_epoch: number of updates in an epoch.
        learning_rate: the base learning rate.

    Returns:
        float64, shape `(epochs · updates_per_epoch,)`.

    >>> simulate("polynomial", epochs=4, learning_rate=0.1).round(3).tolist()
    [0.1, 0.075, 0.05, 0.025]
    """
    curve = get(schedule)
    if isinstance(curve, Curve):
        curve = curve.over(epochs)
    per = getattr(curve, "per", "epoch")
    epochs_of_values = [values_by_update(curve, epoch, updates_per_epoch, per) for epoch in range(epochs)]
    return learning_rate * np.concatenate(epochs_of_values)
