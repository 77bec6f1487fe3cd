"""Pictures of functions of one variable: activations, losses, schedules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kerasnn import figures
from kerasnn.components import activations, losses
from kerasnn.config import catalog
from kerasnn.config.run import RunConfig
from kerasnn.config.simulation import simulate
from kerasnn.figures.style import BLUE, GREEN, GREY, ORANGE, RED

VALUE: dict[str, Any] = {"color": BLUE, "linewidth": 1.8}
SLOPE: dict[str, Any] = {"color": RED, "linewidth": 1.5, "linestyle": (0, (4, 1.5))}

# The features, as functions of x, and the title of activations of several features.
_FEATURES: dict[str, tuple[Callable[[Any], list[Any]], str]] = {
    "softmax": (lambda x: [x, tf.zeros_like(x)], "softmax (x, 0)"),
    "log_softmax": (lambda x: [x, tf.zeros_like(x)], "log_softmax (x, 0)"),
    "sparsemax": (lambda x: [x, tf.zeros_like(x)], "sparsemax (x, 0)"),
    "glu": (lambda x: [x, x], "glu (x, x)"),
    "maxout": (lambda x: [x, -x / 2], "maxout (x, −x/2)"),
}
_ARGUMENTS = {"threshold": {"threshold": 1.0, "default_value": 0.0}}


def activation_curves(config: RunConfig) -> Figure:
    """Every activation of the catalog with its derivative, from the package's own functions and their gradients."""
    # An even number of points leaves out 0, where some have no derivative.
    x = np.linspace(-8, 8, 1600, dtype="float32")
    names = list(catalog.ACTIVATIONS)
    columns = 6
    figure, every = figures.page(13, 12.6, -(-len(names) // columns), columns)
    for name, axes in zip(names, every.flat, strict=False):
        spec = {"name": name, **_ARGUMENTS.get(name, {})}
        value, slope = _activation(spec, x)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.axvline(0, color=GREY, linewidth=0.6)
        for unit in range(value.shape[1]):
            axes.plot(x, _with_gaps(value[:, unit]), **VALUE, label="value")
            axes.plot(x, _with_gaps(slope[:, unit]), **SLOPE, label="derivative")
        low, high = np.clip(
            [function(value.min(), slope.min(), value.max(), slope.max()) for function in (min, max)], -4, 6
        )
        pad = 0.12 * max(high - low, 1.2)
        axes.set(xlim=(-8, 8), ylim=(min(low, 0) - pad, max(high, 0.5) + pad), title=_title(name))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    for axes in every.flat[len(names) :]:
        axes.set_axis_off()
    figures.legend_above(figure, every.flat[0], 2, fontsize=11)
    return figure


def _title(name: str) -> str:
    if name in _ARGUMENTS:
        return f"{name} (" + ", ".join(f"{value:g}" for value in _ARGUMENTS[name].values()) + ")"
    return _FEATURES[name][1] if name in _FEATURES else name


def _activation(spec: dict[str, Any], x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values and derivatives along x, each `(points, units)`."""
    layer = activations.layer(spec, seed=0)
    features = _FEATURES.get(spec["name"], (lambda x: [x], ""))[0]
    inputs = tf.constant(x)[:, None]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        outputs = layer(tf.concat(features(inputs), axis=1))
        # The other features follow from the first, except crelu's.
        outputs = outputs if spec["name"] == "crelu" else outputs[:, :1]
        units = tf.unstack(outputs, axis=1)
    slopes = [tape.gradient(unit, inputs, unconnected_gradients="zero")[:, 0] for unit in units]
    return outputs.numpy(), np.stack(slopes, axis=1)


def _with_gaps(y: NDArray[Any]) -> NDArray[Any]:
    """The values of a curve, with NaN where it jumps, so that no line connects the two sides."""
    y = y.astype("float64").copy()
    steps = np.abs(np.diff(y, prepend=y[0], append=y[-1]))
    neighbours = np.maximum(np.roll(steps, 1), np.roll(steps, -1))[:-1]
    y[(steps[:-1] > 5 * neighbours) & (steps[:-1] > 0.02 * np.ptp(np.clip(y, -6, 6)))] = np.nan
    return y


# A loss as a function of one number x: its meaning, its limits, and labels and predictions for `(points, 1)` values.
_Line = tuple[str, float, float, Callable[[Any], tuple[Any, Any]]]


def _prediction(target: float, low: float, high: float) -> _Line:
    return f"prediction, target {target:g}", low, high, lambda x: (tf.fill(x.shape, target), x)


def _two_classes(meaning: str, labels: tuple[float, float]) -> _Line:
    return meaning, 0.004, 0.996, lambda x: (tf.tile([labels], (len(x), 1)), tf.concat([x, 1 - x], axis=1))


def _on_circle(x: Any) -> tuple[Any, Any]:
    point = tf.concat([tf.cos(x * np.pi / 180), tf.sin(x * np.pi / 180)], axis=1)
    return tf.tile([[1.0, 0.0]], (len(x), 1)), point


_ERROR, _MARGIN = _prediction(0, -3, 3), _prediction(1, -3, 3)
_PROBABILITY = "probability of the true class"
_BINARY: _Line = (_PROBABILITY, 0.004, 0.996, lambda x: (tf.ones_like(x), x))
LOSS_LINES: dict[str, _Line] = {
    "mean_squared_error": _ERROR,
    "mean_absolute_error": _ERROR,
    "huber": _ERROR,
    "log_cosh": _ERROR,
    "mean_absolute_percentage_error": _prediction(1, -2, 4),
    "mean_squared_logarithmic_error": _prediction(1, -0.5, 4),
    "poisson": _prediction(1, 0.05, 4),
    "cosine_similarity": ("angle to the target, degrees", -180, 180, _on_circle),
    "binary_crossentropy": _BINARY,
    "binary_focal_crossentropy": _BINARY,
    "categorical_crossentropy": _two_classes(_PROBABILITY, (1.0, 0.0)),
    "categorical_focal_crossentropy": _two_classes(_PROBABILITY, (1.0, 0.0)),
    "sparse_categorical_crossentropy": (
        _PROBABILITY, 0.004, 0.996, lambda x: (tf.zeros(len(x), tf.int32), tf.concat([x, 1 - x], axis=1)),
    ),
    "kl_divergence": _two_classes("probability, true one 0.7", (0.7, 0.3)),
    "hinge": _MARGIN,
    "squared_hinge": _MARGIN,
    "categorical_hinge": (
        "true class's score, other's 0", -3, 3,
        lambda x: (tf.tile([[1.0, 0.0]], (len(x), 1)), tf.concat([x, tf.zeros_like(x)], axis=1)),
    ),
}  # fmt: skip
"""The line along which each loss of the catalog is drawn."""


def loss_curves(config: RunConfig) -> Figure:
    """Every loss of the catalog with its gradient, and one from logits, as functions of one number."""
    panels: list[tuple[str, dict[str, Any], _Line]] = []
    panels += [(name, {"name": name}, line) for name, line in LOSS_LINES.items()]
    spec = {"name": "binary_crossentropy", "from_logits": True}
    panels.append(("binary_crossentropy, logits", spec, ("score, label 1", -6, 6, _BINARY[-1])))
    columns = 6
    figure, every = figures.page(16.5, 8.8, -(-len(panels) // columns), columns)
    for (title, spec, line), axes in zip(panels, every.flat, strict=True):
        x, value, slope = _loss(spec, line)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.plot(x, value, **VALUE, label="loss")
        axes.plot(x, _with_gaps(slope), **SLOPE, label="gradient")
        # The gradient for a probability p is -1 / p, of which the values near 0 would flatten the rest.
        is_probability = line[0].startswith("probability")
        low, high = (-8, 6) if is_probability else np.quantile(np.concatenate([value, slope]), [0.02, 0.98])
        pad = 0.1 * (high - low)
        axes.set(xlabel=line[0], xlim=(x[0].round(1), x[-1].round(1)), ylim=(low - pad, high + pad))
        axes.set_title(title, fontsize=9 if len(title) > 26 else 11)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
    figures.legend_above(figure, every.flat[0], 2, fontsize=11)
    return figure


def _loss(spec: dict[str, Any], line: _Line) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """x, loss and gradient along a line, each `(points,)`."""
    _, low, high, labels_and_predictions = line
    x = np.linspace(low, high, 800, dtype="float32")
    loss = losses.get(spec)
    points = tf.constant(x)[:, None]
    with tf.GradientTape() as tape:
        tape.watch(points)
        # The loss of each point; calling the loss itself would average them.
        values = loss.call(*labels_and_predictions(points))
    gradient = tape.gradient(values, points)[:, 0].numpy()
    if loss.name == "cosine_similarity":
        gradient = gradient * 180 / np.pi
    return x, np.reshape(values, -1), gradient


def regression_losses(config: RunConfig) -> Figure:
    """L1, L2 and smooth L1 compared: L1's gradient jumps at 0, L2's grows without bound, smooth L1 does neither."""
    figure, every = figures.page(11, 4, 1, 2)
    for label, name, color, dashes in (
        ("L1 (mean_absolute_error)", "mean_absolute_error", ORANGE, "--"),
        ("L2 (mean_squared_error)", "mean_squared_error", BLUE, "-."),
        ("smooth L1 (huber)", "huber", GREEN, "-"),
    ):
        x, value, slope = _loss({"name": name}, _prediction(0, -4, 4))
        every[0, 0].plot(x, value, color=color, linestyle=dashes, linewidth=2, label=label)
        every[0, 1].plot(x, _with_gaps(slope), color=color, linestyle=dashes, linewidth=2)
    every[0, 0].set(title="loss", xlabel="error (prediction − target)", ylim=(-0.2, 6), xlim=(-4, 4))
    every[0, 1].set(title="gradient", xlabel="error (prediction − target)", ylim=(-4.5, 4.5), xlim=(-4, 4))
    for axes in every.flat:
        axes.axhline(0, color=GREY, linewidth=0.6)
    handles, labels = every[0, 0].get_legend_handles_labels()
    every[0, 1].legend(handles, labels, frameon=False, fontsize=10, loc="lower right")
    return figure


EPOCHS = 200
_SCHEDULES: tuple[dict[str, Any], ...] = (
    {"name": "constant"},
    {"name": "step", "step_size": 50, "gamma": 0.5},
    {"name": "multi_step", "milestones": [50, 125, 160], "gamma": 0.5},
    {"name": "exponential", "gamma": 0.98},
    {"name": "polynomial", "power": 2.0},
    {"name": "cosine"},
    {"name": "cosine_restarts", "period": 25, "multiplier": 2},
    {"name": "one_cycle"},
    {"name": "cyclic", "up": 20, "mode": "triangular2"},
    {"name": "inverse_sqrt", "warmup": 20, "timescale": 20},
    {"name": "warmup_stable_decay", "warmup": 20},
    {"name": "cosine", "warmup": 30},
)


def schedule_curves(config: RunConfig) -> Figure:
    """Every schedule over 200 epochs, one of them also after a warm-up."""
    figure, every = figures.page(13, 7.8, 3, 4, sharex=True, sharey=True)
    epochs = np.arange(EPOCHS * 10) / 10
    for schedule, axes in zip(_SCHEDULES, every.flat, strict=True):
        axes.plot(epochs, simulate(schedule, EPOCHS, updates_per_epoch=10), color=BLUE, linewidth=1.8)
        arguments = ", ".join(f"{key} {_argument(value)}" for key, value in schedule.items() if key != "name")
        axes.set(ylim=(-0.04, 1.08), xlim=(0, EPOCHS))
        axes.set_title(f"{schedule['name']}\n{arguments}", fontsize=10.5)
    for axes in every[-1]:
        axes.set_xlabel("epoch")
    for axes in every[:, 0]:
        axes.set_ylabel("share of the rate")
    return figure


def _argument(value: Any) -> str:
    return ", ".join(f"{each:g}" for each in value) if isinstance(value, list) else f"{value}"
