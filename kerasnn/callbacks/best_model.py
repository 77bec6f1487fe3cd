"""The best epoch's model, saved to disk."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn.callbacks.monitored_value import MonitoredValue
from kerasnn.components.values import values_of
from kerasnn.config.monitor import Mode
from kerasnn.config.schema import short
from kerasnn.models.saving import save_model

log = logging.getLogger("kerasnn")


class BestModel(keras.callbacks.Callback):
    """Keep the weights of the best epoch, and save its model.

    The weights are those that were evaluated: with `keras.callbacks.SwapEMAWeights` the moving averages. The file is
    written when training ends, and during training at most so often that writing takes 2 % of the time. In epochs
    without validation (`validation_freq`) a validation metric is not compared.

    Args:
        path: the file: `.keras` for the model, `.weights.h5` for its weights. For a model that Keras cannot serialize
            the weights are saved instead of the model, and a warning says so when training begins. A model without
            `call` needs `model.built = True` before `load_weights`.
        monitor: name of the logged value that decides the best epoch.
        mode: "min" or "max"; "auto" decides by the metric, if its direction is known.
        model: a model that shares the trained model's weights and is saved in its stead (one that takes raw data).

    Raises:
        ValueError: from `fit`: when it begins, if the mode is "auto" and the better direction is unknown; when an epoch
            ends, if the monitored value is not logged or is not a single number.

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
        self.path = Path(path)
        self.monitor = monitor
        self.monitored = MonitoredValue(monitor, mode)
        self.best_epoch: int | None = None
        self._saved_model = model
        self._weights: list[np.ndarray] | None = None
        self._evaluated: list[np.ndarray] | None = None
        self._written = True
        self._writing_seconds = self._last_written = 0.0

    def __repr__(self) -> str:
        return f"BestModel({str(self.path)!r}, monitor={self.monitor!r})"

    def get_state(self) -> dict[str, Any]:
        """The best epoch, its value and its weights."""
        return {"best": self.monitored.best.value, "best_epoch": self.best_epoch, "weights": self._weights}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from the result of `get_state`; the file on disk may be of a later epoch and is written again."""
        self.monitored.best.value, self.best_epoch, self._weights = state["best"], state["best_epoch"], state["weights"]
        self._written = self._weights is None
        if self._weights is None:
            self.path.unlink(missing_ok=True)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.monitored.begin(self.model)
        self._last_written = time.monotonic()
        model = self._saved_model or self.model
        if self.path.suffix == ".keras" and (reason := _not_serializable(model)):
            self.path = self.path.with_suffix(".weights.h5")
            log.warning("%s is saved instead of the model, because %s", self.path, reason)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._evaluated = None

    def on_test_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # By now every callback's on_test_begin has run, and one of them may have replaced the weights.
        if batch == 0 and self.monitor.startswith("val_"):
            self._evaluated = values_of(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        value = self.monitored.value(logs or {}, epoch)
        if value is not None and self.monitored.best.update(value):
            self.best_epoch = epoch
            self._weights = values_of(self.model) if self._evaluated is None else self._evaluated
            self._written = False
        if not self._written and time.monotonic() - self._last_written > 50 * max(self._writing_seconds, 0.1):
            self.write()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.write()
        self.monitored.end()

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
        return {"epoch": self.best_epoch + 1, "monitor": self.monitor, "value": self.monitored.best.value}


def _not_serializable(model: keras.Model) -> str | None:
    """The reason why Keras cannot save a model as `.keras`, or None."""
    try:
        json.dumps(keras.saving.serialize_keras_object(model))
    except (NotImplementedError, TypeError, ValueError) as error:
        return f"Keras cannot serialize {type(model).__name__}: {short(' '.join(str(error).split()), 120)}"
    return None
