"""Training of runs of one structure as one program."""

from collections.abc import Sequence

import numpy as np

from kerasnn.config.monitor import Mode
from kerasnn.config.run import RunConfig
from kerasnn.data.class_weights import class_weights
from kerasnn.data.loading import Data
from kerasnn.distribute import devices
from kerasnn.engine.examples import Examples
from kerasnn.fused.inputs import Inputs
from kerasnn.fused.loop import OnEpoch, Plan, train_members
from kerasnn.fused.member import Member, MemberState
from kerasnn.fused.run_structure import activation_choices, program_key, reason_not_fusable, shapes_of, template_config
from kerasnn.fused.sizes import group_devices, xla_pays
from kerasnn.fused.template import filled_up_batch, run_template

VALIDATION_ROWS = 1024
"""Upper bound of the validation examples in a batch."""
FILLED_UP_FROM = 16
"""Number of full batches in an epoch from which filling up a short last batch costs less than compiling a step for
it."""


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

    It trains as `fit_fused` does, on the `devices` of the runs, but builds one model for all of them. A member that
    early stopping, `on_epoch` or NaN ends leaves; the others continue.

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
        ValueError: no runs, runs that can't be fused or not with each other, states at different epochs, examples that
            are not in memory.

    Reference: Wang et al., "Horizontally Fused Training Arrays", MLSys 2021.
    """
    first_epoch, states = _checked(configs, initial)
    if data.streamed:
        raise ValueError("runs cannot be fused: their examples are read from a file while training")
    config = configs[0]
    names = group_devices(len(configs), devices.chosen(config.devices))
    shared = template_config(configs)
    fills_up = _fills_up(shared, data)
    choices = activation_choices(configs, later_configs)
    template = run_template(shared.to_json(), choices, shapes_of(data), fills_up)
    inputs = _inputs(config, data, len(configs), fills_up)
    members = [
        Member(number, each, template, data, state, direction)
        for number, (each, state) in enumerate(zip(configs, states, strict=True))
    ]
    epochs = config.training.epochs
    batch, held_out = inputs.batches(0)
    program = template.program(
        filled_up_batch(batch) if fills_up else batch,
        inputs.batch_size,
        held_out,
        inputs.validation_batch_size,
        xla=xla_pays(max(len(configs), max_members), (epochs - first_epoch) * inputs.steps),
    )
    train_members(members, program, inputs, Plan(first_epoch, epochs, 1, on_epoch, max_members), names)
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


def _fills_up(shared: RunConfig, data: Data) -> bool:
    """Whether the last batch of an epoch is filled up, given what `template_config` makes of the runs."""
    rows, batch_size = len(data.x_train), shared.training.batch_size
    # The statistics of a batch would include what fills it up.
    normalized = any(layer.batch_norm for layer in shared.network.hidden)
    return rows % batch_size > 0 and rows >= FILLED_UP_FROM * batch_size and not normalized


def _inputs(config: RunConfig, data: Data, count: int, fills_up: bool) -> Inputs:
    weights = None
    if (by_class := class_weights(config, data)) is not None:
        labels = data.y_train.argmax(axis=1) if data.y_train.ndim == 2 else data.y_train.astype(int)
        weights = np.array([by_class[label] for label in labels.tolist()], np.float32)
    train = Examples(data.x_train, data.y_train, weights, batch_size=config.training.batch_size)
    if data.x_validation is None:
        return Inputs([train] * count, [], shuffle=True, fills_up=fills_up)
    rows = len(data.x_validation)
    size = -(-rows // -(-rows // VALIDATION_ROWS))
    held_out = Examples(data.x_validation, data.y_validation, batch_size=size)
    return Inputs([train] * count, [held_out] * count, shuffle=True, fills_up=fills_up)
