"""A logged value that a callback follows from epoch to epoch."""

import logging
from collections.abc import Mapping
from typing import Any, get_args

import keras
import numpy as np

from kerasnn.config import catalog
from kerasnn.config.monitor import BestValue, Direction, Mode, better_direction, known_direction, metric_name
from kerasnn.config.schema import one_of, short

log = logging.getLogger("kerasnn")


class MonitoredValue:
    """A logged value that a callback follows: its better direction, its value in each epoch, and the best so far.

    Args:
        name: the value's name in the logs.
        mode: "min" or "max"; "auto" decides by the metric of the compiled model, or by the name.
        min_delta: smallest difference that counts as an improvement.

    Raises:
        ValueError: for another mode.
    """

    def __init__(self, name: str, mode: Mode = "auto", min_delta: float = 0.0) -> None:
        if mode not in get_args(Mode):
            raise ValueError(one_of("mode", mode, get_args(Mode)))
        self.name = name
        self.mode = mode
        self.best = BestValue(known_direction(name, mode), min_delta)
        self._missing = False

    def begin(self, model: keras.Model) -> None:
        """Decide the better direction when training begins.

        Raises:
            ValueError: one line, if the mode is "auto" and the direction is unknown.
        """
        declared = _declared_direction(model, self.name) if self.mode == "auto" else None
        self.best.direction = declared or better_direction(self.name, self.mode)

    def value(self, logs: Mapping[str, Any], epoch: int) -> float | None:
        """The value at the end of an epoch, or None in an epoch without validation (`validation_freq`).

        Raises:
            ValueError: one line, if the value is not logged or is not a single number.
        """
        if self.name in logs:
            value = np.asarray(logs[self.name])
            if value.size != 1 or value.dtype.kind in "OSU":
                raise ValueError(f"monitor {self.name!r} must be a single number, received {short(logs[self.name])}")
            return float(value.reshape(()))
        if not self.name.startswith("val_") or any(name.startswith("val_") for name in logs):
            raise ValueError(one_of("monitor", self.name, logs))
        if not self._missing:
            log.warning("%s is not logged in epoch %d: only epochs with validation are compared", self.name, epoch + 1)
        self._missing = True
        return None

    def end(self) -> None:
        """Refuse a training in which the value was never logged.

        Raises:
            ValueError: in one line.
        """
        if self._missing and self.best.value is None:
            raise ValueError(f"monitor must be logged, received {self.name!r}: give fit validation_data")


def _declared_direction(model: keras.Model, name: str) -> Direction | None:
    """The direction of the model's metric behind a logged name, which may begin with the name of an output."""
    compiled = model._compile_metrics
    # Keras creates the metrics that are given as names or functions with the first batch.
    given = [] if compiled is None else [compiled._user_metrics, compiled._user_weighted_metrics]
    outputs = [
        *(getattr(model, "output_names", None) or ()),
        *(key for part in given if isinstance(part, dict) for key in part),
    ]
    metrics = keras.tree.flatten((given, [each for each in model.metrics if each is not compiled]))
    directions = dict(_name_and_direction(metric) for metric in metrics if metric is not None)
    for output in ("", *(f"{output}_".lower() for output in outputs)):
        if direction := directions.get(metric_name(name).removeprefix(output)):
            return direction
    return None


def _name_and_direction(metric: Any) -> tuple[str, Direction | None]:
    """Name and better direction of a metric as `compile` takes it."""
    if isinstance(metric, keras.metrics.Metric):
        declared: Any = {"up": "max", "down": "min"}.get(getattr(metric, "_direction", ""))
        return metric_name(metric.name), declared or known_direction(metric.name)
    if isinstance(metric, str):
        name = catalog.canonical(catalog.METRICS, metric)
    else:
        name = getattr(metric, "__name__", type(metric).__name__)
    return metric_name(name), "min" if metric in vars(keras.losses).values() else known_direction(name)
