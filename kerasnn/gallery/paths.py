"""Pictures of optimizers: their paths down surfaces of two parameters."""

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from kerasnn import figures
from kerasnn.components import optimizers
from kerasnn.config import catalog
from kerasnn.config.run import RunConfig
from kerasnn.figures.style import BLUE, GREEN, INK, ORANGE, PURPLE, RED, SKY

STEPS = 240
FRAMES = 60


@dataclass(frozen=True)
class Surface:
    """A loss of two parameters.

    Args:
        name: its difficulty, the title of its picture.
        height: the loss at `(x, y)`.
        start: the point where paths begin.
        limits: `(left, right, bottom, top)` of the picture.
    """

    name: str
    height: Callable[[Any, Any], Any]
    start: tuple[float, float]
    limits: tuple[float, float, float, float]


SURFACES = (
    Surface("plateau", lambda x, y: 1 - ops.exp(-(x**2 + 0.5 * y**2) / 2), (-2.9, 1.4), (-3.6, 1.8, -2.2, 2.2)),
    Surface("saddle", lambda x, y: x**2 - y**2 + y**4 / 8 + 2, (-1.8, 0.01), (-2.3, 1.4, -1.2, 2.9)),
    Surface(
        "valley with a local minimum",
        lambda x, y: 0.12 * (x - 2) ** 2 - 0.55 * ops.exp(-((x + 1.2) ** 2) / 0.25) + 4 * (y - 0.25 * x) ** 2,
        (-3.3, 0.5),
        (-3.9, 3.5, -1.9, 1.9),
    ),
)

# Learning rates at which each makes progress on all three surfaces; Adadelta's compensates for its slow start, as its
# paper's 1.0 does. And the look of each line.
SHOWN: dict[str, tuple[float, dict[str, Any]]] = {
    "sgd": (0.05, {"color": INK, "marker": "o"}),
    "momentum": (0.02, {"color": BLUE, "marker": "s"}),
    "nesterov": (0.02, {"color": SKY, "marker": "D"}),
    "adagrad": (0.3, {"color": GREEN, "marker": "^"}),
    "adadelta": (10.0, {"color": PURPLE, "marker": "v"}),
    "rmsprop": (0.03, {"color": ORANGE, "marker": "P"}),
    "adam": (0.08, {"color": RED, "marker": "X"}),
    "adamax": (0.12, {"color": "#8C6D31", "marker": "*"}),
}
RATES = {name: rate for name, (rate, _) in SHOWN.items()}
RATES |= {"adamw": 0.08, "nadam": 0.08, "lamb": 0.05, "lion": 0.02, "ftrl": 0.5, "adafactor": 0.1, "muon": 0.1}


def path(surface: Surface, spec: dict[str, Any], steps: int = STEPS) -> NDArray[Any]:
    """The path of an optimizer of the catalog.

    Args:
        surface: the loss, and the start.
        spec: the optimizer, as `kerasnn.components.optimizers.get` takes it.
        steps: number of updates.

    Returns:
        Points `(steps + 1, 3)`: x, y and the loss there.
    """
    # A matrix, because some optimizers need one.
    point = keras.Variable([surface.start], dtype="float32", name="point")
    optimizer = optimizers.get(spec)
    optimizer.build([point])

    def height() -> Any:
        return surface.height(point.value[0, 0], point.value[0, 1])

    def descend() -> Any:
        points = tf.TensorArray(tf.float32, steps + 1)
        for step in tf.range(steps):
            with tf.GradientTape() as tape:
                loss = height()
            points = points.write(step, tf.stack([point.value[0, 0], point.value[0, 1], loss]))
            optimizer.apply([tape.gradient(loss, point.value)], [point])
        return points.write(steps, tf.stack([point.value[0, 0], point.value[0, 1], height()])).stack()

    # Each path is a new program; a partial, because TensorFlow warns where the same function is traced again and again.
    return tf.function(functools.partial(descend))().numpy()


def optimizer_paths(config: RunConfig) -> Figure:
    """Eight optimizers on a plateau, a saddle and a valley with a local minimum, and the loss at every step."""
    return _figure(_paths(), STEPS)[0]


def optimizer_animation(config: RunConfig) -> bytes:
    """The paths of `optimizer_paths` as an animation.

    Returns:
        The bytes of a GIF.
    """
    figure, lines = _figure(_paths(), 0)
    figure.set_dpi(75)
    canvas = FigureCanvasAgg(figure)
    # Everything but the lines is drawn once; the first drawing lays out the page.
    canvas.draw()
    for line, _ in lines:
        line.set_visible(False)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for step in np.linspace(0, STEPS, FRAMES).astype(int):
        canvas.restore_region(background)
        for line, points in lines:
            line.set_visible(True)
            _set_step(line, points, step)
            assert line.axes is not None
            line.axes.draw_artist(line)
            line.set_visible(False)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = _palette([str(look["color"]) for _, look in SHOWN.values()])
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    durations = [80] * (FRAMES - 1) + [2500]
    frames[0].save(buffer, "gif", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    return buffer.getvalue()


def _palette(colors: Sequence[str]) -> Image.Image:
    """A GIF's 256 colours: greys for the surfaces, and each line's colour with its blends into them."""
    greys = np.linspace(0, 255, 96).round().astype(int)[:, None].repeat(3, axis=1)
    blends = [
        np.array(to_rgb(color)) * 255 * share + grey * (1 - share)
        for color in colors
        for grey in (90, 170, 255)
        for share in (1, 0.8, 0.6, 0.4, 0.2)
    ]
    image = Image.new("P", (1, 1))
    image.putpalette(np.concatenate([greys, np.array(blends).round().astype(int)]).ravel().tolist())
    return image


def every_optimizer(config: RunConfig) -> Figure:
    """Every optimizer of the catalog in the valley with a local minimum, one panel each."""
    surface = SURFACES[2]
    assert set(RATES) == set(catalog.OPTIMIZERS), "every optimizer needs a learning rate"
    figure, every = figures.page(14, 7.4, 3, 5, sharex=True, sharey=True)
    for (name, rate), axes in zip(RATES.items(), every.flat, strict=True):
        _draw_surface(axes, surface)
        points = path(surface, {"name": name, "learning_rate": rate})
        axes.plot(points[:, 0], points[:, 1], color=RED, linewidth=1.6)
        axes.plot(*surface.start, "o", color=INK, markersize=5)
        axes.plot(points[-1, 0], points[-1, 1], "*", color=RED, markeredgecolor="white", markersize=13)
        axes.set_title(f"{name}, rate {rate:g}")
        axes.text(
            0.97, 0.04, f"loss {points[-1, 2]:.3f}", transform=axes.transAxes, ha="right", fontsize=9, color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
        )  # fmt: skip
    return figure


def _paths() -> list[dict[str, NDArray[Any]]]:
    return [
        {name: path(surface, {"name": name, "learning_rate": rate}) for name, (rate, _) in SHOWN.items()}
        for surface in SURFACES
    ]


def _figure(paths: list[dict[str, NDArray[Any]]], step: int) -> tuple[Figure, list[tuple[Line2D, NDArray[Any]]]]:
    """The figure of paths up to a step, and its lines with the points of each."""
    lines = []
    figure, every = figures.page(14, 8, 2, len(SURFACES), height_ratios=(1.75, 1))
    for surface, by_name, (above, below) in zip(SURFACES, paths, every.T, strict=True):
        _draw_surface(above, surface)
        above.set(title=surface.name, xlabel="x", ylabel="y")
        above.plot(*surface.start, "o", color=INK, markersize=7, markerfacecolor="white", zorder=4)
        for name, points in by_name.items():
            rate, style = SHOWN[name]
            look = {**style, "markersize": 8, "markeredgecolor": "white", "markeredgewidth": 0.7}
            on_surface = above.plot([], [], linewidth=1.7, label=f"{name} {rate:g}", **look)
            by_step = below.plot([], [], linewidth=1.5, color=look["color"])
            for line in (*on_surface, *by_step):
                _set_step(line, points, step)
                lines.append((line, points))
        below.set(xlim=(0, STEPS), xlabel="update", ylabel="loss", yscale="log")
        below.set_ylim(1e-3, 2.5 * by_name["sgd"][0, 2])
    figures.legend_above(figure, every[0, 0], len(SHOWN), fontsize=10)
    return figure, lines


def _set_step(line: Line2D, points: NDArray[Any], step: int) -> None:
    """Show a line up to a step: on the surface it has a marker, and the loss by step has none."""
    if line.get_marker() in (None, "None", ""):
        line.set_data(np.arange(step + 1), points[: step + 1, 2])
    else:
        line.set_data(points[: step + 1, 0], points[: step + 1, 1])
        line.set_markevery([step])


def _draw_surface(axes: Axes, surface: Surface) -> None:
    left, right, bottom, top = surface.limits
    x, y = np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 200))
    height = np.asarray(surface.height(x, y))
    # Levels are closer together where the loss is low: minima are shallow compared with the walls.
    levels = height.min() + np.ptp(height) * np.linspace(0, 1, 24) ** 2.2
    axes.contourf(x, y, height, levels=levels, cmap="Greys", norm=PowerNorm(0.4, height.min(), height.max() * 3))
    axes.contour(x, y, height, levels=levels, colors="white", linewidths=0.5)
    axes.grid(visible=False)
    axes.set(xlim=(left, right), ylim=(bottom, top))
