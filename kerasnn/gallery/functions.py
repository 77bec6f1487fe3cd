"""Functions of one variable as curves: activations, losses, schedules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kerasnn import figures
from kerasnn.components import activations, losses
from kerasnn.config import catalog
from kerasnn.config.curve import Curve
from kerasnn.config.run import RunConfig
from kerasnn.config.schedules import get
from kerasnn.config.simulation import simulate
from kerasnn.figures.style import BLUE, GREEN, GREY, ORANGE, RED

VALUE: dict[str, Any] = {"color": BLUE, "linewidth": 1.8}
SLOPE: dict[str, Any] = {"color": RED, "linewidth": 1.5, "linestyle": (0, (4, 1.5))}

# Activations of several features, drawn along a line through them: what stands beside x, and how the picture says so.
_BESIDE: dict[str, tuple[Callable[[Any], list[Any]], str]] = {
    "softmax": (lambda x: [x, tf.zeros_like(x)], "softmax (x, 0)"),
    "log_softmax": (lambda x: [x, tf.zeros_like(x)], "log_softmax (x, 0)"),
    "sparsemax": (lambda x: [x, tf.zeros_like(x)], "sparsemax (x, 0)"),
    "glu": (lambda x: [x, x], "glu (x, x)"),
    "maxout": (lambda x: [x, -x / 2], "maxout (x, −x/2)"),
}
_NEEDED = {"threshold": {"threshold": 1.0, "default_value": 0.0}}


def activation_curves(config: RunConfig) -> Figure:
    """Every activation of the catalog with its derivative, from the package's own functions and their gradients."""
    # An even number of points: none at 0, where some have no derivative.
    x = np.linspace(-8, 8, 1600, dtype="float32")
    names = list(catalog.ACTIVATIONS)
    columns = 6
    figure, every = figures.page(13, 12.6, -(-len(names) // columns), columns)
    for name, axes in zip(names, every.flat, strict=False):
        spec = {"name": name, **_NEEDED.get(name, {})}
        value, slope = _activation(spec, x)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.axvline(0, color=GREY, linewidth=0.6)
        for unit in range(value.shape[1]):
            axes.plot(x, _broken(value[:, unit]), **VALUE, label="value")
            axes.plot(x, _broken(slope[:, unit]), **SLOPE, label="derivative")
        low, high = np.clip(
            [function(value.min(), slope.min(), value.max(), slope.max()) for function in (min, max)], -4, 6
        )
        pad = 0.12 * max(high - low, 1.2)
        axes.set(xlim=(-8, 8), ylim=(min(low, 0) - pad, max(high, 0.5) + pad), title=_title(name))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    for axes in every.flat[len(names) :]:
        axes.set_axis_off()
    _legend(figure, every.flat[0])
    return figure


def _title(name: str) -> str:
    if name in _NEEDED:
        return f"{name} (" + ", ".join(f"{value:g}" for value in _NEEDED[name].values()) + ")"
    return _BESIDE[name][1] if name in _BESIDE else name


def _activation(spec: dict[str, Any], x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values and derivatives along x, each `(points, units)`."""
    layer = activations.layer(spec, seed=0)
    beside = _BESIDE.get(spec["name"], (lambda x: [x], ""))[0]
    inputs = tf.constant(x)[:, None]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        outputs = layer(tf.concat(beside(inputs), axis=1))
        # Of the features along which a sum stays the same, the first says it all.
        outputs = outputs if spec["name"] in ("crelu",) else outputs[:, :1]
        units = tf.unstack(outputs, axis=1)
    slopes = [tape.gradient(unit, inputs, unconnected_gradients="zero")[:, 0] for unit in units]
    return outputs.numpy(), np.stack(slopes, axis=1)


def _broken(y: NDArray[Any]) -> NDArray[Any]:
    """A curve with a gap where it jumps, instead of a line that is no part of it."""
    y = y.astype("float64").copy()
    steps = np.abs(np.diff(y, prepend=y[0], append=y[-1]))
    beside = np.maximum(np.roll(steps, 1), np.roll(steps, -1))[:-1]
    y[(steps[:-1] > 5 * beside) & (steps[:-1] > 0.02 * np.ptp(np.clip(y, -6, 6)))] = np.nan
    return y


def _legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles[:columns], labels[:columns], loc="outside upper center", ncols=columns, frameon=False, fontsize=11
    )


# Where a loss is a function of one number: what x is, and labels and predictions at x.
_Line = tuple[str, NDArray[Any], Callable[[Any], tuple[Any, Any]]]


def _prediction(target: float, low: float, high: float) -> _Line:
    x = np.linspace(low, high, 800, dtype="float32")
    return f"prediction, target {target:g}", x, lambda x: (tf.fill(x.shape, target), x)


def _probability(labels: tuple[float, float] = (1.0, 0.0)) -> _Line:
    x = np.linspace(0.004, 0.996, 800, dtype="float32")
    said = "probability of the true class" if labels[0] == 1 else f"probability, true one {labels[0]:g}"
    return said, x, lambda x: (tf.tile([labels], (len(x), 1)), tf.concat([x, 1 - x], axis=1))


def _binary() -> _Line:
    said, x, _ = _probability()
    return said, x, lambda x: (tf.ones_like(x), x)


def _scores() -> _Line:
    x = np.linspace(-3, 3, 800, dtype="float32")
    zeros, one = tf.zeros_like, tf.ones_like
    return (
        "true class's score, other's 0",
        x,
        lambda x: (tf.concat([one(x), zeros(x)], 1), tf.concat([x, zeros(x)], 1)),
    )


def _lines() -> dict[str, tuple[str, dict[str, Any], _Line]]:
    """Every loss of the catalog, and two from logits: title, spec, line."""
    integer = np.linspace(0.004, 0.996, 800, dtype="float32")
    angle = np.linspace(-180, 180, 800, dtype="float32")
    lines: dict[str, _Line] = {
        "mean_squared_error": _prediction(0, -3, 3),
        "mean_absolute_error": _prediction(0, -3, 3),
        "huber": _prediction(0, -3, 3),
        "log_cosh": _prediction(0, -3, 3),
        "mean_absolute_percentage_error": _prediction(1, -2, 4),
        "mean_squared_logarithmic_error": _prediction(1, -0.5, 4),
        "poisson": _prediction(1, 0.05, 4),
        "cosine_similarity": (
            "angle to the target, degrees",
            angle,
            lambda x: (
                tf.tile([[1.0, 0.0]], (len(x), 1)),
                tf.concat([tf.cos(x * np.pi / 180), tf.sin(x * np.pi / 180)], axis=1),
            ),
        ),
        "binary_crossentropy": _binary(),
        "binary_focal_crossentropy": _binary(),
        "categorical_crossentropy": _probability(),
        "categorical_focal_crossentropy": _probability(),
        "sparse_categorical_crossentropy": (
            "probability of the true class",
            integer,
            lambda x: (tf.zeros(len(x), tf.int32), tf.concat([x, 1 - x], axis=1)),
        ),
        "kl_divergence": _probability((0.7, 0.3)),
        "hinge": _prediction(1, -3, 3),
        "squared_hinge": _prediction(1, -3, 3),
        "categorical_hinge": _scores(),
    }
    found: dict[str, tuple[str, dict[str, Any], _Line]] = {
        name: (name, {"name": name}, line) for name, line in lines.items()
    }
    assert set(found) == set(catalog.LOSSES), "a picture for each loss"
    x = np.linspace(-6, 6, 800, dtype="float32")
    found["from logits"] = (
        "binary_crossentropy, logits",
        {"name": "binary_crossentropy", "from_logits": True},
        ("score, label 1", x, lambda x: (tf.ones_like(x), x)),
    )
    return found


def loss_curves(config: RunConfig) -> Figure:
    """Every loss of the catalog with its gradient, along a line through its predictions."""
    columns = 6
    lines = _lines()
    figure, every = figures.page(16.5, 8.8, -(-len(lines) // columns), columns)
    for (title, spec, (xlabel, x, at)), axes in zip(lines.values(), every.flat, strict=True):
        value, slope = _loss(spec, x, at)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.plot(x, value, **VALUE, label="loss")
        axes.plot(x, _broken(slope), **SLOPE, label="gradient")
        both = np.concatenate([value, slope])
        # A probability's gradient is -1 / p, of which what lies far out would flatten all the rest.
        low, high = (-8, 6) if xlabel.startswith("probability") else np.quantile(both, [0.02, 0.98])
        pad = 0.1 * (high - low)
        axes.set(xlabel=xlabel, xlim=(x[0].round(1), x[-1].round(1)), ylim=(low - pad, high + pad))
        axes.set_title(title, fontsize=9 if len(title) > 26 else 11)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
    _legend(figure, every.flat[0])
    return figure


def _loss(spec: dict[str, Any], x: NDArray[Any], at: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    loss = losses.get(spec)
    points = tf.constant(x)[:, None]
    with tf.GradientTape() as tape:
        tape.watch(points)
        y_true, y_pred = at(points)
        # Each point's own loss, where the class would average them.
        values = loss.call(y_true, y_pred)
    gradient = tape.gradient(values, points)[:, 0].numpy()
    if loss.name == "cosine_similarity":
        gradient = gradient * 180 / np.pi
    return np.reshape(values, -1), gradient


def regression_losses(config: RunConfig) -> Figure:
    """L1, L2 and smooth L1 in one picture: L1's gradient jumps at 0, L2's grows for ever, smooth L1 does neither."""
    _, x, at = _prediction(0, -4, 4)
    figure, every = figures.page(11, 4, 1, 2)
    shown = (
        ("L1 (mean_absolute_error)", "mean_absolute_error", ORANGE, "--"),
        ("L2 (mean_squared_error)", "mean_squared_error", BLUE, "-."),
        ("smooth L1 (huber)", "huber", GREEN, "-"),
    )
    for label, name, color, dash in shown:
        value, slope = _loss({"name": name}, x, at)
        every[0, 0].plot(x, value, color=color, linestyle=dash, linewidth=2, label=label)
        every[0, 1].plot(x, _broken(slope), color=color, linestyle=dash, linewidth=2)
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
    """Every schedule over 200 epochs, and a warm-up in front of one."""
    figure, every = figures.page(13, 7.8, 3, 4, sharex=True, sharey=True)
    epochs = np.arange(EPOCHS * 10) / 10
    for described, axes in zip(_SCHEDULES, every.flat, strict=True):
        axes.plot(epochs, simulate(described, EPOCHS, updates_per_epoch=10), color=BLUE, linewidth=1.8)
        curve = get(described)
        assert isinstance(curve, Curve)
        arguments = ", ".join(f"{key} {_shown(value)}" for key, value in described.items() if key != "name")
        axes.set(ylim=(-0.04, 1.08), xlim=(0, EPOCHS))
        axes.set_title(f"{described['name']}\n{arguments}", fontsize=10.5)
    for axes in every[-1]:
        axes.set_xlabel("epoch")
    for axes in every[:, 0]:
        axes.set_ylabel("share of the rate")
    return figure


def _shown(value: Any) -> str:
    return ", ".join(f"{each:g}" for each in value) if isinstance(value, list) else f"{value}"
