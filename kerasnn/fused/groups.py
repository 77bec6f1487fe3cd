"""Members trained together: groups that fit on the device, epoch by epoch."""

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
from kerasnn.config.run import RunConfig
from kerasnn.data.class_weights import class_weights
from kerasnn.data.loading import Data
from kerasnn.distribute import devices
from kerasnn.engine.memory import device_memory
from kerasnn.engine.order import epoch_order
from kerasnn.fused.member import Direction, Logs, Member, MemberState
from kerasnn.fused.program import VALIDATION_ROWS, Program, program_of
from kerasnn.fused.structure import choices_of, program_key, shapes_of, template_of, why_not

MEMORY_SHARE = 0.25
"""Share of the device's memory that members' weights, optimizer variables and activations may take together."""
MEMBERS_PER_CORE = 16
"""Members that keep a core of the CPU busy; with fewer, it is beginning each operation that takes the time."""
COMPILING = {"CPU": 1e11, "GPU": 1e13}
"""Multiplications and additions that take about as long as compiling a program, by kind of device. A size is compiled
or not by this count and never by a clock, because results may differ with it in their last digits."""
PADDING = 0.5
"""Share of that which filling a group up to a usual size may cost."""


@dataclass(frozen=True)
class Sizes:
    """How many members groups have: few different numbers, because each is compiled for.

    Args:
        work: multiplications and additions of a member's epoch.
        epochs: of a whole training.
        compiling: multiplications and additions that take about as long as compiling.
        room: the most members that fit.
        most: the most members that any group is filled up to.
    """

    work: float
    epochs: int
    compiling: float
    room: int
    most: int

    def usual(self, members: int) -> int:
        """So many members, filled up to a multiple of a power of two, as far as that costs little."""
        step = 1
        while step < 2 * MEMBERS_PER_CORE and 2 * step * self.work * self.epochs <= PADDING * self.compiling:
            step *= 2
        return min(math.ceil(members / step) * step, max(members, self.most), self.room)

    def after(self, size: int, members: int, epochs_left: int) -> int:
        """The size with which a group goes on that has no more than so many members left."""
        smaller = self.usual(members)
        return smaller if (size - smaller) * self.work * epochs_left > self.compiling else size


Examples = dict[str, tuple[list[tf.Tensor], list[tf.Tensor]]]
"""Training's x, y and perhaps weights, and validation's x and y, by the device that they lie on."""


class Group:
    """Members whose values lie on the device together.

    Args:
        program: steps them.
        members: those that run, by number.
        size: members that there is room for; the last one's copies fill it up, so that all groups share one program.
        device: its name.
    """

    def __init__(self, program: Program, members: dict[int, Member], size: int, device: str) -> None:
        self.program = program
        self.device = device
        starts = [
            program.start(member.config, {} if member.state is None else member.state.variables)
            for member in members.values()
        ]
        with tf.device(device):
            self.state = [tf.constant(np.stack(values)) for values in zip(*starts, strict=True)]
        self.rows = list(members.items())
        self.running = dict(members)
        self._arrange(range(len(starts)), size)

    def _arrange(self, kept: Sequence[int], size: int) -> None:
        """Go on with some of the rows, filled up to a size."""
        kept = [*kept, *[kept[-1]] * (size - len(kept))]
        self.rows = [self.rows[row] for row in kept]
        own = [self.program.own(member.config) for _, member in self.rows]
        with tf.device(self.device):
            self.state = [tf.gather(value, kept) for value in self.state]
            self.numbers = {name: tf.constant([each[name] for each in own], tf.float32) for name in own[0]}
        self.is_traced = False

    def trace(self, epoch: int, examples: Examples, threads: ThreadPoolExecutor) -> None:
        """Trace what an epoch runs, which is not for threads; they compile validation's program meanwhile."""
        if self.is_traced:
            return
        with tf.device(self.device):
            if validation := examples[self.device][1]:
                validate = self.program.validate
                traces = validate.experimental_get_tracing_count()
                validate.get_concrete_function(self.state, self.numbers, validation)
                if validate.experimental_get_tracing_count() > traces:
                    # XLA compiles at the first call.
                    threads.submit(self._validate, examples)
            self.program.train.get_concrete_function(*self._training(epoch, examples))
        self.is_traced = True

    def run(self, epoch: int, examples: Examples) -> dict[int, Logs]:
        """One epoch; the logs of members that ran, by number."""
        with tf.device(self.device):
            self.state, results = self.program.train(*self._training(epoch, examples))
        results |= self._validate(examples)
        values = {name: value.numpy().tolist() for name, value in results.items()}
        weights = [self.state[place].numpy() for place in self.program.weights]
        finite = np.logical_and.reduce([rows_are_finite(values) for values in weights])
        logs = {}
        for row, (number, member) in enumerate(self.rows):
            if self.running.get(number) is member and number not in logs:
                logs[number] = {name: value[row] for name, value in values.items()}
                member.end_epoch(epoch, logs[number], [each[row] for each in weights], finite[row])
        return logs

    def _training(self, epoch: int, examples: Examples) -> tuple[Any, ...]:
        """What the program takes for an epoch of training."""
        train = examples[self.device][0]
        members = [member for _, member in self.rows]
        orders = [epoch_order(train[0].shape[0], member.config.seed, epoch) for member in members]
        courses = [member.courses(epoch) for member in members]
        with tf.device(self.device):
            stacked = {name: tf.constant(np.stack([each[name] for each in courses])) for name in courses[0]}
            return self.state, self.numbers, tf.constant(np.stack(orders)), stacked, train

    def _validate(self, examples: Examples) -> dict[str, tf.Tensor]:
        validation = examples[self.device][1]
        with tf.device(self.device):
            return self.program.validate(self.state, self.numbers, validation) if validation else {}

    def settle(self, epochs_left: int, sizes: Sizes) -> None:
        """Let members go that no longer run; go on without them where that saves more than compiling anew costs."""
        ended = [number for number, member in self.running.items() if member.status != "running"]
        if not ended:
            return
        program, place_of = self.program, {number: row for row, (number, _) in reversed(list(enumerate(self.rows)))}
        values = [value.numpy() for value in self.state]
        for number in ended:
            state = [value[place_of[number]].copy() for value in values]
            averages = [None if place is None else state[place] for place in program.averages]
            self.running.pop(number).end(dict(zip(program.names, state, strict=True)), averages)
        if not self.running:
            return
        size = sizes.after(len(self.rows), len(self.running), epochs_left)
        if size < len(self.rows):
            self._arrange([place_of[number] for number in self.running], size)


def train_fused(
    configs: Sequence[RunConfig],
    data: Data,
    on_epoch: Callable[[int, dict[int, Logs]], Collection[int] | None] | None = None,
    initial: Sequence[MemberState | None] | None = None,
    direction: Direction = "auto",
    kin: Sequence[RunConfig] = (),
    most: int = 0,
) -> list[Member]:
    """Train runs of one key as one network; each comes out as if it had been trained alone.

    All members take an epoch before any takes the next one. They are split into groups of one size, which train at once
    on the devices that `devices` names, one on each, or on the cores of a CPU; where they don't fit into memory
    together, one after the other within each epoch. A member that early stopping, `on_epoch` or NaN ends
    leaves its group; the rest go on in a smaller program as soon as that saves more than compiling it costs.

    Args:
        configs: runs with the same `program_key`.
        data: prepared data, the same for all.
        on_epoch: called after each epoch with its number, from 0 on, and the logs of the members that ran, by number:
            training's and validation's values and the learning rate; may return the numbers of members to stop.
        initial: for each run a state to go on from (a member's `state`), or None for all to start anew.
        direction: whether less or more is better of what decides the best epoch; "auto" reads it off its name.
        kin: runs that may be trained later on, whose activations the program offers too, so that it will do for them.
        most: how many may be trained together later on; groups are filled up to few different sizes for their sake.

    Returns:
        A member for each run, in order. The same call gives the same to the bit, whatever was trained before.

    Raises:
        ValueError: no runs, runs that can't be fused or not with each other, states at different epochs.
    """
    if not configs:
        raise ValueError("configs must be at least one run, received none")
    key = program_key(configs[0])
    for number, config in enumerate(configs):
        if reason := why_not(config):
            raise ValueError(f"run {number} cannot be fused: {reason}")
        if program_key(config) != key:
            raise ValueError(f"runs must share one program_key to be fused; run {number} differs from run 0")
    states = [None] * len(configs) if initial is None else list(initial)
    begun = {0 if state is None else state.epoch for state in states}
    if len(begun) > 1:
        raise ValueError(f"members must go on from the same epoch, received epochs {sorted(begun)}")
    members = [Member(config, data, state, direction) for config, state in zip(configs, states, strict=True)]
    program = program_of(template_of(configs).to_json(), choices_of(configs, kin), shapes_of(data))
    first_epoch, epochs = begun.pop(), configs[0].training.epochs
    places = _places(configs[0], len(members))
    room = _room(program, places)
    sizes = Sizes(
        program.work * len(data.x_train), epochs, COMPILING[places[0].partition(":")[0]], room=room, most=most
    )
    at_once = max(len(places), math.ceil(len(members) / room))
    size = sizes.usual(math.ceil(len(members) / at_once))
    numbered = list(enumerate(members))
    groups: list[Group] = []

    def built() -> Iterator[Group]:
        for first, device in zip(range(0, len(members), size), itertools.cycle(places), strict=False):
            groups.append(Group(program, dict(numbered[first : first + size]), size, device))
            yield groups[-1]

    examples = {device: _arrays(configs[0], data, device) for device in set(places)}
    for epoch in range(first_epoch, epochs):
        # Groups are built while the first one's program is compiled.
        logs = _run_each(groups or built(), epoch, examples, len(places))
        for number in (on_epoch(epoch, logs) if on_epoch is not None else None) or ():
            if members[number].status == "running":
                members[number].status = "stopped"
        for group in groups:
            group.settle(epochs - epoch - 1, sizes)
        groups = [group for group in groups if group.running]
        if not groups:
            break
    return members


def _run_each(groups: Iterable[Group], epoch: int, examples: Examples, at_once: int) -> dict[int, Logs]:
    """An epoch of each group, some at once; the logs of members that ran, by number."""
    with ThreadPoolExecutor(at_once) as threads:
        running = []
        for group in groups:
            group.trace(epoch, examples, threads)
            running.append(threads.submit(group.run, epoch, examples))
        return {number: log for each in running for number, log in each.result().items()}


def _arrays(config: RunConfig, data: Data, device: str) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    train = [data.x_train, data.y_train]
    if (weights := class_weights(config, data)) is not None:
        labels = data.y_train.argmax(axis=1) if data.y_train.ndim == 2 else data.y_train.astype(int)
        train.append(np.array([weights[label] for label in labels.tolist()], np.float32))
    validation = [] if data.x_validation is None else [data.x_validation, data.y_validation]
    with tf.device(device):
        return [tf.constant(array) for array in train], [tf.constant(array) for array in validation]


def _places(config: RunConfig, members: int) -> list[str]:
    """A device for each of the groups that train at once."""
    names = devices.chosen(config.devices)
    if names != ["CPU:0"]:
        return names[:members]
    # The operations of a single group leave cores idle between them, and so do those of one group for each core. By
    # powers of two, for few different sizes.
    at_once = max(1, min(2 * (os.cpu_count() or 1), members // MEMBERS_PER_CORE))
    return names * 2 ** int(math.log2(at_once))


def _room(program: Program, places: Sequence[str]) -> int:
    """The members that a group may have, so that as many groups as train at once fit into memory."""
    floats = 4 * sum(math.prod(variable.shape) for variable in program.variables)
    units = sum(math.prod(layer.output.shape[1:]) for layer in program.model.layers)
    floats += 4 * units * max(program.config.training.batch_size, VALIDATION_ROWS)
    return max(1, int(MEMORY_SHARE * device_memory() / (4 * floats * places.count(places[0]))))
