"""The whole state of a training, saved so that a killed run goes on as if it had never been killed."""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.callbacks.divergence import DivergenceError, is_finite
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.checkpoint.state_file import StateFolder, logger
from kerasnn.distribute.devices import over_processes
from kerasnn.engine.block_callbacks import flat
from kerasnn.keras_private import GLOBAL_SEED_GENERATOR, global_seed_generator, global_state
from kerasnn.signals import caught, error_of

SECONDS = 60.0
"""Seconds between saved states within an epoch; every epoch's end is saved anyway."""
OVER = sys.maxsize
"""As the first epoch of a run whose callbacks have ended it: `fit` then goes straight to the end of training."""

_KERAS_CALLBACKS: dict[type[keras.callbacks.Callback], tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}
"""What Keras's own callbacks keep from epoch to epoch, and lose when training begins anew."""
_STATELESS = (
    keras.callbacks.History,  # kept with the state itself
    keras.callbacks.CSVLogger,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.TerminateOnNaN,
)


class TrainingState(keras.callbacks.Callback):
    """Saves the whole state of a training at every epoch's end, and in long epochs between blocks of steps.

    A state is one file: weights, optimizer, seed generators, metrics, the counters of all callbacks, the history, the
    position, and Python's and NumPy's random numbers. It is written by another thread, beside training, as a temporary
    file that is synced, checked by SHA-256 and renamed. `resume` gives `fit` what it needs to go on, or to begin:

        state = TrainingState("run/state")
        model.fit(x, y, epochs=20, **state.resume(model, [early_stopping, plateau]))

    The same program, started again after it was killed at any moment, ends with the bits that it would have ended with.
    The order of examples must not depend on the past: `kerasnn.fit` makes each epoch's from its seed, Keras's own `fit`
    after `keras.utils.set_random_seed`; a tf.data dataset is given to `resume` too.

    Of Keras's callbacks EarlyStopping, ReduceLROnPlateau, ModelCheckpoint, CSVLogger and SwapEMAWeights go on. One of
    yours goes on if it has `get_state() -> dict`, of JSON values and numpy arrays, and `set_state(state)`, which is
    called after `on_train_begin`.

    Args:
        folder: where the states are; made where it is missing.
        keep: how many states stay, at least 1.
        seconds: seconds between states within an epoch; None is `SECONDS`. Over several processes only whole epochs
            are saved.
        fingerprint: of what is learned from; a state with another one is refused.

    Raises:
        DivergenceError: from `fit`, where a weight or an optimizer's value is no longer finite; such a state is not
            saved.
        OSError: from `fit`, one line, where a state can't be written; the one before is then untouched.

    Reference: `keras.callbacks.BackupAndRestore`, which keeps weights and optimizer only.
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
        self._tree: dict[str, Any] | None = None
        self._epoch = 0
        self._skipping = False
        self._running = False
        self._readable: list[keras.Variable] = []
        self._reader: Any = None
        self._trained = self._begin = self._saved = 0.0
        self._writer = _Writer(self.files.write)

    def resume(
        self,
        model: keras.Model,
        callbacks: Any = (),
        dataset: tf.data.Dataset | None = None,
        steps_per_epoch: int | None = None,
    ) -> dict[str, Any]:
        """Put a model back into the newest state there is; without one, it stays as it is.

        Args:
            model: the built and compiled model, made as it was at first.
            callbacks: those that `fit` shall have, made as they were at first.
            dataset: the tf.data dataset that `fit` goes over. What the run has read of it is read again, so that its
                shuffles go on where they were.
            steps_per_epoch: as given to `fit`, for a dataset without end.

        Returns:
            Arguments for `fit`: `callbacks`, `initial_epoch` and, where a dataset was given, `x`.

        Raises:
            ValueError: one line, where the state is not of such a model, or a callback can't go on.
        """
        callbacks = [callback for callback in flat(callbacks) if callback is not self]
        if not model.built or not model.compiled:
            raise ValueError(
                "the model must be built and compiled before its state is put back: give it an Input, or call build"
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
            _assign(_variables(model), tree["variables"])
            self._prepare(tree["callbacks"])
            self.rollbacks, self._trained = tree["rollbacks"], tree["seconds"]
            epoch = OVER if tree["stopped"] else tree["epoch"]
            logger.info("training goes on from epoch %d, step %d", tree["epoch"] + 1, tree["step"])
        arguments = {"callbacks": [*callbacks, self], "initial_epoch": epoch}
        if dataset is not None:
            arguments["x"] = _replayed(dataset, 0 if tree is None else tree["epoch"], steps_per_epoch)
        return arguments

    @property
    def epochs(self) -> int:
        """Whole epochs in the state that `resume` found."""
        return 0 if self._tree is None else self._tree["epoch"]

    @property
    def resumed(self) -> bool:
        """Whether `resume` found a state."""
        return self._tree is not None

    @property
    def trained_seconds(self) -> float:
        """Seconds of training, those before a restart included."""
        return self._trained + (time.monotonic() - self._begin if self._running else 0.0)

    def roll_back(self, factor: float) -> tuple[int, float]:
        """Lower the learning rate in the newest state, from which `resume` then goes on.

        Args:
            factor: on the base rate of the `LearningRate` callback.

        Returns:
            Epochs in that state, and the base rate from now on.

        Raises:
            ValueError: where there is no state, or no `LearningRate` in it.
        """
        self._writer.flush()
        tree = self.files.newest()
        owner = next(
            (
                each["state"]
                for each in (tree or {"callbacks": []})["callbacks"]
                if each["class"] == LearningRate.__name__
            ),
            None,
        )
        if tree is None or owner is None:
            raise ValueError("going back needs a saved state and a LearningRate callback")
        owner["learning_rate"] *= factor
        tree["rollbacks"] += 1
        self.files.write(tree)
        return tree["epoch"], owner["learning_rate"]

    def flush(self) -> None:
        """Wait until the newest state is on disk.

        Raises:
            OSError: one line, where it could not be written.
        """
        self._writer.flush()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within it, Ctrl-C and SIGTERM save the state, between two blocks of steps, and then end training.

        A second signal ends it at once, at the last saved state.

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
            self._trained, self._running = self.trained_seconds, False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Give the variables and the callbacks their values; without a state, save the beginning."""
        self._begin = self._saved = time.monotonic()
        self._skipping = False
        self._running = True
        if self._tree is None:
            self._save(0, 0)
            return
        _assign(_variables(self.model), self._tree["variables"])
        _assign_random(self._tree["random"])
        self._restore_callbacks()
        self._restore_history()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin a resumed epoch where it was."""
        self._epoch = epoch
        if self._tree is not None:
            # Keras's History came after this callback, and Keras has reset the metrics.
            self._restore_history()
            if self._tree["step"]:
                self._skip(self._tree["step"], self._tree["variables"]["metrics"])
            else:
                self._tree = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save in a long epoch, and before ending by a signal."""
        if self._skipping:
            assert self._tree is not None
            if batch + 1 >= self._tree["step"]:
                # Again: the skipped steps have been counted, and their learning rates set.
                self._restore_callbacks()
                optimizer = {"optimizer": _variables(self.model)["optimizer"]}
                _assign(optimizer, {"optimizer": self._tree["variables"]["optimizer"]})
                self._skipping, self._tree = False, None
            return
        due = self.signal is not None or time.monotonic() - self._saved > self.seconds
        # Within an epoch each process has metrics of its own, of which the chief's state knows nothing.
        due = due and not over_processes(self.model._distribute_strategy)
        # An epoch that a callback has cut short can't be gone on with; it ends here.
        if due and not self.model.stop_training:
            self._save(self._epoch, batch + 1)
            self._end_by_signal()

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End by a signal: within validation the last state is the newest there can be."""
        if self._running:
            self._end_by_signal()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save."""
        self._save(epoch + 1, 0, epoch, logs)
        self._end_by_signal()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Wait until the last state is on disk."""
        self._trained, self._running = self.trained_seconds, False
        if self._tree is not None:
            self._restore_history()
            self._tree = None
        self.flush()

    def _end_by_signal(self) -> None:
        if self.signal is not None:
            self.flush()
            raise error_of(self.signal)

    def _save(self, epoch: int, step: int, ended: int | None = None, logs: dict[str, Any] | None = None) -> None:
        self._saved = time.monotonic()
        variables = _variables(self.model)
        arrays = self._read(variables)
        for name in ("model", "optimizer"):
            for variable, value in zip(variables[name], arrays[name], strict=True):
                if not is_finite(value):
                    raise DivergenceError(
                        f"{variable.path} must stay finite to be saved, received NaN or infinity in epoch "
                        f"{self._epoch + 1}; the state before it is kept"
                    )
        history = self.model.history.history
        epochs = list(getattr(self.model.history, "epoch", ()))
        if ended is not None and epochs[-1:] != [ended]:
            # Keras's History is called after this callback.
            epochs.append(ended)
            history = {name: list(values) for name, values in history.items()}
            for name, value in (logs or {}).items():
                history.setdefault(name, []).append(value)
        tree = {
            "epoch": epoch,
            "step": step,
            "stopped": ended is not None and bool(self.model.stop_training),
            "fingerprint": self.fingerprint,
            "rollbacks": self.rollbacks,
            "seconds": self.trained_seconds,
            "variables": arrays,
            "random": _random(),
            "history": {"epoch": epochs, "values": {name: _course(course) for name, course in history.items()}},
            "callbacks": [
                {"class": type(callback).__name__, "state": state}
                for callback in self._callbacks
                if (state := _state_of(callback)) is not None
            ],
        }
        self._writer.put(tree)

    def _read(self, variables: dict[str, list[keras.Variable]]) -> dict[str, list[np.ndarray]]:
        """The variables' values; all in one graph, which takes a tenth of the time that one after the other takes."""
        every = [variable for group in variables.values() for variable in group]
        values: Iterator[np.ndarray]
        if self.model._distribute_strategy is not None:
            values = map(_value, every)
        else:
            if [id(variable) for variable in every] != [id(variable) for variable in self._readable]:
                self._readable = every
                self._reader = tf.function(lambda: [tf.identity(variable.value) for variable in every], autograph=False)
            values = iter([np.asarray(value.numpy()) for value in self._reader()])
        return {name: [next(values) for _ in group] for name, group in variables.items()}

    def _restore_callbacks(self) -> None:
        assert self._tree is not None
        for callback, state in self._matched(self._tree["callbacks"]):
            if not isinstance(callback, keras.callbacks.CSVLogger):
                _set_state(callback, state)

    def _prepare(self, states: Sequence[dict[str, Any]]) -> None:
        """What must be done before callbacks hear that training begins; and say what can't go on."""
        matched = self._matched(states)
        for callback, state in matched:
            if isinstance(callback, keras.callbacks.CSVLogger):
                callback.append = True
                if Path(callback.filename).exists():
                    with Path(callback.filename).open("r+b") as file:
                        file.truncate(state["size"])
        known = {id(callback) for callback, _ in matched}
        for callback in self._callbacks:
            stateless = isinstance(callback, _STATELESS) or _is_ours(callback) or hasattr(callback, "get_state")
            if id(callback) not in known and not stateless:
                logger.warning(
                    "%s has no state (get_state, set_state): what it keeps from epoch to epoch begins anew",
                    type(callback).__name__,
                )

    def _matched(self, states: Sequence[dict[str, Any]]) -> list[tuple[keras.callbacks.Callback, dict[str, Any]]]:
        """Callbacks with their states: the first of a class gets the first one's, and so on."""
        left = list(states)
        matched = []
        for callback in self._callbacks:
            found = next((each for each in left if each["class"] == type(callback).__name__), None)
            if found is not None:
                left.remove(found)
                matched.append((callback, found["state"]))
        return matched

    def _restore_history(self) -> None:
        assert self._tree is not None
        history = self.model.history
        history.epoch = list(self._tree["history"]["epoch"])
        history.history.clear()
        history.history.update(
            {
                name: course.tolist() if isinstance(course, np.ndarray) else list(course)
                for name, course in self._tree["history"]["values"].items()
            }
        )

    def _skip(self, steps: int, metrics: list[np.ndarray]) -> None:
        """Have Keras's loop pass over the first steps of the epoch, which have been trained already."""
        model, function = self.model, self.model.train_function
        left = steps
        self._skipping = True

        def passed(iterator: Any) -> Any:
            nonlocal left
            if left == steps and hasattr(iterator, "skip"):
                iterator.skip(steps)
            for _ in range(min(left, model.steps_per_execution)):
                batch = None if hasattr(iterator, "skip") else next(iterator)
                if left == steps:
                    if len(model.metrics_variables) < len(metrics):
                        model._symbolic_build(data_batch=batch)
                    # Keras has reset them when the epoch began.
                    _assign({"metrics": _variables(model)["metrics"]}, {"metrics": metrics})
                left -= 1
            if left == 0:
                model.train_function = function
            return model.get_metrics_result()

        model.train_function = passed


def _variables(model: keras.Model) -> dict[str, list[keras.Variable]]:
    """Every variable of a training, once, by kind."""
    shared = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    groups = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
        "seeds": [] if shared is None else [shared.state],
    }
    seen: set[int] = set()
    return {
        name: [variable for variable in group if id(variable) not in seen and not seen.add(id(variable))]  # type: ignore[func-returns-value]
        for name, group in groups.items()
    }


def _assign(variables: dict[str, list[keras.Variable]], values: dict[str, list[np.ndarray]]) -> None:
    """Give variables their values; metrics that are not built yet have to wait.

    Raises:
        ValueError: one line naming the first variable that is another.
    """
    if values.get("seeds") and not variables.get("seeds"):
        variables = {**variables, "seeds": [global_seed_generator().state]}
    for name, group in variables.items():
        arrays = values[name]
        if name == "metrics" and len(group) < len(arrays):
            continue
        if len(group) != len(arrays):
            raise ValueError(
                f"the state must be of this model, received one with {len(arrays)} {name} variables, "
                f"the model has {len(group)}"
            )
        for variable, array in zip(group, arrays, strict=True):
            if (
                tuple(variable.shape) != (array.shape[1:] if _is_by_replica(variable, array) else array.shape)
                or keras.backend.standardize_dtype(variable.dtype) != array.dtype.name
            ):
                raise ValueError(
                    f"the state must be of this model, received {array.dtype} {array.shape} for {variable.path}, "
                    f"which is {variable.dtype} {tuple(variable.shape)}"
                )
    for name, group in variables.items():
        for variable, array in zip(group, values[name], strict=False):
            parts = _parts(variable)
            if not _is_by_replica(variable, array):
                variable.assign(array)
            elif len(array) == len(parts):
                for part, value in zip(parts, array, strict=True):
                    part.assign(value)
            else:
                variable.assign(array.sum(axis=0, dtype=array.dtype))


def _parts(variable: keras.Variable) -> Sequence[tf.Variable]:
    """A variable on each of this process's replicas."""
    value = variable.value
    return tuple(value.values) if isinstance(value, tf.distribute.DistributedValues) else (value,)


def _value(variable: keras.Variable) -> np.ndarray:
    """A variable's value; each replica's where they have their own, as metrics do, whose sum would be rounded."""
    parts = [np.asarray(part.numpy()) for part in _parts(variable)]
    return np.stack(parts) if variable.synchronization == "on_read" and len(parts) > 1 else parts[0]


def _is_by_replica(variable: keras.Variable, array: np.ndarray) -> bool:
    return variable.synchronization == "on_read" and array.ndim == len(variable.shape) + 1


def _random() -> dict[str, Any]:
    """Python's and NumPy's own random numbers, which generators and callbacks may draw from."""
    version, numbers, gauss = random.getstate()
    kept = np.random.get_state(legacy=False)
    assert isinstance(kept, dict)
    return {"python": [version, np.array(numbers, np.uint32), gauss], "numpy": kept}


def _assign_random(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    np.random.set_state(state["numpy"])


def _course(values: Sequence[Any]) -> Any:
    """A logged value's course; as an array it costs next to nothing, however long it is."""
    return np.array(values, np.float64) if all(isinstance(value, float) for value in values) else list(values)


def _state_of(callback: keras.callbacks.Callback) -> dict[str, Any] | None:
    """What a callback keeps from epoch to epoch, or None."""
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        state: dict[str, Any] = callback.get_state()
        return state
    if isinstance(callback, keras.callbacks.CSVLogger):
        return {"size": Path(callback.filename).stat().st_size}
    for kind, names in _KERAS_CALLBACKS.items():
        if isinstance(callback, kind):
            return {name: getattr(callback, name) for name in names}
    return None


def _set_state(callback: keras.callbacks.Callback, state: dict[str, Any]) -> None:
    if hasattr(callback, "set_state"):
        callback.set_state(state)
        return
    for name, value in state.items():
        setattr(callback, name, value)


def _is_ours(callback: keras.callbacks.Callback) -> bool:
    return type(callback).__module__.partition(".")[0] == "kerasnn"


def _replayed(dataset: tf.data.Dataset, epochs: int, steps_per_epoch: int | None) -> tf.data.Dataset:
    """A dataset as it is after some epochs."""
    if steps_per_epoch is not None:
        if dataset.cardinality() != tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "a dataset with steps_per_epoch must be without end to go on: repeat() it, or leave steps_per_epoch "
                f"out; received one of {int(dataset.cardinality())} batches"
            )
        return dataset.skip(epochs * steps_per_epoch)
    for _ in range(epochs):
        for _ in dataset:
            pass
        if dataset.cardinality() != tf.data.UNKNOWN_CARDINALITY:
            # Where Keras knows the number of batches, it begins one more pass after each epoch.
            iter(dataset)
    return dataset


class _Writer:
    """Writes the newest of what it is given, in a thread that lives as long as there is something to write."""

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._next: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def put(self, tree: dict[str, Any]) -> None:
        self._raise()
        with self._lock:
            self._next = tree
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="training state")
                self._thread.start()

    def flush(self) -> None:
        if (thread := self._thread) is not None:
            thread.join()
        self._raise()

    def _run(self) -> None:
        while True:
            with self._lock:
                tree, self._next = self._next, None
                if tree is None:
                    self._thread = None
                    return
            try:
                self._write(tree)
            except BaseException as error:
                self._error = error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
