"""The rates that a schedule yields, without a model."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kerasnn.config.curve import Curve
from kerasnn.config.schedules import get


def course(curve: Callable[[float], Any], epoch: int, updates: int, per: str) -> np.ndarray:
    """A curve's value at every update of one epoch.

    Args:
        curve: function of a fractional epoch.
        epoch: the epoch, from 0 on.
        updates: number of updates in the epoch.
        per: "epoch" holds the value at the epoch's begin, "update" reads the curve at `epoch + update / updates`.

    Returns:
        float64, shape `(updates,)`.
    """
    if per == "epoch":
        return np.full(updates, curve(float(epoch)), dtype=np.float64)
    return np.array([curve(epoch + update / updates) for update in range(updates)], dtype=np.float64)


def simulate(
    schedule: str | dict[str, Any] | Callable[[float], float],
    epochs: int,
    updates_per_epoch: int = 1,
    learning_rate: float = 1.0,
) -> np.ndarray:
    """The learning rate of every update of a run, without a model.

    Args:
        schedule: a schedule, its name or description, or any function of a fractional epoch.
        epochs: the run's length in epochs.
        updates_per_epoch: number of updates in an epoch.
        learning_rate: the base learning rate.

    Returns:
        float64, shape `(epochs · updates_per_epoch,)`.
    """
    curve = get(schedule)
    if isinstance(curve, Curve):
        curve = curve.over(epochs)
    per = getattr(curve, "per", "epoch")
    return learning_rate * np.concatenate([course(curve, epoch, updates_per_epoch, per) for epoch in range(epochs)])
