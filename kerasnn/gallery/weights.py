"""Pictures of initializers: the distribution of their weights, and the variance of a signal through many layers."""

from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from kerasnn import figures
from kerasnn.components import initializers
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import NetworkConfig
from kerasnn.figures.style import BLUE, GREEN, INK, ORANGE, PURPLE, RED
from kerasnn.models.layers import network_layers

FAN_IN, FAN_OUT = 300, 200
DEPTH, WIDTH, EXAMPLES = 20, 256, 256
# Keras truncates normal distributions at two standard deviations: the standard deviation that is left.
_TRUNCATED_STD = float(stats.truncnorm(-2, 2).std())

PAIRS: dict[str, Any] = {
    "random_normal 0.2": {"name": "random_normal", "stddev": 0.2},
    "he_normal": "he_normal",
    "glorot_normal": "glorot_normal",
    "orthogonal": "orthogonal",
    "random_normal 0.05": {"name": "random_normal", "stddev": 0.05},
    "standard_uniform": "standard_uniform",
}
ACTIVATIONS = ("relu", "tanh", "sigmoid", "selu")


def _uniform(limit: float) -> Any:
    return stats.uniform(-limit, 2 * limit)


def _truncated_normal(std: float, corrected: bool) -> Any:
    """A normal distribution truncated at two standard deviations; corrected, it has the standard deviation `std`."""
    return stats.truncnorm(-2, 2, scale=std / _TRUNCATED_STD if corrected else std)


def _sphere(dimensions: int) -> Any:
    """The distribution of one coordinate of a random unit vector, which is that of an orthogonal matrix's entries."""
    half = (dimensions - 1) / 2
    return stats.beta(half, half, loc=-1, scale=2)


def _theory() -> dict[str, tuple[Any, str]]:
    """The distribution of each initializer's weights for `FAN_IN` inputs and `FAN_OUT` units, and its formula."""
    mean = (FAN_IN + FAN_OUT) / 2
    return {
        "zeros": (0.0, "0"),
        "ones": (1.0, "1"),
        "constant": (0.1, "value 0.1"),
        "random_uniform": (_uniform(0.05), "U(−0.05, 0.05)"),
        "random_normal": (stats.norm(0, 0.05), "N(0, 0.05²)"),
        "truncated_normal": (_truncated_normal(0.05, corrected=False), "N(0, 0.05²), cut at ±0.1"),
        "standard_uniform": (_uniform(FAN_IN**-0.5), "limit 1/√fan_in"),
        "glorot_uniform": (_uniform((3 / mean) ** 0.5), "limit √(6/(fan_in + fan_out))"),
        "glorot_normal": (_truncated_normal(mean**-0.5, True), "std √(2/(fan_in + fan_out))"),
        "he_uniform": (_uniform((6 / FAN_IN) ** 0.5), "limit √(6/fan_in)"),
        "he_normal": (_truncated_normal((2 / FAN_IN) ** 0.5, True), "std √(2/fan_in)"),
        "lecun_uniform": (_uniform((3 / FAN_IN) ** 0.5), "limit √(3/fan_in)"),
        "lecun_normal": (_truncated_normal(FAN_IN**-0.5, True), "std √(1/fan_in)"),
        "variance_scaling": (_truncated_normal(FAN_IN**-0.5, True), "scale 1, mode fan_in"),
        "orthogonal": (_sphere(FAN_IN), "columns orthogonal, of length 1"),
        "identity": (None, "1 on the diagonal"),
    }


def initializer_histograms(config: RunConfig) -> Figure:
    """Every initializer's weights for 300 inputs and 200 units as a histogram, with the density that theory gives."""
    figure, every = figures.page(13.4, 10.8, 4, 4)
    for (name, (expected, formula)), axes in zip(_theory().items(), every.flat, strict=True):
        spec = {"name": name, "value": 0.1} if name == "constant" else name
        weights = np.ravel(initializers.get(spec, seed=0)((FAN_IN, FAN_OUT)))
        axes.set_title(f"{name}\n{formula}", fontsize=10.5)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False)
        if expected is None or isinstance(expected, float):
            _draw_bars(axes, weights)
        else:
            _draw_density(axes, weights, expected)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    figures.legend_above(figure, every[0, 3], 2, fontsize=11)
    return figure


def _draw_bars(axes: Axes, weights: NDArray[Any]) -> None:
    """Draw the frequency of each of a few values."""
    values, counts = np.unique(weights, return_counts=True)
    axes.bar(values, counts / len(weights), width=0.06, color=BLUE, alpha=0.55)
    for value, count in zip(values, counts, strict=True):
        axes.text(value, count / len(weights) + 0.03, f"{count / len(weights):.2%}", ha="center", fontsize=9)
    middle = float(np.mean(values))
    axes.set(xlim=(middle - 1, middle + 1), ylim=(0, 1.2))


def _draw_density(axes: Axes, weights: NDArray[Any], expected: Any) -> None:
    """Draw a histogram of weights with the density of their expected distribution, one of scipy's."""
    low, high = expected.ppf([1e-4, 1 - 1e-4])
    limit = 1.25 * max(abs(low), abs(high))
    axes.hist(weights, bins=60, density=True, color=BLUE, alpha=0.45, label="drawn")
    x = np.linspace(-limit, limit, 1000)
    axes.plot(x, expected.pdf(x), color=RED, linewidth=1.8, label="theory")
    axes.text(
        0.98, 0.97, f"std {weights.std():.4f}\ntheory {expected.std():.4f}",
        transform=axes.transAxes, ha="right", va="top", fontsize=8.5,
    )  # fmt: skip
    axes.set(xlim=(-limit, limit), ylim=(0, 1.45 * expected.pdf(x).max()))


def signal_variance(config: RunConfig) -> Figure:
    """Variance of activations and gradients in each of 20 layers, for pairs of initializer and activation; it stays
    constant where the two suit each other."""
    figure, every = figures.page(14, 7.2, 2, len(ACTIVATIONS), sharex=True, sharey="row")
    layers = np.arange(1, DEPTH + 1)
    # Glorot's and orthogonal weights act alike in square layers: a dotted line is drawn over a wide one.
    looks: list[tuple[Any, ...]] = [(RED, "-", 1.5, "^"), (BLUE, "-", 1.5, "o"), (GREEN, "-", 4.0, "")]
    looks += [(INK, ":", 1.8, ""), (PURPLE, "-", 1.5, "s"), (ORANGE, "-", 1.5, "v")]
    styles = [dict(zip(("color", "linestyle", "linewidth", "marker"), look, strict=True)) for look in looks]
    for activation, (forward, backward) in zip(ACTIVATIONS, every.T, strict=True):
        for (label, initializer), line in zip(PAIRS.items(), styles, strict=True):
            values, gradients = variances(initializer, activation)
            options: dict[str, Any] = {**line, "markersize": 4.5, "markevery": 3, "label": label}
            forward.plot(layers, np.maximum(values, 1e-30), **options)
            backward.plot(layers, np.maximum(gradients, 1e-30), **options)
        forward.set_title(activation)
        backward.set_xlabel("layer")
        for axes in (forward, backward):
            axes.set_yscale("log")
            axes.set(xlim=(0.5, DEPTH + 0.5))
            axes.set_xticks([1, 5, 10, 15, 20])
    every[0, 0].set(ylabel="variance of activations", ylim=(1e-9, 1e3))
    every[1, 0].set(ylabel="variance of gradients", ylim=(1e-18, 1e6))
    figures.legend_above(figure, every[0, 0], len(PAIRS), fontsize=10)
    return figure


def variances(
    initializer: Any, activation: Any, depth: int = DEPTH, width: int = WIDTH, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The variance of a signal in each layer of an untrained network, forwards and backwards.

    The first layer receives standard normal examples, the last one standard normal gradients.

    Args:
        initializer: initializer of every layer's weights; biases are 0.
        activation: activation of every layer.
        depth: number of layers.
        width: number of units of each layer, and of features of the examples.
        seed: seed of weights, examples and gradients.

    Returns:
        Variance of each layer's activations, and of the gradient with respect to them, each `(depth,)`.

    Reference: Glorot and Bengio, AISTATS 2010, figures 6 and 7; He et al., ICCV 2015.
    """
    described = NetworkConfig(hidden=(width,) * depth, activation=activation, kernel_initializer=initializer)
    layers = network_layers(described, (width,), 1, seed=seed)[:-1]
    draw = np.random.default_rng(seed)
    signal = tf.constant(draw.standard_normal((EXAMPLES, width)), tf.float32)
    signals = []
    with tf.GradientTape() as tape:
        tape.watch(signal)
        for layer in layers:
            signal = layer(signal)
            if layer.name.startswith(("activation", "dense")):
                signals.append(signal)
    last_gradient = tf.constant(draw.standard_normal(signal.shape), tf.float32)
    gradients = tape.gradient(signals[-1], signals, output_gradients=last_gradient)
    return (
        np.array([np.var(each, dtype="float64") for each in signals]),
        np.array([np.var(each, dtype="float64") for each in gradients]),
    )
