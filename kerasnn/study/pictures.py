"""A study's figures: heat map, differences with their intervals, learning curves with bands."""

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kerasnn import figures
from kerasnn.figures.style import BLUE, GREY, INK, ORANGE
from kerasnn.search.space import canonical_json
from kerasnn.search.table import short_names
from kerasnn.study.comparison import Cell, is_baseline, level_text
from kerasnn.study.config import StudySettings
from kerasnn.study.statistics import Interval, bands, padded

MAX_PANELS = 12
"""Maximum number of panels in a figure; the table shows the others."""


def heat_maps(cells: Sequence[Cell], config: StudySettings) -> Figure:
    """Mean and half the 95 % interval of every combination: rows for the last factor, columns for the one before, a
    panel for each combination of the others."""
    *outer, row_key = config.factors
    column_key = outer.pop() if outer else None
    rows = config.factors[row_key]
    columns = config.factors[column_key] if column_key else ("",)
    panels = _panels(config, outer)
    figure, every = _page(
        panels,
        3,
        lambda across, down: (max(5.0, 1.7 + 1.05 * len(columns)) * across + 1.0, (1.3 + 0.52 * len(rows)) * down),
    )
    by_levels = {canonical_json(cell.levels): cell for cell in cells}
    means = [cell.score.mean for cell in cells if cell.score]
    more_is_better = config.search.direction == "max"
    # Better is darker, and a few outliers do not take the whole scale.
    low, high = np.quantile(means, [0.1, 1] if more_is_better else [0, 0.9]) if means else (0.0, 1.0)
    names = _names(config)
    for panel, axes in zip(panels, every.flat, strict=False):
        levels = [
            [{**panel, row_key: row, **({column_key: column} if column_key else {})} for column in columns]
            for row in rows
        ]
        grid = [[by_levels[canonical_json(each)] for each in line] for line in levels]
        image = _heat_map(axes, grid, (low, max(high, low + 1e-9)), more_is_better)
        axes.set_xticks(range(len(columns)), [level_text(column) for column in columns], parse_math=False)
        axes.set_yticks(range(len(rows)), [level_text(row) for row in rows], parse_math=False)
        axes.set(xlabel=names[column_key] if column_key else "", ylabel=names[row_key])
        axes.set_title(_title(panel, names) or f"{config.search.objective_name}, mean ± half the 95 % interval")
    bar = figure.colorbar(image, ax=every, fraction=0.05, pad=0.02)
    bar.set_label(config.search.objective_name, fontsize=10)
    bar.ax.tick_params(labelsize=9)
    return figure


def _heat_map(
    axes: Axes, grid: Sequence[Sequence[Cell]], limits: tuple[float, float], more_is_better: bool
) -> AxesImage:
    values = np.array([[cell.score.mean if cell.score else np.nan for cell in line] for line in grid])
    low, high = limits
    image = axes.imshow(values, cmap="cividis_r" if more_is_better else "cividis", vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        score = grid[row][column].score
        text, color = "failed", INK
        if score is not None:
            text = f"{value:.3f}\n±{(score.high - score.low) / 2:.3f}"
            is_dark = (value > (low + high) / 2) == more_is_better
            color = "white" if is_dark else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=color)
    axes.grid(visible=False)
    return image


def differences(cells: Sequence[Cell], config: StudySettings) -> Figure:
    """Every combination against its baseline, seed by seed: mean difference and 95 % interval, a panel for each
    combination of the factors that the baseline does not name."""
    panels = _panels(config, [key for key in config.factors if key not in config.reference])
    levels = [each for each in _combinations(config, list(config.reference)) if not is_baseline(each, config)]
    figure, every = _page(
        panels,
        5,
        lambda across, down: (max(6.5, 2.0 + 2.75 * across), (1.15 + 0.42 * len(levels)) * down + 0.5),
        sharey=True,
    )
    by_levels = {canonical_json(cell.levels): cell for cell in cells}
    names, more_is_better = _names(config), config.search.direction == "max"
    labels: list[tuple[Axes, int, Interval]] = []
    for panel, axes in zip(panels, every.flat, strict=False):
        axes.axvline(0, color=GREY, linewidth=1)
        for row, level in enumerate(levels):
            comparison = by_levels[canonical_json({**panel, **level})].comparison
            if comparison is None:
                axes.text(0, row, " failed", va="center", fontsize=8.5, color=INK)
                continue
            _draw_difference(axes, row, comparison.difference, more_is_better)
            labels.append((axes, row, comparison.difference))
        axes.set_yticks(
            range(len(levels)), [", ".join(map(level_text, level.values())) for level in levels], parse_math=False
        )
        axes.set(ylim=(len(levels) - 0.5, -0.7), title=_title(panel, names))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.12)
    # Once all is drawn: a label's alignment depends on the limits of its axes, which the panels share.
    for axes, row, difference in labels:
        _label_difference(axes, row, difference)
    reference = ", ".join(map(level_text, config.reference.values()))
    figure.supxlabel(
        f"{config.search.objective_name} against {reference}:\nmean of {config.seeds} seeds and 95 % interval, "
        "▲ better, ▼ worse, ● within chance",
        fontsize=10, color=INK, parse_math=False,
    )  # fmt: skip
    return figure


def _draw_difference(axes: Axes, row: int, difference: Interval, more_is_better: bool) -> None:
    mean, low, high = difference
    if not (low > 0 or high < 0):
        color, marker = GREY, "o"
    else:
        color, marker = (BLUE, "^") if (mean > 0) == more_is_better else (ORANGE, "v")
    axes.plot([low, high], [row, row], color=color, linewidth=2)
    axes.plot(mean, row, marker, color=color, markersize=6)


def _label_difference(axes: Axes, row: int, difference: Interval) -> None:
    mean, low, high = difference
    left, right = axes.get_xlim()
    # Aligned towards the middle, so that the label stays inside.
    position = (mean - left) / (right - left)
    alignment = "left" if position < 0.35 else "right" if position > 0.65 else "center"
    text = f"{mean:+.3f} ({low:+.3f} to {high:+.3f})".replace("-", "−")
    background = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.4}
    axes.text(mean, row - 0.17, text, ha=alignment, fontsize=8, color=INK, in_layout=False, bbox=background)


def learning_curves(cells: Sequence[Cell], config: StudySettings) -> Figure:
    """The objective by epoch, mean over the seeds and the 95 % interval as a band: a line for each level of the last
    factor, a panel for each combination of the others."""
    *outer, line_key = config.factors
    panels, names = _panels(config, outer), _names(config)
    figure, every = _page(panels, 5, lambda across, down: (max(6.0, 0.8 + 2.8 * across), 3.1 * down + 0.9), sharey=True)
    by_levels = {canonical_json(cell.levels): cell for cell in cells}
    styles = figures.line_styles(len(config.factors[line_key]))
    means: list[float] = []
    for panel, axes in zip(panels, every.flat, strict=False):
        for level, line in zip(config.factors[line_key], styles, strict=True):
            curves = by_levels[canonical_json({**panel, line_key: level})].curves
            low, mean, high = bands(padded(curves)) if curves else np.empty((3, 0))
            epochs = np.arange(1, len(mean) + 1)
            if curves:
                axes.fill_between(epochs, low, high, color=line["color"], alpha=0.18, linewidth=0)
            axes.plot(epochs, mean, linewidth=1.7, label=level_text(level), **line)
            means += mean.tolist()
        axes.set(xlabel="epoch", title=_title(panel, names))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if means:
        # A curve that diverges would flatten the others.
        bottom, top = min(means), float(np.quantile(means, 0.98))
        margin = 0.06 * (top - bottom) or 0.1
        every.flat[0].set_ylim(bottom - margin, top + margin)
    for axes in every[:, 0]:
        axes.set_ylabel(config.search.objective_name)
    labels = [level_text(level) for level in config.factors[line_key]]
    # An entry needs about 0.085 inches a letter and half an inch for its line.
    columns = max(1, int(figure.get_figwidth() / (0.55 + 0.085 * max(map(len, labels)))))
    figures.legend_above(figure, every.flat[0], min(len(labels), columns), fontsize=9.5)
    return figure


def _page(
    panels: Sequence[Any], max_across: int, size: Callable[[int, int], tuple[float, float]], **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """A page with axes for each panel; `size` is its size in inches, given the number of panels across and down."""
    across = min(len(panels), max_across)
    down = math.ceil(len(panels) / across)
    figure, every = figures.page(*size(across, down), down, across, **options)
    for axes in every.flat[len(panels) :]:
        axes.set_axis_off()
    return figure, every


def _combinations(config: StudySettings, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of the levels of some factors."""
    every = itertools.product(*(config.factors[key] for key in keys))
    return [dict(zip(keys, combination, strict=True)) for combination in every]


def _panels(config: StudySettings, keys: Sequence[str]) -> list[dict[str, Any]]:
    return _combinations(config, keys)[:MAX_PANELS]


def _names(config: StudySettings) -> dict[str, str]:
    return dict(zip(config.factors, short_names(config.factors), strict=True))


def _title(panel: dict[str, Any], names: dict[str, str]) -> str:
    title = ", ".join(f"{names[key]} {level_text(level)}" for key, level in panel.items())
    return "\n".join(textwrap.wrap(title, 30, max_lines=3, placeholder=" …"))
