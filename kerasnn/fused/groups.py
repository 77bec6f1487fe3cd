"""Training of fused members: groups that fit on the device, epoch by epoch."""

import itertools
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from kerasnn.callbacks.divergence import rows_are_finite
from kerasnn.config.monitor import Mode
from kerasnn.config.run import RunConfig
from kerasnn.data.class_weights import class_weights
from kerasnn.data.loading import Data
from kerasnn.distribute import devices
from kerasnn.engine.memory import device_memory
from kerasnn.engine.order import epoch_order
from kerasnn.fused.member import Logs, Member, MemberState
from kerasnn.fused.program import VALIDATION_ROWS, FusedProgram, fused_program
from kerasnn.fused.run_structure import activation_choices, program_key, reason_not_fusable, shapes_of, template_config

MEMORY_SHARE = 0.25
"""Fraction of the device's memory for the weights, optimizer variables and activations of all members together."""
MEMBERS_PER_CORE = 16
"""Number of members that keeps a CPU core busy; with fewer, the time goes into starting operations."""
COMPILE_COST = {"CPU": 1e11, "GPU": 1e13}
"""Multiplications and additions that take about as long as compiling a program, by kind of device. The sizes of groups
follow from this number and never from a clock, because the last digits of results may depend on them."""
MAX_PADDING = 0.5
"""Maximum padding overhead, as a fraction of the compile cost."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that groups may have: few, because the program is compiled for each.

    Args:
        operations: multiplications and additions of a member's epoch.
        epochs: epochs of the training.
        compile_cost: multiplications and additions that take about as long as compiling.
        capacity: number of members that fit into memory.
        max_members: upper bound of the size to which a group is padded.

    >>> Sizes(operations=1, epochs=10, compile_cost=100, capacity=100, max_members=92).padded(17)
    20
    """

    operations: float
    epochs: int
    compile_cost: float
    capacity: int
    max_members: int

    def padded(self, members: int) -> int:
        """The size of a group: the members padded to a multiple of a power of two, as far as that costs little."""
        step = 1
        while (
            step < 2 * MEMBERS_PER_CORE and 2 * step * self.operations * self.epochs <= MAX_PADDING * self.compile_cost
        ):
            step *= 2
        return min(math.ceil(members / step) * step, max(members, self.max_members), self.capacity)

    def after_departures(self, size: int, members: int, epochs_left: int) -> int:
        """The size with which a group continues when only some members are left."""
        smaller = self.padded(members)
        return smaller if (size - smaller) * self.operations * epochs_left > self.compile_cost else size


Examples = dict[str, tuple[list[tf.Tensor], list[tf.Tensor]]]
"""By device: x, y and perhaps weights of training; x and y of validation."""


class Group:
    """Members whose values lie on the device together.

    Args:
        program: trains them.
        members: the members by number.
        size: number of rows; copies of the last member fill the rows that are left, so that groups share a program.
        device: name of the device.

    Attributes:
        rows: the number and the member of each row.
        running: the members that still train, by number.
        state: values of the program's variables, each `(rows, ...)`.
    """

    def __init__(self, program: FusedProgram, members: dict[int, Member], size: int, device: str) -> None:
        self.program = program
        self.device = device
        initial = [
            program.initial_state(member.config, {} if member.state is None else member.state.variables)
            for member in members.values()
        ]
        with tf.device(device):
            self.state = [tf.constant(np.stack(values)) for values in zip(*initial, strict=True)]
        self.rows = list(members.items())
        self.running = dict(members)
        self._select(range(len(initial)), size)

    def _select(self, rows: Sequence[int], size: int) -> None:
        """Keep some of the rows, padded to a size."""
        rows = [*rows, *[rows[-1]] * (size - len(rows))]
        self.rows = [self.rows[row] for row in rows]
        by_row = [self.program.values_of(member.config) for _, member in self.rows]
        with tf.device(self.device):
            self.state = [tf.gather(value, rows) for value in self.state]
            self.values = {name: tf.constant([each[name] for each in by_row], tf.float32) for name in by_row[0]}
        self.is_traced = False

    def trace(self, epoch: int, examples: Examples, threads: ThreadPoolExecutor) -> None:
        """Trace the programs, which threads must not do; a thread compiles validation's program meanwhile."""
        if self.is_traced:
            return
        with tf.device(self.device):
            if validation := examples[self.device][1]:
                validate = self.program.validate
                traces = validate.experimental_get_tracing_count()
                validate.get_concrete_function(self.state, self.values, validation)
                if validate.experimental_get_tracing_count() > traces:
                    # XLA compiles at the first call.
                    threads.submit(self._validate, examples)
            self.program.train.get_concrete_function(*self._training(epoch, examples))
        self.is_traced = True

    def run(self, epoch: int, examples: Examples) -> dict[int, Logs]:
        """Train an epoch; returns the logs of the members that ran, by number."""
        with tf.device(self.device):
            self.state, results = self.program.train(*self._training(epoch, examples))
        results |= self._validate(examples)
        values = {name: value.numpy().tolist() for name, value in results.items()}
        weights = [self.state[position].numpy() for position in self.program.weights]
        finite = np.logical_and.reduce([rows_are_finite(values) for values in weights])
        logs = {}
        for row, (number, member) in enumerate(self.rows):
            if self.running.get(number) is member and number not in logs:
                logs[number] = {name: value[row] for name, value in values.items()}
                member.end_epoch(epoch, logs[number], [each[row] for each in weights], finite[row])
        return logs

    def _training(self, epoch: int, examples: Examples) -> tuple[Any, ...]:
        """Arguments of the program for an epoch of training."""
        train = examples[self.device][0]
        members = [member for _, member in self.rows]
        orders = [epoch_order(train[0].shape[0], member.config.seed, epoch) for member in members]
        by_row = [member.values_by_update(epoch) for member in members]
        with tf.device(self.device):
            by_update = {name: tf.constant(np.stack([each[name] for each in by_row])) for name in by_row[0]}
            return self.state, self.values, tf.constant(np.stack(orders)), by_update, train

    def _validate(self, examples: Examples) -> dict[str, tf.Tensor]:
        validation = examples[self.device][1]
        with tf.device(self.device):
            return self.program.validate(self.state, self.values, validation) if validation else {}

    def release(self, epochs_left: int, sizes: Sizes) -> None:
        """Release members that have ended. The rest continue in fewer rows if that saves more than compiling costs."""
        ended = [number for number, member in self.running.items() if member.status != "running"]
        if not ended:
            return
        program, row_of = self.program, {number: row for row, (number, _) in reversed(list(enumerate(self.rows)))}
        values = [value.numpy() for value in self.state]
        for number in ended:
            state = [value[row_of[number]].copy() for value in values]
            averages = [None if position is None else state[position] for position in program.averages]
            self.running.pop(number).end(dict(zip(program.names, state, strict=True)), averages)
        if not self.running:
            return
        size = sizes.after_departures(len(self.rows), len(self.running), epochs_left)
        if size < len(self.rows):
            self._select([row_of[number] for number in self.running], size)


OnEpoch = Callable[[int, dict[int, Logs]], Collection[int] | None]
"""Called after each epoch with its number, counted from 0, and the logs of the members that ran, by number: values of
training and validation, and the learning rate. It may return the numbers of members to stop."""


def train_fused(
    configs: Sequence[RunConfig],
    data: Data,
    on_epoch: OnEpoch | None = None,
    initial: Sequence[MemberState | None] | None = None,
    direction: Mode = "auto",
    later_configs: Sequence[RunConfig] = (),
    max_members: int = 0,
) -> list[Member]:
    """Train runs of one `program_key` as one network; each ends as if it had been trained alone.

    All members train an epoch before any begins the next. They are split into groups of equal size, which train at the
    same time: one on each device of `devices`, or several on the cores of a CPU. Groups that don't fit into memory
    together take turns within each epoch. A member that early stopping, `on_epoch` or NaN ends leaves its group; the
    others continue in a smaller program as soon as that saves more than compiling it costs.

    Args:
        configs: runs with the same `program_key`.
        data: prepared data, the same for all.
        on_epoch: see `OnEpoch`.
        initial: for each run the state to resume from (a member's `state`), or None; None for all begins them anew.
        direction: the better direction of the value that decides the best epoch; "auto" decides by its name.
        later_configs: runs that may follow; the program offers their activations too, so that it need not change.
        max_members: how many runs may be trained together later; groups are padded to few different sizes up to it.

    Returns:
        A member for each run, in order. The same call gives the same bits, whatever was trained before.

    Raises:
        ValueError: no runs, runs that can't be fused or not with each other, states at different epochs.

    Reference: Wang et al., "Horizontally Fused Training Arrays", MLSys 2021.
    """
    first_epoch, states = _checked(configs, initial)
    members = [Member(config, data, state, direction) for config, state in zip(configs, states, strict=True)]
    choices, epochs = activation_choices(configs, later_configs), configs[0].training.epochs
    program = fused_program(template_config(configs).to_json(), choices, shapes_of(data))
    group_devices = _group_devices(configs[0], len(members))
    sizes = Sizes(
        operations=program.operations * len(data.x_train),
        epochs=epochs,
        compile_cost=COMPILE_COST[group_devices[0].partition(":")[0]],
        capacity=_capacity(program, group_devices),
        max_members=max_members,
    )
    examples = {device: _arrays(configs[0], data, device) for device in set(group_devices)}
    groups: list[Group] = []
    new_groups = _groups(program, members, sizes, group_devices)
    for epoch in range(first_epoch, epochs):
        # The other groups are built while the first one's program is compiled.
        groups, logs = _run_each(groups or new_groups, epoch, examples, len(group_devices))
        for number in (on_epoch(epoch, logs) if on_epoch is not None else None) or ():
            if members[number].status == "running":
                members[number].status = "stopped"
        for group in groups:
            group.release(epochs - epoch - 1, sizes)
        groups = [group for group in groups if group.running]
        if not groups:
            break
    return members


def _checked(
    configs: Sequence[RunConfig], initial: Sequence[MemberState | None] | None
) -> tuple[int, list[MemberState | None]]:
    """The first epoch, and a state or None for each run.

    Raises:
        ValueError: one line, if the runs can't be trained together.
    """
    if not configs:
        raise ValueError("configs must be at least one run, received none")
    key = program_key(configs[0])
    for number, config in enumerate(configs):
        if reason := reason_not_fusable(config):
            raise ValueError(f"run {number} cannot be fused: {reason}")
        if program_key(config) != key:
            raise ValueError(f"runs must share one program_key to be fused; run {number} differs from run 0")
    states: list[MemberState | None] = [None] * len(configs) if initial is None else list(initial)
    epochs = {0 if state is None else state.epoch for state in states}
    if len(epochs) > 1:
        raise ValueError(f"members must resume from the same epoch, received epochs {sorted(epochs)}")
    return epochs.pop(), states


def _groups(
    program: FusedProgram, members: Sequence[Member], sizes: Sizes, group_devices: Sequence[str]
) -> Iterator[Group]:
    """The members in groups of equal size, which take the devices in turn."""
    count = max(len(group_devices), math.ceil(len(members) / sizes.capacity))
    size = sizes.padded(math.ceil(len(members) / count))
    numbered = list(enumerate(members))
    for first, device in zip(range(0, len(members), size), itertools.cycle(group_devices), strict=False):
        yield Group(program, dict(numbered[first : first + size]), size, device)


def _run_each(
    groups: Iterable[Group], epoch: int, examples: Examples, at_once: int
) -> tuple[list[Group], dict[int, Logs]]:
    """Train an epoch of each group, some at a time; returns the groups, and the logs of members that ran, by number."""
    with ThreadPoolExecutor(at_once) as threads:
        running = []
        for group in groups:
            group.trace(epoch, examples, threads)
            running.append((group, threads.submit(group.run, epoch, examples)))
        logs = {number: log for _, future in running for number, log in future.result().items()}
        return [group for group, _ in running], logs


def _arrays(config: RunConfig, data: Data, device: str) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    if data.streamed:
        raise ValueError("the data does not fit into memory, so data.stream must be true, which trains runs one by one")
    train = [data.x_train, data.y_train]
    if (weights := class_weights(config, data)) is not None:
        labels = data.y_train.argmax(axis=1) if data.y_train.ndim == 2 else data.y_train.astype(int)
        train.append(np.array([weights[label] for label in labels.tolist()], np.float32))
    validation = [] if data.x_validation is None else [data.x_validation, data.y_validation]
    with tf.device(device):
        return [tf.constant(array) for array in train], [tf.constant(array) for array in validation]


def _group_devices(config: RunConfig, members: int) -> list[str]:
    """A device for each of the groups that train at the same time."""
    names = devices.chosen(config.devices)
    if names != ["CPU:0"]:
        return names[:members]
    # Cores stay idle between the operations of a single group, and so they do with one group per core. Powers of two
    # give few different sizes.
    at_once = max(1, min(2 * (os.cpu_count() or 1), members // MEMBERS_PER_CORE))
    return names * 2 ** int(math.log2(at_once))


def _capacity(program: FusedProgram, group_devices: Sequence[str]) -> int:
    """Number of members per group with which all groups that train at the same time fit into memory."""
    floats = 4 * sum(math.prod(variable.shape) for variable in program.variables)
    units = sum(math.prod(layer.output.shape[1:]) for layer in program.model.layers)
    floats += 4 * units * max(program.config.training.batch_size, VALIDATION_ROWS)
    return max(1, int(MEMORY_SHARE * device_memory() / (4 * floats * group_devices.count(group_devices[0]))))
