"""The structure that runs must share to train as one program, and the values that may differ by member."""

import json
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from kerasnn.config import catalog
from kerasnn.config.run import RunConfig
from kerasnn.config.schedules import Constant, OneCycle
from kerasnn.data.compact import Layout
from kerasnn.data.loading import Data
from kerasnn.data.pixels import Pixels

OPTIMIZER_ARGUMENTS = ("momentum", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm")
"""Arguments of an optimizer whose values may differ by member; whether they are set may not."""

# Activations that may differ by member. All of them are computed and one is selected, so none may overflow: its NaN
# would reach the gradients of the others.
_SELECTABLE = frozenset(
    ("linear", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "softsign", "tanh", "sigmoid")
)


def program_key(config: RunConfig) -> Hashable | None:
    """A key that is equal for runs that can train as one network.

    Such runs may differ in seed, initializers, common activations, learning rate, schedule, early stopping, plateau,
    dropout rates, penalties, label smoothing, and, if set in both, in momentum, weight decay and clipping bounds.

    Args:
        config: a run.

    Returns:
        The key, or None if the run can't be fused; `reason_not_fusable` says why.

    >>> program_key(RunConfig(seed=1)) == program_key(RunConfig(seed=2))
    True
    """
    return None if reason_not_fusable(config) else template_config([config], with_values=False).to_json()


def reason_not_fusable(config: RunConfig) -> str | None:
    """Why a run can't train with others as one network, in one line; None if it can."""
    if config.devices.precision != "float32":
        return f"devices.precision is {config.devices.precision}, and fused networks are float32"
    if config.devices.deterministic or config.devices.jit_compile is False:
        return "devices switch XLA off, and fused networks need it"
    if config.training.compiled == "off":
        return "training.compiled is off, which asks for plain Keras"
    if config.data.augment.layers:
        return "data.augment changes images at random, by each run's own seeds"
    if config.data.stream:
        return "data.stream reads the examples from a file, and fused networks need them in memory"
    if config.training.lsuv:
        return "training.lsuv makes initial weights from the data"
    return None


def member_values(config: RunConfig) -> dict[str, float]:
    """The values of a run that may differ by member, by name, except those that change at every update."""
    spec = config.optimizer.spec
    return _rates_and_penalties(config) | {name: spec[name] for name in OPTIMIZER_ARGUMENTS if spec.get(name)}


def _rates_and_penalties(config: RunConfig) -> dict[str, float]:
    """Dropout rates and penalties by layer, and label smoothing; 0 where unused."""
    regularization = config.regularization
    values = {"label_smoothing": config.loss.label_smoothing}
    for position, layer in enumerate(config.network.hidden, start=1):
        for kind in ("dropout", "l1", "l2"):
            value = getattr(layer, kind)
            values[f"{kind}_{position}"] = getattr(regularization, kind) if value is None else value
    return values | {"l1_output": regularization.output_l1, "l2_output": regularization.output_l2}


def hidden_activations(config: RunConfig) -> list[str]:
    """The activation of each hidden layer as JSON, the same text for the same activation."""
    activations = []
    for layer in config.network.hidden:
        name, arguments = catalog.check(
            "activation", catalog.ACTIVATIONS, layer.activation or config.network.activation
        )
        activations.append(json.dumps({"name": name, **arguments}, sort_keys=True))
    return activations


def activation_choices(
    configs: Sequence[RunConfig], later_configs: Sequence[RunConfig] = ()
) -> tuple[tuple[str, ...], ...]:
    """For each hidden layer, the activations that members select from.

    Args:
        configs: runs of one `program_key`.
        later_configs: runs that may follow; any layer offers their activations too.
    """
    offered = {name for config in later_configs for name in hidden_activations(config) if is_selectable(name)}
    by_layer = [set(names) for names in zip(*map(hidden_activations, configs), strict=True)]
    return tuple(tuple(sorted(names | offered if all(map(is_selectable, names)) else names)) for names in by_layer)


def is_selectable(activation: str) -> bool:
    """Whether an activation, as JSON, may differ by member."""
    return json.loads(activation)["name"] in _SELECTABLE


def template_config(configs: Sequence[RunConfig], with_values: bool = True) -> RunConfig:
    """The run whose program can train given runs. A value that any of them sets is 0.5 in it.

    Args:
        configs: runs of one `program_key`.
        with_values: False leaves out values that may be 0, which gives the runs' key.
    """
    config = configs[0]
    values = [_rates_and_penalties(each) for each in configs]
    used = {name: 0.5 if any(each[name] for each in values) and with_values else 0.0 for name in values[0]}
    regularization = config.regularization
    if regularization.dropout_kind == "gaussian_dropout":
        # Keras takes the square root of the rate in Python.
        used |= {name: rate for name, rate in values[0].items() if name.startswith("dropout")}
    hidden = [
        layer.model_copy(
            update={
                "kernel_initializer": None,
                "bias_initializer": None,
                "activation": "linear" if is_selectable(activation) else json.loads(activation),
                "batch_norm": regularization.batch_norm if layer.batch_norm is None else layer.batch_norm,
                **{kind: used[f"{kind}_{position}"] for kind in ("dropout", "l1", "l2")},
            }
        )
        for position, (layer, activation) in enumerate(
            zip(config.network.hidden, hidden_activations(config), strict=True), start=1
        )
    ]
    network = {"hidden": tuple(hidden), "activation": "linear", "output_activation": config.output_activation}
    optimizer = {name: 0.5 for name in OPTIMIZER_ARGUMENTS if getattr(config.optimizer, name)}
    penalties = {"output_l1": used["l1_output"], "output_l2": used["l2_output"]}
    dropout_kind = {"dropout_kind": regularization.dropout_kind}
    training = {name: getattr(config.training, name) for name in ("epochs", "batch_size", "metrics", "class_weight")}
    return RunConfig(
        task=config.known_task,
        network=type(config.network)(**network),
        data=config.data,
        optimizer=config.optimizer.model_copy(update={**optimizer, "learning_rate": None}),
        schedule=OneCycle() if cycles_momentum(config) else Constant(),
        loss=config.loss.model_copy(update={"label_smoothing": used["label_smoothing"]}),
        regularization=type(regularization)(**penalties, **dropout_kind),
        training=type(config.training)(**training),
    )


def cycles_momentum(config: RunConfig) -> bool:
    """Whether a run's schedule changes the momentum too."""
    return config.schedule.cycles_momentum


class Shapes(NamedTuple):
    """The shapes of the data, as far as a network depends on them."""

    input_shape: tuple[int, ...]
    outputs: int
    label_shape: tuple[int, ...]
    label_dtype: str
    layout: Layout | Pixels | None


def shapes_of(data: Data) -> Shapes:
    """The shapes of prepared data."""
    return Shapes(data.input_shape, data.outputs, data.y_train.shape[1:], str(data.y_train.dtype), data.layout)
