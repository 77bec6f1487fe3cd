"""Keras's callbacks, called for blocks of steps."""

from typing import Any

import keras

from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.engine.examples import Examples
from kerasnn.engine.steps import Blocks


class BlockHooks(keras.callbacks.CallbackList):
    """Callbacks that hear of blocks where Keras's loop counts steps.

    Args:
        callbacks: Keras callbacks, nested as Keras takes them.
        examples: what the run goes over, told of every epoch.
        train: the blocks that train, or None where steps are Keras's own.
        test: the blocks that evaluate, or None.
        validation_steps: steps of an evaluation within `fit`.
        options: `model`, `add_history`, `add_progbar` and the parameters that callbacks are told: `epochs`, `steps`,
            `verbose`.
    """

    def __init__(
        self,
        callbacks: Any,
        examples: Examples,
        train: Blocks | None = None,
        test: Blocks | None = None,
        validation_steps: int = 0,
        **options: Any,
    ) -> None:
        self._examples = examples
        self._train = train
        self._test = test
        self._validation_steps = validation_steps
        callbacks = flat(callbacks)
        self._learning_rate = next((each for each in callbacks if isinstance(each, LearningRate)), None)
        super().__init__(callbacks, **options)

    def on_train_begin(self, logs: Any = None) -> None:
        if self._train is not None and self._learning_rate is not None:
            self._learning_rate.in_graph = True
        super().on_train_begin(logs)
        if (
            self._train is not None
            and self._learning_rate is not None
            and self._learning_rate.momentum_variable is not None
        ):
            program = type(self._train.program)
            self._train.program = program(self.model, "train_step", self._learning_rate.momentum_variable)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._examples.epoch = epoch
        super().on_epoch_begin(epoch, logs)
        if self._train is not None:
            owner, updates = self._learning_rate, self.params["steps"]
            self._train.begin(
                *(owner.rates(epoch, updates), owner.momenta(epoch, updates)) if owner is not None else ()
            )

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._train is None:
            super().on_train_batch_begin(batch, logs)
        elif self._train.left == 0:
            super().on_train_batch_begin(batch, logs)
            self._train.open(batch, 1 if self.model.stop_training else self.params["steps"] - batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._train is None or self._train.left == 0:
            super().on_train_batch_end(batch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        super().on_test_begin(logs)
        if self._test is not None:
            self._test.begin()

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._test is None:
            super().on_test_batch_begin(batch, logs)
        elif self._test.left == 0:
            super().on_test_batch_begin(batch, logs)
            steps = self._validation_steps or self.params["steps"]
            self._test.open(batch, 1 if self.model.stop_evaluating else steps - batch)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._test is None or self._test.left == 0:
            super().on_test_batch_end(batch, logs)


def flat(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Callbacks in the order that Keras calls them in."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return keras.tree.flatten(callbacks) if callbacks else []
