"""Monitored metrics: which direction is better, and what happens on a plateau."""

from typing import Literal

from pydantic import Field

from kerasnn.config.schema import Schema

_GROWING = ["acc", "auc", "precision", "recall", "sensitivity", "specificity", "score", "f1", "r2", "iou", "io_u"]
_GROWING += ["cosine", "correlation", "true_"]


def more_is_better(name: str) -> bool:
    """Whether a logged value grows as a model improves, by its name: accuracies, scores, correlations, but no loss."""
    return not name.endswith("loss") and any(part in name for part in _GROWING)


class Plateau(Schema):
    """Multiply the rate by a factor when a metric stops improving: a part of the rate beside the schedule, not a curve.

    Reference: PyTorch's and Keras's `ReduceLROnPlateau`.
    """

    monitor: str = "val_loss"
    """Name of the watched metric in the epoch's logs; it must be there every epoch."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether lower ("min") or higher ("max") is better; "auto": higher for accuracy, AUC, precision, recall and their
    like, else lower."""
    factor: float = Field(0.1, gt=0, lt=1)
    """Factor on the rate at each plateau, in (0, 1); 0.1 as in Keras."""
    patience: int = Field(10, ge=1)
    """Epochs without improvement before the rate falls, at least 1; 10 as in Keras."""
    min_delta: float = Field(1e-4, ge=0)
    """Smallest change that counts as an improvement, in the metric's unit, at least 0; 1e-4 as in Keras."""
    cooldown: int = Field(0, ge=0)
    """Epochs to wait after a fall before counting again, at least 0."""
    min_factor: float = Field(0.0, ge=0, lt=1)
    """Smallest product of all falls, in [0, 1)."""

    @property
    def direction(self) -> Literal["min", "max"]:
        """The mode with "auto" decided by the metric's name."""
        if self.mode != "auto":
            return self.mode
        return "max" if more_is_better(self.monitor) else "min"
