"""A study's pictures: heat map, differences with their intervals, learning curves with bands."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kerasnn import figures
from kerasnn.figures.style import BLUE, GREY, INK, ORANGE
from kerasnn.search.space import as_text
from kerasnn.search.trial import short_names
from kerasnn.study.comparison import Cell, level_text
from kerasnn.study.config import StudyConfig
from kerasnn.study.statistics import bands, padded

PANELS = 12
"""Panels of a picture at most; what would be more is left to the table."""


def heat_maps(cells: Sequence[Cell], config: StudyConfig) -> Figure:
    """Mean and half the 95 % interval of every combination: rows the last factor, columns the one before, a panel for
    each combination of the others.

    Args:
        cells: the study's.
        config: the study.
    """
    *outer, row_key = config.factors
    column_key = outer.pop() if outer else None
    rows = config.factors[row_key]
    columns = config.factors[column_key] if column_key else ("",)
    panels = _panels(config, outer)
    found = {as_text(cell.levels): cell for cell in cells}
    means = [cell.score.mean for cell in cells if cell.score]
    # What is better is darker, and a few outliers do not take the whole scale.
    more = config.search.direction == "max"
    low, high = np.quantile(means, [0.1, 1] if more else [0, 0.9]) if means else (0.0, 1.0)
    across = min(len(panels), 3)
    width = max(5.0, 1.7 + 1.05 * len(columns)) * across + 1.0
    figure, every = figures.page(
        width, (1.3 + 0.52 * len(rows)) * math.ceil(len(panels) / across), math.ceil(len(panels) / across), across
    )
    names = dict(zip(config.factors, short_names(list(config.factors)), strict=True))
    for axes in every.flat[len(panels) :]:
        axes.set_axis_off()
    for panel, axes in zip(panels, every.flat, strict=False):
        at = [
            [
                found[as_text({**panel, row_key: row, **({column_key: column} if column_key else {})})]
                for column in columns
            ]
            for row in rows
        ]
        values = np.array([[cell.score.mean if cell.score else np.nan for cell in line] for line in at])
        image = axes.imshow(
            values, cmap="cividis_r" if more else "cividis", vmin=low, vmax=max(high, low + 1e-9), aspect="auto"
        )
        for (row, column), value in np.ndenumerate(values):
            cell = at[row][column]
            half = "" if cell.score is None else f"\n±{(cell.score.high - cell.score.low) / 2:.3f}"
            share = image.norm(value) if np.isfinite(value) else 0
            dark = (share > 0.5) == more
            text = "failed" if cell.score is None else f"{value:.3f}{half}"
            color = "white" if dark and cell.score else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=color)
        axes.set_xticks(range(len(columns)), [level_text(column) for column in columns], parse_math=False)
        axes.set_yticks(range(len(rows)), [level_text(row) for row in rows], parse_math=False)
        axes.set_xlabel(names[column_key] if column_key else "")
        axes.set_ylabel(names[row_key])
        axes.grid(visible=False)
        axes.set_title(_title(panel, names) or f"{config.search.objective_name}, mean ± half the 95 % interval")
    bar = figure.colorbar(image, ax=every, fraction=0.05, pad=0.02)
    bar.set_label(config.search.objective_name, fontsize=10)
    bar.ax.tick_params(labelsize=9)
    return figure


def differences(cells: Sequence[Cell], config: StudyConfig) -> Figure:
    """Every combination against its baseline, seed by seed: mean difference and 95 % interval, a panel for each
    combination of the factors that the baseline leaves open.

    Args:
        cells: the study's.
        config: the study.
    """
    open_keys = [key for key in config.factors if key not in config.reference]
    panels = _panels(config, open_keys)
    names = dict(zip(config.factors, short_names(list(config.factors)), strict=True))
    across = min(len(panels), 5)
    named = list(config.reference)
    rows = math.prod(len(config.factors[key]) for key in named) - 1
    figure, every = figures.page(
        max(6.5, 2.0 + 2.75 * across),
        (1.15 + 0.42 * rows) * math.ceil(len(panels) / across) + 0.5,
        math.ceil(len(panels) / across),
        across,
        sharey=True,
    )
    levels = [
        dict(zip(named, combination, strict=True))
        for combination in itertools.product(*(config.factors[key] for key in named))
    ]
    levels = [each for each in levels if as_text(each) != as_text({key: config.reference[key] for key in named})]
    more = config.search.direction == "max"
    found = {as_text(cell.levels): cell for cell in cells}
    told: list[tuple[Any, float, int, str]] = []
    for axes in every.flat[len(panels) :]:
        axes.set_axis_off()
    for panel, axes in zip(panels, every.flat, strict=False):
        axes.axvline(0, color=GREY, linewidth=1)
        for row, level in enumerate(levels):
            cell = found[as_text({**panel, **level})]
            if cell.comparison is None:
                axes.text(0, row, " failed", va="center", fontsize=8.5, color=INK)
                continue
            mean, low, high = cell.comparison.difference
            sure = low > 0 or high < 0
            color = GREY if not sure else BLUE if (mean > 0) == more else ORANGE
            marker = "o" if not sure else "^" if (mean > 0) == more else "v"
            axes.plot([low, high], [row, row], color=color, linewidth=2)
            axes.plot(mean, row, marker, color=color, markersize=6)
            told.append((axes, mean, row, f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"))
        axes.set_yticks(
            range(len(levels)), [", ".join(map(level_text, level.values())) for level in levels], parse_math=False
        )
        axes.set(ylim=(len(levels) - 0.5, -0.7), title=_title(panel, names))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.12)
    blank = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.4}
    for axes, mean, row, text in told:
        # Towards the middle, so that it stays inside.
        left, right = axes.get_xlim()
        share = (mean - left) / (right - left)
        place = "left" if share < 0.35 else "right" if share > 0.65 else "center"
        axes.text(
            mean, row - 0.17, text.replace("-", "−"), ha=place, fontsize=8, color=INK, in_layout=False, bbox=blank
        )
    reference = ", ".join(map(level_text, config.reference.values()))
    figure.supxlabel(
        f"{config.search.objective_name} against {reference}:\nmean of {config.seeds} seeds and 95 % interval, "
        "▲ better, ▼ worse, ● within chance",
        fontsize=10, color=INK, parse_math=False,
    )  # fmt: skip
    return figure


def learning_curves(cells: Sequence[Cell], config: StudyConfig) -> Figure:
    """The objective by epoch, mean over the seeds and the 95 % interval as a band: a line for each level of the last
    factor, a panel for each combination of the others.

    Args:
        cells: the study's.
        config: the study.
    """
    *outer, line_key = config.factors
    panels = _panels(config, outer)
    names = dict(zip(config.factors, short_names(list(config.factors)), strict=True))
    across = min(len(panels), 5)
    down = math.ceil(len(panels) / across)
    figure, every = figures.page(max(6.0, 0.8 + 2.8 * across), 3.1 * down + 0.9, down, across, sharey=True)
    found = {as_text(cell.levels): cell for cell in cells}
    styles = figures.line_styles(len(config.factors[line_key]))
    for axes in every.flat[len(panels) :]:
        axes.set_axis_off()
    drawn: list[float] = []
    for panel, axes in zip(panels, every.flat, strict=False):
        for level, line in zip(config.factors[line_key], styles, strict=True):
            cell = found[as_text({**panel, line_key: level})]
            if not cell.curves:
                axes.plot([], [], linewidth=1.7, label=level_text(level), **line)
                continue
            low, mean, high = bands(padded(cell.curves))
            epochs = np.arange(1, len(mean) + 1)
            axes.fill_between(epochs, low, high, color=line["color"], alpha=0.18, linewidth=0)
            axes.plot(epochs, mean, linewidth=1.7, label=level_text(level), **line)
            drawn += mean.tolist()
        axes.set(xlabel="epoch", title=_title(panel, names))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if drawn:
        # A curve that shoots away would flatten the others.
        low, high = min(drawn), float(np.quantile(drawn, 0.98))
        pad = 0.06 * (high - low) or 0.1
        every.flat[0].set_ylim(low - pad, high + pad)
    for axes in every[:, 0]:
        axes.set_ylabel(config.search.objective_name)
    handles, labels = every.flat[0].get_legend_handles_labels()
    # An entry takes a tenth of an inch a letter and half an inch for its line.
    columns = max(1, int(figure.get_figwidth() / (0.55 + 0.085 * max(map(len, labels)))))
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(len(labels), columns), frameon=False, fontsize=9.5
    )
    return figure


def _panels(config: StudyConfig, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Combinations of the levels of some factors."""
    every = itertools.product(*(config.factors[key] for key in keys))
    return [dict(zip(keys, combination, strict=True)) for combination in itertools.islice(every, PANELS)]


def _title(panel: dict[str, Any], names: dict[str, str]) -> str:
    title = ", ".join(f"{names[key]} {level_text(level)}" for key, level in panel.items())
    return "\n".join(textwrap.wrap(title, 30, max_lines=3, placeholder=" …"))
