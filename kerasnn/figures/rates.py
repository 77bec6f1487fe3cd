"""Figures of learning rates."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from kerasnn.config.schema import one_of
from kerasnn.figures.style import BLUE, GREEN, GREY, ORANGE, RED, single_axes


def learning_rate(values: ArrayLike, per: Literal["epoch", "update"] = "epoch") -> Figure:
    """The learning rate by epoch or by update, counted from 1.

    Args:
        values: one rate per epoch or per update, `(steps,)`.
        per: whether a value belongs to an epoch or an update.

    Raises:
        ValueError: for another `per`.

    >>> figure = learning_rate([0.1, 0.05, 0.025])
    >>> figure.axes[0].lines[0].get_xdata().tolist()
    [1, 2, 3]
    """
    if per not in ("epoch", "update"):
        raise ValueError(one_of("per", per, ("epoch", "update")))
    values = np.asarray(values, "float64")
    figure, axes = single_axes(6.4, 3.2)
    steps, marker = np.arange(1, len(values) + 1), "o" if len(values) <= 60 else None
    axes.plot(steps, values, color=BLUE, linewidth=1.6, marker=marker, markersize=3.5)
    axes.set(xlabel=per, ylabel="learning rate")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def range_test(rates: ArrayLike, losses: ArrayLike, smoothed: ArrayLike, marks: Mapping[str, float]) -> Figure:
    """The loss of a learning rate range test, against the rate.

    Args:
        rates: the rate of each update, `(updates,)`.
        losses: the loss of each update's batch, `(updates,)`.
        smoothed: their running mean, `(updates,)`.
        marks: rates to mark, by name; the first is the suggestion, which has a line and its value above it.

    Reference: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017.

    >>> figure = range_test([0.01, 0.1, 1.0], [2.0, 1.0, 3.0], [2.0, 1.5, 2.0], {"suggestion": 0.1})
    >>> figure.axes[0].get_title()
    'suggested learning rate 0.1'
    """
    rates, losses, smoothed = (np.asarray(values, "float64") for values in (rates, losses, smoothed))
    figure, axes = single_axes(6.4, 3.8)
    axes.plot(rates, losses, color=GREY, linewidth=0.8, alpha=0.5, label="batch")
    axes.plot(rates, smoothed, color=BLUE, linewidth=1.8, label="smoothed")
    for (name, rate), color, marker in zip(marks.items(), (RED, GREEN, ORANGE), "osD", strict=False):
        height = np.interp(np.log(rate), np.log(rates), smoothed)
        axes.plot(rate, height, marker, color=color, markersize=7, label=f"{name}: {rate:.1e}")
    for rate in list(marks.values())[:1]:
        axes.axvline(rate, color=RED, linewidth=1.2, linestyle="--", zorder=1)
        axes.set_title(f"suggested learning rate {rate:.2g}", color=RED)
    # Up to the minimum only: the divergence after it would flatten the rest.
    low, high = smoothed.min(), smoothed[: max(1, int(smoothed.argmin()) + 1)].max()
    margin = 0.25 * (high - low) or 1.0
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - margin, high + margin))
    axes.legend(fontsize=9, frameon=False, loc="lower left")
    return figure
