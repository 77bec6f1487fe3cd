"""The base classes of the learning-rate schedules."""

import math
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from kerasnn.config.schema import Schema

Shape = Literal["linear", "cosine", "1-sqrt"]
Per = Literal["epoch", "update"]

TOLERANCE = 1e-9
"""A whole number of periods may come out of a division as 2.9999999999999996 and must still count as 3."""


def interpolate(start: float, end: float, fraction: float, shape: Shape) -> float:
    """The value at a fraction of the way from start to end; beyond either end it is constant."""
    fraction = min(max(fraction, 0.0), 1.0)
    match shape:
        case "linear":
            remaining = 1 - fraction
        case "cosine":
            remaining = (1 + math.cos(math.pi * fraction)) / 2
        case "1-sqrt":
            remaining = 1 - math.sqrt(fraction)
    return end + (start - end) * remaining


def values_by_update(curve: Callable[[float], Any], epoch: int, updates: int, per: str) -> np.ndarray:
    """A curve's value at every update of one epoch.

    Args:
        curve: function of the fractional epoch.
        epoch: the epoch, counted from 0.
        updates: number of updates in the epoch.
        per: "epoch" gives every update the value at the beginning of the epoch, "update" the value at
            `epoch + update / updates`.

    Returns:
        float64, shape `(updates,)`.
    """
    if per == "epoch":
        return np.full(updates, curve(float(epoch)), dtype=np.float64)
    return np.array([curve(epoch + update / updates) for update in range(updates)], dtype=np.float64)


class Curve(Schema):
    """The base of every schedule: a name, a warm-up, and how often the rate changes.

    `schedule(epoch)` is the product of the curve's factor and the warm-up's, which rises linearly from `warmup_start`
    to 1 over the first `warmup` epochs.
    """

    name: str
    warmup: float = Field(0.0, ge=0)
    """Length of the linear warm-up in epochs, fractions allowed, shorter than the run; 0 (default): none, because small
    networks with a moderate rate need none."""
    warmup_start: float = Field(0.1, gt=0, le=1)
    """Factor at the beginning of the warm-up, in (0, 1]; 0.1: small, yet no update is wasted on a zero rate."""
    per: Per = "epoch"
    """When the rate changes: once an "epoch" or with every "update". Curves that their papers define by updates
    (one_cycle, cyclic, inverse_sqrt, warmup_stable_decay) default to "update", all others to "epoch"."""

    def __call__(self, epoch: float) -> float:
        """The factor on the base learning rate.

        Args:
            epoch: completed epochs, counted from 0; 2.5 is halfway through the third epoch.

        Returns:
            A factor ≥ 0.

        Raises:
            ValueError: for an epoch below 0, and if the curve spans the run and the run's length is not known.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, received {epoch!r}")
        ramp = interpolate(self.warmup_start, 1.0, epoch / self.warmup, "linear") if self.warmup else 1.0
        return ramp * self._factor(epoch)

    def _factor(self, epoch: float) -> float:
        raise NotImplementedError

    def momentum(self, epoch: float) -> float | None:
        """The momentum at an epoch, or None if the schedule does not change the momentum."""
        return None

    @property
    def cycles_momentum(self) -> bool:
        """Whether the schedule changes the momentum, too."""
        return False

    def over(self, epochs: float) -> Self:
        """This schedule for a run of the given length; lengths that were given explicitly do not change.

        Args:
            epochs: the run's length in epochs.

        Raises:
            ValueError: if the warm-up is not shorter than the run.
        """
        values = dict(self)
        if "epochs" in values and values["epochs"] is None:
            values["epochs"] = epochs
        elif self.warmup >= epochs:
            raise ValueError(f"warmup must be shorter than the run's {epochs:g} epochs, received {self.warmup:g}")
        return type(self)(**values)


class SpanningCurve(Curve):
    """A curve with a length, by default the run's."""

    epochs: float | None = Field(None, gt=0)
    """Length of the curve in epochs, above 0; empty (default): the run's length. Beyond it the last value stays."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.epochs is not None and self.warmup >= self.epochs:
            raise ValueError(f"warmup must be shorter than epochs, received {self.warmup:g} and {self.epochs:g}")
        return self

    @property
    def _end(self) -> float:
        if self.epochs is None:
            raise ValueError(f"schedule {self.name!r} spans the run: give it epochs=… or call .over(epochs) first")
        return self.epochs
