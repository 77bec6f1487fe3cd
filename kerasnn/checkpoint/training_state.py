"""The callback that saves the whole state of a training, so that a killed run resumes as if nothing had happened."""

import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kerasnn.callbacks.divergence import DivergenceError, is_finite
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.checkpoint.callback_state import (
    HistoryState,
    callback_states,
    prepare_callbacks,
    restore_callbacks,
    restore_history,
)
from kerasnn.checkpoint.dataset import advanced
from kerasnn.checkpoint.state_file import StateFolder, StateWriter, logger
from kerasnn.checkpoint.tracing import UnsavedState, create_variables
from kerasnn.checkpoint.variables import (
    TRACKED,
    Arrays,
    VariableReader,
    Variables,
    assign,
    first_few,
    mismatch,
    training_variables,
)
from kerasnn.components.random_state import random_state, set_random_state
from kerasnn.distribute.devices import over_processes
from kerasnn.engine.block_callbacks import flat
from kerasnn.signals import caught, error_of
from kerasnn.timings import TimeShare

SECONDS = 60.0
"""Seconds between saved states within an epoch."""
NO_EPOCHS_LEFT = sys.maxsize
"""`initial_epoch` of a run that its callbacks have stopped: `fit` then trains no further epoch."""


class TrainingState(keras.callbacks.Callback):
    """Save the whole state of a training after every epoch, and in long epochs between blocks of steps.

    Where epochs take milliseconds, their ends are saved as often as that takes at most a twentieth of the time; a
    resumed run then repeats the few epochs since the last saved one, and ends with the same bits.

    The state holds every variable that Keras tracks or that attributes of the model lead to (weights, all optimizers,
    metrics, seed generators, TensorFlow's variables), the counters of all callbacks, the history, the position, and the
    state of Python's and NumPy's random number generators. Variables that it can't find but sees change are logged. A
    thread writes it beside training, as a temporary file that is synced, checksummed with SHA-256 and renamed.

    `resume` returns the arguments with which `fit` resumes the run, or begins it. The same program, started again after
    a kill at any moment, ends with the bits that it would have ended with. This needs an order of examples that does
    not depend on earlier epochs. `kerasnn.fit` derives each epoch's order from its seed, Keras's own `fit` does so
    after `keras.utils.set_random_seed`; give a tf.data dataset to `resume` too.

    Of Keras's callbacks, EarlyStopping, ReduceLROnPlateau, ModelCheckpoint, CSVLogger and SwapEMAWeights resume. A
    callback of your own does if it has `get_state() -> dict`, of JSON values and numpy arrays, and `set_state(state)`,
    which is called after `on_train_begin`.

    Args:
        folder: the folder of the states; created if missing.
        keep: number of states to keep, at least 1.
        seconds: seconds between states within an epoch; None is `SECONDS`. A run over several processes saves at the
            end of epochs only.
        every_epoch: whether every epoch's end is saved, however short the epochs are.
        fingerprint: identifies the training data; a state with another fingerprint is refused.

    Attributes:
        shuffle_seed: the seed of the orders of examples in `kerasnn.fit`, which sets it and keeps it after a restart.

    Raises:
        DivergenceError: from `fit`, if a weight or a variable of the optimizer is not finite; such a state is not
            saved.
        OSError: from `fit`, one line, if a state can't be written; the one before is then untouched.

    Reference: `keras.callbacks.BackupAndRestore`, which saves weights and optimizer only.

    >>> import tempfile
    >>> folder, x, y = tempfile.mkdtemp(), tf.ones((8, 2)), tf.ones(8)
    >>> def train(epochs):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    ...     return model.fit(x, y, epochs=epochs, verbose=0, **TrainingState(folder).resume(model))
    >>> train(epochs=2).epoch, train(epochs=3).epoch
    ([0, 1], [0, 1, 2])
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 2,
        seconds: float | None = None,
        every_epoch: bool = False,
        fingerprint: str = "",
    ) -> None:
        super().__init__()
        self.files = StateFolder(folder, keep)
        self.seconds = SECONDS if seconds is None else seconds
        self.every_epoch = every_epoch
        self.fingerprint = fingerprint
        self.rollbacks = 0
        self.shuffle_seed: int | None = None
        self.signal: int | None = None
        self._callbacks: list[keras.callbacks.Callback] = []
        self._tree: dict[str, Any] | None = None  # the state to resume from, until training has reached its position
        self._missing: list[str] = []
        self._epoch = self._saved_epochs = 0
        self._skipping = False
        self._running = False
        self._reader = VariableReader()
        self._unsaved = UnsavedState()
        self._history = HistoryState()
        self._writer = StateWriter(self.files.write)
        self._time = TimeShare()
        self._earlier_seconds = self._start = self._last_saved = 0.0

    def __repr__(self) -> str:
        return f"TrainingState({str(self.files.path)!r})"

    def resume(
        self,
        model: keras.Model,
        callbacks: Any = (),
        dataset: tf.data.Dataset | None = None,
        steps_per_epoch: int | None = None,
    ) -> dict[str, Any]:
        """Restore a model from the newest state; without a state the model stays as it is.

        Variables that do not exist yet, as those of a model without a `call`, are restored when `fit` creates them.

        Args:
            model: the compiled model, made by the same code as at first.
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
        if not model.compiled:
            raise ValueError("the model must be compiled before its state is restored: call model.compile")
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.BackupAndRestore | TrainingState):
                raise ValueError(f"one callback must own the state, received {type(callback).__name__} as well")
        is_built = all(layer.built for layer in model._flatten_layers())
        if is_built and model.optimizer is not None and not model.optimizer.built:
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        self._callbacks = callbacks
        self._writer.flush()
        self._tree = tree = self.files.newest()
        epoch = 0
        if tree is not None:
            if tree["fingerprint"] != self.fingerprint:
                raise ValueError(f"the state in {self.files.path} must be of the same data, received others")
            self._restore_variables(model, {"model", "optimizer"} if is_built else ())
            prepare_callbacks(callbacks, tree["callbacks"])
            self.rollbacks, self._earlier_seconds = tree["rollbacks"], tree["seconds"]
            self.shuffle_seed = tree.get("shuffle_seed")
            epoch = NO_EPOCHS_LEFT if tree["stopped"] else tree["epoch"]
            logger.info("training resumes at epoch %d, step %d", tree["epoch"] + 1, tree["step"])
        arguments = {"callbacks": [*callbacks, self], "initial_epoch": epoch}
        if dataset is not None:
            arguments["x"] = advanced(dataset, 0 if tree is None else tree["epoch"], steps_per_epoch)
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
        self._unsaved, self._history = UnsavedState(), HistoryState()
        if self._tree is None:
            self._save(0, 0)
            return
        self._saved_epochs = self._tree["epoch"]
        self._missing = self._restore_variables(self.model)
        set_random_state(self._tree["random"])
        restore_callbacks(self._callbacks, self._tree["callbacks"])
        restore_history(self.model.history, self._tree["history"])

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin a resumed epoch at its saved step."""
        self._epoch = epoch
        if self._tree is not None:
            # Keras's History comes after this callback, and Keras has reset the metrics.
            restore_history(self.model.history, self._tree["history"])
            # Keras resets metrics when an epoch begins; their values matter within an epoch only.
            if self._tree["step"] or set(self._missing) - {"metrics"}:
                self._resume_epoch(self._tree["step"])
            else:
                self._tree = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save within a long epoch, and before ending by a signal."""
        if self._skipping:
            assert self._tree is not None
            if batch + 1 >= self._tree["step"]:
                # Once more: callbacks have counted the skipped steps and set their learning rates.
                restore_callbacks(self._callbacks, self._tree["callbacks"])
                self._restore_variables(self.model)
                self._skipping, self._tree = False, None
            return
        self._unsaved.watch(self.model)
        due = self.signal is not None or time.monotonic() - self._last_saved > self.seconds
        # Within an epoch each process has its own metrics, which the chief's state does not hold.
        due = due and not over_processes(self.model._distribute_strategy)
        # An epoch that a callback has stopped can't resume in its middle; it ends here.
        if due and not self.model.stop_training:
            # Keras counts a block of steps_per_execution steps as whole, also at the end of the data.
            self._save(self._epoch, min(batch + 1, self.params["steps"] or batch + 1))
            self._end_by_signal()

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End by a signal where the epochs before are saved: validation changes nothing."""
        if self._running and self._saved_epochs == self._epoch:
            self._end_by_signal()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save, unless too short a time has passed since the last state."""
        is_last = bool(self.model.stop_training) or epoch + 1 == self.params["epochs"]
        # Reading a state takes all processes, whose clocks differ.
        always = self.every_epoch or over_processes(self.model._distribute_strategy)
        if always or is_last or self.signal is not None or self._time.due:
            self._save(epoch + 1, 0, epoch, logs)
            self._unsaved.log_changed()
        self._end_by_signal()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Wait until the last state is on disk."""
        self._stop_clock()
        if self._tree is not None:
            restore_history(self.model.history, self._tree["history"])
            if missing := [group for group in self._missing if group != "metrics"]:
                logger.warning(
                    "no epoch was left to create variables, so they are not restored: %s; build the model before",
                    first_few(missing),
                )
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
        self._last_saved, self._saved_epochs = time.monotonic(), epoch
        with self._time.counted():
            self._unsaved.watch(self.model)
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
                "shuffle_seed": self.shuffle_seed,
                "variables": arrays,
                "random": random_state(),
                "history": self._history.read(self.model.history, ended, logs or {}),
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

    def _restore_variables(self, model: keras.Model, required: Collection[str] = ()) -> list[str]:
        """Give variables their saved values.

        Args:
            model: the model.
            required: groups of variables that must exist by now.

        Returns:
            The groups of variables that do not exist yet.

        Raises:
            ValueError: one line, if the state is of another model.
        """
        assert self._tree is not None
        arrays, variables = self._tree["variables"], training_variables(model)
        missing = assign(variables, arrays, initial=not self._tree["epoch"] and not self._tree["step"])
        if group := next((group for group in missing if group in required), None):
            raise mismatch(group, variables, arrays)
        return missing

    def _resume_epoch(self, steps: int) -> None:
        """Have Keras's loop restore variables that its first step creates, and skip the steps that are trained."""
        model, function = self.model, self.model.train_function
        remaining = steps
        self._skipping = steps > 0

        def resume(iterator: Any) -> Any:
            nonlocal remaining
            if remaining == steps:
                self._restore_late_variables(iterator)
                if hasattr(iterator, "skip"):
                    iterator.skip(steps)
            if not steps:
                model.reset_metrics()
                model.train_function, self._tree = function, None
                return function(iterator)
            for _ in range(min(remaining, model.steps_per_execution)):
                if not hasattr(iterator, "skip"):
                    next(iterator)
                remaining -= 1
            if remaining == 0:
                model.train_function = function
            return model.get_metrics_result()

        model.train_function = resume

    def _restore_late_variables(self, iterator: Any) -> None:
        assert self._tree is not None
        if self._restore_variables(self.model) and hasattr(iterator, "get_next"):
            create_variables(self.model, iterator)
            # Some of them have drawn their initial values.
            set_random_state(self._tree["random"])
        if missing := self._restore_variables(self.model, required=TRACKED):
            logger.warning("the state holds variables that the model lacks after a restart: %s", first_few(missing))
