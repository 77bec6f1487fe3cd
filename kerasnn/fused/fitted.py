"""A model that trains together with others: its callbacks and its variables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerasnn.callbacks.history import HistoryFile
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.callbacks.progress import Progress
from kerasnn.engine.block_callbacks import flat
from kerasnn.engine.traced_values import traced_values
from kerasnn.fused.group import Changes, Trainee
from kerasnn.fused.inputs import Inputs
from kerasnn.fused.program import FusedProgram
from kerasnn.fused.structure import Structure

CACHED_PROGRAMS = 8
"""Programs cached for further models, with what XLA compiled."""


class BestWeights(keras.callbacks.Callback):
    """Keep the weights of the best epoch.

    Args:
        is_better: given an epoch's logs, says whether it is the best so far; called once an epoch.

    Attributes:
        weights: those of the best epoch, in the order of `get_weights()`; None before there is one.
        read: returns the present weights.
    """

    def __init__(self, is_better: Callable[[dict[str, Any]], bool]) -> None:
        super().__init__()
        self._is_better = is_better
        self.weights: list[np.ndarray] | None = None
        self.read: Callable[[], list[np.ndarray]] = lambda: self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._is_better(logs or {}):
            self.weights = self.read()


_READS_LOGS_ONLY = (
    BestWeights,
    keras.callbacks.CSVLogger,
    keras.callbacks.History,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.TerminateOnNaN,
    HistoryFile,
    LearningRate,
    Progress,
)


class FittedModel(Trainee):
    """A model whose training a fused program runs, with Keras's callbacks.

    Args:
        number: its position among the models.
        model: a built and compiled Keras model.
        structure: its structure.
        callbacks: as in `keras.Model.fit`.
        seed: the seed of the orders of its examples.
        epochs: epochs of the training.
        steps: steps in an epoch.

    Attributes:
        weights: for each weight of `get_weights()`, its position among the structure's variables.
    """

    def __init__(
        self, number: int, model: keras.Model, structure: Structure, callbacks: Any, seed: int, epochs: int, steps: int
    ) -> None:
        super().__init__(number, seed, steps, structure.numbers)
        self.model, self.structure = model, structure
        given = flat(callbacks)
        self.learning_rate = next((each for each in given if isinstance(each, LearningRate)), None)
        self.reads_variables = any(map(_reads_variables, given))
        self._best = [each for each in given if isinstance(each, BestWeights)]
        positions = {id(variable): position for position, variable in enumerate(structure.variables)}
        self.weights = [positions[id(weight)] for weight in model.weights]
        self.hooks = keras.callbacks.CallbackList(
            callbacks, add_history=True, add_progbar=False, model=model, verbose=0, epochs=epochs, steps=steps
        )

    @property
    def stops(self) -> bool:
        """Whether a callback has asked to stop."""
        return bool(self.model.stop_training)

    @property
    def history(self) -> keras.callbacks.History:
        history: keras.callbacks.History = self.model.history
        return history

    def begin(self) -> None:
        """As Keras's `fit` before the first epoch."""
        self._traced_with = traced_values(self.model) if self.reads_variables else {}
        self.model.stop_training = False
        if self.learning_rate is not None:
            self.learning_rate.in_graph = True
        self.hooks.on_train_begin()

    def begin_epoch(self, epoch: int) -> None:
        self.hooks.on_epoch_begin(epoch)
        self.hooks.on_train_batch_begin(0)

    def changes(self) -> Changes:
        """What callbacks have changed since `begin`; numbers take their new values."""
        if not self.reads_variables:
            return ()
        numbers = self.structure.numbers
        numbers[:] = [number._replace(value=number.owner[number.key]) for number in numbers]
        own = {(id(number.owner), number.key) for number in numbers}
        return tuple(
            (position, key[1], None if key in own else value)
            for position, (key, value) in enumerate(traced_values(self.model).items())
            if self._traced_with.get(key) != value
        )

    def end_steps(self, logs: dict[str, Any], epoch: int) -> None:
        """The epoch's last step has ended."""
        for rates in self.values_by_update(epoch):
            self.model.optimizer.learning_rate.assign(rates[-1])
        super().end_steps(logs, epoch)
        self.hooks.on_train_batch_end(self.steps - 1, logs)

    def begin_evaluation(self) -> None:
        self.hooks.on_test_begin()
        self.hooks.on_test_batch_begin(0)

    def end_evaluation(self, logs: dict[str, Any], steps: int) -> None:
        self.hooks.on_test_batch_end(steps - 1, logs)
        self.hooks.on_test_end(logs)
        super().end_evaluation(logs, steps)

    def end_epoch(self, epoch: int, values: Callable[[Sequence[int]], list[np.ndarray]]) -> None:
        """Let the callbacks decide; `values` returns the present values of variables, given their positions."""
        for callback in self._best:
            callback.read = lambda: values(self.weights)
        self.hooks.on_epoch_end(epoch, self.logs)

    def end(self, values: list[np.ndarray]) -> None:
        """As Keras's `fit` after the last epoch."""
        self.running = False
        self.assign(values)
        optimizer = self.model.optimizer
        if isinstance(optimizer, keras.optimizers.Optimizer):
            optimizer.finalize_variable_values(self.model.trainable_weights)
        self.hooks.on_train_end(self.logs)

    def values_by_update(self, epoch: int) -> tuple[np.ndarray, ...]:
        """The learning rate of every update of an epoch, where a callback sets it."""
        return () if self.learning_rate is None else (self.learning_rate.rates(epoch, self.steps),)

    def values(self) -> list[np.ndarray]:
        """The values of its variables."""
        return [variable.numpy() for variable in self.structure.variables]

    def assign(self, values: list[np.ndarray]) -> None:
        """Give its variables values."""
        for variable, value in zip(self.structure.variables, values, strict=True):
            variable.assign(value)

    def named(self, logs: Mapping[str, Any], of: keras.Model) -> dict[str, Any]:
        """Logs of another model of the same structure, under this model's names."""
        if _log_names(self.model) == _log_names(of):
            return dict(logs)
        renamed = dict(zip(of.get_metrics_result(), self.model.get_metrics_result(), strict=True))
        return {renamed.get(name, name): value for name, value in logs.items()}


def _log_names(model: keras.Model) -> Any:
    return getattr(model, "output_names", None), [metric.name for metric in model.metrics]


def _reads_variables(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback may read or set variables of the model."""
    if isinstance(callback, keras.callbacks.EarlyStopping):
        return callback.restore_best_weights or type(callback).__module__.partition(".")[0] != "keras"
    return type(callback) not in _READS_LOGS_ONLY


def program_for(members: Sequence[FittedModel], inputs: Inputs, xla: bool = True, cached: bool = True) -> FusedProgram:
    """The program of a structure and of what differs among its members; the programs used last are cached.

    Args:
        members: the members.
        inputs: their examples.
        xla: whether XLA may compile it where the model leaves that open.
        cached: whether it may be one that was used before.

    Raises:
        NotFusableError: they cannot be trained as one program.
    """
    first = members[0]
    batch, held_out = inputs.batches(first.number)
    positions = _positions(members)
    key = (
        *(first.structure.key, positions, _fixed(first.structure, positions), first.learning_rate is None, xla),
        *(inputs.batch_size, inputs.validation_batch_size, str((batch, held_out))),
    )
    if (program := _programs.pop(key, None) if cached else None) is not None:
        # Its model may have been changed since.
        kept = Structure(program.model)
        if (kept.key, _fixed(kept, positions)) != (first.structure.key, _fixed(first.structure, positions)):
            program = None
    if program is None:
        rate = None if first.learning_rate is None else first.model.optimizer.learning_rate
        by_update = [at for at, variable in enumerate(first.structure.variables) if variable is rate]
        sizes = (batch, inputs.batch_size, held_out, inputs.validation_batch_size)
        program = FusedProgram(first.structure, positions, *sizes, by_update, xla)
    if cached:
        _programs[key] = program
    while len(_programs) > CACHED_PROGRAMS:
        del _programs[next(iter(_programs))]
    return program


def _positions(members: Sequence[FittedModel]) -> tuple[int, ...]:
    """Which numbers of a structure are the members' own."""
    by_number = zip(*(member.structure.numbers for member in members), strict=True)
    values = [(numbers[0].always, {number.value for number in numbers}) for numbers in by_number]
    # A rate of 0 for all would only cost time.
    return tuple(at for at, (always, each) in enumerate(values) if len(each) > 1 or (always and any(each)))


def _fixed(structure: Structure, positions: Sequence[int]) -> tuple[float, ...]:
    """The numbers that are not the members' own."""
    return tuple(number.value for at, number in enumerate(structure.numbers) if at not in positions)


_programs: dict[Any, FusedProgram] = {}
