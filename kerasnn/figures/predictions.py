"""Figures of examples and predictions: confusion matrix, mistakes, labelled images, predicted against true values."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from kerasnn.figures.style import BLUE, DPI, GREEN, GREY, INK, ORANGE, RED, SHADES, shortened, single_axes

MAX_COUNTS, MAX_NAMES = 20, 40
"""Maximum number of classes of which a confusion matrix shows the counts, and of which its axes show every name."""
MAX_FEATURES = 8
"""Maximum number of features in a table of mistakes."""


def confusion_matrix(matrix: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Counts of true class (row) against predicted class (column), shaded by the share of the row.

    Shade: `sqrt(matrix[i, j] / sum(matrix[i]))`, so that the diagonal shows each class's recall however many examples
    it has, and rare confusions stay visible.
    Counts are written for up to 20 classes; with more there is a scale, and with more than 40 only some names.

    Args:
        matrix: counts, `(classes, classes)`.
        class_names: one name per class.

    Raises:
        ValueError: where the matrix is not square or the names are not one per class.

    Reference: scikit-learn's `ConfusionMatrixDisplay`.

    >>> confusion_matrix([[3, 1], [0, 4]], ["cat", "dog"]).axes[0].get_title()
    '7 of 8 right (87.5%)'
    """
    counts = np.asarray(matrix)
    classes = len(class_names)
    if counts.shape != (classes, classes):
        raise ValueError(f"matrix must have shape ({classes}, {classes}), one row per class; received {counts.shape}")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)

    side = min(max(3.6, 1.8 + 0.46 * classes), 11.0)
    figure, axes = single_axes(side + (1.3 if classes > MAX_COUNTS else 0.4), side)
    image = axes.imshow(shares, cmap=SHADES, norm=PowerNorm(0.5, vmin=0, vmax=1))
    if classes <= MAX_COUNTS:
        text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8 if classes <= 12 else 7}
        for row, column in np.argwhere(counts > 0):
            color = "white" if shares[row, column] > 0.35 else INK
            # The layout ignores it: text inside the axes would only take it time.
            axes.text(column, row, f"{counts[row, column]:,}", color=color, in_layout=False, **text)
    shown = range(0, classes, math.ceil(classes / MAX_NAMES))
    names = [shortened(class_names[index], 16) for index in shown]
    is_long = max(map(len, names), default=0) > 3
    size = 9 if classes <= MAX_COUNTS else 7
    axes.set_xticks(shown, names, rotation=90 if is_long else 0, fontsize=size, parse_math=False)
    axes.set_yticks(shown, names, fontsize=size, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(visible=False)
    total, correct = int(counts.sum()), int(np.trace(counts))
    axes.set_title(f"{correct:,} of {total:,} right" + (f" ({correct / total:.1%})" if total else ""))
    if classes > MAX_COUNTS:
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
    """Misclassified examples, the most confident first: images, or a table of features where the data are no images.

    Args:
        x: inputs, `(examples, ...)`.
        y_true: true classes as integers, `(examples,)`.
        y_predicted: predicted classes as integers, `(examples,)`.
        probabilities: probability of each class, `(examples, classes)`.
        class_names: one name per class.
        image_shape: `(height, width)` or `(height, width, channels)` of one example; None for data that are no images.
        count: maximum number of examples shown.

    Returns:
        The figure, which says so where there is no mistake.

    Raises:
        ValueError: where the examples do not have the image's size.

    >>> from matplotlib.text import Text
    >>> probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> figure = mistakes(np.zeros((2, 4)), [1, 1], [0, 1], probabilities, ["cat", "dog"], image_shape=(2, 2))
    >>> [text.get_text() for text in figure.findobj(Text) if "→" in text.get_text()]
    ['dog\\n→ cat 90%', '1 of 2 wrong (true → predicted)']
    """
    x, y_true, y_predicted, probabilities = map(np.asarray, (x, y_true, y_predicted, probabilities))
    wrong = np.flatnonzero(y_true != y_predicted)
    confidence = probabilities[wrong, y_predicted[wrong]]
    order = np.argsort(-confidence, kind="stable")[:count]
    worst, confidence = wrong[order], confidence[order]
    if not len(worst):
        return _message(f"No mistakes among {len(y_true):,} examples")
    title = f"{len(wrong):,} of {len(y_true):,} wrong"
    if len(worst) < len(wrong):
        title += f", the {len(worst)} most confident"
    true, predicted = ([class_names[label] for label in labels[worst]] for labels in (y_true, y_predicted))
    if image_shape is not None:
        captions = [
            f"{shortened(label, 18)}\n→ {shortened(wrong_label, 13)} {share:.0%}"
            for label, wrong_label, share in zip(true, predicted, confidence, strict=True)
        ]
        return _grid(x[worst], captions, image_shape, title + " (true → predicted)")
    features = x[worst].reshape(len(worst), -1)
    shown = features[:, :MAX_FEATURES]
    headings = ["example", "true", "predicted", "confidence", *(f"x[{index}]" for index in range(shown.shape[1]))]
    rows = [
        [
            f"{index}",
            shortened(label, 16),
            shortened(wrong_label, 16),
            f"{share:.1%}",
            *(f"{each:.3g}" for each in values),
        ]
        for index, label, wrong_label, share, values in zip(worst, true, predicted, confidence, shown, strict=True)
    ]
    if shown.shape < features.shape:
        title += f" (first {MAX_FEATURES} of {features.shape[1]:,} features)"
    return _table(headings, rows, title)


def examples(
    x: ArrayLike, y: ArrayLike, class_names: Sequence[str], image_shape: tuple[int, ...], count: int = 25
) -> Figure:
    """A grid of the first images with their labels.

    Args:
        x: images, `(examples, ...)`, flattened or not.
        y: classes as integers, `(examples,)`.
        class_names: one name per class.
        image_shape: `(height, width)` or `(height, width, channels)` of one image.
        count: maximum number of images shown.

    Raises:
        ValueError: where the examples do not have the image's size.

    >>> figure = examples(np.zeros((2, 8, 8)), [0, 1], ["cat", "dog"], (8, 8))
    """
    x, y = np.asarray(x)[:count], np.asarray(y)[:count]
    return _grid(x, [shortened(class_names[label], 18) for label in y], image_shape, "")


def predicted_against_true(y_true: ArrayLike, y_predicted: ArrayLike) -> Figure:
    """Predicted against true values of a regression; a perfect model's points lie on the diagonal.

    The title gives `R² = 1 - Σ(y - ŷ)² / Σ(y - mean(y))²`, over all outputs together.

    Args:
        y_true: `(examples,)` or `(examples, outputs)`.
        y_predicted: as many values as `y_true`.

    Raises:
        ValueError: where the two differ in their number of values.

    >>> predicted_against_true([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).axes[0].get_title()
    '3 examples, R² = 1.0000'
    """
    y_true, y_predicted = np.asarray(y_true, "float64"), np.asarray(y_predicted, "float64")
    if y_true.size != y_predicted.size:
        raise ValueError(f"y_predicted must have as many values as y_true, {y_true.size}; received {y_predicted.size}")
    y_true = y_true.reshape(len(y_true), -1)
    y_predicted = y_predicted.reshape(y_true.shape)
    figure, axes = single_axes(5, 5)
    several = 1 < y_true.shape[1] <= 8
    finite = np.concatenate([values[np.isfinite(values)] for values in (y_true, y_predicted)])
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle="--")
    for output, color in zip(range(y_true.shape[1]), (BLUE, ORANGE, GREEN, RED) * y_true.shape[1], strict=False):
        label = f"output {output}" if several else None
        axes.scatter(y_true[:, output], y_predicted[:, output], s=9, color=color, alpha=0.5, linewidths=0, label=label)
    if several:
        axes.legend(fontsize=8)
    variation = np.sum((y_true - y_true.mean(axis=0)) ** 2)
    title = f"{len(y_true):,} examples"
    if variation > 0:
        title += f", R² = {1 - np.sum((y_true - y_predicted) ** 2) / variation:.4f}"
    axes.set(xlabel="true value", ylabel="predicted value", title=title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.6g}")
    return figure


def calibration(confidence: ArrayLike, right: ArrayLike, bins: int = 10) -> Figure:
    """How often predictions of each confidence are right; those of a calibrated classifier lie on the diagonal.

    The title gives the expected calibration error, `Σ |accuracy - mean confidence| · share` over the bins.

    Args:
        confidence: probability of the predicted class, in [0, 1], `(examples,)`.
        right: whether the prediction is right, `(examples,)`.
        bins: intervals of equal width.

    Reference: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    >>> calibration([0.9, 0.8, 0.6], [True, True, False]).axes[0].get_xlabel()
    'confidence'
    """
    confidence, right = np.asarray(confidence, "float64"), np.asarray(right, "float64")
    numbers = np.clip((confidence * bins).astype(int), 0, bins - 1)
    counts = np.bincount(numbers, minlength=bins)
    found = counts > 0
    means, accuracies = (
        np.bincount(numbers, values, minlength=bins)[found] / counts[found] for values in (confidence, right)
    )
    error = float(np.sum(np.abs(accuracies - means) * counts[found]) / max(len(confidence), 1))
    figure, axes = single_axes(5, 5)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    axes.bar(means, accuracies, width=0.7 / bins, color=BLUE, alpha=0.4)
    axes.scatter(means, accuracies, s=10 + 200 * counts[found] / max(counts.max(), 1), color=BLUE, linewidths=0)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"{len(confidence):,} examples, expected calibration error {error:.4f}")
    return figure


def _grid(x: NDArray[Any], captions: Sequence[str], image_shape: tuple[int, ...], title: str) -> Figure:
    size = math.prod(x.shape[1:])
    if math.prod(image_shape) != size:
        raise ValueError(f"image_shape must have {size} values, as an example has; received {image_shape}")
    images = x.reshape(len(x), *image_shape).astype("float64")
    if images.shape[-1] == 1 and images.ndim == 4:
        images = images[..., 0]
    # One grey scale for the whole page: an image that is darker than the others stays darker.
    low, high = (np.nanmin(images), np.nanmax(images)) if images.size else (0.0, 1.0)
    images = (images - low) / (high - low) if high > low else np.zeros(images.shape)

    # All images in one pair of axes: one pair for each would take five times as long to draw.
    columns = max(1, math.ceil(math.sqrt(len(images))))
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    top, across, down, side = 0.35 if title else 0.05, 1.5, 1.4 + 0.15 * lines, 1.25
    width, height = max(across * columns, 4.2), top + down * max(1, math.ceil(len(images) / columns))
    figure, axes = _axes_in_inches(width, height)
    margin = (width - across * columns + across - side) / 2
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, columns)
        left, bottom = margin + across * column, top + down * (row + 1) - 0.08
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(left, left + side, bottom, bottom - side))
        middle = left + side / 2
        axes.text(middle, bottom - side - 0.03, caption, ha="center", color=INK, fontsize=8, parse_math=False)
    axes.text(width / 2, 0.2, title, ha="center", va="center", fontsize=11, color=INK)
    return figure


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> Figure:
    # A row is one text in a monospace font: one text for each cell would take ten times as long to draw.
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = ["   ".join(map(str.rjust, row, widths)) for row in (columns, *cells)]
    width, down, top = max(0.067 * len(lines[0]) + 0.4, 5), 0.19, 0.6
    height = top + down * len(lines)
    figure, axes = _axes_in_inches(width, height)
    text: dict[str, Any] = {"ha": "center", "color": INK, "parse_math": False}
    axes.text(width / 2, 0.25, title, fontsize=11, **text)
    for row, line in enumerate(lines):
        weight = "normal" if row else "bold"
        axes.text(width / 2, top + down * row, line, family="monospace", fontsize=8, fontweight=weight, **text)
    axes.plot([0.2, width - 0.2], [top + 0.06] * 2, color="#BBBBBB", linewidth=0.8)
    return figure


def _message(text: str) -> Figure:
    figure, axes = single_axes(5, 1.4)
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=12)
    return figure


def _axes_in_inches(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure whose axes cover it, with inches from its top left corner as units."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure, axes
