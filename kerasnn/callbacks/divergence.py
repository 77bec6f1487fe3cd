"""Stop at the first sign of NaN, in the loss, in any logged value or in the weights."""

from typing import Any

import keras
import numpy as np


class DivergenceError(ArithmeticError):
    """Training produced NaN or infinity; the message names the epoch and the place."""


def is_finite(value: np.ndarray) -> bool:
    """Whether an array, of any shape, holds neither NaN nor infinity; one that holds no floats does not."""
    return bool(rows_are_finite(value[np.newaxis])[0])


def rows_are_finite(values: np.ndarray) -> np.ndarray:
    """The same for each part of an array along its first axis."""
    if values.dtype.kind != "f":
        return np.ones(len(values), bool)
    # Infinity minus infinity is NaN, so one sum finds either without a mask as large as the weights.
    with np.errstate(invalid="ignore"):
        return np.isfinite(values.reshape(len(values), -1).sum(axis=1, dtype=np.float64))


class StopOnDivergence(keras.callbacks.Callback):
    """Ends training with an error once the loss, a logged value or a weight is no longer finite.

    Weights are looked at too: a NaN input behind relu leaves the loss finite and the weights NaN.

    Raises:
        DivergenceError: from `fit`, naming epoch, batch and value or layer.

    Reference: `keras.callbacks.TerminateOnNaN`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the epoch for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the running loss."""
        loss = (logs or {}).get("loss")
        if loss is not None and not np.isfinite(float(loss)):
            raise DivergenceError(
                f"loss must stay finite, received {float(loss)} in epoch {self._epoch + 1} at batch {batch}; "
                f"{self._culprit()}"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at every weight and every logged value."""
        layer = self._first_bad_layer()
        bad = next((name for name, value in (logs or {}).items() if not np.isfinite(float(value))), None)
        if layer is not None or bad is not None:
            what = f"{bad} must stay finite" if bad is not None else "weights must stay finite"
            raise DivergenceError(f"{what}, received NaN or infinity in epoch {epoch + 1}; {self._culprit()}")

    def _culprit(self) -> str:
        layer = self._first_bad_layer()
        place = f"layer {layer!r} has non-finite weights" if layer is not None else "all weights are finite"
        return f"{place}; lower the learning rate, clip gradients, or look for extreme values in the data"

    def _first_bad_layer(self) -> str | None:
        for variable in self.model.variables:
            if not is_finite(np.asarray(variable)):
                return str(variable.path).rsplit("/", 1)[0]
        return None
