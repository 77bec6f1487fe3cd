"""Figures of runs and searches for a report."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from kerasnn import figures
from kerasnn.figures.histories import History, draw_curve, label_epochs, legend
from kerasnn.figures.style import BLUE, GREY, INK, shortened, single_axes
from kerasnn.search.importance import Importance


def curves(histories: Mapping[str, History], name: str) -> Figure:
    """A logged value by epoch, on training and validation examples.

    Args:
        histories: each run's logged values by epoch.
        name: the value's, without `val_`.
    """
    figure, axes = single_axes(6.4, 3.6)
    draw_curve(axes, histories, name)
    return figure


def rates(histories: Mapping[str, History]) -> Figure:
    """The learning rate of each run at the end of each epoch."""
    figure, ((axes,),) = figures.page(6.4, 3.6)
    for (run, history), line in zip(histories.items(), figures.line_styles(len(histories)), strict=True):
        if "learning_rate" in history:
            values = history["learning_rate"]
            axes.plot(np.arange(1, len(values) + 1), values, linewidth=1.7, label=shortened(run, 30), **line)
    label_epochs(axes, "learning rate")
    axes.set_ylim(bottom=0)
    if len(histories) > 1:
        legend(axes)
    return figure


def by_layer(name: str, values: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Figure:
    """A measurement of each layer by epoch.

    Args:
        name: the measurement's.
        values: steps and values by layer.
    """
    figure, ((axes,),) = figures.page(6.4, 3.6)
    for (layer, (steps, curve)), line in zip(values.items(), figures.line_styles(len(values)), strict=True):
        # Event files of earlier versions count epochs from 0.
        epochs = np.asarray(steps) + (min(steps, default=1) == 0)
        axes.plot(epochs, curve, linewidth=1.6, label=shortened(layer, 30), **line)
    every_value = np.concatenate([np.asarray(curve) for _, curve in values.values()])
    if name.endswith(("dead", "saturated")):
        # A fraction of the layer's units or outputs.
        axes.set_ylim(-0.03, 1.03)
    elif len(every_value) and every_value.min() > 0 and every_value.max() / every_value.min() > 30:
        axes.set_yscale("log")
    label_epochs(axes, name.replace("_", " "))
    legend(axes, fontsize=8.5, columns=math.ceil(len(values) / 6))
    return figure


def importances(importance: Importance) -> Figure:
    """The importance of each hyperparameter, with its standard deviation."""
    keys, values = importance.keys, importance.values
    figure, ((axes,),) = figures.page(6.4, 1.2 + 0.36 * len(keys))
    rows = range(len(keys))
    axes.barh(rows, np.maximum(values, 0), color=BLUE, height=0.62)
    axes.errorbar(values, rows, xerr=importance.std, fmt="none", ecolor=INK, capsize=3, linewidth=1)
    axes.set_yticks(rows, [shortened(key, 38) for key in keys], parse_math=False)
    axes.set(xlabel="drop of R² when shuffled", title="importance", ylim=(len(keys) - 0.4, -0.6))
    axes.axvline(0, color=GREY, linewidth=0.8)
    return figure
