"""A fixed batch on which the layers of a model in training are measured."""

from typing import Any

import keras

from kerasnn.callbacks.measurement import Measurement
from kerasnn.callbacks.traced_step import TracedStep
from kerasnn.components.values import value_of
from kerasnn.distribute.replicas import optimizers_of


class Probe:
    """A fixed batch on which the layers of a model in training are measured.

    The measured step is the model's own training step, with its dropout, penalties and optimizer. Every variable that
    it changes gets its value back afterwards, bit for bit. Callbacks may share a probe: it measures once for each state
    of the model.

    Args:
        data: `(x,)`, `(x, y)` or `(x, y, sample_weight)` as for `fit`, with the examples along the first axis.

    Raises:
        ValueError: for another number of parts.

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out", use_bias=False)])
    >>> model.set_weights([np.ones((2, 1))])
    >>> model.compile(keras.optimizers.SGD(0.5), "mse")
    >>> Probe((np.ones((8, 2)), np.zeros((8, 1)))).measure(model).weights["out"].update_ratio
    2.0
    """

    def __init__(self, data: tuple[Any, ...]) -> None:
        if not isinstance(data, tuple) or len(data) not in (1, 2, 3):
            received = f"{len(data)} parts" if isinstance(data, tuple) else type(data).__name__
            raise ValueError(f"probe must be (x,), (x, y) or (x, y, sample_weight), received {received}")
        self.data = data
        self._model: keras.Model | None = None
        self._step: TracedStep | None = None
        self._updates = -1
        self._last: Measurement | None = None

    def measure(self, model: keras.Model) -> Measurement:
        """The effect of a training step on the batch, in the model's present state.

        Args:
            model: a built and compiled model.

        Raises:
            ValueError: if the model's `train_step` gives no optimizer gradients.
        """
        if self._step is None or self._model is not model:
            self._model, self._step, self._last = model, TracedStep(model, self.data), None
        updates = updates_of(model)
        if self._last is None or updates != self._updates:
            self._last, self._updates = self._step(), updates
        return self._last

    def forget(self) -> None:
        """Release the model; the next measurement traces the step again."""
        self._model = self._step = self._last = None


def updates_of(model: keras.Model) -> int:
    """The number of updates that a model's optimizers have made."""
    return sum(int(value_of(optimizer.iterations)) for optimizer in optimizers_of(model))
