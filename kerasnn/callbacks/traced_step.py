"""One training step on a fixed batch: traced with the outputs and gradients of every layer, and undone."""

import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kerasnn.attributes import temporary_attributes
from kerasnn.callbacks.measurement import ActivationHealth, Measurement, WeightHealth
from kerasnn.distribute.replicas import optimizers_of, same_on_all
from kerasnn.timings import phase

BOUNDS = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "sparse_sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
}
"""Bounds of the activations that saturate."""
NEAR = 0.025
"""Distance from a bound within which an output is saturated, as a fraction of the range: |tanh| > 0.95."""
ZERO = 1e-6
"""Maximum output of a dead unit, as a fraction of the layer's largest output."""
_NORMALIZING = ("softmax", "log_softmax", "sparsemax")
_LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_ACTIVATION_LAYERS = ("keras.src.layers.activations.", "kerasnn.components.activations")


class TracedStep:
    """A model's training step on a fixed batch, as a TensorFlow function that measures the layers.

    The trace contains all variables that the step changes (weights, optimizer, statistics, seeds, metrics, and any
    others), and each gets its value back.

    Args:
        model: a built and compiled model; its `train_step` may use several optimizers.
        data: `(x,)`, `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        ValueError: if the model's `train_step` gives no optimizer gradients.
    """

    def __init__(self, model: keras.Model, data: tuple[Any, ...]) -> None:
        self._model = model
        self._batch = keras.utils.pack_x_y_sample_weight(*as_batch(data))
        self._optimizers = optimizers_of(model)
        strategy = model.distribute_strategy
        if len(self._optimizers) == 1 and not model.optimizer.built:
            with strategy.scope():
                model.optimizer.build(model.trainable_variables)
        self._weights = model.trainable_variables
        self._layers = _named_layers(model)
        owner_of = {id(weight): name for name, layer in self._layers.items() for weight in layer.weights}
        # The layer that each weight belongs to.
        self._owners = [
            owner_of.get(id(weight)) or variable_path(model, weight).rpartition("/")[0] for weight in self._weights
        ]
        self._attention = {
            id(part)
            for layer in model._flatten_layers()
            if isinstance(layer, _ATTENTION)
            for part in layer._flatten_layers()
        }
        # By thread: each replica is traced in a separate thread.
        self._records: dict[int, _Record] = {}
        self._output_layers: set[str] = set()
        optimizer_variables = [variable for optimizer in self._optimizers for variable in optimizer.variables]
        self._variables = [
            part
            for variable in [*model.variables, *optimizer_variables, *model.metrics_variables]
            for part in strategy.experimental_local_results(variable.value)
        ]
        with phase("trace"), self._recording():
            self._traced = self._trace()
            known = {id(variable) for variable in self._variables}
            if others := [variable for variable in self._traced.graph.variables if id(variable) not in known]:
                self._variables += others
                self._traced = self._trace()
        # In the order of the calls; the trace returns its outputs in alphabetical order.
        self._order = list(next(iter(self._records.values())).outputs)

    def __call__(self) -> Measurement:
        """Run the step, undo it, and return its effect on each layer."""
        values = self._traced()
        activations = {
            name: self._activation_health(name, values["statistics"][name].numpy())
            for name in self._order
            if name in values["statistics"]
        }
        samples = {f"activations/{name}": values["outputs"][name] for name in activations}
        for owner, weight in zip(self._owners, self._weights, strict=True):
            if (gradient := values["gradients"].get(_key(weight))) is not None:
                samples[f"gradients/{owner}/{weight.name}"] = gradient
        return Measurement(self._weight_health(values["squares"].numpy()), activations, samples)

    def _trace(self) -> Any:
        return tf.function(self._measure_and_undo, autograph=False).get_concrete_function()

    def _measure_and_undo(self) -> dict[str, Any]:
        # With gradient accumulation only every k-th step updates the weights.
        steps = max(optimizer.gradient_accumulation_steps or 1 for optimizer in self._optimizers)
        step = self._step_on_all_replicas
        step = tf.function(step, autograph=False) if steps > 1 else step
        state = [variable.read_value() for variable in self._variables]
        old = [tf.convert_to_tensor(weight) for weight in self._weights]
        first, *_ = [step() for _ in range(steps)]
        new = [tf.convert_to_tensor(weight) for weight in self._weights]
        for variable, value in zip(self._variables, state, strict=True):
            variable.assign(value)
        squares = [
            [_square(first["gradients"].get(_key(weight), 0.0)) for weight in self._weights],
            [_square(a) for a in old],
            [_square(b - a) for a, b in zip(old, new, strict=True)],
            [
                _square(a - a[..., :1]) if _has_units(weight) else tf.constant(1.0)
                for a, weight in zip(old, self._weights, strict=True)
            ],
        ]
        return {**first, "squares": tf.stack(squares)}

    def _step_on_all_replicas(self) -> Any:
        return same_on_all(self._model, self._step_on_replica)

    def _step_on_replica(self) -> dict[str, dict[str, tf.Tensor]]:
        record = self._records[threading.get_ident()] = _Record()
        self._model.train_step(self._batch)
        if not record.gradients:
            raise ValueError("probe must reach the optimizer, but the model's train_step gave it no gradients")
        # In mixed precision the loss of the step is scaled.
        scale = 1.0 / tf.cast(getattr(self._model.optimizer, "dynamic_scale", 1.0), tf.float32)
        outputs = {name: output for name, output in record.outputs.items() if output.graph is record.graph}
        self._output_layers |= {
            name for name, output in outputs.items() if any(output is each for each in record.model_outputs)
        }
        return {
            "gradients": {name: tf.cast(value, tf.float32) * scale for name, value in record.gradients.items()},
            "outputs": {name: tf.cast(value, tf.float32) for name, value in outputs.items()},
            "statistics": {
                name: _statistics(
                    output,
                    record.inputs[name],
                    record.output_gradients.get(name),
                    BOUNDS.get(activation_name(self._layers[name])),
                    scale,
                )
                for name, output in outputs.items()
            },
        }

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """While this lasts, traced steps record the layers' outputs and the gradients."""
        with ExitStack() as stack:
            replace = stack.enter_context
            for optimizer in self._optimizers:
                replace(temporary_attributes(optimizer, apply=self._recorded_apply(optimizer.apply)))
            for part in _called_models(self._model):
                replace(temporary_attributes(part, call=self._recorded_model_call(part.call)))
            for name, layer in self._layers.items():
                replace(temporary_attributes(layer, call=self._recorded_call(name, layer.call)))
            yield

    def _recorded_apply(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(gradients: Iterable[Any], trainable_variables: Iterable[Any] | None = None) -> None:
            gradients, variables = list(gradients), list(trainable_variables or self._model.trainable_variables)
            self._records[threading.get_ident()].gradients |= {
                _key(variable): tf.convert_to_tensor(gradient)
                for variable, gradient in zip(variables, gradients, strict=True)
                if gradient is not None
            }
            apply(gradients, variables)

        return recorded

    def _recorded_model_call(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def recorded(*arguments: Any, **options: Any) -> Any:
            outputs = call(*arguments, **options)
            if (record := self._records.get(threading.get_ident())) is not None:
                record.model_outputs += keras.tree.flatten(outputs)
            return outputs

        return recorded

    def _recorded_call(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def recorded(*arguments: Any, **options: Any) -> Any:
            outputs = call(*arguments, **options)
            record = self._records.get(threading.get_ident())
            # A layer may be called in the graph of a loop, whose tensors cannot be read outside.
            if record is None or tf.compat.v1.get_default_graph() is not record.graph or not _is_dense(outputs):
                return outputs
            record.inputs[name] = arguments[0] if arguments and _is_dense(arguments[0]) else outputs
            record.outputs[name] = outputs = _with_gradient(
                outputs, lambda gradient: record.output_gradients.update({name: gradient})
            )
            return outputs

        return recorded

    def _weight_health(self, squares: NDArray[Any]) -> dict[str, WeightHealth]:
        by_layer: dict[str, NDArray[Any]] = {}
        identical = set()
        for owner, square in zip(self._owners, squares.astype("float64").T, strict=True):
            by_layer[owner] = by_layer.get(owner, np.zeros(3)) + square[:3]
            if square[3] == 0:
                identical.add(owner)
        health = {}
        for owner, square in by_layer.items():
            gradient, weight, update = map(float, np.sqrt(square))
            health[owner] = WeightHealth(gradient, weight, update, owner in identical)
        return health

    def _activation_health(self, name: str, statistics: NDArray[Any]) -> ActivationHealth:
        layer = self._layers[name]
        feedforward = not isinstance(layer, keras.layers.RNN) and id(layer) not in self._attention
        layer = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer
        activation = activation_name(layer)
        mean, std, signal, input_signal, dead, saturated, gradient = map(float, statistics)
        initializer = getattr(layer, "kernel_initializer", None)
        return ActivationHealth(
            activation=activation,
            initializer=None
            if initializer is None
            else re.sub(r"(?<!^)(?=[A-Z])", "_", type(initializer).__name__).lower(),
            is_output=name in self._output_layers,
            feedforward=feedforward,
            mean=mean,
            std=std,
            signal=signal,
            input_signal=input_signal,
            dead=math.nan if activation in ("linear", *BOUNDS, *_NORMALIZING) else dead,
            saturated=saturated,
            gradient=gradient,
        )


class _Record:
    """The tensors of one traced step on one replica, by the name of the layer or the key of the variable."""

    def __init__(self) -> None:
        self.graph = tf.compat.v1.get_default_graph()
        self.gradients: dict[str, tf.Tensor] = {}
        self.inputs: dict[str, tf.Tensor] = {}
        self.outputs: dict[str, tf.Tensor] = {}
        self.output_gradients: dict[str, tf.Tensor] = {}
        self.model_outputs: list[tf.Tensor] = []


def as_batch(data: Any) -> Any:
    """Data as tensors; floats in Keras's default precision, as in `fit`. None stays None."""

    def tensor(value: Any) -> tf.Tensor | None:
        if value is None:
            return None
        value = tf.convert_to_tensor(value)
        return tf.cast(value, keras.config.floatx()) if value.dtype.is_floating else value

    return keras.tree.map_structure(tensor, data)


def variable_path(model: keras.Model, variable: keras.Variable) -> str:
    """`<layer>/<variable>`, without the model's name, which only some of Keras's APIs put in front."""
    return str(variable.path).removeprefix(f"{model.name}/")


def activation_name(layer: keras.layers.Layer) -> str:
    """Keras's name of a layer's activation; "linear" if it has none."""
    activation = getattr(layer, "activation", None)
    if activation is not None and activation is not layer:
        return getattr(activation, "__name__", None) or getattr(activation, "name", None) or type(activation).__name__
    return type(layer).__name__.lower() if _is_activation(layer) else "linear"


def _is_activation(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.startswith(_ACTIVATION_LAYERS)


def _seen_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The innermost layers with weights or an activation; a layer that calls its inner layer in a loop is innermost."""
    inner = [] if isinstance(layer, _LOOPS) else list(layer._flatten_layers(include_self=False, recursive=False))
    for each in inner:
        yield from _seen_layers(each)
    if not inner and (layer.weights or hasattr(layer, "activation") or _is_activation(layer)):
        yield layer


def _called_models(model: keras.Model) -> list[keras.Model]:
    """The model, or its inner models if only its `train_step` calls them (VAE, GAN)."""
    if type(model).call is not keras.Model.call:
        return [model]
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]


def _named_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The seen layers by path; layers of inner models may have the same path and get a number."""
    layers: dict[str, keras.layers.Layer] = {}
    for layer in _seen_layers(model):
        path = variable_path(model, layer.weights[0]).rpartition("/")[0] if layer.weights else str(layer.name)
        number = 0
        while layers.setdefault(f"{path}_{number}" if number else path, layer) is not layer:
            number += 1
    return layers


def _key(variable: keras.Variable) -> str:
    # Variables of inner models may have the same path.
    return str(id(variable))


def _is_dense(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype.is_floating and (value.shape.rank or 0) >= 2


def _has_units(weight: keras.Variable) -> bool:
    return weight.name == "kernel" and len(weight.shape) >= 2 and weight.shape[-1] > 1


def _with_gradient(value: tf.Tensor, receive: Callable[[tf.Tensor], None]) -> tf.Tensor:
    """The same tensor; its gradient is passed to a function when it is computed."""

    @tf.custom_gradient
    def identity(value: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            receive(upstream)
            return upstream

        return tf.identity(value), gradient

    return identity(value)


def _statistics(
    outputs: tf.Tensor,
    inputs: tf.Tensor,
    output_gradient: tf.Tensor | None,
    bounds: tuple[float, float] | None,
    scale: tf.Tensor,
) -> tf.Tensor:
    """Mean, standard deviation, signal, input signal, dead, saturated and norm of the gradient, `(7,)`."""
    values = _by_unit(outputs)
    nan = tf.constant(math.nan)
    mean, variance = tf.nn.moments(values, [0, 1])
    largest = tf.reduce_max(tf.abs(values), 0)
    dead = tf.reduce_mean(tf.cast(largest <= ZERO * tf.reduce_max(largest), tf.float32))
    saturated = nan
    if bounds is not None:
        low, high = bounds
        margin = NEAR * (high - low)
        at_bound = tf.cast((values < low + margin) | (values > high - margin), tf.float32)
        saturated = tf.reduce_mean(at_bound)
    gradient = nan if output_gradient is None else tf.sqrt(_square(tf.cast(output_gradient, tf.float32) * scale))
    return tf.stack([mean, tf.sqrt(variance), _signal(values), _signal(_by_unit(inputs)), dead, saturated, gradient])


def _by_unit(values: tf.Tensor) -> tf.Tensor:
    """Values as `(examples · positions, units)`."""
    return tf.reshape(tf.cast(values, tf.float32), (-1, values.shape[-1]))


def _signal(values: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_mean(tf.math.reduce_variance(values, 0)))


def _square(values: tf.Tensor | float) -> tf.Tensor:
    return tf.reduce_sum(tf.square(tf.cast(values, tf.float32)))
