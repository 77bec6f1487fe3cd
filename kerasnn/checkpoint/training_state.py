"""The callback that saves the whole state of a training, so that a killed run resumes as if nothing had happened."""

import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.callbacks.divergence import DivergenceError, is_finite
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.checkpoint.callback_state import callback_states, prepare_callbacks, restore_callbacks
from kerasnn.checkpoint.state_file import StateFolder, StateWriter, logger
from kerasnn.checkpoint.variables import Arrays, VariableReader, Variables, assign, training_variables
from kerasnn.distribute.devices import over_processes
from kerasnn.engine.block_callbacks import flat
from kerasnn.signals import caught, error_of

SECONDS = 60.0
"""Seconds between saved states within an epoch; the end of an epoch is always saved."""
NO_EPOCHS_LEFT = sys.maxsize
"""`initial_epoch` of a run that its callbacks have stopped: `fit` then trains no further epoch."""


class TrainingState(keras.callbacks.Callback):
    """Save the whole state of a training after every epoch, and in long epochs between blocks of steps.

    The state holds weights, optimizer, seed generators, metrics, the counters of all callbacks, the history, the
    position, and the state of Python's and NumPy's random number generators. A thread writes it beside training, as a
    temporary file that is synced, checksummed with SHA-256 and renamed. `resume` returns the arguments with which `fit`
    resumes the run, or begins it:

        state = TrainingState("run/state")
        model.fit(x, y, epochs=20, **state.resume(model, [early_stopping, plateau]))

    The same program, started again after a kill at any moment, ends with the bits that it would have ended with. This
    needs an order of examples that does not depend on earlier epochs. `kerasnn.fit` derives each epoch's order from its
    seed, Keras's own `fit` does so after `keras.utils.set_random_seed`; give a tf.data dataset to `resume` too.

    Of Keras's callbacks, EarlyStopping, ReduceLROnPlateau, ModelCheckpoint, CSVLogger and SwapEMAWeights resume. A
    callback of your own does if it has `get_state() -> dict`, of JSON values and numpy arrays, and `set_state(state)`,
    which is called after `on_train_begin`.

    Args:
        folder: the folder of the states; created if missing.
        keep: number of states to keep, at least 1.
        seconds: seconds between states within an epoch; None is `SECONDS`. A run over several processes saves at the
            end of epochs only.
        fingerprint: identifies the training data; a state with another fingerprint is refused.

    Raises:
        DivergenceError: from `fit`, if a weight or a variable of the optimizer is not finite; such a state is not
            saved.
        OSError: from `fit`, one line, if a state can't be written; the one before is then untouched.

    Reference: `keras.callbacks.BackupAndRestore`, which saves weights and optimizer only.

    >>> import tempfile
    >>> folder, x, y = tempfile.mkdtemp(), np.ones((8, 2)), np.ones(8)
    >>> def train(epochs):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    ...     return model.fit(x, y, epochs=epochs, verbose=0, **TrainingState(folder).resume(model))
    >>> train(epochs=2).epoch, train(epochs=3).epoch
    ([0, 1], [0, 1, 2])
    """

    def __init__(
        self, folder: str | Path, *, keep: int = 2, seconds: float | None = None, fingerprint: str = ""
    ) -> None:
        super().__init__()
        self.files = StateFolder(folder, keep)
        self.seconds = SECONDS if seconds is None else seconds
        self.fingerprint = fingerprint
        self.rollbacks = 0
        self.signal: int | None = None
        self._callbacks: list[keras.callbacks.Callback] = []
        self._tree: dict[str, Any] | None = None  # the state to resume from, until training has reached its position
        self._epoch = 0
        self._skipping = False
        self._running = False
        self._reader = VariableReader()
        self._writer = StateWriter(self.files.write)
        self._earlier_seconds = self._start = self._last_saved = 0.0

    def resume(
        self,
        model: keras.Model,
        callbacks: Any = (),
        dataset: tf.data.Dataset | None = None,
        steps_per_epoch: int | None = None,
    ) -> dict[str, Any]:
        """Restore a model from the newest state; without a state the model stays as it is.

        Args:
            model: the built and compiled model, made by the same code as at first.
            callbacks: the callbacks of `fit`, made by the same code as at first.
            dataset: the tf.data dataset for `fit`. The epochs that the run has trained are read again, so that the
                dataset's shuffles continue where they were.
            steps_per_epoch: as given to `fit`, for a dataset without end.

        Returns:
            Arguments for `fit`: `callbacks`, `initial_epoch` and, if a dataset was given, `x`.

        Raises:
            ValueError: one line, if the state is of another model or other data, or a callback can't resume.
        """
        callbacks = [callback for callback in flat(callbacks) if callback is not self]
        if not model.built or not model.compiled:
            raise ValueError(
                "the model must be built and compiled before its state is restored: give it an Input, or call build"
            )
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.BackupAndRestore | TrainingState):
                raise ValueError(f"one callback must own the state, received {type(callback).__name__} as well")
        if not model.optimizer.built:
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        self._callbacks = callbacks
        self._writer.flush()
        self._tree = tree = self.files.newest()
        epoch = 0
        if tree is not None:
            if tree["fingerprint"] != self.fingerprint:
                raise ValueError(f"the state in {self.files.path} must be of the same data, received others")
            assign(training_variables(model), tree["variables"])
            prepare_callbacks(callbacks, tree["callbacks"])
            self.rollbacks, self._earlier_seconds = tree["rollbacks"], tree["seconds"]
            epoch = NO_EPOCHS_LEFT if tree["stopped"] else tree["epoch"]
            logger.info("training resumes at epoch %d, step %d", tree["epoch"] + 1, tree["step"])
        arguments = {"callbacks": [*callbacks, self], "initial_epoch": epoch}
        if dataset is not None:
            arguments["x"] = _advanced(dataset, 0 if tree is None else tree["epoch"], steps_per_epoch)
        return arguments

    @property
    def epochs(self) -> int:
        """Epochs completed in the state that `resume` found; 0 without one."""
        return 0 if self._tree is None else int(self._tree["epoch"])

    @property
    def resumed(self) -> bool:
        """Whether `resume` found a state."""
        return self._tree is not None

    @property
    def trained_seconds(self) -> float:
        """Seconds of training, including those before a restart."""
        return self._earlier_seconds + (time.monotonic() - self._start if self._running else 0.0)

    def roll_back(self, factor: float) -> tuple[int, float]:
        """Lower the learning rate in the newest state, from which `resume` then continues.

        Args:
            factor: multiplies the base rate of the `LearningRate` callback.

        Returns:
            The epochs completed in that state, and the new base rate.

        Raises:
            ValueError: there is no state, or no `LearningRate` in it.
        """
        self._writer.flush()
        tree = self.files.newest()
        states = [] if tree is None else tree["callbacks"]
        rate = next((each["state"] for each in states if each["class"] == LearningRate.__name__), None)
        if tree is None or rate is None:
            raise ValueError("rolling back needs a saved state and a LearningRate callback")
        rate["learning_rate"] *= factor
        tree["rollbacks"] += 1
        self.files.write(tree)
        return tree["epoch"], rate["learning_rate"]

    def flush(self) -> None:
        """Wait until the newest state is on disk.

        Raises:
            OSError: one line, if it could not be written.
        """
        self._writer.flush()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within it, Ctrl-C and SIGTERM save the state between two blocks of steps and then end training.

        A second signal ends training at once; the newest saved state stays.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            TerminatedError: after SIGTERM.
        """

        def handle(number: int) -> None:
            if not self._running or self.signal is not None:
                raise error_of(number)
            self.signal = number

        self.signal = None
        try:
            with caught(handle):
                yield
                self._end_by_signal()
        finally:
            self._stop_clock()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restore the variables and the callbacks; without a state, save the initial one."""
        self._start = self._last_saved = time.monotonic()
        self._skipping = False
        self._running = True
        if self._tree is None:
            self._save(0, 0)
            return
        assign(training_variables(self.model), self._tree["variables"])
        _set_random_state(self._tree["random"])
        restore_callbacks(self._callbacks, self._tree["callbacks"])
        self._restore_history()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin a resumed epoch at its saved step."""
        self._epoch = epoch
        if self._tree is not None:
            # Keras's History comes after this callback, and Keras has reset the metrics.
            self._restore_history()
            if self._tree["step"]:
                self._skip(self._tree["step"], self._tree["variables"]["metrics"])
            else:
                self._tree = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save within a long epoch, and before ending by a signal."""
        if self._skipping:
            assert self._tree is not None
            if batch + 1 >= self._tree["step"]:
                # Once more: callbacks have counted the skipped steps and set their learning rates.
                restore_callbacks(self._callbacks, self._tree["callbacks"])
                _assign_kind(self.model, "optimizer", self._tree["variables"])
                self._skipping, self._tree = False, None
            return
        due = self.signal is not None or time.monotonic() - self._last_saved > self.seconds
        # Within an epoch each process has its own metrics, which the chief's state does not hold.
        due = due and not over_processes(self.model._distribute_strategy)
        # An epoch that a callback has stopped can't resume in its middle; it ends here.
        if due and not self.model.stop_training:
            # Keras counts a block of steps_per_execution steps as whole, also at the end of the data.
            self._save(self._epoch, min(batch + 1, self.params["steps"] or batch + 1))
            self._end_by_signal()

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End by a signal: during validation there is nothing new to save."""
        if self._running:
            self._end_by_signal()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save."""
        self._save(epoch + 1, 0, epoch, logs)
        self._end_by_signal()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Wait until the last state is on disk."""
        self._stop_clock()
        if self._tree is not None:
            self._restore_history()
            self._tree = None
        self.flush()

    def _stop_clock(self) -> None:
        self._earlier_seconds, self._running = self.trained_seconds, False

    def _end_by_signal(self) -> None:
        if self.signal is not None:
            self.flush()
            raise error_of(self.signal)

    def _save(self, epoch: int, step: int, ended: int | None = None, logs: dict[str, Any] | None = None) -> None:
        """Save the state at a position; at an epoch's end with the epoch's number and its logs."""
        self._last_saved = time.monotonic()
        variables = training_variables(self.model)
        arrays = self._reader.read(variables, self.model._distribute_strategy)
        self._check_finite(variables, arrays)
        tree = {
            "epoch": epoch,
            "step": step,
            "stopped": ended is not None and bool(self.model.stop_training),
            "fingerprint": self.fingerprint,
            "rollbacks": self.rollbacks,
            "seconds": self.trained_seconds,
            "variables": arrays,
            "random": _random_state(),
            "history": self._history(ended, logs or {}),
            "callbacks": callback_states(self._callbacks),
        }
        self._writer.put(tree)

    def _check_finite(self, variables: Variables, arrays: Arrays) -> None:
        for kind in ("model", "optimizer"):
            for variable, array in zip(variables[kind], arrays[kind], strict=True):
                if not is_finite(array):
                    raise DivergenceError(
                        f"{variable.path} must stay finite to be saved, received NaN or infinity in epoch "
                        f"{self._epoch + 1}; the state before it is kept"
                    )

    def _history(self, ended: int | None, logs: dict[str, Any]) -> dict[str, Any]:
        """The history, with the epoch that has just ended: Keras's own callback comes after this one."""
        history = self.model.history.history
        epochs = list(getattr(self.model.history, "epoch", ()))
        if ended is not None and epochs[-1:] != [ended]:
            epochs.append(ended)
            history = {name: list(values) for name, values in history.items()}
            for name, value in logs.items():
                history.setdefault(name, []).append(value)
        return {"epoch": epochs, "values": {name: _compact(values) for name, values in history.items()}}

    def _restore_history(self) -> None:
        assert self._tree is not None
        history, saved = self.model.history, self._tree["history"]
        history.epoch = list(saved["epoch"])
        history.history.clear()
        for name, values in saved["values"].items():
            history.history[name] = values.tolist() if isinstance(values, np.ndarray) else list(values)

    def _skip(self, steps: int, metrics: list[np.ndarray]) -> None:
        """Have Keras's loop pass over the first steps of the epoch, which are trained already."""
        model, function = self.model, self.model.train_function
        left = steps
        self._skipping = True

        def skip(iterator: Any) -> Any:
            nonlocal left
            if left == steps and hasattr(iterator, "skip"):
                iterator.skip(steps)
            for _ in range(min(left, model.steps_per_execution)):
                batch = None if hasattr(iterator, "skip") else next(iterator)
                if left == steps:
                    if len(model.metrics_variables) < len(metrics):
                        model._symbolic_build(data_batch=batch)
                    # Keras has reset them at the epoch's begin.
                    _assign_kind(model, "metrics", {"metrics": metrics})
                left -= 1
            if left == 0:
                model.train_function = function
            return model.get_metrics_result()

        model.train_function = skip


def _assign_kind(model: keras.Model, kind: str, arrays: Arrays) -> None:
    assign({kind: training_variables(model)[kind]}, {kind: arrays[kind]})


def _random_state() -> dict[str, Any]:
    """The state of Python's and NumPy's generators, which data generators and callbacks may draw from."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    return {"python": [version, np.array(words, np.uint32), gauss], "numpy": numpy_state}


def _set_random_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(state["numpy"])


def _compact(values: Sequence[Any]) -> Any:
    """A logged value by epoch; as an array if it can be, which is written fast however long it is."""
    return np.array(values, np.float64) if all(isinstance(value, float) for value in values) else list(values)


def _advanced(dataset: tf.data.Dataset, epochs: int, steps_per_epoch: int | None) -> tf.data.Dataset:
    """A dataset after some epochs have been read from it."""
    if steps_per_epoch is not None:
        if dataset.cardinality() != tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "a dataset with steps_per_epoch must be without end to resume: repeat() it, or leave steps_per_epoch "
                f"out; received one of {int(dataset.cardinality())} batches"
            )
        return dataset.skip(epochs * steps_per_epoch)
    for _ in range(epochs):
        for _ in dataset:
            pass
        if dataset.cardinality() != tf.data.UNKNOWN_CARDINALITY:
            # If Keras knows the number of batches, it begins one more pass after each epoch.
            iter(dataset)
    return dataset
