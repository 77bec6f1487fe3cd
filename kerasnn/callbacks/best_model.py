"""The best epoch's model, saved to disk."""

import time
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np

from kerasnn.config.monitor import BestValue, Mode, better_direction
from kerasnn.config.schema import one_of
from kerasnn.files import replacing


def save_model(model: keras.Model, path: str | Path) -> None:
    """Save a model atomically as one `.keras` file.

    Args:
        model: any built Keras model.
        path: the file, ending in `.keras`.

    Raises:
        OSError: from writing; an earlier file at `path` is then untouched.
    """
    with replacing(path) as temporary:
        model.save(temporary)


class BestModel(keras.callbacks.Callback):
    """Keep the weights of the best epoch, and save its model as a `.keras` file.

    The file is written when training ends, and during training at most so often that writing takes 2 % of the time.

    Args:
        path: the file, ending in `.keras`.
        monitor: name of the logged value that decides the best epoch.
        mode: "min" or "max"; "auto" decides by the name: "max" for accuracies, AUC, precision, recall and scores.
        model: a model that shares the trained model's weights and is saved in its stead (one that takes raw data).

    Raises:
        ValueError: from `fit`, if the monitored value is not logged.

    Reference: `keras.callbacks.ModelCheckpoint(save_best_only=True)`.

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> best = BestModel(Path(tempfile.mkdtemp()) / "best.keras", monitor="loss")
    >>> history = model.fit(np.ones((8, 2)), np.ones(8), epochs=3, verbose=0, callbacks=[best])
    >>> best.path.exists(), best.summary()["value"] == min(history.history["loss"])
    (True, True)
    """

    def __init__(
        self, path: str | Path, monitor: str = "val_loss", mode: Mode = "auto", model: keras.Model | None = None
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(one_of("mode", mode, get_args(Mode)))
        self.path = Path(path)
        self.monitor = monitor
        self.best_epoch: int | None = None
        self._best = BestValue(better_direction(monitor, mode))
        self._saved_model = model
        self._weights: list[np.ndarray] | None = None
        self._written = True
        self._writing_seconds = self._last_written = 0.0

    def get_state(self) -> dict[str, Any]:
        """The best epoch, its value and its weights."""
        return {"best": self._best.value, "best_epoch": self.best_epoch, "weights": self._weights}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from the result of `get_state`; the file on disk may be of a later epoch and is written again."""
        self._best.value, self.best_epoch, self._weights = state["best"], state["best_epoch"], state["weights"]
        self._written = self._weights is None
        if self._weights is None:
            self.path.unlink(missing_ok=True)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._last_written = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        if self.monitor not in logs:
            raise ValueError(one_of("monitor", self.monitor, logs))
        if self._best.update(float(logs[self.monitor])):
            self.best_epoch = epoch
            self._weights = self.model.get_weights()
            self._written = False
        if not self._written and time.monotonic() - self._last_written > 50 * max(self._writing_seconds, 0.1):
            self.write()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.write()

    def write(self) -> None:
        """Write the best epoch's model if the file is not up to date; the trained model keeps its weights."""
        if self._written or self._weights is None:
            return
        start = time.monotonic()
        current = self.model.get_weights()
        self.model.set_weights(self._weights)
        try:
            save_model(self._saved_model or self.model, self.path)
        finally:
            self.model.set_weights(current)
        self._written = True
        self._last_written = time.monotonic()
        self._writing_seconds = self._last_written - start

    def summary(self) -> dict[str, Any] | None:
        """The best epoch, counted from 1, and its value; None before there is one."""
        if self.best_epoch is None:
            return None
        return {"epoch": self.best_epoch + 1, "monitor": self.monitor, "value": self._best.value}
