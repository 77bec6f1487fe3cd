"""Models of one structure that train together: groups that fit on the device, epoch by epoch."""

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kerasnn.engine.memory import device_memory
from kerasnn.fused.fitted import FittedModel
from kerasnn.fused.groups import COMPILE_COST, MEMBERS_PER_CORE, MEMORY_SHARE, Sizes
from kerasnn.fused.inputs import Arrays, Inputs
from kerasnn.fused.model_program import ModelProgram, NotFusableError
from kerasnn.fused.streams import Stream
from kerasnn.fused.structure import Structure

OnEpoch = Callable[[int, dict[int, Mapping[str, Any]]], Collection[int] | None]
"""Called after each epoch with its number, counted from 0, and the logs of the models that ran, by position; it may
return the positions of models to stop."""
XLA_SECONDS, XLA_SAVES, XLA_SAVES_A_MEMBER = 2.0, 3e-4, 1.1e-4
"""On a CPU: seconds that XLA compiles longer than TensorFlow traces, and that it saves in a step, for all and for each
member. Measured with dense networks on two cores: 1 member trains 5 epochs of 44 steps in 2.9 s with XLA and in 1.0 s
without, 64 members train 20 epochs in 5.8 and 9.9 s."""
CACHED_PROGRAMS = 8
"""Programs cached for further groups."""


class Plan(NamedTuple):
    """What the models of a call have in common.

    Args:
        first_epoch: the first epoch, counted from 0.
        epochs: the epoch at which training ends.
        validation_freq: as in `keras.Model.fit`.
        on_epoch: called after each epoch.
        max_members: upper bound of the size to which groups are padded.
    """

    first_epoch: int
    epochs: int
    validation_freq: int | Sequence[int]
    on_epoch: OnEpoch | None
    max_members: int

    def validates(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, ends with a validation."""
        frequency = self.validation_freq
        return (epoch + 1) % frequency == 0 if isinstance(frequency, int) else epoch + 1 in frequency


class ModelGroup:
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
        program: ModelProgram,
        members: Sequence[FittedModel],
        size: int,
        device: str,
        train: Arrays | Stream,
        validation: Arrays | Stream | None,
    ) -> None:
        self.program, self.members, self.device = program, list(members), device
        self._train, self._validation = train, validation
        self._read: list[Any] = []
        self._set([member.values() for member in members], size)

    def _set(self, values: list[list[np.ndarray]], size: int) -> None:
        """Rows from the values of the members."""
        padding = size - len(self.members)
        self.rows = [*self.members, *[self.members[-1]] * padding]
        self._kept = [np.stack(parts) for parts in zip(*values, *[values[-1]] * padding, strict=True)]
        with tf.device(self.device):
            self._state = [tf.constant(value) for value in self._kept]
            self._numbers = [
                tf.constant([float(row.structure.numbers[position].value) for row in self.rows], tf.float32)
                for position in self.program.positions
            ]

    def trace(self, epoch: int) -> None:
        """Trace the programs, which threads must not do."""
        if isinstance(self._train, Arrays):
            # Callbacks may not have begun, so that the rates themselves are not known yet.
            row = self.rows[0]
            rates = None if row.learning_rate is None else tf.TensorSpec((len(self.rows), row.steps), tf.float32)
            self.program.train.get_concrete_function(*self._training(epoch), rates)
        if isinstance(self._validation, Arrays):
            self.program.validate.get_concrete_function(*self._validating())

    def train(self, epoch: int) -> list[dict[str, Any]]:
        """Train an epoch; returns each member's logs."""
        if isinstance(self._train, Stream):
            return self._run_parts(self._train, lambda: self.program.train_on, self._rates(epoch))
        with tf.device(self.device):
            rates = None if (given := self._rates(epoch)) is None else tf.constant(given)
        return self._run(lambda: self.program.train, (*self._training(epoch), rates))

    def validate(self) -> list[dict[str, Any]]:
        """Evaluate; returns each member's logs."""
        if isinstance(self._validation, Stream):
            return self._run_parts(self._validation, lambda: self.program.validate_on, None)
        return self._run(lambda: self.program.validate, self._validating())

    def _run_parts(self, stream: Stream, function: Callable[[], Any], rates: Any) -> list[dict[str, Any]]:
        """Run an epoch in the blocks of a stream."""
        with tf.device(self.device):
            self._state = list(self.program.reset(self._state, self._numbers))
        logs: list[dict[str, Any]] = []
        done = 0
        for batches, count in stream.blocks((), (), 0):
            with tf.device(self.device):
                part = None if rates is None else tf.constant(rates[:, done : done + count])
            logs = self._run(function, (self._state, self._numbers, batches, part))
            done += count
        return logs

    def _training(self, epoch: int) -> tuple[Any, ...]:
        assert isinstance(self._train, Arrays)
        numbers, seeds = [row.number for row in self.rows], [row.seed for row in self.rows]
        with tf.device(self.device):
            return self._state, self._numbers, self._train.batches(numbers, seeds, epoch)

    def _rates(self, epoch: int) -> np.ndarray | None:
        """The learning rates of an epoch's updates, `(members, updates)`, where callbacks set them."""
        rates = [each for row in self.rows if (each := row.rates(epoch)) is not None]
        return np.stack(rates) if rates else None

    def _validating(self) -> tuple[Any, ...]:
        assert isinstance(self._validation, Arrays)
        with tf.device(self.device):
            return self._state, self._numbers, self._validation.batches([row.number for row in self.rows], (), 0), None

    def _run(self, function: Callable[[], Any], arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
        with tf.device(self.device):
            try:
                state, logs, failure = function()(*arguments)
            except (tf.errors.OpError, NotImplementedError):
                if not self.program.xla:
                    raise
                # What XLA can't compile TensorFlow may.
                self.program.without_xla()
                state, logs, failure = function()(*arguments)
        if error := self.program.error(failure):
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

    def values_of(self, row: int) -> list[np.ndarray]:
        """The values of a member's variables."""
        if self._read is not self._state:
            self._read, self._values = self._state, [value.numpy() for value in self._state]
        return [value[row].copy() for value in self._values]

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


def train_group(members: Sequence[FittedModel], inputs: Inputs, plan: Plan) -> None:
    """Train models of one structure to their end.

    Raises:
        NotFusableError: they cannot be trained as one program; no callback has been called.
    """
    program = program_for(members, inputs, _xla_pays(len(members), inputs, plan))
    # A dataset is read by one group at a time.
    device, at_once = placement(1 if inputs.streams else len(members))
    sizes = Sizes(
        operations=_operations(members[0].model) * inputs.rows,
        epochs=plan.epochs,
        compile_cost=COMPILE_COST[device.partition(":")[0]],
        capacity=capacity(program, members[0].model, inputs, at_once),
        max_members=plan.max_members,
    )
    with tf.device(device):
        train, validation = inputs.on_device([member.number for member in members])
    size = sizes.padded(math.ceil(len(members) / max(at_once, math.ceil(len(members) / sizes.capacity))))
    groups = [
        ModelGroup(program, members[first : first + size], size, device, train, validation)
        for first in range(0, len(members), size)
    ]
    try:
        groups[0].trace(plan.first_epoch)
    except Exception as error:
        raise NotFusableError(_line(error)) from error
    for member in members:
        member.begin()
    for epoch in range(plan.first_epoch, plan.epochs):
        _run_epoch(groups, epoch, inputs, plan, at_once)
        left = plan.epochs - epoch - 1
        for group in groups:
            group.release(partial(sizes.after_departures, epochs_left=left))
        groups = [group for group in groups if group.members]
        if not groups:
            break


def _run_epoch(groups: Sequence[ModelGroup], epoch: int, inputs: Inputs, plan: Plan, at_once: int) -> None:
    """Train an epoch, validate, and let callbacks and `on_epoch` decide who continues."""
    running = [member for group in groups for member in group.members]
    for member in running:
        member.begin_epoch(epoch)
    for group in groups:
        group.push()
    for group, logs in _each_of(groups, lambda group: group.train(epoch), lambda group: group.trace(epoch), at_once):
        group.pull()
        for member, own in zip(group.members, logs, strict=True):
            member.end_steps(member.named(own, group.program.model), epoch)
    if inputs.validation_steps and plan.validates(epoch):
        for member in running:
            member.begin_evaluation()
        for group in groups:
            group.push()
        for group, logs in _each_of(groups, ModelGroup.validate, lambda group: None, at_once):
            group.pull()
            for member, own in zip(group.members, logs, strict=True):
                member.end_evaluation(member.named(own, group.program.model), inputs.validation_steps)
    for group in groups:
        for row, member in enumerate(group.members):
            member.end_epoch(epoch, partial(group.values_of, row))
    stopped = plan.on_epoch and plan.on_epoch(epoch, {member.number: member.logs for member in running})
    for member in running:
        if member.number in (stopped or ()) or member.model.stop_training or epoch + 1 == plan.epochs:
            member.running = False


def _each_of(
    groups: Sequence[ModelGroup], run: Callable[[ModelGroup], Any], trace: Callable[[ModelGroup], None], at_once: int
) -> list[tuple[ModelGroup, Any]]:
    """Run something of each group, some at a time."""
    for group in groups:
        trace(group)
    if len(groups) == 1:
        return [(group, run(group)) for group in groups]
    with ThreadPoolExecutor(at_once) as threads:
        return list(zip(groups, threads.map(run, groups), strict=True))


def _xla_pays(members: int, inputs: Inputs, plan: Plan) -> bool:
    """Whether XLA saves more time than it takes to compile; it follows from the call alone, so that it repeats."""
    steps = (plan.epochs - plan.first_epoch) * (inputs.train_steps + inputs.validation_steps)
    saved = steps * (XLA_SAVES + XLA_SAVES_A_MEMBER * members)
    return saved > XLA_SECONDS or bool(tf.config.list_logical_devices("GPU"))


def program_for(members: Sequence[FittedModel], inputs: Inputs, xla: bool = True) -> ModelProgram:
    """The program of a structure and of what differs among its members; the programs used last are cached.

    Args:
        members: the members.
        inputs: their examples.
        xla: whether XLA may compile it where the model leaves that open.
    """
    first = members[0]
    batch = inputs.first_batch(first.number)
    positions = _positions(members)
    key = (
        *(first.structure.key, positions, _fixed(first.structure, positions), first.learning_rate is None, xla),
        *(inputs.batch_size, inputs.validation_batch_size, inputs.sizes_known),
        str([(spec.shape[1:], spec.dtype) for spec in tf.nest.flatten(batch) if spec is not None]),
    )
    if (program := _programs.pop(key, None)) is not None:
        # Its model may have been changed since.
        kept = Structure(program.model)
        if (kept.key, _fixed(kept, positions)) != (first.structure.key, _fixed(first.structure, positions)):
            program = None
    if program is None:
        sizes, sets_rate = (inputs.batch_size, inputs.validation_batch_size), first.learning_rate is not None
        try:
            program = ModelProgram(first.structure, positions, batch, *sizes, sets_rate, inputs.sizes_known, xla)
        except NotFusableError:
            raise
        except Exception as error:
            raise NotFusableError(_line(error)) from error
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


_programs: dict[Any, ModelProgram] = {}


def _line(error: BaseException) -> str:
    # TensorFlow writes where it happened first, and what at the end.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1 if lines[0] == 'in user code:' else 0][:200]}"


def placement(members: int) -> tuple[str, int]:
    """The device, and how many groups train on it at the same time."""
    if tf.config.list_logical_devices("GPU"):
        return "GPU:0", 1
    # Cores stay idle between the operations of a single group, and so they do with one group per core. Powers of two
    # give few different sizes.
    at_once = max(1, min(2 * (os.cpu_count() or 1), members // MEMBERS_PER_CORE))
    return "CPU:0", 2 ** int(math.log2(at_once))


def _operations(model: keras.Model) -> float:
    """Multiplications and additions of one member's update, per example, approximately."""
    total = 0.0
    for layer in model._flatten_layers():
        kernel = vars(layer).get("_kernel", vars(layer).get("kernel"))
        try:
            positions = math.prod(layer.output.shape[1:-1])
        except (AttributeError, TypeError, ValueError):
            positions = 1
        total += 0 if kernel is None else 6.0 * math.prod(kernel.shape) * positions
    return total


def capacity(program: ModelProgram, model: keras.Model, inputs: Inputs, at_once: int) -> int:
    """Number of members per group with which all groups that train at the same time fit into memory."""
    size = sum(math.prod(variable.shape) * tf.as_dtype(variable.dtype).size for variable in program.variables)
    units = 0
    for layer in model._flatten_layers():
        try:
            units += math.prod(layer.output.shape[1:])
        except (AttributeError, TypeError, ValueError):
            continue
    size += 4 * units * max(inputs.batch_size, inputs.validation_batch_size)
    return max(1, int(MEMORY_SHARE * device_memory() / (max(size, 1) * at_once)))
