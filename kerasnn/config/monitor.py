"""Monitored values: the better direction, the best value so far, and the response to a plateau."""

import math
import re
from difflib import get_close_matches
from typing import Literal

from pydantic import Field

from kerasnn.config.schema import Schema

Direction = Literal["min", "max"]
Mode = Literal["auto", "min", "max"]

_MAXIMIZED = {
    *("accuracy", "acc", "binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy"),
    *("top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy", "precision", "recall", "auc"),
    *("precision_at_recall", "recall_at_precision", "sensitivity_at_specificity", "specificity_at_sensitivity"),
    *("f1_score", "fbeta_score", "io_u", "binary_io_u", "mean_io_u", "one_hot_io_u", "one_hot_mean_io_u"),
    *("r2_score", "cosine_similarity", "pearson_correlation", "concordance_correlation"),
    *("true_positives", "true_negatives"),
}
_MINIMIZED = {
    *("loss", "binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy"),
    *("binary_focal_crossentropy", "categorical_focal_crossentropy", "kl_divergence", "poisson"),
    *("mean_squared_error", "mse", "root_mean_squared_error", "rmse", "mean_absolute_error", "mae", "huber"),
    *("mean_absolute_percentage_error", "mape", "mean_squared_logarithmic_error", "msle"),
    *("log_cosh", "logcosh", "log_cosh_error", "hinge", "squared_hinge", "categorical_hinge"),
    *("false_positives", "false_negatives"),
}


def known_direction(name: str, mode: Mode = "auto") -> Direction | None:
    """Whether a logged value is minimized or maximized, or None if neither the mode nor the name decides it.

    Args:
        name: the value's name in the logs, with or without "val_".
        mode: "min" or "max"; "auto" decides by the name: Keras's metrics and losses, and names that end in "_loss".

    >>> known_direction("val_loss"), known_direction("val_auc_1"), known_direction("val_dice")
    ('min', 'max', None)
    """
    if mode != "auto":
        return mode
    metric = metric_name(name)
    if metric in _MAXIMIZED:
        return "max"
    return "min" if metric in _MINIMIZED or metric.endswith("_loss") else None


def metric_name(name: str) -> str:
    """The name of the metric behind a logged name: without "val_", "weighted_" and numbers.

    >>> metric_name("val_weighted_auc_1")
    'auc'
    """
    return re.sub(r"(_\d+)+$", "", name.removeprefix("val_").removeprefix("weighted_").lower())


def better_direction(name: str, mode: Mode = "auto") -> Direction:
    """`known_direction`, or an error.

    Raises:
        ValueError: one line, if the mode is "auto" and the name does not decide the direction.
    """
    direction = known_direction(name, mode)
    if direction is None:
        near = get_close_matches(metric_name(name), _MAXIMIZED | _MINIMIZED, n=1)
        part = "val_" if name.startswith("val_") else ""
        hint = f" (did you mean {part + near[0]!r}?)" if near else ""
        raise ValueError(
            f"mode must be 'min' or 'max' for {name!r}, whose better direction is unknown; received 'auto'{hint}"
        )
    return direction


class BestValue:
    """The best value so far. NaN and infinity are never the best.

    Args:
        direction: the better direction; None if it is set later.
        min_delta: smallest difference that counts as an improvement, at least 0.

    Attributes:
        value: the best value, or None before there is one.

    >>> best = BestValue("max")
    >>> [best.update(value) for value in (0.5, 0.7, math.nan, 0.6)], best.value
    ([True, True, False, False], 0.7)
    """

    def __init__(self, direction: Direction | None, min_delta: float = 0.0) -> None:
        self.direction = direction
        self.min_delta = min_delta
        self.value: float | None = None

    def update(self, value: float) -> bool:
        """Take a further value, and return whether it is the best so far."""
        if self.direction is None:
            raise ValueError("direction must be 'min' or 'max' before values are compared, received None")
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

    >>> Plateau(monitor="val_accuracy", patience=3)
    Plateau(monitor='val_accuracy', patience=3)
    """

    monitor: str = "val_loss"
    """Name of the monitored metric; it must be logged in every epoch with validation."""
    mode: Mode = "auto"
    """Whether lower ("min") or higher ("max") is better; "auto" decides by the metric, if its direction is known."""
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
