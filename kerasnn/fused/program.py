"""The program that trains members of one structure through an epoch, each as it would train alone."""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.components import activations
from kerasnn.components.variables import NumberVariable
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import ConvLayer
from kerasnn.fused.ensemble import over_members
from kerasnn.fused.run_structure import (
    OPTIMIZER_ARGUMENTS,
    Shapes,
    cycles_momentum,
    hidden_activations,
    is_selectable,
    member_values,
)
from kerasnn.fused.tracing import for_members, without_distribution
from kerasnn.models.from_config import build_network, compile_model
from kerasnn.models.layers import network_starts

CACHED_PROGRAMS = 8
"""Programs cached for further groups."""
VALIDATION_ROWS = 1024
"""Upper bound of the validation examples in a batch."""
PADDED_FROM = 16
"""Number of full batches in an epoch from which padding a short last batch costs less than compiling a step for it."""


def _selected_activation(values: dict[str, keras.Variable], name: str, choices: Sequence[str]) -> Callable[[Any], Any]:
    """An activation that each member selects by the position in `choices` that its value gives."""
    functions = [activations.get(json.loads(choice)) for choice in choices]
    if len(functions) == 1:
        return functions[0]
    values[name] = selected = NumberVariable(0.0, dtype="float32", trainable=False, name=name)

    def activation(x: Any) -> Any:
        output = functions[0](x)
        for position, function in enumerate(functions[1:], start=1):
            output = tf.where(tf.equal(tf.convert_to_tensor(selected), position), function(x), output)
        return output

    return activation


class FusedProgram:
    """An epoch of training and one of validation for any number of members, each compiled by XLA as a whole.

    Args:
        config: the template of the members' runs.
        choices: for each hidden layer, the activations that members select from.
        shapes: the shapes of the data.

    Attributes:
        variables: the variables of one member: weights, seeds, the optimizer's variables.
        names: their names.
        values: variables that hold the values that differ by member, by name.
        weights: for each weight of `get_weights()`, its position in `variables`.
        averages: for each weight, the position of its moving average in `variables`, or None.
        operations: multiplications and additions of one member's update, per example.
        train: runs an epoch of training.
        validate: runs an epoch of validation.
    """

    def __init__(self, config: RunConfig, choices: tuple[tuple[str, ...], ...], shapes: Shapes) -> None:
        self.config = config
        self._choices = choices
        self._shapes = shapes
        self.model = model = build_network(config, shapes)
        compile_model(model, config)
        self.optimizer = optimizer = model.optimizer
        labels = tf.TensorSpec((2, *shapes.label_shape), shapes.label_dtype)
        with without_distribution():
            model._symbolic_build(data_batch=(tf.TensorSpec((2, *shapes.input_shape), tf.float32), labels))
        self.values = self._variables_by_member()
        named = {f"{layer.name}/{variable.name}": variable for layer in model.layers for variable in layer.variables}
        named |= {
            f"optimizer/{position}": variable
            for position, variable in enumerate(_optimizer_variables(optimizer))
            if variable is not optimizer.learning_rate
        }
        self.names, self.variables = list(named), list(named.values())
        positions = {id(variable): position for position, variable in enumerate(self.variables)}
        averages = optimizer._model_variables_moving_average if optimizer.use_ema else []
        average_of = {
            id(weight): positions[id(average)]
            for weight, average in zip(model.trainable_weights, averages, strict=False)
            if average is not None
        }
        self.weights = [positions[id(weight)] for weight in model.weights]
        self.averages = [average_of.get(id(weight)) for weight in model.weights]
        self.metrics = model.metrics_variables
        self._initial_values = [variable.numpy() for variable in self.variables]
        self._initial_metrics = [metric.numpy() for metric in self.metrics]
        self._mapped = [*self.variables, *self.metrics, *self.values.values()]
        self._results = tf.function(over_members(model.get_metrics_result, self.metrics), autograph=False)
        # Partials, because TensorFlow warns of retracing the same function; these are traced for each size.
        self.train = tf.function(functools.partial(self._train), jit_compile=True, autograph=False)
        self.validate = tf.function(functools.partial(self._validate), jit_compile=True, autograph=False)
        kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
        # The forward pass, and the gradients of the inputs and of the kernel.
        self.operations = 6 * sum(math.prod((*layer.kernel.shape, *layer.output.shape[1:-1])) for layer in kernels)

    def _variables_by_member(self) -> dict[str, keras.Variable]:
        """Replace the values that differ by member with variables, and return these by name."""
        values = {"learning_rate": self.optimizer.learning_rate}

        def replace(name: str, attributes: dict[str, Any], key: str) -> None:
            # Past Keras's __setattr__, which would count the variable as a weight.
            values[name] = attributes[key] = NumberVariable(0.5, dtype="float32", trainable=False, name=name)

        config, model = self.config, self.model
        for position, layer in enumerate(config.network.hidden, start=1):
            weighted = f"{'conv' if isinstance(layer, ConvLayer) else 'dense'}_{position}"
            if layer.dropout and config.regularization.dropout_kind != "gaussian_dropout":
                replace(f"dropout_{position}", vars(model.get_layer(f"dropout_{position}")), "rate")
            for kind in ("l1", "l2"):
                if getattr(layer, kind):
                    replace(f"{kind}_{position}", vars(model.get_layer(weighted).kernel_regularizer), kind)
            choices = self._choices[position - 1]
            if is_selectable(choices[0]):
                separate = getattr(layer, "batch_norm", None)
                activated = model.get_layer(f"activation_{position}" if separate else weighted)
                activated.activation = _selected_activation(values, f"activation_{position}", choices)
        for kind in ("l1", "l2"):
            if getattr(config.regularization, f"output_{kind}"):
                replace(f"{kind}_output", vars(model.get_layer("output").kernel_regularizer), kind)
        if config.loss.label_smoothing:
            attributes = vars(model.loss)
            replace("label_smoothing", attributes.get("_fn_kwargs", attributes), "label_smoothing")
        for name in OPTIMIZER_ARGUMENTS:
            if getattr(config.optimizer, name):
                replace(name, vars(self.optimizer), name)
        if cycles_momentum(config):
            name = "momentum" if hasattr(self.optimizer, "momentum") else "beta_1"
            replace("momentum_by_update", vars(self.optimizer), name)
            values.pop("momentum", None)
        return values

    def values_of(self, config: RunConfig) -> dict[str, float]:
        """A member's values for `values`, except those that change at every update."""
        activations = {
            f"activation_{position}": float(choices.index(activation))
            for position, (choices, activation) in enumerate(
                zip(self._choices, hidden_activations(config), strict=True), start=1
            )
        }
        return {name: value for name, value in (member_values(config) | activations).items() if name in self.values}

    def initial_state(self, config: RunConfig, known: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """A member's initial values of `variables`, without building its network.

        Args:
            config: the member's run.
            known: values by name that a resumed member has already.
        """
        starts = network_starts(config.network, config.seed)
        values = []
        for name, variable, value in zip(self.names, self.variables, self._initial_values, strict=True):
            layer, _, kind = name.partition("/")
            layer_kind, _, position = layer.rpartition("_")
            start = starts[int(position) - 1 if position.isdecimal() else -1]
            if name in known:
                values.append(known[name])
            elif kind in ("kernel", "bias"):
                values.append(np.asarray(getattr(start, kind)(variable.shape, dtype=variable.dtype)))
            elif kind == "seed_generator_state":
                seed = start.dropout_seed if layer_kind == "dropout" else start.activation_seed
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
            real: 1 for examples, 0 for padding, `(batch,)`.
            x: inputs, `(batch, ...)`.
            y: labels, `(batch, ...)`.
            sample_weight: weights of the examples in the loss, `(batch,)`.
        """
        weights = self.model.trainable_weights
        values = [weight.value for weight in weights]
        # Keras divides the loss by the batch size, whatever the weights are.
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
        """Keras's `test_step`; all members share the batch."""
        outputs, _ = self._forward(False, x, y, None, tf.shape(x)[0])
        self._update_metrics(y, outputs, None)

    def _update_metrics(self, y: Any, outputs: Any, real: Any) -> None:
        for metrics in filter(None, self.model._compile_metrics._flat_metrics):
            metrics.update_state(y, outputs, sample_weight=real)

    def _train(
        self,
        state: list[Any],
        values: dict[str, Any],
        orders: Any,
        values_by_update: dict[str, Any],
        examples: Sequence[Any],
    ) -> tuple[list[Any], dict[str, Any]]:
        """An epoch of training.

        Args:
            state: values of `variables`, each `(members, ...)`.
            values: values that differ by member, each `(members,)`.
            orders: each member's order of the examples, `(members, examples)`.
            values_by_update: values that change at every update, each `(members, updates)`.
            examples: x, y and, if given, sample weights, each `(examples, ...)`.

        Returns:
            The new state, and the logs, each `(members,)`.
        """
        members, rows = orders.shape
        batch_size = self.config.training.batch_size
        end = len(state) + len(self.metrics)

        def mapped_values(carried: Sequence[Any], update: Any) -> list[Any]:
            current = {**values, **{name: by_update[:, update] for name, by_update in values_by_update.items()}}
            return [*carried, *(current[name] for name in self.values)]

        # The statistics of a batch would include its padding.
        normalized = any(isinstance(layer, keras.layers.BatchNormalization) for layer in self.model.layers)
        padding = 0 if normalized or rows < PADDED_FROM * batch_size else -rows % batch_size
        orders = tf.pad(orders, [[0, 0], [0, padding]])

        def run_batch(carried: Sequence[Any], row: Any, size: int) -> list[Any]:
            order = tf.slice(orders, [0, row], [members, size])
            batch = [tf.gather(array, order) for array in examples]
            real = tf.cast(row + tf.range(size) < rows, tf.float32)
            return step(mapped_values(carried, row // batch_size), real, *batch)

        def step_members(mapped: list[Any], real: Any, *batch: Any) -> list[Any]:
            return over_members(functools.partial(self._train_step, real), self._mapped)(mapped, *batch)[1][:end]

        begin = [*state, *self._blank_metrics(members)]
        with for_members():
            # A short last batch needs a step of any size, so that it is not traced twice.
            size = None if (rows + padding) % batch_size else batch_size
            step = tf.function(step_members, autograph=False).get_concrete_function(
                [tf.TensorSpec(value.shape, value.dtype) for value in mapped_values(begin, 0)],
                tf.TensorSpec((size,), tf.float32),
                *(tf.TensorSpec((members, size, *array.shape[1:]), array.dtype) for array in examples),
            )
            carried = _in_batches(run_batch, begin, rows + padding, batch_size)
            return carried[: len(state)], self._results(carried[len(state) :])[0]

    def _validate(self, state: list[Any], values: dict[str, Any], examples: Sequence[Any]) -> dict[str, Any]:
        """The logs of validation, each `(members,)`, on `examples`, the x and y that all members share."""
        members = state[0].shape[0]
        # Values that change at every update are not used here.
        by_member = [values.get(name, tf.zeros(members)) for name in self.values]

        def run_batch(carried: Sequence[Any], row: Any, size: int) -> list[Any]:
            # Without an axis of members, because they share the batch.
            batch = [tf.slice(array, [row] + [0] * (array.ndim - 1), [size, *array.shape[1:]]) for array in examples]
            test = over_members(lambda: self._test_step(*batch), self._mapped)
            return test([*state, *carried, *by_member])[1][len(state) : len(state) + len(carried)]

        rows = examples[0].shape[0]
        size = -(-rows // -(-rows // VALIDATION_ROWS))
        with for_members():
            carried = _in_batches(run_batch, self._blank_metrics(members), rows, size)
            return {f"val_{name}": log for name, log in self._results(carried)[0].items()}

    def _blank_metrics(self, members: int) -> list[Any]:
        return [tf.constant(np.stack([metric] * members)) for metric in self._initial_metrics]


def _in_batches(run_batch: Callable[..., list[Any]], carried: list[Any], rows: int, size: int) -> list[Any]:
    """Run all full batches in a loop, then the rest."""
    full = rows - rows % size
    if full:
        _, *carried = tf.while_loop(
            lambda row, *_: row < full,
            lambda row, *carried: [row + size, *run_batch(carried, row, size)],
            [tf.constant(0), *carried],
        )
    return run_batch(carried, full, rows - full) if full < rows else carried


def _optimizer_variables(optimizer: Any) -> list[keras.Variable]:
    # Nadam has a variable that it does not track.
    untracked = [value for value in vars(optimizer).values() if isinstance(value, keras.Variable)]
    unique = {id(variable): variable for variable in [*optimizer.variables, *untracked]}
    return [variable for variable in unique.values() if not isinstance(variable, NumberVariable)]


@functools.lru_cache(maxsize=CACHED_PROGRAMS)
def fused_program(template: str, choices: tuple[tuple[str, ...], ...], shapes: Shapes) -> FusedProgram:
    """The program for a template, given as JSON; the programs used last are cached with what XLA compiled."""
    return FusedProgram(RunConfig.from_json(template), choices, shapes)
