"""What every learning-rate schedule shares."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from kerasnn.config.schema import Schema

Shape = Literal["linear", "cosine", "1-sqrt"]

# A whole number of periods may come out of a division as 2.9999999999999996 and must still count as 3.
_TOLERANCE = 1e-9


def _blend(start: float, end: float, share: float, shape: Shape) -> float:
    """The value a share of the way from start to end, held at either end."""
    share = min(max(share, 0.0), 1.0)
    match shape:
        case "linear":
            left = 1 - share
        case "cosine":
            left = (1 + math.cos(math.pi * share)) / 2
        case "1-sqrt":
            left = 1 - math.sqrt(share)
    return end + (start - end) * left


class Curve(Schema):
    """What every schedule shares: a name, a warm-up in front, and how often the rate changes.

    `schedule(epoch)` is the curve's factor times the warm-up's, which rises linearly from `warmup_start` to 1 over the
    first `warmup` epochs.
    """

    name: str
    warmup: float = Field(0.0, ge=0)
    """Length of the linear warm-up in epochs, fractions allowed, shorter than the run; 0 (default): none, because small
    networks with a moderate rate need none."""
    warmup_start: float = Field(0.1, gt=0, le=1)
    """Share of the rate that the warm-up starts from, in (0, 1]; 0.1: small, yet no update is wasted on a zero rate."""
    per: Literal["epoch", "update"] = "epoch"
    """When the rate changes: once an "epoch" or with every "update". Curves that their papers define by updates
    (one_cycle, cyclic, inverse_sqrt, warmup_stable_decay) default to "update", all others to "epoch"."""

    def __call__(self, epoch: float) -> float:
        """The factor on the base learning rate.

        Args:
            epoch: epochs done so far, from 0 on; 2.5 is halfway through the third epoch.

        Returns:
            A factor ≥ 0.

        Raises:
            ValueError: for an epoch below 0, and where the curve spans the run and the run's length is not known yet.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, received {epoch!r}")
        ramp = _blend(self.warmup_start, 1.0, epoch / self.warmup, "linear") if self.warmup else 1.0
        return ramp * self._factor(epoch)

    def _factor(self, epoch: float) -> float:
        raise NotImplementedError

    def momentum(self, epoch: float) -> float | None:
        """The momentum at an epoch, or None where the schedule leaves the momentum alone."""
        return None

    def over(self, epochs: float) -> Self:
        """This schedule for a run of the given length.

        Args:
            epochs: the run's length in epochs.

        Returns:
            A schedule that can be called; lengths that were given explicitly stay.

        Raises:
            ValueError: where the warm-up does not fit into the run.
        """
        values = dict(self)
        if "epochs" in values and values["epochs"] is None:
            values["epochs"] = epochs
        elif self.warmup >= epochs:
            raise ValueError(f"warmup must be shorter than the run's {epochs:g} epochs, received {self.warmup:g}")
        return type(self)(**values)


class _Spanning(Curve):
    """A curve drawn over a length, by default the run's."""

    epochs: float | None = Field(None, gt=0)
    """Length of the curve in epochs, above 0; empty (default): the run's length. After it the last value is held."""

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
