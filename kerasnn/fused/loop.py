"""Training of models of one structure: groups that fit on the devices, epoch by epoch."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from kerasnn.fused.group import Changes, Group, Trainee
from kerasnn.fused.inputs import Inputs
from kerasnn.fused.program import FusedProgram, NotFusableError
from kerasnn.fused.sizes import COMPILE_COST, Sizes, capacity, operations

OnEpoch = Callable[[int, dict[int, Mapping[str, Any]]], Collection[int] | None]
"""Called after each epoch with its number, counted from 0, and the logs of the models that ran, by position; it may
return the positions of models to stop."""


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


def train_members(
    members: Sequence[Trainee],
    program: FusedProgram,
    inputs: Inputs,
    plan: Plan,
    devices: Sequence[str],
    renewed: Callable[[set[Changes]], FusedProgram] | None = None,
) -> None:
    """Train members of one structure to their end.

    All members train an epoch before any begins the next. They are split into groups of equal size, which train at the
    same time. Groups that don't fit into memory together take turns within each epoch. Members that end leave their
    group; the others continue in a smaller program as soon as that saves more than compiling it costs.

    Args:
        members: the members.
        program: trains them.
        inputs: their examples.
        plan: what they have in common.
        devices: a device for each of the groups that train at the same time.
        renewed: makes the program anew where callbacks have changed members before the first step, given the changes.

    Raises:
        NotFusableError: they cannot be trained as one program; no callback has been called.
    """
    sizes = Sizes(
        operations=operations(program.model) * inputs.rows,
        epochs=plan.epochs,
        compile_cost=COMPILE_COST[devices[0].partition(":")[0]],
        capacity=capacity(program.model, program.variables, inputs.largest_batch, devices.count(devices[0])),
        max_members=plan.max_members,
    )
    new_groups = _groups(members, program, inputs, sizes, devices)
    with ThreadPoolExecutor(len(devices)) as threads:
        first = next(new_groups)
        try:
            first.trace(plan.first_epoch, threads)
        except Exception as error:
            raise NotFusableError.of(error) from error
        for member in members:
            member.begin()
        # The other groups are built while the first one's program is compiled.
        groups: Iterable[Group] = itertools.chain([first], new_groups)
        running = list(members)
        for epoch in range(plan.first_epoch, plan.epochs):
            for member in running:
                member.begin_epoch(epoch)
            changes = {member.changes() for member in members} if epoch == plan.first_epoch else set()
            if any(changes) and renewed:
                # Plain Keras traces the first step when it comes.
                groups = _groups(members, renewed(changes), inputs, sizes, devices)
            groups = _run_epoch(groups, running, epoch, inputs, plan, threads)
            for group in groups:
                group.release(partial(sizes.after_departures, epochs_left=plan.epochs - epoch - 1))
            groups = [group for group in groups if group.members]
            running = [member for group in groups for member in group.members]
            if not groups:
                break


def _groups(
    members: Sequence[Trainee], program: FusedProgram, inputs: Inputs, sizes: Sizes, devices: Sequence[str]
) -> Iterator[Group]:
    """The members in groups of equal size, which take the devices in turn."""
    count = max(len(devices), math.ceil(len(members) / sizes.capacity))
    size = sizes.padded(math.ceil(len(members) / count))
    numbers = [member.number for member in members]
    examples = {}
    for device in dict.fromkeys(devices):
        with tf.device(device):
            examples[device] = inputs.on_device(numbers)
    for first, device in zip(range(0, len(members), size), itertools.cycle(devices), strict=False):
        yield Group(program, members[first : first + size], size, device, *examples[device])


def _run_epoch(
    groups: Iterable[Group],
    running: Sequence[Trainee],
    epoch: int,
    inputs: Inputs,
    plan: Plan,
    threads: ThreadPoolExecutor,
) -> list[Group]:
    """Train an epoch, validate, and let callbacks and `on_epoch` decide who continues; returns the groups."""

    def begin(group: Group) -> None:
        group.push()
        group.trace(epoch, threads)

    trained = _each_of(groups, begin, lambda group: group.train(epoch), threads)
    groups = [group for group, _ in trained]
    for group, logs in trained:
        group.pull()
        for member, own in zip(group.members, logs, strict=True):
            member.end_steps(member.named(own, group.program.model), epoch)
    if inputs.validation_steps and plan.validates(epoch):
        for member in running:
            member.begin_evaluation()
        for group, logs in _each_of(groups, Group.push, Group.validate, threads):
            group.pull()
            for member, own in zip(group.members, logs, strict=True):
                member.end_evaluation(member.named(own, group.program.model), inputs.validation_steps)
    for group in groups:
        for row, member in enumerate(group.members):
            member.end_epoch(epoch, partial(group.values_of, row))
    stopped = plan.on_epoch and plan.on_epoch(epoch, {member.number: member.logs for member in running})
    for member in running:
        if member.number in (stopped or ()) or member.stops or epoch + 1 == plan.epochs:
            member.running = False
    return groups


def _each_of(
    groups: Iterable[Group], begin: Callable[[Group], None], run: Callable[[Group], Any], threads: ThreadPoolExecutor
) -> list[tuple[Group, Any]]:
    """Begin and run something of each group, some at a time."""
    started = []
    for group in groups:
        begin(group)
        started.append((group, threads.submit(run, group)))
    return [(group, future.result()) for group, future in started]
