"""Figures of data and predictions: confusion matrix, mistakes, examples, predicted against true values."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from kerasnn.figures.style import BLUE, COUNTED, DPI, GREEN, GREY, INK, NAMED, ORANGE, RED, SHADES, _cut, _figure


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
