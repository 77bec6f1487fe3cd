"""Stop at the first NaN or infinity in the loss, a logged value or a weight."""

import math
from typing import Any

import keras
import numpy as np

from kerasnn.callbacks.logs import numbers_of
from kerasnn.components.values import values_of
from kerasnn.config.schema import short
from kerasnn.data.checks import is_floating


class DivergenceError(ArithmeticError):
    """Training produced NaN or infinity; the message names the epoch and the layer.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(1e30), "mse")
    >>> try:
    ...     history = model.fit(np.ones((8, 2)), np.zeros(8), epochs=9, verbose=0, callbacks=[StopOnDivergence()])
    ... except DivergenceError as error:
    ...     print(str(error)[:22])
    loss must stay finite,
    """


def is_finite(values: np.ndarray) -> bool:
    """Whether an array of any shape holds neither NaN nor infinity; true for an array without floats.

    >>> is_finite(np.array([1.0, np.nan])), is_finite(np.array([1, 2]))
    (False, True)
    """
    return bool(rows_are_finite(values[np.newaxis])[0])


def rows_are_finite(values: np.ndarray) -> np.ndarray:
    """`is_finite` of each row of an array, shape `(rows,)`."""
    if not is_floating(values.dtype):
        return np.ones(len(values), bool)
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    # Infinity minus infinity is NaN, so one sum finds both without a mask of the array's size.
    with np.errstate(invalid="ignore"):
        return np.isfinite(values.reshape(len(values), -1).sum(axis=1, dtype=np.float64))


class StopOnDivergence(keras.callbacks.Callback):
    """End training with an error as soon as the loss, a logged value or a weight is not finite.

    The weights are checked too, because a NaN input followed by relu makes the weights NaN while the loss stays finite.

    Raises:
        DivergenceError: from `fit`, with the epoch, the batch, and the logged value or the layer.

    Reference: `keras.callbacks.TerminateOnNaN`.

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(1e30), "mse")
    >>> model.fit(np.ones((4, 1)), np.zeros(4), epochs=9, verbose=0, callbacks=[StopOnDivergence()])
    Traceback (most recent call last):
    kerasnn.callbacks.divergence.DivergenceError: loss must stay finite, received inf in epoch 2 at batch 0; ...
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0

    def __repr__(self) -> str:
        return "StopOnDivergence()"

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = np.asarray((logs or {}).get("loss", 0.0))
        if not is_finite(loss):
            raise DivergenceError(
                f"loss must stay finite, received {short(loss.tolist())} in epoch {self._epoch + 1} at batch {batch}; "
                f"{self._diagnosis()}"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        bad = next((name for name, value in numbers_of(logs).items() if not math.isfinite(value)), None)
        if bad is not None or self._first_bad_layer() is not None:
            raise DivergenceError(
                f"{bad or 'weights'} must stay finite, received NaN or infinity in epoch {epoch + 1}; "
                f"{self._diagnosis()}"
            )

    def _diagnosis(self) -> str:
        layer = self._first_bad_layer()
        weights = "all weights are finite" if layer is None else f"layer {layer!r} has non-finite weights"
        return f"{weights}; lower the learning rate, clip gradients, or look for extreme values in the data"

    def _first_bad_layer(self) -> str | None:
        variables = self.model.variables
        for variable, value in zip(variables, values_of(self.model, "variables"), strict=True):
            if not is_finite(value):
                return str(variable.path).rsplit("/", 1)[0]
        return None
