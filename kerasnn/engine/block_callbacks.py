"""Keras's callbacks over blocks of steps: which may be called once a block, and which at every batch."""

from collections.abc import Iterator
from typing import Any, Literal

import keras

from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.engine.batches import ENDLESS, Batches
from kerasnn.engine.examples import Examples
from kerasnn.engine.steps import Blocks
from kerasnn.timings import phase

_BATCH_METHODS = {
    "train": ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"),
    "test": ("on_test_batch_begin", "on_test_batch_end"),
}
_KNOWN = ("keras.", "kerasnn.", "mlflow.", "wandb.")
"""Packages whose batch methods count and display, unless an attribute asks for something at batches."""


class BlockDriver(keras.callbacks.Callback):
    """Begins each block of steps. It is the first callback in the list, so that it works wherever the list goes.

    Args:
        examples: the examples, whose `epoch` is set when an epoch begins.
        train: the training blocks; None if Keras's own steps train.
        test: the evaluation blocks; None if Keras's own steps evaluate.
        learning_rate: the callback that owns the learning rate, or None.
        steps: steps in an epoch, or in an evaluation outside of `fit`; None where that is not known.
        validation_steps: steps of an evaluation, likewise.
    """

    def __init__(
        self,
        examples: Examples | Batches,
        train: Blocks | None,
        test: Blocks | None,
        learning_rate: LearningRate | None,
        steps: int | None,
        validation_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.train, self.test = train, test
        self.hosted = False
        self._examples = examples
        self._learning_rate = learning_rate
        self.steps = steps
        self._validation_steps = validation_steps
        self._begun = False

    def on_train_begin(self, logs: Any = None) -> None:
        if self.train is None:
            return
        if not self.hosted:
            # Keras calls the callbacks of a plain list at every step.
            self.train.length = 1
        if self._learning_rate is not None:
            self._learning_rate.in_graph = self.steps is not None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._examples.epoch = epoch
        self._begun = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.train is None:
            return
        if not self._begun:
            # The callback that owns the learning rate has begun the epoch by now.
            self._begin_epoch(self.train)
        if self.train.left == 0:
            self.train.open(batch, lambda: _limit(self.model.stop_training, self.steps, batch))

    def _begin_epoch(self, train: Blocks) -> None:
        owner, epoch = self._learning_rate, self._examples.epoch
        self._begun = True
        if owner is None or self.steps is None:
            train.begin()
            return
        if owner.momentum_variable is not None:
            train.set_momentum(owner.momentum_variable)
        train.begin(owner.rates(epoch, self.steps), owner.momenta(epoch, self.steps))

    def on_test_begin(self, logs: Any = None) -> None:
        if self.test is not None:
            self.test.begin()

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.test is not None and self.test.left == 0:
            self.test.open(batch, lambda: _limit(self.model.stop_evaluating, self._validation_steps, batch))


class BlockCallbacks(keras.callbacks.CallbackList):
    """A callback list whose batch methods are called once a block; iterable, like the list that it was made from.

    Args:
        callbacks: Keras callbacks, nested as Keras takes them.
        driver: begins the blocks.
        options: `model`, `add_history`, `add_progbar` and the parameters of callbacks: `epochs`, `steps`, `verbose`.
    """

    def __init__(self, callbacks: Any, driver: BlockDriver, **options: Any) -> None:
        self._driver = driver
        super().__init__([driver, *flat(callbacks)], **options)

    def on_train_begin(self, logs: Any = None) -> None:
        self._driver.hosted = True
        with phase("reports"):
            super().on_train_begin(logs)

    def on_train_end(self, logs: Any = None) -> None:
        with phase("reports"):
            super().on_train_end(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        with phase("reports"):
            super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        with phase("reports"):
            super().on_epoch_end(epoch, logs)

    def __iter__(self) -> Iterator[keras.callbacks.Callback]:
        return iter(self.callbacks)

    def __len__(self) -> int:
        return len(self.callbacks)

    def append(self, callback: keras.callbacks.Callback) -> None:
        """Add a callback, as experiment trackers do."""
        self.callbacks.append(callback)
        callback.set_params(self.params)
        callback.set_model(self.model)
        if self._driver.train is not None and acts_by_batch([callback], "train"):
            self._driver.train.length = 1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._driver.train is None or self._driver.train.left == 0:
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._driver.train is None or self._driver.train.left == 0:
            super().on_train_batch_end(_last_step(self._driver.train, batch), logs)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._driver.test is None or self._driver.test.left == 0:
            super().on_test_batch_begin(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._driver.test is None or self._driver.test.left == 0:
            super().on_test_batch_end(_last_step(self._driver.test, batch), logs)


def _limit(stopped: bool, steps: int | None, done: int) -> int:
    """The largest number of steps in a block that begins after the first `done` steps."""
    return 1 if stopped else (ENDLESS if steps is None else steps) - done


def _last_step(blocks: Blocks | None, batch: int) -> int:
    return batch if blocks is None else blocks.last_step(batch)


def flat(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Callbacks in the order in which Keras calls them."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return keras.tree.flatten(callbacks) if callbacks else []


def acts_by_batch(callbacks: Any, phase: Literal["train", "test"]) -> keras.callbacks.Callback | None:
    """The first callback that must be called at every batch, or None.

    The classes of Keras, kerasnn, MLflow and W&B need not, unless their arguments say so
    (`ModelCheckpoint(save_freq=50)`). Any other class that defines a batch method must: it may set a learning rate,
    stop training or keep each batch's loss.
    """
    return next((callback for callback in flat(callbacks) if _by_batch(callback, phase)), None)


def _by_batch(callback: keras.callbacks.Callback, phase: str) -> bool:
    for name in _BATCH_METHODS[phase]:
        # A LambdaCallback keeps the user's functions as attributes.
        if name in vars(callback):
            return True
        owner = next(kind for kind in type(callback).__mro__ if name in vars(kind))
        if not owner.__module__.startswith(_KNOWN):
            return True
    if phase == "test":
        return False
    frequencies = [getattr(callback, name, "epoch") for name in ("save_freq", "update_freq")]
    switches = [getattr(callback, name, None) for name in ("_should_trace", "log_every_n_steps", "logging_batch_wise")]
    return any(frequency != "epoch" for frequency in frequencies) or any(switches)


def follows_validation(callbacks: Any) -> tuple[str, str] | None:
    """The class of the first callback that follows a validation metric, and the metric; None if none does.

    A callback of the user's own may log such a value, so that the callbacks after it are not looked at.
    """
    for callback in flat(callbacks):
        if not type(callback).__module__.startswith(_KNOWN) or isinstance(callback, keras.callbacks.LambdaCallback):
            return None
        if isinstance(callback, keras.callbacks.ModelCheckpoint) and not callback.save_best_only:
            continue
        monitored = getattr(callback, "monitored", None)
        name = getattr(callback, "monitor", None) if monitored is None else monitored.name
        if isinstance(name, str) and name.startswith("val_"):
            return type(callback).__name__, name
    return None
