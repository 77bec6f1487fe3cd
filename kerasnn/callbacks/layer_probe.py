"""One training step on a fixed batch: measured layer by layer, and undone."""

import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kerasnn.distribute.replicas import same_on_all

BOUNDS = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "sparse_sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
}
"""What activations that saturate lie between."""
NEAR = 0.025
"""An output this share of the way between the bounds from either of them is saturated: |tanh| > 0.95."""
ZERO = 1e-6
"""A unit is dead where it is never farther from 0 than this share of the layer's largest output."""
SAMPLED = 65536
"""The most values of a layer that a histogram is made of."""
_TOGETHER = ("softmax", "log_softmax", "sparsemax")
_ACTIVATION_LAYERS = ("keras.src.layers.activations.", "kerasnn.components.activations")


class WeightHealth(NamedTuple):
    """A layer's weights in one training step.

    Args:
        gradient: norm of the gradient, before clipping.
        weight: norm of the weights.
        update: norm of the change.
        alike: whether all units have the same incoming weights.
    """

    gradient: float
    weight: float
    update: float
    alike: bool

    @property
    def gradient_ratio(self) -> float:
        """‖gradient‖ / ‖weights‖."""
        return _ratio(self.gradient, self.weight)

    @property
    def update_ratio(self) -> float:
        """‖change‖ / ‖weights‖."""
        return _ratio(self.update, self.weight)


class ActivationHealth(NamedTuple):
    """A layer's outputs in one training step.

    Args:
        activation: name of the activation; "linear" where there is none.
        initializer: name of the kernel's initializer; None where the layer has none.
        is_output: whether the layer's outputs are the model's.
        mean: mean of all outputs.
        std: their standard deviation.
        signal: root mean square, over the units, of a unit's standard deviation over the examples.
        input_signal: the same of the layer's inputs.
        dead: share of the units that are 0 for every example; NaN where the activation does not die.
        saturated: share of the outputs, units times examples, that are at a bound; NaN where there are no bounds.
        gradient: norm of the loss's gradient with respect to the outputs; NaN where the loss is not computed from them.
    """

    activation: str
    initializer: str | None
    is_output: bool
    mean: float
    std: float
    signal: float
    input_signal: float
    dead: float
    saturated: float
    gradient: float


class Measurement:
    """What a training step does to each layer, by the layer's name.

    Args:
        weights: of the layers that learn, in the order of the model's weights.
        activations: of the layers with weights or an activation, in the order that they are called in.
        samples: tag to tensor, of which histograms are made.
    """

    def __init__(
        self,
        weights: dict[str, WeightHealth],
        activations: dict[str, ActivationHealth],
        samples: dict[str, tf.Tensor],
    ) -> None:
        self.weights = weights
        self.activations = activations
        self._samples = samples

    def scalars(self) -> dict[str, float]:
        """Tag to value, `<what>/<layer>`; what a layer does not have is left out."""
        values = {"gradient_norm": float(np.sqrt(sum(each.gradient**2 for each in self.weights.values())))}
        for layer, weights in self.weights.items():
            values[f"gradient_norm/{layer}"] = weights.gradient
            values[f"gradient_ratio/{layer}"] = weights.gradient_ratio
            values[f"update_ratio/{layer}"] = weights.update_ratio
        for layer, outputs in self.activations.items():
            values[f"outputs_mean/{layer}"] = outputs.mean
            values[f"outputs_std/{layer}"] = outputs.std
            for tag, value in (
                ("units_dead", outputs.dead),
                ("outputs_saturated", outputs.saturated),
                ("outputs_gradient_norm", outputs.gradient),
            ):
                if not np.isnan(value):
                    values[f"{tag}/{layer}"] = value
        return values

    def samples(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Tag and values of `activations/<layer>` and `gradients/<layer>/<variable>`, at most 65,536 of each."""
        for tag, tensor in self._samples.items():
            values = tensor.numpy().ravel()
            yield tag, values[:: -(-len(values) // SAMPLED)] if len(values) else values


class Probe:
    """A fixed batch on which a model in training is measured.

    The step is the model's own, with its dropout, penalties and optimizer. Its trace knows every variable it touches
    (weights, optimizer, statistics, seeds, metrics, or one that nobody told of), and each gets back the very value it
    had. Callbacks may share a probe: it measures once for each state of the model, whoever asks.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)` as `fit` would see it, the examples along the first axis.

    Raises:
        ValueError: for another number of parts.
    """

    def __init__(self, data: tuple[Any, ...]) -> None:
        if len(data) not in (2, 3):
            raise ValueError(f"probe must be (x, y) or (x, y, sample_weight), received {len(data)} parts")
        self.data = data
        self._model: keras.Model | None = None
        self._step: Callable[[], Measurement] | None = None
        self._updates = -1
        self._last: Measurement | None = None

    def measure(self, model: keras.Model) -> Measurement:
        """What a training step on the batch would do now.

        Args:
            model: a built and compiled model.

        Raises:
            ValueError: where the model's `train_step` gives the optimizer no gradients.
        """
        if self._step is None or self._model is not model:
            self._model, self._step, self._last = model, _step(model, self.data), None
        updates = int(model.optimizer.iterations.numpy())
        if self._last is None or updates != self._updates:
            self._last, self._updates = self._step(), updates
        return self._last

    def forget(self) -> None:
        """Let go of the model: the next measurement is traced anew."""
        self._model = self._step = self._last = None


def as_batch(data: Any) -> Any:
    """Data as tensors, numbers with a fraction in Keras's default precision as `fit` has them."""

    def tensor(value: Any) -> tf.Tensor:
        value = tf.convert_to_tensor(value)
        return tf.cast(value, keras.config.floatx()) if value.dtype.is_floating else value

    return keras.tree.map_structure(tensor, data)


def path(model: keras.Model, variable: keras.Variable) -> str:
    """`<layer>/<variable>`, the same for all ways to build a model: some put its own name before it."""
    return str(variable.path).removeprefix(f"{model.name}/")


def activation_name(layer: keras.layers.Layer) -> str:
    """An activation's name in Keras; "linear" where the layer has none."""
    activation = getattr(layer, "activation", None)
    if activation is not None and activation is not layer:
        return getattr(activation, "__name__", None) or getattr(activation, "name", None) or type(activation).__name__
    return type(layer).__name__.lower() if _is_activation(layer) else "linear"


def _is_activation(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.startswith(_ACTIVATION_LAYERS)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


class _Seen:
    """What one step's trace has seen."""

    def __init__(self, graph: tf.Graph) -> None:
        self.graph = graph
        self.gradients: dict[str, tf.Tensor] = {}
        self.inputs: dict[str, tf.Tensor] = {}
        self.outputs: dict[str, tf.Tensor] = {}
        self.backward: dict[str, tf.Tensor] = {}
        self.final: list[tf.Tensor] = []


def _step(model: keras.Model, data: tuple[Any, ...]) -> Callable[[], Measurement]:
    """A function that runs one training step on a batch, measures it, and undoes it."""
    batch = as_batch(data)
    optimizer = model.optimizer
    if not optimizer.built:
        with model.distribute_strategy.scope():
            optimizer.build(model.trainable_variables)
    strategy = model.distribute_strategy
    # With accumulation only every k-th step updates the weights.
    steps = optimizer.gradient_accumulation_steps or 1
    layers = {_layer_name(model, layer): layer for layer in model._flatten_layers() if _is_watched(model, layer)}
    # Replicas are traced in threads of their own.
    seen: dict[int, _Seen] = {}
    finals: set[str] = set()

    def scale() -> tf.Tensor:
        # In mixed precision the step's loss was scaled up.
        return 1.0 / tf.cast(getattr(optimizer, "dynamic_scale", 1.0), tf.float32)

    def run() -> dict[str, dict[str, tf.Tensor]]:
        here = seen[threading.get_ident()] = _Seen(tf.compat.v1.get_default_graph())
        model.train_step(batch)
        if not here.gradients:
            raise ValueError("probe must reach the optimizer, but the model's train_step gave it no gradients")
        factor = scale()
        called = {name: output for name, output in here.outputs.items() if output.graph is here.graph}
        finals.update(name for name in called if any(called[name] is output for output in here.final))
        return {
            "gradients": {name: tf.cast(value, tf.float32) * factor for name, value in here.gradients.items()},
            "outputs": {name: tf.cast(value, tf.float32) for name, value in called.items()},
            "statistics": {
                name: _statistics(
                    value, here.inputs[name], here.backward.get(name), BOUNDS.get(activation_name(layers[name])), factor
                )
                for name, value in called.items()
            },
        }

    def per_replica() -> Any:
        return same_on_all(model, run)

    step = tf.function(per_replica, autograph=False) if steps > 1 else per_replica
    weights = model.trainable_variables
    touched = [
        part
        for variable in [*model.variables, *optimizer.variables, *model.metrics_variables]
        for part in strategy.experimental_local_results(variable.value)
    ]

    def measured() -> dict[str, Any]:
        state = [variable.read_value() for variable in touched]
        old = [tf.convert_to_tensor(weight) for weight in weights]
        first, *_ = [step() for _ in range(steps)]
        new = [tf.convert_to_tensor(weight) for weight in weights]
        for variable, value in zip(touched, state, strict=True):
            variable.assign(value)
        squares = [
            [_square(first["gradients"].get(weight.path, 0.0)) for weight in weights],
            [_square(a) for a in old],
            [_square(b - a) for a, b in zip(old, new, strict=True)],
            [
                _square(a - a[..., :1]) if _has_units(weight) else tf.constant(1.0)
                for a, weight in zip(old, weights, strict=True)
            ],
        ]
        return {**first, "squares": tf.stack(squares)}

    with _watching(model, layers, seen):
        traced = tf.function(measured, autograph=False).get_concrete_function()
        known = {id(variable) for variable in touched}
        if untold := [variable for variable in traced.graph.variables if id(variable) not in known]:
            touched += untold
            traced = tf.function(measured, autograph=False).get_concrete_function()
    # In the order of the calls; the trace gives its outputs back in that of the alphabet.
    order = list(next(iter(seen.values())).outputs)
    owners = [path(model, weight).rpartition("/")[0] for weight in weights]

    def measure() -> Measurement:
        values = traced()
        squares = values["squares"].numpy().astype("float64").T
        by_layer: dict[str, NDArray[Any]] = {}
        for owner, square in zip(owners, squares, strict=True):
            by_layer[owner] = by_layer.get(owner, np.zeros(3)) + square[:3]
        alike = {owner for owner, square in zip(owners, squares, strict=True) if square[3] == 0}
        weight_health = {}
        for name, square in by_layer.items():
            gradient, size, update = map(float, np.sqrt(square))
            weight_health[name] = WeightHealth(gradient, size, update, name in alike)
        activations = {
            name: _activation_health(layers[name], name in finals, values["statistics"][name].numpy())
            for name in order
            if name in values["statistics"]
        }
        gradients = {path(model, weight): values["gradients"].get(weight.path) for weight in weights}
        samples = {f"activations/{name}": values["outputs"][name] for name in activations}
        samples |= {f"gradients/{name}": value for name, value in gradients.items() if value is not None}
        return Measurement(weight_health, activations, samples)

    return measure


def _activation_health(layer: keras.layers.Layer, is_output: bool, statistics: NDArray[Any]) -> ActivationHealth:
    activation = activation_name(layer)
    mean, std, signal, input_signal, dead, saturated, gradient = map(float, statistics)
    initializer = getattr(layer, "kernel_initializer", None)
    return ActivationHealth(
        activation=activation,
        initializer=None
        if initializer is None
        else re.sub(r"(?<!^)(?=[A-Z])", "_", type(initializer).__name__).lower(),
        is_output=is_output,
        mean=mean,
        std=std,
        signal=signal,
        input_signal=input_signal,
        dead=math.nan if activation in ("linear", *BOUNDS, *_TOGETHER) else dead,
        saturated=saturated,
        gradient=gradient,
    )


@contextmanager
def _watching(model: keras.Model, layers: dict[str, keras.layers.Layer], seen: dict[int, _Seen]) -> Iterator[None]:
    """While this lasts, what is traced of the model's step tells `seen` its outputs and gradients."""
    optimizer = model.optimizer
    apply = optimizer.apply

    def watched(gradients: Iterable[Any], trainable_variables: Iterable[Any] | None = None) -> None:
        gradients, variables = list(gradients), list(trainable_variables or model.trainable_variables)
        here = seen[threading.get_ident()]
        here.gradients = {
            variable.path: tf.convert_to_tensor(gradient)
            for variable, gradient in zip(variables, gradients, strict=True)
            if gradient is not None
        }
        apply(gradients, variables)

    def called(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def watched_call(*arguments: Any, **options: Any) -> Any:
            outputs = call(*arguments, **options)
            here = seen.get(threading.get_ident())
            # A cell of a recurrent layer is called within a loop, whose values nobody outside can ask for.
            if here is None or tf.compat.v1.get_default_graph() is not here.graph or not _is_dense(outputs):
                return outputs
            inputs = arguments[0] if arguments and _is_dense(arguments[0]) else outputs
            here.inputs[name] = inputs
            here.outputs[name] = outputs = _tapped(outputs, lambda gradient: here.backward.update({name: gradient}))
            return outputs

        return watched_call

    def whole(*arguments: Any, **options: Any) -> Any:
        outputs = model_call(*arguments, **options)
        if (here := seen.get(threading.get_ident())) is not None:
            here.final = keras.tree.flatten(outputs)
        return outputs

    model_call = model.call
    # Past __setattr__, which would track the functions as part of the model's or the optimizer's state.
    replaced: list[tuple[Any, str, Any]] = [(optimizer, "apply", watched), (model, "call", wraps(model_call)(whole))]
    replaced += [(layer, "call", called(name, layer.call)) for name, layer in layers.items()]
    before = [vars(owner).get(attribute) for owner, attribute, _ in replaced]
    for owner, attribute, function in replaced:
        vars(owner)[attribute] = function
    try:
        yield
    finally:
        for (owner, attribute, _), function in zip(replaced, before, strict=True):
            del vars(owner)[attribute]
            if function is not None:
                vars(owner)[attribute] = function


def _is_watched(model: keras.Model, layer: keras.layers.Layer) -> bool:
    leaf = layer is not model and not any(True for _ in layer._flatten_layers(include_self=False))
    return leaf and (bool(layer.weights) or hasattr(layer, "activation") or _is_activation(layer))


def _layer_name(model: keras.Model, layer: keras.layers.Layer) -> str:
    return path(model, layer.weights[0]).rpartition("/")[0] if layer.weights else str(layer.name)


def _is_dense(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype.is_floating and (value.shape.rank or 0) >= 2


def _has_units(weight: keras.Variable) -> bool:
    return weight.name == "kernel" and len(weight.shape) >= 2 and weight.shape[-1] > 1


def _tapped(value: tf.Tensor, tell: Callable[[tf.Tensor], None]) -> tf.Tensor:
    """The same tensor; whoever differentiates tells its gradient."""

    @tf.custom_gradient
    def tap(value: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            tell(upstream)
            return upstream

        return tf.identity(value), gradient

    return tap(value)


def _statistics(
    outputs: tf.Tensor,
    inputs: tf.Tensor,
    backward: tf.Tensor | None,
    bounds: tuple[float, float] | None,
    factor: tf.Tensor,
) -> tf.Tensor:
    """Mean, standard deviation, signal, the inputs' signal, dead, saturated, norm of the gradient: shape `(7,)`."""
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
    gradient = nan if backward is None else tf.sqrt(_square(tf.cast(backward, tf.float32) * factor))
    return tf.stack([mean, tf.sqrt(variance), _signal(values), _signal(_by_unit(inputs)), dead, saturated, gradient])


def _by_unit(values: tf.Tensor) -> tf.Tensor:
    """Values as `(examples · positions, units)`."""
    return tf.reshape(tf.cast(values, tf.float32), (-1, values.shape[-1]))


def _signal(values: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_mean(tf.math.reduce_variance(values, 0)))


def _square(values: tf.Tensor | float) -> tf.Tensor:
    return tf.reduce_sum(tf.square(tf.cast(values, tf.float32)))
