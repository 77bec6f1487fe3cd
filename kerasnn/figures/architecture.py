"""Figures of networks: every layer with its shapes."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from kerasnn.config.schema import short
from kerasnn.figures.style import BLUE, GREEN, GREY, INK, ORANGE, page, shortened


class _Row(NamedTuple):
    """One box of an architecture: a layer, or the heading of a nested model (`depth` 0, its layers `depth` 1)."""

    name: str
    kind: str
    activation: str
    shape: str
    parameters: int
    depth: int
    heading: bool


def architecture(model: Any) -> Figure:
    """Layers as boxes from top to bottom: name, type, activation, output shape and parameters.

    The layers of a nested model are shown one level deep. Arrows follow the tensors of a functional model; in any other
    (Sequential, subclassed) they follow the order of the layers.

    Args:
        model: a built Keras model of any style.

    Raises:
        ValueError: where the model has no layers or is not built.

    Reference: `keras.utils.plot_model`, which needs Graphviz and does not show the layers of a subclassed model.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu", name="hidden")])
    >>> [text.get_text() for text in architecture(model).axes[0].texts if "hidden" in text.get_text()]
    ['hidden']
    """
    return architectures([model])


def architectures(models: Sequence[Any], titles: Sequence[str] | None = None) -> Figure:
    """Networks side by side, each as `architecture` draws it.

    Args:
        models: built Keras models of any style.
        titles: a line above each; None for no titles.

    Raises:
        ValueError: where a model has no layers or is not built.

    >>> import keras
    >>> models = [keras.Sequential([keras.Input((4,)), *map(keras.layers.Dense, units)]) for units in ([3], [8, 3])]
    >>> [axes.get_title().splitlines()[0] for axes in architectures(models, ["shallow", "deep"]).axes]
    ['shallow', 'deep']
    """
    for model in models:
        if not model.layers:
            raise ValueError(f"model must have layers; received {short(model)}")
        if not model.built:
            raise ValueError(f"model must be built, by an input shape or a first call; received {short(model)}")
    # All boxes have the same height, which is smaller for long networks, because the size of an image is limited.
    longest = max(len(list(_rows(model))) for model in models)
    height = min(0.62, 250 / longest)
    figure, every = page(7.6 * len(models), height * longest + 0.9 + (0.25 if titles else 0), 1, len(models))
    for number, (model, axes) in enumerate(zip(models, every.flat, strict=True)):
        _draw(axes, model, longest, height, titles[number] if titles else "")
    return figure


# A box in units of the distance between two boxes.
_BOX = 0.62


def _draw(axes: Axes, model: Any, longest: int, height: float, title: str) -> None:
    """Draw a model on a page whose longest model has `longest` boxes, each of them `height` inches high."""
    rows = list(_rows(model))
    axes.set_axis_off()
    for index, row in enumerate(rows):
        _draw_box(axes, index, row, longest, min(10.0, height * 16))
    # An arrow connects the headings of nested models, not the layers within.
    headings = [index for index, row in enumerate(rows) if row.depth == 0]
    position = {rows[index].name: index for index in headings}
    for source, target in ((position[source], position[target]) for source, target in _edges(model)):
        last = next((heading for heading in headings if heading > source), len(rows)) - 1
        _draw_arrow(axes, source, last, target)
    for x, heading, align in (
        (0.02, "layer", "left"),
        (0.33, "type, activation", "left"),
        (0.84, "output shape", "right"),
        (0.98, "parameters", "right"),
    ):
        axes.text(x, -0.75, heading, ha=align, va="center", color=GREY, fontsize=9)
    trainable = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    counts = f"{model.name}: {model.count_params():,} parameters, {trainable:,} trainable"
    axes.set_title(f"{title}\n{counts}" if title else counts, parse_math=False)
    axes.set(xlim=(-0.01, 1.01), ylim=(longest - 0.5, -1.05))


def _draw_box(axes: Axes, index: int, row: _Row, longest: int, fontsize: float) -> None:
    left, right = row.depth * 0.035, 1 - row.depth * 0.035
    color = ORANGE if row.heading else GREY if row.kind == "InputLayer" else BLUE if row.parameters else GREEN
    box = FancyBboxPatch(
        (left, index - _BOX / 2), right - left, _BOX,
        boxstyle="round,pad=0,rounding_size=0.012", mutation_aspect=longest * 0.16,
        facecolor=color + "1F", edgecolor=color, linewidth=1.1,
    )  # fmt: skip
    axes.add_patch(box)
    kind = f"{row.kind}, {row.activation}" if row.activation else row.kind
    parameters = f"{row.parameters:,}" if row.parameters else "–"
    text: dict[str, Any] = {"va": "center", "color": INK, "fontsize": fontsize, "parse_math": False}
    axes.text(left + 0.02, index, shortened(row.name, 22), fontweight="bold", **text)
    axes.text(0.33, index, shortened(kind, 28), **text)
    axes.text(0.84, index, row.shape, ha="right", **text)
    axes.text(right - 0.02, index, parameters, ha="right", **text)


def _draw_arrow(axes: Axes, source: int, last: int, target: int) -> None:
    """Draw an arrow between boxes, around those between them; `last` is the last box of the layer that it leaves."""
    if target == last + 1:
        ends, style = ((0.5, last + _BOX / 2), (0.5, target - _BOX / 2)), "arc3"
    else:
        ends, style = ((1.0, source), (1.0, target)), f"arc3,rad={-min(0.3, 1.2 / (target - source)):.3f}"
    arrow = FancyArrowPatch(
        *ends, connectionstyle=style, arrowstyle="-|>", mutation_scale=9, color=GREY, linewidth=1.1,
        shrinkA=0, shrinkB=0, clip_on=False,
    )  # fmt: skip
    axes.add_patch(arrow)


def _rows(model: Any, depth: int = 0) -> Iterator[_Row]:
    shape = (model.get_build_config() or {}).get("input_shape")
    for layer in model.layers:
        inside = getattr(layer, "layers", None) if depth == 0 else None
        shape = _output_shape(layer, shape)
        yield _Row(
            layer.name,
            type(layer).__name__,
            _activation(layer),
            _shape_text(shape),
            layer.count_params(),
            depth,
            bool(inside),
        )
        if inside:
            yield from _rows(layer, depth + 1)


def _output_shape(layer: Any, input_shape: Any) -> Any:
    """Output shape of a layer: from its tensors, else computed from its input shape, else None."""
    try:
        return layer.output.shape if not isinstance(layer.output, list | tuple) else [t.shape for t in layer.output]
    except (AttributeError, ValueError):
        pass
    shape = (layer.get_build_config() or {}).get("input_shape") or input_shape
    try:
        return layer.compute_output_shape(shape)
    except Exception:
        # A layer that needs a call to know its shape must not prevent the figure.
        return None


def _shape_text(shape: Any) -> str:
    if shape is None:
        return "?"
    if isinstance(shape, list | tuple) and shape and isinstance(shape[0], list | tuple):
        return ", ".join(map(_shape_text, shape))
    return "(" + ", ".join(["batch", *("?" if size is None else str(size) for size in shape[1:])]) + ")"


def _activation(layer: Any) -> str:
    activation = getattr(layer, "activation", None)
    if activation is None or activation is layer:
        return ""
    name = getattr(activation, "__name__", None) or getattr(activation, "name", None) or type(activation).__name__
    return re.sub(r"_\d+$", "", name)


def _edges(model: Any) -> list[tuple[str, str]]:
    """Pairs of names of connected layers, directly or through operations that are not layers."""
    names = [layer.name for layer in model.layers]
    try:
        config = model.get_config()
    except NotImplementedError:
        config = {}
    if "input_layers" not in config:
        return list(itertools.pairwise(names))
    inputs = {layer["name"]: list(_histories(layer["inbound_nodes"])) for layer in config["layers"]}

    def layers_into(name: str) -> Iterator[str]:
        for source in inputs[name]:
            if source in names:
                yield source
            else:
                yield from layers_into(source)

    return [(source, name) for name in names for source in dict.fromkeys(layers_into(name))]


def _histories(described: Any) -> Iterator[str]:
    """Names of the operations that made the tensors in a functional model's description."""
    if isinstance(described, dict):
        if "keras_history" in described:
            yield described["keras_history"][0]
        else:
            for value in described.values():
                yield from _histories(value)
    elif isinstance(described, list | tuple):
        for value in described:
            yield from _histories(value)
