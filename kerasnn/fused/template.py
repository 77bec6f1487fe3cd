"""The model that stands for runs of one structure: their values, and what they begin with, without building each."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.components import activations
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import ConvLayer
from kerasnn.fused.program import FusedProgram
from kerasnn.fused.run_structure import (
    OPTIMIZER_ARGUMENTS,
    Shapes,
    cycles_momentum,
    hidden_activations,
    is_selectable,
    member_values,
)
from kerasnn.fused.structure import Number, Structure
from kerasnn.fused.tracing import without_distribution
from kerasnn.models.from_config import build_network, compile_model
from kerasnn.models.layers import network_starts

CACHED_TEMPLATES = 8
"""Templates cached for further runs, with what XLA compiled."""


class SelectedActivation:
    """An activation that each member selects.

    Args:
        choices: descriptions of the activations as JSON.

    Attributes:
        selected: position of the selected activation.
    """

    def __init__(self, choices: Sequence[str]) -> None:
        self._functions = [activations.get(json.loads(choice)) for choice in choices]
        self.selected: Any = 0.0

    def __call__(self, x: Any) -> Any:
        """The activation's output, in the shape of its input."""
        output, selected = self._functions[0](x), tf.convert_to_tensor(self.selected, tf.float32)
        for position, function in enumerate(self._functions[1:], start=1):
            output = tf.where(tf.equal(selected, position), function(x), output)
        return output


class Template:
    """A model whose program trains runs that differ in values.

    Args:
        config: what `template_config` makes of the runs.
        choices: for each hidden layer, the activations that members select from.
        shapes: the shapes of the data.
        fills_up: whether a step takes batches that are filled up, as the program gives them.

    Attributes:
        model: the model.
        variables: its variables: weights, seeds, the optimizer's, the metrics'.
        numbers: numbers that differ by member.
        by_update: positions of the values that change at every update, among the variables followed by the numbers.
        weights: for each weight of `get_weights()`, its position in `variables`.
        averages: for each weight, the position of its moving average in `variables`, or None.
    """

    def __init__(
        self, config: RunConfig, choices: tuple[tuple[str, ...], ...], shapes: Shapes, fills_up: bool = False
    ) -> None:
        self._config, self._choices = config, choices
        self.model = model = build_network(config, shapes)
        compile_model(model, config)
        optimizer = model.optimizer
        labels = tf.TensorSpec((2, *shapes.label_shape), shapes.label_dtype)
        with without_distribution():
            model._symbolic_build(data_batch=(tf.TensorSpec((2, *shapes.input_shape), tf.float32), labels))
        by_name = self._numbers()
        self.variables = Structure(model).variables
        self.names, self.numbers = list(by_name), list(by_name.values())
        positions = {id(variable): position for position, variable in enumerate(self.variables)}
        self.by_update = [positions[id(optimizer.learning_rate)]]
        if "momentum_by_update" in by_name:
            self.by_update.append(len(self.variables) + self.names.index("momentum_by_update"))
        self.weights = [positions[id(weight)] for weight in model.weights]
        averages = optimizer._model_variables_moving_average if optimizer.use_ema else []
        pairs = zip(model.trainable_weights, averages, strict=False)
        average_of = {id(weight): positions[id(average)] for weight, average in pairs if average is not None}
        self.averages = [average_of.get(id(weight)) for weight in model.weights]
        self._made_by = self._makers()
        self._initial = [variable.numpy() for variable in self.variables]
        if fills_up:
            # Past Keras's __setattr__, which would track it.
            vars(model)["train_step"] = _FilledUpStep(model)
        self._programs: dict[Any, FusedProgram] = {}

    def program(self, batch: Any, batch_size: int, validation: Any, validation_size: int, xla: bool) -> FusedProgram:
        """The program for batches of given sizes, described as for `FusedProgram`."""
        key = (str(batch), batch_size, str(validation), validation_size, xla)
        if key not in self._programs:
            self._programs[key] = FusedProgram(
                self,
                range(len(self.numbers)),
                *(batch, batch_size, validation, validation_size, self.by_update),
                xla=xla,
            )
        return self._programs[key]

    def _numbers(self) -> dict[str, Number]:
        """The numbers that differ by member, by name."""
        found: dict[str, Number] = {}

        def number(name: str, owner: object, key: str) -> None:
            attributes = vars(owner)
            found[name] = Number(attributes, key, attributes[key], always=True)

        config, model = self._config, self.model
        for position, layer in enumerate(config.network.hidden, start=1):
            weighted = f"{'conv' if isinstance(layer, ConvLayer) else 'dense'}_{position}"
            if layer.dropout and config.regularization.dropout_kind != "gaussian_dropout":
                number(f"dropout_{position}", model.get_layer(f"dropout_{position}"), "rate")
            for kind in ("l1", "l2"):
                if getattr(layer, kind):
                    number(f"{kind}_{position}", model.get_layer(weighted).kernel_regularizer, kind)
            choices = self._choices[position - 1]
            if is_selectable(choices[0]):
                separate = getattr(layer, "batch_norm", None)
                activated = model.get_layer(f"activation_{position}" if separate else weighted)
                if len(choices) == 1:
                    activated.activation = activations.get(json.loads(choices[0]))
                else:
                    activated.activation = selected = SelectedActivation(choices)
                    number(f"activation_{position}", selected, "selected")
        for kind in ("l1", "l2"):
            if getattr(config.regularization, f"output_{kind}"):
                number(f"{kind}_output", model.get_layer("output").kernel_regularizer, kind)
        if config.loss.label_smoothing:
            attributes = vars(model.loss)
            owner = attributes.get("_fn_kwargs", attributes)
            found["label_smoothing"] = Number(owner, "label_smoothing", owner["label_smoothing"], always=True)
        for name in OPTIMIZER_ARGUMENTS:
            if getattr(config.optimizer, name):
                number(name, model.optimizer, name)
        if cycles_momentum(config):
            found.pop("momentum", None)
            number(
                "momentum_by_update", model.optimizer, "momentum" if hasattr(model.optimizer, "momentum") else "beta_1"
            )
        return found

    def numbers_of(self, config: RunConfig) -> list[Number]:
        """The numbers of a run."""
        values = member_values(config)
        for position, (choices, activation) in enumerate(
            zip(self._choices, hidden_activations(config), strict=True), start=1
        ):
            values[f"activation_{position}"] = float(choices.index(activation))
        return [
            number._replace(value=values.get(name, number.value))
            for name, number in zip(self.names, self.numbers, strict=True)
        ]

    def _makers(self) -> list[Callable[[Any, keras.Variable], np.ndarray] | None]:
        """For each variable that depends on a run, a function of the run's starts that makes its initial value."""
        named = {
            id(variable): (layer.name, variable.name) for layer in self.model.layers for variable in layer.variables
        }
        return [_maker(*named.get(id(variable), ("", ""))) for variable in self.variables]

    def initial_values(self, config: RunConfig) -> list[np.ndarray]:
        """A run's initial values of `variables`."""
        starts = network_starts(config.network, config.seed)
        return [
            value if make is None else make(starts, variable)
            for make, variable, value in zip(self._made_by, self.variables, self._initial, strict=True)
        ]


def _maker(layer: str, name: str) -> Callable[[Any, keras.Variable], np.ndarray] | None:
    kind, _, position = layer.rpartition("_")
    at = int(position) - 1 if position.isdecimal() else -1
    if name in ("kernel", "bias"):
        return lambda starts, variable: np.asarray(getattr(starts[at], name)(variable.shape, dtype=variable.dtype))
    if name == "seed_generator_state":
        seed = "dropout_seed" if kind == "dropout" else "activation_seed"
        return lambda starts, variable: np.array([getattr(starts[at], seed), 0], variable.dtype)
    return None


class _FilledUpStep:
    """Keras's `train_step` for a batch that is filled up.

    Args:
        model: a compiled model.

    Attributes:
        returns_metrics: that the logs are the metrics' results.
    """

    returns_metrics = True

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def __call__(self, data: tuple[Any, ...]) -> dict[str, Any]:
        """A step.

        Args:
            data: inputs, labels, perhaps weights of the examples in the loss, and 1 for examples and 0 for what fills
                up the batch, each `(batch, ...)`.
        """
        model = self._model
        x, y, *weights, is_example = data
        # Keras divides the loss by the batch size, whatever the weights are.
        count = tf.reduce_sum(is_example)
        share = is_example * (tf.cast(tf.size(is_example), tf.float32) / count)
        sample_weight = weights[0] * share if weights else share
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = model._compute_loss(x, y, outputs, sample_weight, training=True)
            model._loss_tracker.update_state(loss, sample_weight=count)
            loss = model.optimizer.scale_loss(loss)
        model.optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
        for metrics in filter(None, model._compile_metrics._flat_metrics):
            metrics.update_state(y, outputs, sample_weight=is_example)
        return model.get_metrics_result()


@functools.lru_cache(maxsize=CACHED_TEMPLATES)
def run_template(config: str, choices: tuple[tuple[str, ...], ...], shapes: Shapes, fills_up: bool) -> Template:
    """The template for a config, given as JSON."""
    return Template(RunConfig.from_json(config), choices, shapes, fills_up)


def filled_up_batch(batch: Any) -> Any:
    """A batch, as `tf.TensorSpec`s, with what says which of its rows are examples."""
    return (*batch, tf.TensorSpec((batch[0].shape[0],), tf.float32))
