"""Runs of one shape, trained as one network: one program steps all of them, each as it would step alone."""

import functools
import json
import math
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.tensorflow import random as keras_random
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers import base_optimizer
from keras.src.random.seed_generator import draw_seed

from kerasnn import activations, catalog, optimizers
from kerasnn.callbacks.divergence import is_finite
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.config import ConvLayer, OptimizerConfig, RunConfig
from kerasnn.data import Data
from kerasnn.models import build_model, network_layers
from kerasnn.models.fused import over_members
from kerasnn.schedules import Constant, OneCycle, more_is_better
from kerasnn.training.memory import device_memory
from kerasnn.training.order import epoch_order
from kerasnn.training.random import same_numbers
from kerasnn.training.run import class_weights, compile_model, early_stopping

Logs = dict[str, float]
Status = Literal["running", "finished", "stopped", "diverged"]

MEMORY_SHARE = 0.25
"""Share of the device's memory that members' weights, optimizer variables and activations may take together."""
VALIDATION_ROWS = 1024
"""About how many examples are validated at a time."""

# Arguments of an optimizer that may differ among members; whether they are set at all may not.
_OPTIMIZER_NUMBERS = ("momentum", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm")

# Activations that members of one program may choose among: all are worked out and one is taken, so none may overflow
# and put NaN into the gradient of another.
_CHOSEN_FREELY = frozenset(
    ("linear", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "softsign", "tanh", "sigmoid")
)


# What makes a program, and what is a member's own


def program_key(config: RunConfig) -> Hashable | None:
    """What two runs must share to be trained as one network.

    Members may differ in seed, initializers, common activations, learning rate, schedule, early stopping, plateau,
    dropout rates, penalties, label smoothing, and in momentum, weight decay and clipping bounds where both have them.

    Args:
        config: a run.

    Returns:
        A key, or None where the run cannot be fused; `why_not` then says why.
    """
    return None if why_not(config) else _template([config], blank=True).to_json()


def why_not(config: RunConfig) -> str | None:
    """Why a run cannot be trained with others as one network, in one line; None where it can."""
    if config.devices.precision != "float32":
        return f"devices.precision is {config.devices.precision}, and fused networks are float32"
    if config.devices.deterministic or config.devices.jit_compile is False:
        return "devices switch XLA off, and fused networks need it"
    if config.training.compiled == "off":
        return "training.compiled is off, which asks for plain Keras"
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


def _numbers(config: RunConfig) -> dict[str, float]:
    """All of a member's own numbers by name; those that change from update to update are not among them."""
    spec = config.optimizer.spec
    return _rates(config) | {name: spec[name] for name in _OPTIMIZER_NUMBERS if spec.get(name)}


def _activations(config: RunConfig) -> list[str]:
    """Each hidden layer's activation, as JSON: equal for equal ones."""
    found = []
    for layer in config.network.hidden:
        name, arguments = catalog.check(
            "activation", catalog.ACTIVATIONS, layer.activation or config.network.activation
        )
        found.append(json.dumps({"name": name, **arguments}, sort_keys=True))
    return found


def _choices(configs: Sequence[RunConfig]) -> tuple[tuple[str, ...], ...]:
    """For each hidden layer the activations that runs of one key choose among."""
    return tuple(tuple(sorted(set(each))) for each in zip(*map(_activations, configs), strict=True))


def _template(configs: Sequence[RunConfig], blank: bool = False) -> RunConfig:
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
                "activation": "linear" if _is_chosen_freely(activation) else json.loads(activation),
                "batch_norm": regularization.batch_norm if layer.batch_norm is None else layer.batch_norm,
                **{kind: rates[f"{kind}_{position}"] for kind in ("dropout", "l1", "l2")},
            }
        )
        for position, (layer, activation) in enumerate(
            zip(config.network.hidden, _activations(config), strict=True), start=1
        )
    ]
    network = {"hidden": tuple(hidden), "activation": "linear", "output_activation": config.output_activation}
    optimizer = {name: 0.5 for name in _OPTIMIZER_NUMBERS if getattr(config.optimizer, name)}
    penalties = {"output_l1": rates["l1_output"], "output_l2": rates["l2_output"]}
    dropout_kind = {"dropout_kind": regularization.dropout_kind}
    kept = ("epochs", "batch_size", "metrics", "class_weight")
    return RunConfig(
        task=config.task,
        network=type(config.network)(**network),
        data=config.data,
        optimizer=config.optimizer.model_copy(update={**optimizer, "learning_rate": None}),
        schedule=OneCycle() if _cycles_momentum(config) else Constant(),
        loss=config.loss.model_copy(update={"label_smoothing": rates["label_smoothing"]}),
        regularization=type(regularization)(**penalties, **dropout_kind),
        training=type(config.training)(**{name: getattr(config.training, name) for name in kept}),
    )


def _is_chosen_freely(activation: str) -> bool:
    return json.loads(activation)["name"] in _CHOSEN_FREELY


def _cycles_momentum(config: RunConfig) -> bool:
    return config.schedule.over(config.training.epochs).momentum(0.0) is not None


class _Shapes(NamedTuple):
    """What a network takes from the data."""

    input_shape: tuple[int, ...]
    outputs: int
    label_shape: tuple[int, ...]
    label_dtype: str


def _build(config: RunConfig, shapes: _Shapes) -> keras.Model:
    return build_model(**_description(config, shapes), style=config.style)


def _description(config: RunConfig, shapes: _Shapes) -> dict[str, Any]:
    """The arguments of `network_layers`."""
    return {
        "network": config.network.model_copy(update={"output_activation": config.output_activation}),
        "input_shape": shapes.input_shape,
        "outputs": shapes.outputs,
        "task": config.task,
        "regularization": config.regularization,
        "seed": config.seed,
    }


# The program


class _Number(keras.Variable):
    """A number that each member has its own of; asked in Python whether it is on, it says yes."""

    __hash__ = keras.Variable.__hash__

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __gt__(self, other: object) -> bool:
        return True


_OF_VALUES = (
    "assign",
    "assign_add",
    "assign_sub",
    "_var_key",
    "_apply_weight_decay",
    "_backend_update_step",
    "_backend_increment_gradient_accumulators",
    "_overwrite_model_variables_with_average_value",
)


def _without_distribution() -> AbstractContextManager[Any]:
    """Optimizers as Keras has them where there is no tf.distribute: they work on values instead of variables."""
    return mock.patch.multiple(TFOptimizer, **{name: vars(base_optimizer.BaseOptimizer)[name] for name in _OF_VALUES})


def _chosen(numbers: dict[str, keras.Variable], name: str, choices: Sequence[str]) -> Callable[[Any], Any]:
    """The activation that a member's own number says."""
    functions = [activations.get(json.loads(choice)) for choice in choices]
    if len(functions) == 1:
        return functions[0]
    numbers[name] = number = _Number(0.0, dtype="float32", trainable=False, name=name)

    def activation(x: Any) -> Any:
        chosen = functions[0](x)
        for place, function in enumerate(functions[1:], start=1):
            chosen = tf.where(tf.equal(tf.convert_to_tensor(number), place), function(x), chosen)
        return chosen

    return activation


def _both(condition: Any, true_function: Callable[[], Any], false_function: Callable[[], Any]) -> None:
    """`ops.cond` of functions that assign, where each member has its own condition: both run, and values are chosen."""
    scope = get_stateless_scope()
    taken, otherwise = keras.StatelessScope(), keras.StatelessScope()
    for inner, function in ((taken, true_function), (otherwise, false_function)):
        inner.state_mapping.update(scope.state_mapping)
        with inner:
            function()
    for variable, value in otherwise.state_mapping.items():
        scope.state_mapping[variable] = tf.where(condition, taken.state_mapping[variable], value)


def _dropout(inputs: Any, rate: Any, noise_shape: Any = None, seed: Any = None) -> Any:
    """Keras's dropout for a rate that is not known beforehand."""
    return tf.nn.experimental.stateless_dropout(
        inputs,
        tf.convert_to_tensor(rate),
        keras_random._cast_seed(draw_seed(seed)),
        noise_shape=keras_random._get_concrete_noise_shape(inputs, noise_shape),
    )


class _Program:
    """One epoch of training and validation, for any number of members, compiled by XLA as a whole.

    Args:
        config: the template of the members' runs.
        choices: the activations of each hidden layer that members choose among.
        shapes: the data's.

    Attributes:
        names: what the values of a member's state are called, in order: weights, seeds, the optimizer's variables.
        weights: positions of `get_weights()` among them.
        averages: positions of the weights' moving averages among them, None where there is none.
        build_seconds: what tracing and compiling took.
        sizes: numbers of members that it was compiled for.
    """

    def __init__(self, config: RunConfig, choices: tuple[tuple[str, ...], ...], shapes: _Shapes) -> None:
        self.config = config
        self._choices = choices
        self._shapes = shapes
        self.model = model = _build(config, shapes)
        compile_model(model, config)
        self.optimizer = optimizer = model.optimizer
        labels = tf.TensorSpec((2, *shapes.label_shape), shapes.label_dtype)
        with _without_distribution():
            model._symbolic_build(data_batch=(tf.TensorSpec((2, *shapes.input_shape), tf.float32), labels))
        self.numbers = self._own_numbers()
        named = {f"{layer.name}/{variable.name}": variable for layer in model.layers for variable in layer.variables}
        named |= {
            f"optimizer/{position}": variable
            for position, variable in enumerate(_optimizer_variables(optimizer))
            if variable is not optimizer.learning_rate
        }
        self.names, self.variables = list(named), list(named.values())
        places = {id(variable): place for place, variable in enumerate(self.variables)}
        averages = optimizer._model_variables_moving_average if optimizer.use_ema else []
        average_of = {
            id(weight): places[id(average)]
            for weight, average in zip(model.trainable_weights, averages, strict=False)
            if average is not None
        }
        self.weights = [places[id(weight)] for weight in model.weights]
        self.averages = [average_of.get(id(weight)) for weight in model.weights]
        self.metrics = model.metrics_variables
        self._blank = [metric.numpy() for metric in self.metrics]
        self._mapped = [*self.variables, *self.metrics, *self.numbers.values()]
        self._train = over_members(self._train_step, self._mapped)
        self._results = over_members(model.get_metrics_result, self._mapped)
        # A partial, because TensorFlow takes retracing of one function for a mistake; ours is for other sizes.
        self.run = tf.function(functools.partial(self._epoch), jit_compile=True, autograph=False)
        self.build_seconds = 0.0
        self.sizes: set[int] = set()

    def _own_numbers(self) -> dict[str, keras.Variable]:
        """Variables in the place of the numbers that members have each their own of, by name."""
        numbers = {"learning_rate": self.optimizer.learning_rate}

        def own(name: str, attributes: dict[str, Any], key: str) -> None:
            # Among the attributes, past Keras's __setattr__, which would count it among the weights.
            numbers[name] = attributes[key] = _Number(0.5, dtype="float32", trainable=False, name=name)

        config, model = self.config, self.model
        for position, layer in enumerate(config.network.hidden, start=1):
            weighted = f"{'conv' if isinstance(layer, ConvLayer) else 'dense'}_{position}"
            if layer.dropout and config.regularization.dropout_kind != "gaussian_dropout":
                own(f"dropout_{position}", vars(model.get_layer(f"dropout_{position}")), "rate")
            if layer.l1 or layer.l2:
                for kind in ("l1", "l2"):
                    own(f"{kind}_{position}", vars(model.get_layer(weighted).kernel_regularizer), kind)
            if _is_chosen_freely(self._choices[position - 1][0]):
                separate = getattr(layer, "batch_norm", None)
                place = model.get_layer(f"activation_{position}" if separate else weighted)
                place.activation = _chosen(numbers, f"activation_{position}", self._choices[position - 1])
        if config.regularization.output_l1 or config.regularization.output_l2:
            for kind in ("l1", "l2"):
                own(f"{kind}_output", vars(model.get_layer("output").kernel_regularizer), kind)
        if config.loss.label_smoothing:
            attributes = vars(model.loss)
            own("label_smoothing", attributes.get("_fn_kwargs", attributes), "label_smoothing")
        for name in _OPTIMIZER_NUMBERS:
            if getattr(config.optimizer, name):
                own(name, vars(self.optimizer), name)
        if _cycles_momentum(config):
            name = "momentum" if hasattr(self.optimizer, "momentum") else "beta_1"
            own("cycled", vars(self.optimizer), name)
            numbers.pop("momentum", None)
        return numbers

    def size_for(self, members: int, room: int) -> int:
        """Members to train at once where so many are wanted and there is room for `room`: a size that is compiled
        already, or one that is likely to be wanted again. The first is exact, for those who train once."""
        wanted = math.ceil(1.25 * members) if self.sizes else members
        return min(
            (size for size in self.sizes if members <= size <= min(1.5 * members, room)), default=min(wanted, room)
        )

    def own(self, config: RunConfig) -> dict[str, float]:
        """A member's own numbers; those that change from update to update are not among them."""
        places = {
            f"activation_{position}": float(choices.index(activation))
            for position, (choices, activation) in enumerate(zip(self._choices, _activations(config), strict=True), 1)
        }
        return {name: value for name, value in (_numbers(config) | places).items() if name in self.numbers}

    def start(self, member: "Member") -> list[np.ndarray]:
        """The state that a member starts from, in the order of `names`; a network need not be built for it."""
        known = {} if member.state is None else member.state.variables
        layers = {layer.name: layer for layer in network_layers(**_description(member.config, self._shapes))}
        values = []
        for name, variable in zip(self.names, self.variables, strict=True):
            layer, _, kind = name.partition("/")
            if name in known:
                values.append(known[name])
                continue
            initializer = getattr(layers.get(layer), f"{kind}_initializer", None)
            if initializer is not None:
                values.append(np.asarray(initializer(variable.shape, dtype=variable.dtype)))
            elif kind == "seed_generator_state" and layer in layers:
                values.append(layers[layer].seed_generator.state.numpy())
            else:
                values.append(variable.numpy())
        return values

    def _forward(self, training: bool, x: Any, y: Any, sample_weight: Any) -> Any:
        outputs = self.model(x, training=training)
        loss = self.model._compute_loss(x, y, outputs, sample_weight, training=training)
        self.model._loss_tracker.update_state(loss, sample_weight=tf.shape(x)[0])
        return outputs, loss

    def _train_step(self, x: Any, y: Any, sample_weight: Any = None) -> None:
        """Keras's `train_step`, on values instead of variables."""
        weights = self.model.trainable_weights
        values = [weight.value for weight in weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            outputs, loss = self._forward(True, x, y, sample_weight)
            loss = self.optimizer.scale_loss(loss)
        self.optimizer.apply(tape.gradient(loss, values), weights)
        self.model.compute_metrics(x, y, outputs, sample_weight)

    def _test_step(self, x: Any, y: Any) -> None:
        """Keras's `test_step`; `x` and `y` are one batch for all members."""
        outputs, _ = self._forward(False, x, y, None)
        self.model.compute_metrics(x, y, outputs)

    def _epoch(
        self,
        state: list[Any],
        numbers: dict[str, Any],
        orders: Any,
        courses: dict[str, Any],
        train: Any,
        validation: Any,
    ) -> Any:
        """One epoch.

        Args:
            state: values of the variables, each `(members, ...)`.
            numbers: the members' own, each `(members,)`.
            orders: rows in the order of each member's pass, `(members, examples)`.
            courses: numbers that change with every update, each `(members, updates)`.
            train: x, y and perhaps sample weights, each `(examples, ...)`.
            validation: x and y, or nothing.

        Returns:
            The new state, and the logs, each `(members,)`.
        """
        members, examples = orders.shape
        batch_size = self.config.training.batch_size
        ends = len(state), len(state) + len(self.metrics)
        blank = [tf.constant(np.stack([metric] * members)) for metric in self._blank]

        def values(carried: Sequence[Any], update: Any) -> list[Any]:
            now = {**numbers, **{name: course[:, update] for name, course in courses.items()}}
            return [*carried, *(now[name] for name in self.numbers)]

        def train_steps(carried: Sequence[Any], row: Any, size: int) -> list[Any]:
            rows = tf.slice(orders, [0, row], [members, size])
            batch = [tf.gather(array, rows) for array in train]
            return train_step(values(carried, row // batch_size), *batch)

        def test_steps(carried: Sequence[Any], row: Any, size: int) -> list[Any]:
            # One batch for all members needs no leading axis: the network's shared inputs stay shared.
            batch = [tf.slice(array, [row] + [0] * (array.ndim - 1), [size, *array.shape[1:]]) for array in validation]
            test = over_members(lambda: self._test_step(*batch), self._mapped)
            return test(values(carried, 0))[1][: ends[1]]

        def results(carried: Sequence[Any]) -> dict[str, Any]:
            return self._results(values(carried, 0))[0]

        with (
            same_numbers(),
            _without_distribution(),
            mock.patch.object(base_optimizer.ops, "cond", _both),
            mock.patch.object(keras.src.backend.random, "dropout", _dropout),
        ):
            # Of any batch size, so that a short last batch is not traced anew.
            step = tf.function(lambda now, *batch: self._train(now, *batch)[1][: ends[1]], autograph=False)
            train_step = step.get_concrete_function(
                [tf.TensorSpec(value.shape, value.dtype) for value in values([*state, *blank], 0)],
                *(tf.TensorSpec((members, None, *array.shape[1:]), array.dtype) for array in train),
            )
            carried = _in_batches(train_steps, [*state, *blank], examples, batch_size)
            logs = results(carried)
            state = carried[: ends[0]]
            if validation:
                rows = validation[0].shape[0]
                size = -(-rows // -(-rows // VALIDATION_ROWS))
                carried = _in_batches(test_steps, [*state, *blank], rows, size)
                logs |= {f"val_{name}": value for name, value in results(carried).items()}
        return state, logs


def _in_batches(step: Callable[..., list[Any]], carried: list[Any], rows: int, size: int) -> list[Any]:
    """A step over whole batches, in a loop, and over what is left."""
    whole = rows - rows % size
    if whole:
        _, *carried = tf.while_loop(
            lambda row, *_: row < whole,
            lambda row, *carried: [row + size, *step(carried, row, size)],
            [tf.constant(0), *carried],
        )
    return step(carried, whole, rows - whole) if whole < rows else carried


def _optimizer_variables(optimizer: Any) -> list[keras.Variable]:
    # Nadam keeps a variable that it does not track.
    untracked = [each for each in vars(optimizer).values() if isinstance(each, keras.Variable)]
    known = {id(variable): variable for variable in [*optimizer.variables, *untracked]}
    return [variable for variable in known.values() if not isinstance(variable, _Number)]


@functools.lru_cache(maxsize=8)
def _program(template: str, choices: tuple[tuple[str, ...], ...], shapes: _Shapes) -> _Program:
    return _Program(RunConfig.from_json(template), choices, shapes)


# The members


@dataclass(eq=False)
class MemberState:
    """All that a member needs to go on later as if it had never stopped.

    Args:
        epoch: epochs done.
        variables: weights, seeds and optimizer variables by name.
        weights: weights that are kept: of the best epoch, of early stopping's best.
        counters: history, learning rate's and early stopping's counters; fit for JSON.
    """

    epoch: int
    variables: dict[str, np.ndarray] = field(repr=False)
    weights: dict[str, list[np.ndarray]] = field(repr=False)
    counters: dict[str, Any] = field(repr=False)


class Member:
    """One run among those that train together, and what came of it.

    Attributes:
        config: the run.
        status: "finished", "stopped" (by `on_epoch`) or "diverged" (no more finite).
        history: each logged value by epoch; a diverged epoch is not in it.
        weights: the final weights in the order of `get_weights()`; a diverged member's are the last finite ones.
        best_weights: those of the best epoch, or None before there is one.
        best_epoch: the best epoch, from 0 on, by `training.monitor`; or None.
        state: what `train_fused(initial=...)` continues from; None for a diverged member.
    """

    def __init__(self, config: RunConfig, data: Data, state: MemberState | None = None) -> None:
        self.config = config
        self.status: Status = "running"
        self.history: dict[str, list[float]] = {}
        self.weights: list[np.ndarray] = []
        self.best_weights: list[np.ndarray] | None = None
        self.best_epoch: int | None = None
        self.state: MemberState | None = state
        self._best = math.inf
        self._shapes = _shapes(data)
        self._updates = math.ceil(len(data.x_train) / config.training.batch_size)
        settings = config.training
        validated = data.x_validation is not None
        config.check_monitors(validation=validated)
        self._monitor = config.monitored(validation=validated)
        rate = config.optimizer.learning_rate
        if rate is None:
            rate = _default_learning_rate(config.optimizer.name)
        self._learning_rate = LearningRate(config.schedule.over(settings.epochs), rate, settings.plateau)
        self._early_stopping = early_stopping(config) if settings.early_stopping is not None else None
        # What Keras's callbacks ask of a model.
        self._model = SimpleNamespace(
            stop_training=False,
            get_weights=lambda: self.weights,
            set_weights=lambda weights: setattr(self, "weights", weights),
            optimizer=SimpleNamespace(learning_rate=None),
        )
        for callback in self._callbacks:
            callback.set_model(self._model)
        if self._early_stopping is not None:
            self._early_stopping.on_train_begin()
        if state is not None:
            self._restore(state)

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.history.get("loss", ()))

    def model(self) -> keras.Model:
        """A plain Keras model with the final weights; it takes prepared examples."""
        model = _build(self.config, self._shapes)
        model.set_weights(self.weights)
        return model

    @property
    def _callbacks(self) -> list[keras.callbacks.Callback]:
        return [self._learning_rate, *([] if self._early_stopping is None else [self._early_stopping])]

    def courses(self, epoch: int) -> dict[str, np.ndarray]:
        """What changes with every update of an epoch, each `(updates,)`."""
        rates = self._learning_rate.rates(epoch, self._updates)
        self._model.optimizer.learning_rate = tf.constant(rates[-1])
        momenta = self._learning_rate.momenta(epoch, self._updates)
        return {"learning_rate": rates} if momenta is None else {"learning_rate": rates, "cycled": momenta}

    def end_epoch(self, epoch: int, logs: Logs, weights: list[np.ndarray]) -> None:
        """Take an epoch's logs, to which the learning rate is added, and weights; decide whether to go on."""
        if not all(map(math.isfinite, logs.values())) or not all(map(is_finite, weights)):
            self.status, self.state = "diverged", None
            return
        self.weights = [weight.copy() for weight in weights]
        for callback in self._callbacks:
            callback.on_epoch_end(epoch, logs)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        value = -logs[self._monitor] if more_is_better(self._monitor) else logs[self._monitor]
        if value < self._best:
            self._best, self.best_epoch, self.best_weights = value, epoch, self.weights
        if self._model.stop_training or epoch + 1 == self.config.training.epochs:
            self.status = "finished"

    def end(self, variables: dict[str, np.ndarray], averages: list[np.ndarray | None]) -> None:
        """Keep the state to go on from; then do what Keras's `fit` does at its end."""
        if self.status == "diverged":
            return
        stopping = self._early_stopping
        counted = {} if stopping is None else {key: getattr(stopping, key) for key in _STOPPING}
        kept = {"best": self.best_weights, "early_stopping": getattr(stopping, "best_weights", None)}
        self.state = MemberState(
            self.epochs,
            variables,
            {name: weights for name, weights in kept.items() if weights is not None},
            {
                "history": {name: list(values) for name, values in self.history.items()},
                "best": [self._best if math.isfinite(self._best) else None, self.best_epoch],
                "learning_rate": self._learning_rate.get_state(),
                "early_stopping": counted,
            },
        )
        pairs = zip(self.weights, averages, strict=True)
        self.weights = [weight if average is None else average for weight, average in pairs]
        if stopping is not None:
            stopping.on_train_end()

    def _restore(self, state: MemberState) -> None:
        counters = state.counters
        self.history = {name: list(values) for name, values in counters["history"].items()}
        best, self.best_epoch = counters["best"]
        self._best = math.inf if best is None else best
        self.best_weights = state.weights.get("best")
        self._learning_rate.set_state(counters["learning_rate"])
        if self._early_stopping is not None:
            for key, value in counters["early_stopping"].items():
                setattr(self._early_stopping, key, value)
            self._early_stopping.best_weights = state.weights.get("early_stopping")


_STOPPING = ("wait", "best", "best_epoch", "stopped_epoch")


@functools.cache
def _default_learning_rate(optimizer: str) -> float:
    return float(optimizers.get(OptimizerConfig(name=optimizer).spec).learning_rate.numpy())


class _Group:
    """Members whose values lie on the device together.

    Args:
        program: steps them.
        members: those that run, by number.
        size: members that there is room for; the last one's copies fill it up, so that all groups share one program.
    """

    def __init__(self, program: _Program, members: dict[int, Member], size: int) -> None:
        self.program = program
        starts = [program.start(member) for member in members.values()]
        self.state = [tf.constant(np.stack(values)) for values in zip(*starts, strict=True)]
        self.rows = list(members.items())
        self.running = dict(members)
        self._arrange(range(len(starts)), size)

    def _arrange(self, kept: Sequence[int], size: int) -> None:
        """Go on with some of the rows, filled up to a size."""
        kept = [*kept, *[kept[-1]] * (size - len(kept))]
        self.program.sizes.add(size)
        self.rows = [self.rows[row] for row in kept]
        self.state = [tf.gather(value, kept) for value in self.state]
        own = [self.program.own(member.config) for _, member in self.rows]
        self.numbers = {name: tf.constant([each[name] for each in own], tf.float32) for name in own[0]}
        self.epoch_seconds = 0.0

    def run(self, epoch: int, train: list[tf.Tensor], validation: list[tf.Tensor]) -> dict[int, Logs]:
        """One epoch; the logs of members that ran, by number."""
        members = [member for _, member in self.rows]
        orders = [epoch_order(train[0].shape[0], member.config.seed, epoch) for member in members]
        courses = [member.courses(epoch) for member in members]
        stacked = {name: tf.constant(np.stack([each[name] for each in courses])) for name in courses[0]}
        start = time.perf_counter()
        self.state, results = self.program.run(
            self.state, self.numbers, tf.constant(np.stack(orders)), stacked, train, validation
        )
        values = {name: value.numpy().tolist() for name, value in results.items()}
        seconds = time.perf_counter() - start
        if self.epoch_seconds:
            self.program.build_seconds = max(self.program.build_seconds, self.epoch_seconds - seconds)
        self.epoch_seconds = seconds
        weights = [self.state[place].numpy() for place in self.program.weights]
        logs = {}
        for row, (number, member) in enumerate(self.rows):
            if self.running.get(number) is member and number not in logs:
                logs[number] = {name: value[row] for name, value in values.items()}
                member.end_epoch(epoch, logs[number], [each[row] for each in weights])
        return logs

    def settle(self, epochs_left: int) -> None:
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
        size = program.size_for(len(self.running), len(self.rows))
        saved = (1 - size / len(self.rows)) * self.epoch_seconds * epochs_left
        if saved > (0 if size in program.sizes else program.build_seconds) and program.build_seconds > 0:
            self._arrange([place_of[number] for number in self.running], size)


def train_fused(
    configs: Sequence[RunConfig],
    data: Data,
    on_epoch: Callable[[int, dict[int, Logs]], Collection[int] | None] | None = None,
    initial: Sequence[MemberState | None] | None = None,
) -> list[Member]:
    """Train runs of one key as one network; each comes out as if it had been trained alone.

    All members take an epoch before any takes the next one. Those that don't fit into memory together are split into
    groups of one size, one after the other within each epoch. A member that early stopping, `on_epoch` or NaN ends
    leaves its group; the rest go on in a smaller program as soon as that saves more than compiling it costs.

    Args:
        configs: runs with the same `program_key`.
        data: prepared data, the same for all.
        on_epoch: called after each epoch with its number, from 0 on, and the logs of the members that ran, by number:
            training's and validation's values and the learning rate; may return the numbers of members to stop.
        initial: for each run a state to go on from (a member's `state`), or None for all to start anew.

    Returns:
        A member for each run, in order.

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
    members = [Member(config, data, state) for config, state in zip(configs, states, strict=True)]
    program = _program(_template(configs).to_json(), _choices(configs), _shapes(data))
    size = _group_size(program, len(members))
    numbered = dict(enumerate(members))
    groups = [
        _Group(program, {number: numbered[number] for number in range(first, min(first + size, len(members)))}, size)
        for first in range(0, len(members), size)
    ]
    train, validation = _arrays(configs[0], data)
    epochs = configs[0].training.epochs
    for epoch in range(begun.pop(), epochs):
        logs: dict[int, Logs] = {}
        for group in groups:
            logs |= group.run(epoch, train, validation)
        for number in (on_epoch(epoch, logs) if on_epoch is not None else None) or ():
            if members[number].status == "running":
                members[number].status = "stopped"
        for group in groups:
            group.settle(epochs - epoch - 1)
        groups = [group for group in groups if group.running]
        if not groups:
            break
    return members


def _shapes(data: Data) -> _Shapes:
    return _Shapes(data.input_shape, data.outputs, data.y_train.shape[1:], str(data.y_train.dtype))


def _arrays(config: RunConfig, data: Data) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Training's x, y and perhaps weights, and validation's x and y, on the device."""
    train = [data.x_train, data.y_train]
    if (weights := class_weights(config, data)) is not None:
        labels = data.y_train.argmax(axis=1) if data.y_train.ndim == 2 else data.y_train.astype(int)
        train.append(np.array([weights[label] for label in labels.tolist()], np.float32))
    validation = [] if data.x_validation is None else [data.x_validation, data.y_validation]
    return [tf.constant(array) for array in train], [tf.constant(array) for array in validation]


def _group_size(program: _Program, members: int) -> int:
    """How many members train at once: groups of one size that fit into memory."""
    floats = 4 * sum(math.prod(variable.shape) for variable in program.variables)
    units = sum(math.prod(layer.output.shape[1:]) for layer in program.model.layers)
    floats += 4 * units * max(program.config.training.batch_size, VALIDATION_ROWS)
    room = max(1, int(MEMORY_SHARE * device_memory() / (4 * floats)))
    return program.size_for(math.ceil(members / math.ceil(members / room)), room)
