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
from kerasnn.figures.style import BLUE, GREEN, GREY, INK, ORANGE, _cut, page


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

    A nested model is opened one level. Arrows follow the tensors of a functional model; a model that does not tell them
    (Sequential, subclassed) runs through its layers in order.

    Args:
        model: a built Keras model of any style.

    Returns:
        The figure.

    Raises:
        ValueError: where the model has no layers or is not built.

    Reference: `keras.utils.plot_model`, which needs Graphviz and shows no inside of a subclassed model.
    """
    return architectures([model])


def architectures(models: Sequence[Any], titles: Sequence[str] | None = None) -> Figure:
    """Networks side by side, each as `architecture` draws it.

    Args:
        models: built Keras models of any style.
        titles: a line above each; None gives none.

    Returns:
        The figure.

    Raises:
        ValueError: where a model has no layers or is not built.
    """
    for model in models:
        if not model.layers:
            raise ValueError(f"model must have layers; received {short(model)}")
        if not model.built:
            raise ValueError(f"model must be built, by an input shape or a first call; received {short(model)}")
    # Boxes of one height, on a page that an image can hold; a long network's only get thinner.
    longest = max(len(list(_rows(model))) for model in models)
    height = min(0.62, 250 / longest)
    figure, every = page(7.6 * len(models), height * longest + 0.9 + (0.25 if titles else 0), 1, len(models))
    for number, (model, axes) in enumerate(zip(models, every.flat, strict=True)):
        _architecture(axes, model, longest, height, titles[number] if titles else "")
    return figure


def _architecture(axes: Axes, model: Any, longest: int, height: float, title: str) -> None:
    rows = list(_rows(model))
    tops = [index for index, row in enumerate(rows) if row.depth == 0]
    position = {rows[index].name: index for index in tops}
    axes.set_axis_off()
    box, indent = 0.62, 0.035
    font = min(10.0, height * 16)
    for index, row in enumerate(rows):
        left, right = row.depth * indent, 1 - row.depth * indent
        color = ORANGE if row.heading else GREY if row.kind == "InputLayer" else BLUE if row.parameters else GREEN
        axes.add_patch(
            FancyBboxPatch(
                (left, index - box / 2),
                right - left,
                box,
                boxstyle="round,pad=0,rounding_size=0.012",
                mutation_aspect=longest * 0.16,
                facecolor=color + "1F",
                edgecolor=color,
                linewidth=1.1,
            )
        )
        kind = f"{row.kind}, {row.activation}" if row.activation else row.kind
        parameters = f"{row.parameters:,}" if row.parameters else "–"
        text: dict[str, Any] = {"va": "center", "color": INK, "fontsize": font, "parse_math": False}
        axes.text(left + 0.02, index, _cut(row.name, 22), fontweight="bold", **text)
        axes.text(0.33, index, _cut(kind, 28), **text)
        axes.text(0.84, index, row.shape, ha="right", **text)
        axes.text(right - 0.02, index, parameters, ha="right", **text)

    for source, target in ((position[source], position[target]) for source, target in _edges(model)):
        last = next((top for top in tops if top > source), len(rows)) - 1
        if target == last + 1:
            ends, style = ((0.5, last + box / 2), (0.5, target - box / 2)), "arc3"
        else:
            ends, style = ((1.0, source), (1.0, target)), f"arc3,rad={-min(0.3, 1.2 / (target - source)):.3f}"
        axes.add_patch(
            FancyArrowPatch(
                *ends,
                connectionstyle=style,
                arrowstyle="-|>",
                mutation_scale=9,
                color=GREY,
                linewidth=1.1,
                shrinkA=0,
                shrinkB=0,
                clip_on=False,
            )
        )
    for x, heading, align in ((0.02, "layer", "left"), (0.33, "type, activation", "left")):
        axes.text(x, -0.75, heading, ha=align, va="center", color=GREY, fontsize=9)
    for x, heading in ((0.84, "output shape"), (0.98, "parameters")):
        axes.text(x, -0.75, heading, ha="right", va="center", color=GREY, fontsize=9)
    trainable = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    counts = f"{model.name}: {model.count_params():,} parameters, {trainable:,} trainable"
    axes.set_title(f"{title}\n{counts}" if title else counts, parse_math=False)
    axes.set(xlim=(-0.01, 1.01), ylim=(longest - 0.5, -1.05))


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
    """Shape that leaves a layer: from its tensors, else computed from the shape it was built for, else unknown."""
    try:
        return layer.output.shape if not isinstance(layer.output, list | tuple) else [t.shape for t in layer.output]
    except (AttributeError, ValueError):
        pass
    shape = (layer.get_build_config() or {}).get("input_shape") or input_shape
    try:
        return layer.compute_output_shape(shape)
    except Exception:
        # A layer that can't tell its shape without being called is no reason to have no figure.
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
    """Pairs of layer names along which tensors run, through operations that are no layers."""
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
