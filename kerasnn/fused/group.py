"""Members whose values lie on a device together."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.fused.inputs import Arrays
from kerasnn.fused.program import FusedProgram
from kerasnn.fused.streams import Stream
from kerasnn.fused.structure import Number

Changes = tuple[tuple[int, str, Any], ...]
"""Changed attributes of a model: position among them, name and value; numbers of its own have no value."""


class Trainee:
    """What a group asks of a member; by default it does without callbacks.

    Attributes:
        number: its position among those of the call.
        seed: seed of the orders of its examples.
        steps: steps in an epoch.
        numbers: the numbers of its structure.
        running: whether it trains on.
        logs: those of the last epoch.
        reads_variables: whether a callback may read or set its variables.
    """

    def __init__(self, number: int, seed: int, steps: int, numbers: Sequence[Number]) -> None:
        self.number, self.seed, self.steps, self.numbers = number, seed, steps, numbers
        self.running = True
        self.logs: dict[str, Any] = {}
        self.reads_variables = False

    @property
    def stops(self) -> bool:
        """Whether it ends here."""
        return False

    def values(self) -> list[np.ndarray]:
        """The values of its variables before the first step, and what callbacks have made of them since."""
        raise NotImplementedError

    def assign(self, values: list[np.ndarray]) -> None:
        """Give its variables values, where callbacks may read them."""

    def values_by_update(self, epoch: int) -> tuple[np.ndarray, ...]:
        """What is given for every update of an epoch, each `(updates,)`."""
        return ()

    def named(self, logs: Mapping[str, Any], of: keras.Model) -> dict[str, Any]:
        """Logs of a model of the same structure, under its own names."""
        return dict(logs)

    def begin(self) -> None:
        """Training begins."""

    def begin_epoch(self, epoch: int) -> None:
        """An epoch begins."""

    def end_steps(self, logs: dict[str, Any], epoch: int) -> None:
        """The epoch's last step has ended."""
        self.logs = dict(logs)

    def changes(self) -> Changes:
        """What callbacks have changed since `begin` of what its program was traced with."""
        return ()

    def begin_evaluation(self) -> None:
        """Validation begins."""

    def end_evaluation(self, logs: dict[str, Any], steps: int) -> None:
        """Validation has ended."""
        self.logs |= {f"val_{name}": value for name, value in logs.items()}

    def end_epoch(self, epoch: int, values: Callable[[Sequence[int]], list[np.ndarray]]) -> None:
        """The epoch has ended; `values` returns the present values of variables, given their positions."""

    def end(self, values: list[np.ndarray]) -> None:
        """Training has ended with these values of the variables."""


class Group:
    """Members whose values lie on a device together.

    Args:
        program: trains them.
        members: the members.
        size: number of rows; copies of the last member fill the rows that are left, so that groups share a program.
        device: name of the device.
        train: the training examples.
        validation: the validation examples, or None.
    """

    def __init__(
        self,
        program: FusedProgram,
        members: Sequence[Trainee],
        size: int,
        device: str,
        train: Arrays | Stream,
        validation: Arrays | Stream | None,
    ) -> None:
        self.program, self.members, self.device = program, list(members), device
        self._train, self._validation = train, validation
        self.rows: list[Trainee] = []
        self._set([member.values() for member in members], size)

    def _set(self, values: list[list[np.ndarray]], size: int) -> None:
        """Rows from the values of the members."""
        padding = size - len(self.members)
        self._is_traced = len(self.rows) == size
        self.rows = [*self.members, *[self.members[-1]] * padding]
        self._kept = [np.stack(parts) for parts in zip(*values, *[values[-1]] * padding, strict=True)]
        with tf.device(self.device):
            self._state = [tf.constant(value) for value in self._kept]
            self._numbers = [
                tf.constant([float(row.numbers[position].value) for row in self.rows], tf.float32)
                for position in self.program.positions
            ]
        self._read: dict[int, tuple[tf.Tensor, np.ndarray]] = {}

    def trace(self, epoch: int, threads: ThreadPoolExecutor) -> None:
        """Trace the programs, which threads must not do; a thread compiles validation's program meanwhile."""
        if self._is_traced:
            return
        program = self.program
        with tf.device(self.device):
            if isinstance(self._validation, Arrays):
                validate, arguments = program.epochs["test_step"], self._validating()
                traces = validate.experimental_get_tracing_count()
                validate.get_concrete_function(*arguments)
                if program.xla and validate.experimental_get_tracing_count() > traces:
                    # XLA compiles at the first call.
                    threads.submit(validate, *arguments)
            if isinstance(self._train, Arrays):
                # Callbacks may not have begun, so that the values themselves are not known yet.
                spec = tf.TensorSpec((len(self.rows), self.rows[0].steps), tf.float32)
                by_update = (spec,) * len(program.by_update)
                program.epochs["train_step"].get_concrete_function(*self._training(epoch), by_update)
        self._is_traced = True

    def train(self, epoch: int) -> list[dict[str, Any]]:
        """Train an epoch; returns each member's logs."""
        by_update = [np.stack(each) for each in zip(*(row.values_by_update(epoch) for row in self.rows), strict=True)]
        if isinstance(self._train, Stream):
            return self._run_parts("train_step", self._train, by_update)
        with tf.device(self.device):
            given = tuple(map(tf.constant, by_update))
        return self._run("train_step", (*self._training(epoch), given))

    def validate(self) -> list[dict[str, Any]]:
        """Evaluate; returns each member's logs."""
        if isinstance(self._validation, Stream):
            return self._run_parts("test_step", self._validation, ())
        return self._run("test_step", self._validating())

    def _run_parts(self, step: str, stream: Stream, by_update: Sequence[Any]) -> list[dict[str, Any]]:
        """Run an epoch of a step in the blocks of a stream."""
        with tf.device(self.device):
            self._state = list(self.program.reset(self._state, self._numbers))
        logs: list[dict[str, Any]] = []
        done = 0
        for batches, count in stream.blocks((), (), 0):
            with tf.device(self.device):
                part = tuple(tf.constant(values[:, done : done + count]) for values in by_update)
            logs = self._run(step, (self._state, self._numbers, batches, part), in_parts=True)
            done += count
        return logs

    def _training(self, epoch: int) -> tuple[Any, ...]:
        assert isinstance(self._train, Arrays)
        numbers, seeds = [row.number for row in self.rows], [row.seed for row in self.rows]
        with tf.device(self.device):
            return self._state, self._numbers, self._train.batches(numbers, seeds, epoch)

    def _validating(self) -> tuple[Any, ...]:
        assert isinstance(self._validation, Arrays)
        with tf.device(self.device):
            return self._state, self._numbers, self._validation.batches([row.number for row in self.rows], (), 0)

    def _run(self, step: str, arguments: tuple[Any, ...], in_parts: bool = False) -> list[dict[str, Any]]:
        """Run an epoch of a step, or a part of one."""

        def run() -> Any:
            functions = self.program.parts if in_parts else self.program.epochs
            return functions[step](*arguments)

        with tf.device(self.device):
            try:
                state, logs, failure = run()
            except (tf.errors.OpError, NotImplementedError):
                if not self.program.xla:
                    raise
                # What XLA can't compile TensorFlow may.
                self.program.without_xla()
                state, logs, failure = run()
        if error := self.program.error(step, failure):
            raise error
        self._state = state
        arrays = tf.nest.map_structure(lambda log: log.numpy(), logs)
        return [tf.nest.map_structure(lambda log, row=row: log[row], arrays) for row in range(len(self.members))]

    def push(self) -> None:
        """Take over what callbacks have assigned to the variables of members."""
        changed = set()
        for row, member in enumerate(self.members):
            for position, value in enumerate(member.values() if member.reads_variables else ()):
                if not np.array_equal(self._kept[position][row], value):
                    self._kept[position][row] = value
                    changed.add(position)
        with tf.device(self.device):
            for position in changed:
                self._state[position] = tf.constant(self._kept[position])

    def pull(self) -> None:
        """Give members' variables their values, where callbacks may read them."""
        readers = [(row, member) for row, member in enumerate(self.members) if member.reads_variables]
        if readers:
            self._kept = [np.array(value) for value in self._state]
        for row, member in readers:
            member.assign([value[row] for value in self._kept])

    def values_of(self, row: int, positions: Sequence[int]) -> list[np.ndarray]:
        """The values of a member's variables at some positions."""
        found = []
        for position in positions:
            tensor, values = self._read.get(position, (None, None))
            if values is None or tensor is not self._state[position]:
                tensor, values = self._state[position], self._state[position].numpy()
                self._read[position] = tensor, values
            found.append(values[row].copy())
        return found

    def release(self, size_after: Callable[[int, int], int]) -> None:
        """Let members go that have ended; the others continue, in fewer rows if that pays.

        Args:
            size_after: the size with which to continue, given the present one and the number of members left.
        """
        ended = [row for row, member in enumerate(self.members) if not member.running]
        if not ended:
            return
        self.push()
        self._kept = [np.array(value) for value in self._state]
        for row in ended:
            self.members[row].end([value[row] for value in self._kept])
        left = [row for row, member in enumerate(self.members) if member.running]
        self.members = [self.members[row] for row in left]
        if left:
            self._set([[value[row] for value in self._kept] for row in left], size_after(len(self.rows), len(left)))
