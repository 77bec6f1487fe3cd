"""The program that steps members of one shape through an epoch, each as it would step alone."""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.components import activations
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import ConvLayer
from kerasnn.engine.random_numbers import same_numbers_of_members
from kerasnn.fused.ensemble import over_members
from kerasnn.fused.structure import (
    OPTIMIZER_NUMBERS,
    Shapes,
    activations_of,
    cycles_momentum,
    is_chosen_freely,
    numbers_of,
)
from kerasnn.keras_private import (
    TFOptimizer,
    all_of,
    backend_random,
    base_optimizer,
    draw_seed,
    get_stateless_scope,
    replaced,
    tensorflow_random,
)
from kerasnn.models.from_config import build_network, compile_model
from kerasnn.models.layers import network_starts

KEPT = 8
"""Programs that are kept for further groups."""
VALIDATION_ROWS = 1024
"""About how many examples are validated at a time."""
PADDED_FROM = 16
"""Whole batches of an epoch from which on filling up a short last one costs less than a step compiled for it alone."""


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
    return replaced(TFOptimizer, **{name: vars(base_optimizer.BaseOptimizer)[name] for name in _OF_VALUES})


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
        tensorflow_random._cast_seed(draw_seed(seed)),
        noise_shape=tensorflow_random._get_concrete_noise_shape(inputs, noise_shape),
    )


def _penalty(regularizer: Any, x: Any) -> Any:
    """Keras's L1 and L2 penalty."""
    weights, penalty = tf.convert_to_tensor(x), tf.constant(0.0)
    if regularizer.l1:
        penalty += regularizer.l1 * _sum(tf.abs(weights))
    if regularizer.l2:
        penalty += regularizer.l2 * _sum(tf.square(weights))
    return penalty


def _sum(values: Any) -> Any:
    """The sum of all values; XLA adds one after the other on a CPU, but works out many rows of a product at a time."""
    rows = tf.reshape(values, (-1, values.shape[-1]))
    return tf.reduce_sum(tf.linalg.matvec(rows, tf.ones(rows.shape[-1])))


def _for_members() -> AbstractContextManager[None]:
    """What is traced here can be turned into operations of many members."""
    return all_of(
        same_numbers_of_members(),
        _without_distribution(),
        replaced(base_optimizer.ops, cond=_both),
        replaced(backend_random, dropout=_dropout),
        replaced(keras.regularizers.L1L2, __call__=_penalty),
    )


class Program:
    """One epoch of training, and one of validation, for any number of members, each compiled by XLA as a whole.

    Args:
        config: the template of the members' runs.
        choices: the activations of each hidden layer that members choose among.
        shapes: the data's.

    Attributes:
        names: what the values of a member's state are called, in order: weights, seeds, the optimizer's variables.
        weights: positions of `get_weights()` among them.
        averages: positions of the weights' moving averages among them, None where there is none.
        work: multiplications and additions of one member's update, for each example.
    """

    def __init__(self, config: RunConfig, choices: tuple[tuple[str, ...], ...], shapes: Shapes) -> None:
        self.config = config
        self._choices = choices
        self._shapes = shapes
        self.model = model = build_network(config, shapes)
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
        self._starts = [variable.numpy() for variable in self.variables]
        self._blank = [metric.numpy() for metric in self.metrics]
        self._mapped = [*self.variables, *self.metrics, *self.numbers.values()]
        self._results = tf.function(over_members(model.get_metrics_result, self.metrics), autograph=False)
        # Partials, because TensorFlow takes retracing of one function for a mistake; ours is for other sizes.
        self.train = tf.function(functools.partial(self._train), jit_compile=True, autograph=False)
        self.validate = tf.function(functools.partial(self._validate), jit_compile=True, autograph=False)
        kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
        # Forwards, and backwards to the inputs and to the kernel.
        self.work = 6 * sum(math.prod((*layer.kernel.shape, *layer.output.shape[1:-1])) for layer in kernels)

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
            for kind in ("l1", "l2"):
                if getattr(layer, kind):
                    own(f"{kind}_{position}", vars(model.get_layer(weighted).kernel_regularizer), kind)
            if is_chosen_freely(self._choices[position - 1][0]):
                separate = getattr(layer, "batch_norm", None)
                place = model.get_layer(f"activation_{position}" if separate else weighted)
                place.activation = _chosen(numbers, f"activation_{position}", self._choices[position - 1])
        for kind in ("l1", "l2"):
            if getattr(config.regularization, f"output_{kind}"):
                own(f"{kind}_output", vars(model.get_layer("output").kernel_regularizer), kind)
        if config.loss.label_smoothing:
            attributes = vars(model.loss)
            own("label_smoothing", attributes.get("_fn_kwargs", attributes), "label_smoothing")
        for name in OPTIMIZER_NUMBERS:
            if getattr(config.optimizer, name):
                own(name, vars(self.optimizer), name)
        if cycles_momentum(config):
            name = "momentum" if hasattr(self.optimizer, "momentum") else "beta_1"
            own("cycled", vars(self.optimizer), name)
            numbers.pop("momentum", None)
        return numbers

    def own(self, config: RunConfig) -> dict[str, float]:
        """A member's own numbers; those that change from update to update are not among them."""
        places = {
            f"activation_{position}": float(choices.index(activation))
            for position, (choices, activation) in enumerate(zip(self._choices, activations_of(config), strict=True), 1)
        }
        return {name: value for name, value in (numbers_of(config) | places).items() if name in self.numbers}

    def start(self, config: RunConfig, known: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The state that a member starts from, in the order of `names`; a network need not be built for it.

        Args:
            config: the member's run.
            known: values by name that it goes on from.
        """
        starts = network_starts(config.network, config.seed)
        values = []
        for name, variable, value in zip(self.names, self.variables, self._starts, strict=True):
            layer, _, kind = name.partition("/")
            belongs, _, position = layer.rpartition("_")
            start = starts[int(position) - 1 if position.isdecimal() else -1]
            if name in known:
                values.append(known[name])
            elif kind in ("kernel", "bias"):
                values.append(np.asarray(getattr(start, kind)(variable.shape, dtype=variable.dtype)))
            elif kind == "seed_generator_state":
                seed = start.dropout_seed if belongs == "dropout" else start.activation_seed
                values.append(np.array([seed, 0], variable.dtype))
            else:
                values.append(value)
        return values

    def _forward(self, training: bool, x: Any, y: Any, sample_weight: Any, count: Any) -> Any:
        outputs = self.model(x, training=training)
        loss = self.model._compute_loss(x, y, outputs, sample_weight, training=training)
        self.model._loss_tracker.update_state(loss, sample_weight=count)
        return outputs, loss

    def _train_step(self, real: Any, x: Any, y: Any, sample_weight: Any = None) -> None:
        """Keras's `train_step`, on values instead of variables.

        Args:
            real: 1 for examples, 0 for what fills the batch up, `(batch,)`.
            x: inputs.
            y: labels.
            sample_weight: the loss's weights of the examples.
        """
        weights = self.model.trainable_weights
        values = [weight.value for weight in weights]
        # Keras divides by the batch's size, whatever the weights are.
        count = tf.reduce_sum(real)
        share = real * (tf.cast(tf.size(real), tf.float32) / count)
        sample_weight = share if sample_weight is None else sample_weight * share
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            outputs, loss = self._forward(True, x, y, sample_weight, count)
            loss = self.optimizer.scale_loss(loss)
        self.optimizer.apply(tape.gradient(loss, values), weights)
        self._update_metrics(y, outputs, real)

    def _test_step(self, x: Any, y: Any) -> None:
        """Keras's `test_step`; `x` and `y` are one batch for all members."""
        outputs, _ = self._forward(False, x, y, None, tf.shape(x)[0])
        self._update_metrics(y, outputs, None)

    def _update_metrics(self, y: Any, outputs: Any, real: Any) -> None:
        for of_output in filter(None, self.model._compile_metrics._flat_metrics):
            of_output.update_state(y, outputs, sample_weight=real)

    def _train(
        self, state: list[Any], numbers: dict[str, Any], orders: Any, courses: dict[str, Any], examples: Sequence[Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """One epoch of training.

        Args:
            state: values of the variables, each `(members, ...)`.
            numbers: the members' own, each `(members,)`.
            orders: rows in the order of each member's pass, `(members, examples)`.
            courses: numbers that change with every update, each `(members, updates)`.
            examples: x, y and perhaps sample weights, each `(examples, ...)`.

        Returns:
            The new state, and the logs, each `(members,)`.
        """
        members, rows = orders.shape
        batch_size = self.config.training.batch_size
        end = len(state) + len(self.metrics)

        def values(carried: Sequence[Any], update: Any) -> list[Any]:
            now = {**numbers, **{name: course[:, update] for name, course in courses.items()}}
            return [*carried, *(now[name] for name in self.numbers)]

        # A batch's statistics would count what fills it up.
        normalized = any(isinstance(layer, keras.layers.BatchNormalization) for layer in self.model.layers)
        added = 0 if normalized or rows < PADDED_FROM * batch_size else -rows % batch_size
        orders = tf.pad(orders, [[0, 0], [0, added]])

        def steps(carried: Sequence[Any], row: Any, size: int) -> list[Any]:
            order = tf.slice(orders, [0, row], [members, size])
            batch = [tf.gather(array, order) for array in examples]
            real = tf.cast(row + tf.range(size) < rows, tf.float32)
            return step(values(carried, row // batch_size), real, *batch)

        def step_of_each(now: list[Any], real: Any, *batch: Any) -> list[Any]:
            return over_members(functools.partial(self._train_step, real), self._mapped)(now, *batch)[1][:end]

        begin = [*state, *self._blank_metrics(members)]
        with _for_members():
            # Of any size where the last batch is a short one, so that it is not traced anew.
            size = None if (rows + added) % batch_size else batch_size
            step = tf.function(step_of_each, autograph=False).get_concrete_function(
                [tf.TensorSpec(value.shape, value.dtype) for value in values(begin, 0)],
                tf.TensorSpec((size,), tf.float32),
                *(tf.TensorSpec((members, size, *array.shape[1:]), array.dtype) for array in examples),
            )
            carried = _in_batches(steps, begin, rows + added, batch_size)
            return carried[: len(state)], self._results(carried[len(state) :])[0]

    def _validate(self, state: list[Any], numbers: dict[str, Any], examples: Sequence[Any]) -> dict[str, Any]:
        """The logs of validation, each `(members,)`; `examples` are x and y, the same for all members."""
        members = state[0].shape[0]
        # What changes with every update is not asked for.
        own = [numbers.get(name, tf.zeros(members)) for name in self.numbers]

        def steps(carried: Sequence[Any], row: Any, size: int) -> list[Any]:
            # One batch for all members needs no leading axis: the network's shared inputs stay shared.
            batch = [tf.slice(array, [row] + [0] * (array.ndim - 1), [size, *array.shape[1:]]) for array in examples]
            test = over_members(lambda: self._test_step(*batch), self._mapped)
            return test([*state, *carried, *own])[1][len(state) : len(state) + len(carried)]

        rows = examples[0].shape[0]
        size = -(-rows // -(-rows // VALIDATION_ROWS))
        with _for_members():
            carried = _in_batches(steps, self._blank_metrics(members), rows, size)
            return {f"val_{name}": log for name, log in self._results(carried)[0].items()}

    def _blank_metrics(self, members: int) -> list[Any]:
        return [tf.constant(np.stack([metric] * members)) for metric in self._blank]


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


@functools.lru_cache(maxsize=KEPT)
def program_of(template: str, choices: tuple[tuple[str, ...], ...], shapes: Shapes) -> Program:
    """The program of a template, as JSON; the last ones used are kept, with what was compiled."""
    return Program(RunConfig.from_json(template), choices, shapes)
