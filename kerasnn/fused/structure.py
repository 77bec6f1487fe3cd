"""What makes the program that trains runs of one shape together, and what is each run's own."""

import json
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from kerasnn.config import catalog
from kerasnn.config.run import RunConfig
from kerasnn.config.schedules import Constant, OneCycle
from kerasnn.data.loading import Data

# Arguments of an optimizer that may differ among members; whether they are set at all may not.
OPTIMIZER_NUMBERS = ("momentum", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm")

# Activations that members of one program may choose among: all are worked out and one is taken, so none may overflow
# and put NaN into the gradient of another.
_CHOSEN_FREELY = frozenset(
    ("linear", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "softsign", "tanh", "sigmoid")
)


def program_key(config: RunConfig) -> Hashable | None:
    """What two runs must share to be trained as one network.

    Members may differ in seed, initializers, common activations, learning rate, schedule, early stopping, plateau,
    dropout rates, penalties, label smoothing, and in momentum, weight decay and clipping bounds where both have them.

    Args:
        config: a run.

    Returns:
        A key, or None where the run cannot be fused; `why_not` then says why.
    """
    return None if why_not(config) else template_of([config], blank=True).to_json()


def why_not(config: RunConfig) -> str | None:
    """Why a run cannot be trained with others as one network, in one line; None where it can."""
    if config.devices.precision != "float32":
        return f"devices.precision is {config.devices.precision}, and fused networks are float32"
    if config.devices.deterministic or config.devices.jit_compile is False:
        return "devices switch XLA off, and fused networks need it"
    if config.training.compiled == "off":
        return "training.compiled is off, which asks for plain Keras"
    if config.training.lsuv:
        return "training.lsuv makes initial weights from the data"
    return None


def _rates(config: RunConfig) -> dict[str, float]:
    """A member's own numbers that are 0 where it does without: rates and penalties by layer, label smoothing."""
    regularization = config.regularization
    numbers = {"label_smoothing": config.loss.label_smoothing}
    for position, layer in enumerate(config.network.hidden, start=1):
        for kind in ("dropout", "l1", "l2"):
            value = getattr(layer, kind)
            numbers[f"{kind}_{position}"] = getattr(regularization, kind) if value is None else value
    return numbers | {"l1_output": regularization.output_l1, "l2_output": regularization.output_l2}


def numbers_of(config: RunConfig) -> dict[str, float]:
    """All of a member's own numbers by name; those that change from update to update are not among them."""
    spec = config.optimizer.spec
    return _rates(config) | {name: spec[name] for name in OPTIMIZER_NUMBERS if spec.get(name)}


def activations_of(config: RunConfig) -> list[str]:
    """Each hidden layer's activation, as JSON: equal for equal ones."""
    found = []
    for layer in config.network.hidden:
        name, arguments = catalog.check(
            "activation", catalog.ACTIVATIONS, layer.activation or config.network.activation
        )
        found.append(json.dumps({"name": name, **arguments}, sort_keys=True))
    return found


def choices_of(configs: Sequence[RunConfig], kin: Sequence[RunConfig] = ()) -> tuple[tuple[str, ...], ...]:
    """For each hidden layer the activations that runs of one key choose among; kin's are offered to any layer."""
    offered = {name for config in kin for name in activations_of(config) if is_chosen_freely(name)}
    asked = [set(names) for names in zip(*map(activations_of, configs), strict=True)]
    return tuple(tuple(sorted(own | offered if all(map(is_chosen_freely, own)) else own)) for own in asked)


def template_of(configs: Sequence[RunConfig], blank: bool = False) -> RunConfig:
    """The run whose program can train the given ones: 0.5 stands where any has a number of its own.

    Args:
        configs: runs of one key.
        blank: whether numbers that may be 0 are left out, which makes the runs' key.
    """
    config = configs[0]
    own = [_rates(each) for each in configs]
    rates = {name: 0.5 if any(each[name] for each in own) and not blank else 0.0 for name in own[0]}
    regularization = config.regularization
    if regularization.dropout_kind == "gaussian_dropout":
        # Keras takes the rate's square root in Python.
        rates |= {name: rate for name, rate in own[0].items() if name.startswith("dropout")}
    hidden = [
        layer.model_copy(
            update={
                "kernel_initializer": None,
                "bias_initializer": None,
                "activation": "linear" if is_chosen_freely(activation) else json.loads(activation),
                "batch_norm": regularization.batch_norm if layer.batch_norm is None else layer.batch_norm,
                **{kind: rates[f"{kind}_{position}"] for kind in ("dropout", "l1", "l2")},
            }
        )
        for position, (layer, activation) in enumerate(
            zip(config.network.hidden, activations_of(config), strict=True), start=1
        )
    ]
    network = {"hidden": tuple(hidden), "activation": "linear", "output_activation": config.output_activation}
    optimizer = {name: 0.5 for name in OPTIMIZER_NUMBERS if getattr(config.optimizer, name)}
    penalties = {"output_l1": rates["l1_output"], "output_l2": rates["l2_output"]}
    dropout_kind = {"dropout_kind": regularization.dropout_kind}
    kept = ("epochs", "batch_size", "metrics", "class_weight")
    return RunConfig(
        task=config.task,
        network=type(config.network)(**network),
        data=config.data,
        optimizer=config.optimizer.model_copy(update={**optimizer, "learning_rate": None}),
        schedule=OneCycle() if cycles_momentum(config) else Constant(),
        loss=config.loss.model_copy(update={"label_smoothing": rates["label_smoothing"]}),
        regularization=type(regularization)(**penalties, **dropout_kind),
        training=type(config.training)(**{name: getattr(config.training, name) for name in kept}),
    )


def is_chosen_freely(activation: str) -> bool:
    """Whether an activation, as JSON, is one that members of one program choose among."""
    return json.loads(activation)["name"] in _CHOSEN_FREELY


def cycles_momentum(config: RunConfig) -> bool:
    """Whether a run's schedule moves the momentum too."""
    return config.schedule.over(config.training.epochs).momentum(0.0) is not None


class Shapes(NamedTuple):
    """What a network takes from the data."""

    input_shape: tuple[int, ...]
    outputs: int
    label_shape: tuple[int, ...]
    label_dtype: str


def shapes_of(data: Data) -> Shapes:
    """The shapes of prepared data."""
    return Shapes(data.input_shape, data.outputs, data.y_train.shape[1:], str(data.y_train.dtype))
