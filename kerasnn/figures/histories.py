"""Figures of logged values by epoch."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kerasnn.figures.style import BLUE, ORANGE, line_styles, page, shortened

History = Mapping[str, Sequence[float]]
"""Logged values by epoch."""


def learning_curves(history: History) -> Figure:
    """Every logged value by epoch, a panel for each, on training and validation examples.

    Args:
        history: logged values by epoch, as in the `history` of a `Result` or of a `keras.callbacks.History`.

    Raises:
        ValueError: for a history without values.

    >>> figure = learning_curves({"loss": [0.9, 0.5], "val_loss": [1.0, 0.7], "accuracy": [0.6, 0.8]})
    >>> [axes.get_title() for axes in figure.axes]
    ['loss', 'accuracy']
    """
    names = list(dict.fromkeys(name.removeprefix("val_") for name in history))
    if not names:
        raise ValueError("history must hold at least one logged value, received none")
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure, every = page(0.6 + 3.8 * columns, 3.0 * rows, rows, columns)
    for name, axes in zip(names, every.flat, strict=False):
        draw_curve(axes, {"": history}, name)
    for axes in every.flat[len(names) :]:
        axes.remove()
    return figure


def draw_curve(axes: Axes, histories: Mapping[str, History], name: str) -> None:
    """Draw a logged value of one run or several by epoch, counted from 1, on training and validation examples.

    Args:
        axes: where to draw.
        histories: each run's logged values by epoch.
        name: the value's, without `val_`.
    """
    several = len(histories) > 1
    for (run, history), line in zip(histories.items(), line_styles(len(histories)), strict=True):
        for key, part in ((name, "training"), (f"val_{name}", "validation")):
            if key not in history:
                continue
            color = line["color"] if several else {"training": BLUE, "validation": ORANGE}[part]
            label = f"{shortened(run, 30)}, {part}" if several else part
            epochs = np.arange(1, len(history[key]) + 1)
            dashes = "--" if part == "training" and several else "-"
            axes.plot(epochs, history[key], color=color, linestyle=dashes, linewidth=1.7, label=label)
            if len(epochs) == 1:
                axes.plot(epochs, history[key], "o", color=color)
    label_epochs(axes, name)
    if several or f"val_{name}" in histories[next(iter(histories))]:
        legend(axes)


def label_epochs(axes: Axes, title: str) -> None:
    """Label axes whose horizontal one counts epochs."""
    axes.set(xlabel="epoch", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))


def legend(axes: Axes, fontsize: float = 9, columns: int = 1) -> None:
    """Add a legend whose names are not parsed as mathematics."""
    for text in axes.legend(frameon=False, fontsize=fontsize, ncols=columns).get_texts():
        text.set_parse_math(False)
