"""The best epoch's model, kept on disk."""

import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn.config.monitor import more_is_better
from kerasnn.config.schema import one_of
from kerasnn.files import replacing


def save_model(model: keras.Model, path: str | Path) -> None:
    """Save a model as one `.keras` file that is either whole or not there.

    Args:
        model: any built Keras model.
        path: the file, ending in `.keras`.

    Raises:
        OSError: where it can't be written; a file that was there before is then untouched.
    """
    with replacing(path) as temporary:
        model.save(temporary)


class BestModel(keras.callbacks.Callback):
    """Keeps the model of the best epoch: its weights in memory, and in a `.keras` file.

    The file is written when training ends, and while it runs as often as costs no more than 2 % of its time, so that
    saving never slows fast epochs.

    Args:
        path: the file, ending in `.keras`.
        monitor: logged value to compare epochs by.
        mode: `min`, `max`, or `auto`, which takes `max` for names of accuracies, AUC, precision, recall and scores.
        model: what to save in place of the trained model, a model that shares its weights (one that takes raw data).

    Raises:
        ValueError: from `fit`, where the monitored value is not logged.

    Reference: `keras.callbacks.ModelCheckpoint(save_best_only=True)`.
    """

    def __init__(
        self, path: str | Path, monitor: str = "val_loss", mode: str = "auto", model: keras.Model | None = None
    ) -> None:
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise ValueError(one_of("mode", mode, ("auto", "min", "max")))
        self.path = Path(path)
        self.monitor = monitor
        self.sign = -1.0 if mode == "max" or (mode == "auto" and more_is_better(monitor)) else 1.0
        self.best = math.inf
        self.best_epoch: int | None = None
        self._whole = model
        self._weights: list[np.ndarray] | None = None
        self._written = True
        self._cost = self._last = 0.0

    def get_state(self) -> dict[str, Any]:
        """The best epoch, its value and its weights."""
        return {"best": self.best, "best_epoch": self.best_epoch, "weights": self._weights}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` gave; a file that is there may be of a later epoch, and is written anew."""
        self.best, self.best_epoch, self._weights = state["best"], state["best_epoch"], state["weights"]
        self._written = self._weights is None
        if self._weights is None:
            self.path.unlink(missing_ok=True)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock of the file's writing."""
        self._last = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the weights if the epoch is the best so far."""
        logs = logs or {}
        if self.monitor not in logs:
            raise ValueError(one_of("monitor", self.monitor, logs))
        value = self.sign * float(logs[self.monitor])
        if value < self.best:  # false for NaN
            self.best, self.best_epoch = value, epoch
            self._weights = self.model.get_weights()
            self._written = False
        if not self._written and time.monotonic() - self._last > 50 * max(self._cost, 0.1):
            self.write()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Write what has not been written yet."""
        self.write()

    def write(self) -> None:
        """Write the best epoch's model now; the model in training keeps its weights."""
        if self._written or self._weights is None:
            return
        start = time.monotonic()
        current = self.model.get_weights()
        self.model.set_weights(self._weights)
        try:
            save_model(self._whole or self.model, self.path)
        finally:
            self.model.set_weights(current)
        self._written = True
        self._last = time.monotonic()
        self._cost = self._last - start

    def summary(self) -> dict[str, Any] | None:
        """The best epoch (from 1 on) and its value, or None before there is one."""
        if self.best_epoch is None:
            return None
        return {"epoch": self.best_epoch + 1, "monitor": self.monitor, "value": self.sign * self.best}
