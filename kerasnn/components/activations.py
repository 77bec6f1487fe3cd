"""Activations by name: as functions, or as layers where they have weights, random numbers or another width."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kerasnn.config import catalog


def step(x: Any) -> Any:
    """Heaviside's step.

    Formula: `step(x) = 1 if x > 0 else 0`; its derivative is 0 everywhere, so the layers before it do not learn.

    Args:
        x: tensor of any shape.

    Returns:
        A tensor of zeros and ones, of the input's shape and dtype.
    """
    # By sign, because a comparison has no gradient at all, where a gradient of zeros is needed.
    return ops.relu(ops.sign(x))


def sparsemax(x: Any) -> Any:
    """Sparsemax: the nearest vector with entries >= 0 that sum to 1.

    Formula: `y = relu(x - tau)` with `tau = (z[1] + ... + z[k] - 1) / k`, where z are the entries in descending order
    and k is the largest number for which `1 + k * z[k] > z[1] + ... + z[k]`.

    Args:
        x: tensor `(batch, ..., features)`.

    Returns:
        A tensor of the input's shape and dtype.

    Reference: Martins and Astudillo, From Softmax to Sparsemax, ICML 2016.
    """
    # In Keras 3.15's sparsemax, tau sums cumulative sums, so that two or more entries > 0 do not sum to 1.
    z = ops.flip(ops.sort(x, axis=-1), axis=-1)
    in_support = 1 + ops.cumsum(ops.ones_like(z), axis=-1) * z > ops.cumsum(z, axis=-1)
    size = ops.sum(ops.cast(in_support, z.dtype), axis=-1, keepdims=True)
    tau = (ops.sum(ops.where(in_support, z, 0), axis=-1, keepdims=True) - 1) / size
    return ops.relu(x - tau)


_FUNCTIONS = {"step": step, "sparsemax": sparsemax}


@keras.saving.register_keras_serializable(package="kerasnn")
class ActivationFunction:
    """An activation function with arguments, or one that Keras does not have, which Keras saves by name and arguments.

    Keras would save a plain function without its module and could not load it.

    Args:
        name: name of a function in `kerasnn.config.catalog.ACTIVATIONS`.
        arguments: the function's arguments.

    Raises:
        ValueError: if the name or an argument is unknown, or the activation needs a layer.

    >>> ActivationFunction("leaky_relu", {"negative_slope": 0.5})(ops.array([-2.0, 2.0])).numpy().tolist()
    [-1.0, 2.0]
    """

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        # The name may come from an untrusted file and must not reach anything but an activation.
        self.name, self.arguments = catalog.check("activation", catalog.ACTIVATIONS, {"name": name, **arguments})
        if self.name in _LAYERS:
            raise ValueError(f"activation must be a function of its input alone; received {name!r}, which is a layer")
        function = _FUNCTIONS.get(self.name) or getattr(keras.activations, self.name)
        self._function = functools.partial(function, **self.arguments)

    def __call__(self, x: Any) -> Any:
        return self._function(x)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ActivationFunction":
        return cls(**config)


@keras.saving.register_keras_serializable(package="kerasnn")
class SReLU(keras.layers.Layer):
    """S-shaped rectified linear unit, with four trainable parameters per feature.

    Formula:
        `y = t_r + a_r * (x - t_r)` where `x >= t_r`,
        `y = x` where `t_l < x < t_r`,
        `y = t_l + a_l * (x - t_l)` where `x <= t_l`.

    It starts as the paper's leaky ReLU (`t_l = 0`, `a_l = 0.2`, `a_r = 1`), with `t_r = 1`. The paper keeps it frozen
    for some epochs and then sets `t_r` to a high quantile of each unit's input; this layer does not.

    Input and output: `(batch, ..., features)`.

    >>> SReLU()(ops.array([[-1.0, 0.5, 2.0]])).numpy().round(1).tolist()[0][1:]
    [0.5, 2.0]

    Reference: Jin et al., Deep Learning with S-shaped Rectified Linear Activation Units, AAAI 2016.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for name, value in (("t_l", 0.0), ("a_l", 0.2), ("t_r", 1.0), ("a_r", 1.0)):
            weight = self.add_weight(
                shape=(input_shape[-1],), initializer=keras.initializers.Constant(value), name=name
            )
            setattr(self, name, weight)

    def call(self, inputs: Any) -> Any:
        below = self.t_l + self.a_l * (inputs - self.t_l)
        above = self.t_r + self.a_r * (inputs - self.t_r)
        return ops.where(inputs <= self.t_l, below, ops.where(inputs >= self.t_r, above, inputs))


@keras.saving.register_keras_serializable(package="kerasnn")
class RReLU(keras.layers.Layer):
    """Leaky ReLU with a random slope for every element during training.

    Formula: `y = x if x >= 0 else slope * x`, with `slope ~ U(lower, upper)` in training and `(lower + upper) / 2`
    otherwise.

    Args:
        lower: smallest slope.
        upper: largest slope.
        seed: initial state of the slopes' random generator, which advances with every batch as in
            `keras.layers.Dropout`; None draws a seed.

    Input and output: `(batch, ...)`.

    >>> RReLU(lower=0.25, upper=0.75)(ops.array([[-2.0, 2.0]])).numpy().tolist()
    [[-1.0, 2.0]]

    Reference: Xu et al., Empirical Evaluation of Rectified Activations in Convolutional Network, 2015;
        `torch.nn.RReLU`.
    """

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.lower = lower
        self.upper = upper
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool = False) -> Any:
        slope: Any = (self.lower + self.upper) / 2
        if training:
            slope = keras.random.uniform(
                ops.shape(inputs), self.lower, self.upper, dtype=inputs.dtype, seed=self.seed_generator
            )
        return ops.where(inputs >= 0, inputs, slope * inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"lower": self.lower, "upper": self.upper, "seed": self.seed}


@keras.saving.register_keras_serializable(package="kerasnn")
class CReLU(keras.layers.Layer):
    """Concatenated ReLU: the positive and the negative part side by side.

    Formula: `y = [relu(x), relu(-x)]`.

    Input: `(batch, ..., features)`. Output: `(batch, ..., 2 * features)`.

    >>> CReLU()(ops.array([[-1.0, 2.0]])).numpy().tolist()
    [[0.0, 2.0, 1.0, 0.0]]

    Reference: Shang et al., Understanding and Improving Convolutional Neural Networks via Concatenated Rectified Linear
        Units, ICML 2016.
    """

    def call(self, inputs: Any) -> Any:
        return ops.concatenate([ops.relu(inputs), ops.relu(-inputs)], axis=-1)


@keras.saving.register_keras_serializable(package="kerasnn")
class Maxout(keras.layers.Layer):
    """The largest of several linear pieces.

    Formula: `y[j] = max over i of x[i * units + j]`, i from 0 to pieces - 1.

    Args:
        pieces: number of pieces per unit.

    Input: `(batch, ..., pieces * units)`. Output: `(batch, ..., units)`.

    >>> Maxout(pieces=2)(ops.array([[1.0, 2.0, 3.0, -1.0]])).numpy().tolist()
    [[3.0, 2.0]]

    Raises:
        ValueError: when built for a number of features that `pieces` does not divide.

    Reference: Goodfellow et al., Maxout Networks, ICML 2013.
    """

    def __init__(self, pieces: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self.pieces = pieces

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        features = input_shape[-1]
        if features is None or features % self.pieces:
            raise ValueError(f"maxout needs a multiple of pieces={self.pieces} as features; received {features}")

    def call(self, inputs: Any) -> Any:
        return functools.reduce(ops.maximum, ops.split(inputs, self.pieces, axis=-1))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"pieces": self.pieces}


@keras.saving.register_keras_serializable(package="kerasnn")
class GLU(keras.layers.Layer):
    """Gated linear unit: one half of the features, gated by the sigmoid of the other.

    Formula: `y = x[:units] * sigmoid(x[units:])`.

    Input: `(batch, ..., 2 * units)`. Output: `(batch, ..., units)`.

    >>> GLU()(ops.array([[3.0, 0.0]])).numpy().tolist()
    [[1.5]]

    Reference: `keras.activations.glu`; in `keras.layers.Activation` it has a wrong output shape.
    """

    def call(self, inputs: Any) -> Any:
        return keras.activations.glu(inputs)


_LAYERS = {"srelu": SReLU, "rrelu": RReLU, "crelu": CReLU, "maxout": Maxout, "glu": GLU, "prelu": keras.layers.PReLU}


def get(spec: object) -> Callable[[Any], Any]:
    """An activation as a function that Keras can save, for `Dense(activation=...)`.

    Args:
        spec: a name or a mapping of a name and arguments; see `kerasnn.config.catalog.ACTIVATIONS`.

    Raises:
        ValueError: if the spec is wrong, or the activation needs a layer.
    """
    name, arguments = catalog.check("activation", catalog.ACTIVATIONS, spec)
    if arguments or name in _FUNCTIONS or name in _LAYERS:
        return ActivationFunction(name, arguments)
    return getattr(keras.activations, name)


def is_layer(spec: object) -> bool:
    """Whether an activation is a layer: one with weights, random numbers or another output width."""
    return catalog.check("activation", catalog.ACTIVATIONS, spec)[0] in _LAYERS


def units_before(spec: object, units: int) -> int:
    """The number of `Dense` units before an activation with a given number of units.

    Maxout computes one unit from `pieces`, and glu one from two. The paper's crelu counts the units before it: a layer
    of `units` crelu units has `2 * units` outputs.

    >>> units_before({"name": "maxout", "pieces": 3}, 10), units_before("glu", 10), units_before("crelu", 10)
    (30, 20, 10)
    """
    name, arguments = catalog.check("activation", catalog.ACTIVATIONS, spec)
    if name == "maxout":
        return units * Maxout(**arguments).pieces
    return 2 * units if name == "glu" else units


def layer(spec: object, seed: int | None = None, name: str | None = None) -> keras.layers.Layer:
    """A new layer with any activation.

    Args:
        spec: a name or a mapping of a name and arguments; see `kerasnn.config.catalog.ACTIVATIONS`.
        seed: seed of an activation with random numbers (rrelu).
        name: name of the layer.

    Raises:
        ValueError: if the spec is wrong.
    """
    kind, arguments = catalog.check("activation", catalog.ACTIVATIONS, spec)
    match kind:
        case "rrelu":
            return RReLU(**arguments, seed=None if seed is None else operator.index(seed), name=name)
        case "prelu":
            start = keras.initializers.Constant(arguments.get("initial_slope", 0.0))
            return keras.layers.PReLU(alpha_initializer=start, name=name)
        case _ if kind in _LAYERS:
            return _LAYERS[kind](**arguments, name=name)
    return keras.layers.Activation(get(spec), name=name)
