"""Monitored values: which direction is better, the best value so far, and what happens on a plateau."""

import math
from typing import Literal

from pydantic import Field

from kerasnn.config.schema import Schema

Direction = Literal["min", "max"]
Mode = Literal["auto", "min", "max"]

_MAXIMIZED: tuple[str, ...] = (
    "acc",
    "auc",
    "precision",
    "recall",
    "sensitivity",
    "specificity",
    "score",
    "f1",
    "r2",
    "iou",
    "io_u",
)
_MAXIMIZED += ("cosine", "correlation", "true_")


def better_direction(name: str, mode: Mode = "auto") -> Direction:
    """Whether a logged value is minimized or maximized.

    Args:
        name: the value's name in the logs (`"val_loss"`).
        mode: "min" or "max"; "auto" decides by the name: "max" for accuracies, scores and correlations, else "min".

    >>> better_direction("val_loss"), better_direction("val_accuracy")
    ('min', 'max')
    """
    if mode != "auto":
        return mode
    return "max" if not name.endswith("loss") and any(part in name for part in _MAXIMIZED) else "min"


class BestValue:
    """The best value so far. NaN and infinity are never the best.

    Args:
        direction: the better direction, "min" or "max".
        min_delta: smallest difference that counts as an improvement, at least 0.

    Attributes:
        value: the best value, or None before there is one.

    >>> best = BestValue("max")
    >>> [best.update(value) for value in (0.5, 0.7, math.nan, 0.6)], best.value
    ([True, True, False, False], 0.7)
    """

    def __init__(self, direction: Direction, min_delta: float = 0.0) -> None:
        self.direction = direction
        self.min_delta = min_delta
        self.value: float | None = None

    def update(self, value: float) -> bool:
        """Take a further value, and return whether it is the best so far."""
        gain = math.inf
        if self.value is not None:
            gain = self.value - value if self.direction == "min" else value - self.value
        if not math.isfinite(value) or gain <= self.min_delta:
            return False
        self.value = value
        return True


class Plateau(Schema):
    """Multiply the learning rate by a factor when a metric stops improving, independently of the schedule.

    Reference: Keras's and PyTorch's `ReduceLROnPlateau`.

    >>> Plateau(monitor="val_accuracy", patience=3).direction
    'max'
    """

    monitor: str = "val_loss"
    """Name of the monitored metric; it must be logged every epoch."""
    mode: Mode = "auto"
    """Whether lower ("min") or higher ("max") is better; "auto": higher for accuracies, scores, AUC, precision and
    recall, else lower."""
    factor: float = Field(0.1, gt=0, lt=1)
    """Factor on the learning rate at each plateau, in (0, 1); 0.1 as in Keras."""
    patience: int = Field(10, ge=1)
    """Epochs without improvement before the rate is lowered, at least 1; 10 as in Keras."""
    min_delta: float = Field(1e-4, ge=0)
    """Smallest change that counts as an improvement, in the metric's unit, at least 0; 1e-4 as in Keras."""
    cooldown: int = Field(0, ge=0)
    """Epochs after a reduction before epochs without improvement are counted again, at least 0."""
    min_factor: float = Field(0.0, ge=0, lt=1)
    """Lower bound on the product of all reductions, in [0, 1)."""

    @property
    def direction(self) -> Direction:
        """The better direction of the monitored metric."""
        return better_direction(self.monitor, self.mode)
