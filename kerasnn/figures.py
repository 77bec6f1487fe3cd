"""Figures of data, networks and their mistakes, each one a matplotlib `Figure` that touches no global state."""

import io
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from kerasnn.files import replacing
from kerasnn.schema import one_of, short

# Okabe and Ito's palette keeps its hues apart for every common kind of colour blindness; so do Blues and cividis.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6E6E6E"
PURPLE, SKY, INK = "#CC79A7", "#56B4E9", "#222222"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, INK, GREY)
"""For lines that are told apart; past the palette they are dashed too, see `line_styles`."""
SHADES = "Blues"
DPI = 110
SUFFIXES = (".png", ".svg", ".pdf")
# A matrix of this many classes still has room for its counts, and an axis for this many names.
COUNTED, NAMED = 20, 40


def confusion_matrix(matrix: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Counts of true class (row) against predicted class (column), shaded by the share of the row.

    Shade: `sqrt(matrix[i, j] / sum(matrix[i]))`, so that the diagonal shows each class's recall however many examples
    it has, and rare confusions are still seen.
    Up to 20 classes the counts are written, past that there is a scale; past 40 only some names are written.

    Args:
        matrix: counts, `(classes, classes)`.
        class_names: one name per class.

    Returns:
        The figure.

    Raises:
        ValueError: where the matrix is not square or the names are not one per class.

    Reference: scikit-learn's `ConfusionMatrixDisplay`.
    """
    counts = np.asarray(matrix)
    classes = len(class_names)
    if counts.shape != (classes, classes):
        raise ValueError(f"matrix must have shape ({classes}, {classes}), one row per class; received {counts.shape}")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)

    side = min(max(3.6, 1.8 + 0.46 * classes), 11.0)
    figure, axes = _figure(side + (1.3 if classes > COUNTED else 0.4), side)
    image = axes.imshow(shares, cmap=SHADES, norm=PowerNorm(0.5, vmin=0, vmax=1))
    if classes <= COUNTED:
        text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8 if classes <= 12 else 7}
        for row, column in np.argwhere(counts > 0):
            color = "white" if shares[row, column] > 0.35 else INK
            # Left out of the layout, to which text inside the axes only adds time.
            axes.text(column, row, f"{counts[row, column]:,}", color=color, in_layout=False, **text)
    shown = range(0, classes, math.ceil(classes / NAMED))
    names = [_cut(class_names[index], 16) for index in shown]
    upright = max(map(len, names), default=0) > 3
    size = 9 if classes <= COUNTED else 7
    axes.set_xticks(shown, names, rotation=90 if upright else 0, fontsize=size, parse_math=False)
    axes.set_yticks(shown, names, fontsize=size, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(visible=False)
    total, right = int(counts.sum()), int(np.trace(counts))
    axes.set_title(f"{right:,} of {total:,} right" + (f" ({right / total:.1%})" if total else ""))
    if classes > COUNTED:
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format="{x:.0%}")
        bar.set_label("share of the true class", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    return figure


def mistakes(
    x: ArrayLike,
    y_true: ArrayLike,
    y_predicted: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    image_shape: tuple[int, ...] | None = None,
    count: int = 25,
) -> Figure:
    """A page of misclassified examples, the most confident first: pictures, or a table where the data are none.

    Args:
        x: inputs, `(examples, ...)`.
        y_true: true classes as integers, `(examples,)`.
        y_predicted: predicted classes as integers, `(examples,)`.
        probabilities: probability of each class, `(examples, classes)`.
        class_names: one name per class.
        image_shape: `(height, width)` or `(height, width, channels)` of one example; None for data that are no images.
        count: the most examples to show.

    Returns:
        The figure; it says so where there is no mistake.

    Raises:
        ValueError: where the examples do not have the image's size.
    """
    x, y_true, y_predicted, probabilities = map(np.asarray, (x, y_true, y_predicted, probabilities))
    wrong = np.flatnonzero(y_true != y_predicted)
    confidence = probabilities[wrong, y_predicted[wrong]]
    order = np.argsort(-confidence, kind="stable")[:count]
    worst, confidence = wrong[order], confidence[order]
    title = f"{len(wrong):,} of {len(y_true):,} wrong"
    if not len(worst):
        figure, axes = _figure(5, 1.4)
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"No mistakes among {len(y_true):,} examples", ha="center", va="center", fontsize=12)
        return figure
    if len(worst) < len(wrong):
        title += f", the {len(worst)} most confident"

    if image_shape is not None:
        captions = [
            f"{_cut(class_names[y_true[index]], 18)}\n→ {_cut(class_names[y_predicted[index]], 13)} {share:.0%}"
            for index, share in zip(worst, confidence, strict=True)
        ]
        return _grid(x[worst], captions, image_shape, title + " (true → predicted)")

    features = x[worst].reshape(len(worst), -1)
    shown = min(features.shape[1], 8)
    columns = ["example", "true", "predicted", "confidence", *(f"x[{index}]" for index in range(shown))]
    cells = [
        [
            f"{index}",
            _cut(class_names[y_true[index]], 16),
            _cut(class_names[y_predicted[index]], 16),
            f"{share:.1%}",
            *(f"{value:.3g}" for value in row[:shown]),
        ]
        for index, share, row in zip(worst, confidence, features, strict=True)
    ]
    if shown < features.shape[1]:
        title += f" (first {shown} of {features.shape[1]:,} features)"
    return _table(columns, cells, title)


def examples(
    x: ArrayLike, y: ArrayLike, class_names: Sequence[str], image_shape: tuple[int, ...], count: int = 25
) -> Figure:
    """A grid of the first images with their labels.

    Args:
        x: images, `(examples, ...)`, flattened or not.
        y: classes as integers, `(examples,)`.
        class_names: one name per class.
        image_shape: `(height, width)` or `(height, width, channels)` of one image.
        count: the most images to show.

    Returns:
        The figure.

    Raises:
        ValueError: where the examples do not have the image's size.
    """
    x, y = np.asarray(x)[:count], np.asarray(y)[:count]
    return _grid(x, [_cut(class_names[label], 18) for label in y], image_shape, "")


def predicted_against_true(y_true: ArrayLike, y_predicted: ArrayLike) -> Figure:
    """Predicted against true values of a regression; a perfect model's points lie on the diagonal.

    The title gives `R² = 1 - Σ(y - ŷ)² / Σ(y - mean(y))²`, over all outputs together.

    Args:
        y_true: `(examples,)` or `(examples, outputs)`.
        y_predicted: as many values as `y_true`.

    Returns:
        The figure.

    Raises:
        ValueError: where the two differ in their number of values.
    """
    y_true, y_predicted = np.asarray(y_true, "float64"), np.asarray(y_predicted, "float64")
    if y_true.size != y_predicted.size:
        raise ValueError(f"y_predicted must have as many values as y_true, {y_true.size}; received {y_predicted.size}")
    y_true = y_true.reshape(len(y_true), -1)
    y_predicted = y_predicted.reshape(y_true.shape)
    figure, axes = _figure(5, 5)
    finite = np.concatenate([values[np.isfinite(values)] for values in (y_true, y_predicted)])
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle="--")
    for output, color in zip(range(y_true.shape[1]), (BLUE, ORANGE, GREEN, RED) * y_true.shape[1], strict=False):
        label = f"output {output}" if 1 < y_true.shape[1] <= 8 else None
        axes.scatter(y_true[:, output], y_predicted[:, output], s=9, color=color, alpha=0.5, linewidths=0, label=label)
    if 1 < y_true.shape[1] <= 8:
        axes.legend(fontsize=8)
    spread = np.sum((y_true - y_true.mean(axis=0)) ** 2)
    title = f"{len(y_true):,} examples"
    if spread > 0:
        title += f", R² = {1 - np.sum((y_true - y_predicted) ** 2) / spread:.4f}"
    axes.set(xlabel="true value", ylabel="predicted value", title=title)
    return figure


def learning_rate(values: ArrayLike, per: Literal["epoch", "update"] = "epoch") -> Figure:
    """The learning rate's course.

    Args:
        values: one rate per epoch or per update, `(steps,)`.
        per: what one value stands for.

    Returns:
        The figure.

    Raises:
        ValueError: where `per` is neither.
    """
    if per not in ("epoch", "update"):
        raise ValueError(one_of("per", per, ("epoch", "update")))
    values = np.asarray(values, "float64")
    figure, axes = _figure(6.4, 3.2)
    axes.plot(values, color=BLUE, linewidth=1.6, marker="o" if len(values) <= 60 else None, markersize=3.5)
    axes.set(xlabel=per, ylabel="learning rate")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def range_test(rates: ArrayLike, losses: ArrayLike, smoothed: ArrayLike, marks: Mapping[str, float]) -> Figure:
    """The loss of a learning-rate range test, against the rate.

    Args:
        rates: the rate of each update, `(updates,)`.
        losses: the loss of each update's batch, `(updates,)`.
        smoothed: their running mean, `(updates,)`.
        marks: rates to mark, by name.

    Returns:
        The figure.

    Reference: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017.
    """
    rates, losses, smoothed = (np.asarray(values, "float64") for values in (rates, losses, smoothed))
    figure, axes = _figure(6.4, 3.8)
    axes.plot(rates, losses, color=GREY, linewidth=0.8, alpha=0.5, label="batch")
    axes.plot(rates, smoothed, color=BLUE, linewidth=1.8, label="smoothed")
    for (name, rate), color, marker in zip(marks.items(), (RED, GREEN, ORANGE), "osD", strict=False):
        height = np.interp(np.log(rate), np.log(rates), smoothed)
        axes.plot(rate, height, marker, color=color, markersize=7, label=f"{name}: {rate:.1e}")
    # The divergence at the end would leave no room for what matters.
    low, high = smoothed.min(), smoothed[: max(1, int(smoothed.argmin()) + 1)].max()
    margin = 0.25 * (high - low) or 1.0
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - margin, high + margin))
    axes.legend(fontsize=9, frameon=False, loc="lower left")
    return figure


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


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure so that a reader never sees half of it: a temporary file, then a rename.

    Args:
        figure: what to write.
        path: file to write; its suffix, `.png`, `.svg` or `.pdf`, is the format.

    Returns:
        The path.

    Raises:
        ValueError: for another suffix.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(one_of("suffix of a figure", path.suffix, SUFFIXES))
    with replacing(path) as temporary:
        _write(figure, temporary, path.suffix[1:])
    return path


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    _write(figure, buffer, "png")
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """The figure as the bytes of an SVG file."""
    buffer = io.BytesIO()
    _write(figure, buffer, "svg")
    return buffer.getvalue()


def _write(figure: Figure, file: Any, kind: str) -> None:
    if kind == "png":
        # Figure.savefig draws everything twice.
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(file, "png", compress_level=2)
        return
    # Without its date an SVG of the same figure is the same file.
    with matplotlib.rc_context({"svg.hashsalt": "kerasnn"}):
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)


def page(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, NDArray[Any]]:
    """A white page with axes in the shared style: nothing cut, light grid, no box around the data.

    Args:
        width, height: inches.
        rows, columns: axes on the page.
        options: of `Figure.subplots`, as `sharex`.

    Returns:
        The figure and its axes, `(rows, columns)`.
    """
    figure = Figure(
        figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.09), facecolor="white"
    )
    every = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in every.flat:
        style(axes)
    return figure, every


def style(axes: Axes) -> None:
    """Give axes the shared style."""
    axes.title.set(fontsize=11, color=INK)
    axes.xaxis.label.set(fontsize=10, color=INK)
    axes.yaxis.label.set(fontsize=10, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color="#E4E4E4", linewidth=0.8)


def line_styles(count: int) -> list[dict[str, Any]]:
    """Colour and dashes of some lines, apart from each other for every common kind of colour blindness."""
    dashes = ("-", "--", ":", "-.")
    return [
        {"color": PALETTE[index % len(PALETTE)], "linestyle": dashes[index // len(PALETTE) % len(dashes)]}
        for index in range(count)
    ]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = page(width, height)
    return figure, axes[0, 0]


def _cut(name: object, limit: int) -> str:
    text = " ".join(str(name).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _grid(x: NDArray[Any], captions: Sequence[str], image_shape: tuple[int, ...], title: str) -> Figure:
    size = math.prod(x.shape[1:])
    if math.prod(image_shape) != size:
        raise ValueError(f"image_shape must have {size} values, as an example has; received {image_shape}")
    images = x.reshape(len(x), *image_shape).astype("float64")
    if images.shape[-1] == 1 and images.ndim == 4:
        images = images[..., 0]
    # One scale for the whole page: an image darker than the others stays so.
    low, high = (np.nanmin(images), np.nanmax(images)) if images.size else (0.0, 1.0)
    images = (images - low) / (high - low) if high > low else np.zeros(images.shape)

    # All in one axes whose unit is an inch: twenty-five axes would take five times as long to draw.
    columns = max(1, math.ceil(math.sqrt(len(images))))
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    top, across, down, side = 0.35 if title else 0.05, 1.5, 1.4 + 0.15 * lines, 1.25
    width, height = max(across * columns, 4.2), top + down * max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    margin = (width - across * columns + across - side) / 2
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, columns)
        left, bottom = margin + across * column, top + down * (row + 1) - 0.08
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(left, left + side, bottom, bottom - side))
        middle = left + side / 2
        axes.text(middle, bottom - side - 0.03, caption, ha="center", color=INK, fontsize=8, parse_math=False)
    axes.text(width / 2, 0.2, title, ha="center", va="center", fontsize=11, color=INK)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> Figure:
    # As with _grid the unit is an inch. A row is one text of even letters: a cell each would take ten times as long.
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = ["   ".join(map(str.rjust, row, widths)) for row in (columns, *cells)]
    width, down, top = max(0.067 * len(lines[0]) + 0.4, 5), 0.19, 0.6
    height = top + down * len(lines)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    text: dict[str, Any] = {"ha": "center", "color": INK, "parse_math": False}
    axes.text(width / 2, 0.25, title, fontsize=11, **text)
    for row, line in enumerate(lines):
        weight = "normal" if row else "bold"
        axes.text(width / 2, top + down * row, line, family="monospace", fontsize=8, fontweight=weight, **text)
    axes.plot([0.2, width - 0.2], [top + 0.06] * 2, color="#BBBBBB", linewidth=0.8)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


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
