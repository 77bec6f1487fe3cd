"""Figures of runs and searches for a report."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kerasnn import figures
from kerasnn.figures.style import BLUE, GREY, INK, ORANGE, shortened
from kerasnn.search.config import SearchSettings
from kerasnn.search.importance import Importance
from kerasnn.search.space import Choice, Range, canonical_json
from kerasnn.search.table import cell_text, short_names
from kerasnn.search.trial import Trial, best_of

History = Mapping[str, Sequence[float]]
"""Logged values by epoch."""


def curves(histories: Mapping[str, History], name: str) -> Figure:
    """A logged value by epoch, on training and validation examples.

    Args:
        histories: each run's logged values by epoch.
        name: the value's, without `val_`.
    """
    several = len(histories) > 1
    figure, ((axes,),) = figures.page(6.4, 3.6)
    styles = figures.line_styles(len(histories))
    for (run, history), line in zip(histories.items(), styles, strict=True):
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
    _label(axes, name)
    _legend(axes)
    return figure


def rates(histories: Mapping[str, History]) -> Figure:
    """The learning rate of each run at the end of each epoch."""
    figure, ((axes,),) = figures.page(6.4, 3.6)
    for (run, history), line in zip(histories.items(), figures.line_styles(len(histories)), strict=True):
        if "learning_rate" in history:
            values = history["learning_rate"]
            axes.plot(np.arange(1, len(values) + 1), values, linewidth=1.7, label=shortened(run, 30), **line)
    _label(axes, "learning rate")
    axes.set_ylim(bottom=0)
    if len(histories) > 1:
        _legend(axes)
    return figure


def by_layer(name: str, values: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Figure:
    """A measurement of each layer by epoch.

    Args:
        name: the measurement's.
        values: steps and values by layer.
    """
    figure, ((axes,),) = figures.page(6.4, 3.6)
    for (layer, (steps, curve)), line in zip(values.items(), figures.line_styles(len(values)), strict=True):
        axes.plot(np.asarray(steps) + 1, curve, linewidth=1.6, label=shortened(layer, 30), **line)
    every_value = np.concatenate([np.asarray(curve) for _, curve in values.values()])
    if name.endswith(("dead", "saturated")):
        # A fraction of the layer's units or outputs.
        axes.set_ylim(-0.03, 1.03)
    elif len(every_value) and every_value.min() > 0 and every_value.max() / every_value.min() > 30:
        axes.set_yscale("log")
    _label(axes, name.replace("_", " "))
    _legend(axes, fontsize=8.5, ncols=math.ceil(len(values) / 6))
    return figure


def _label(axes: Axes, title: str) -> None:
    axes.set(xlabel="epoch", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend(axes: Axes, fontsize: float = 9, ncols: int = 1) -> None:
    """A legend whose names are not parsed as mathematics."""
    for text in axes.legend(frameon=False, fontsize=fontsize, ncols=ncols).get_texts():
        text.set_parse_math(False)


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


def by_trial(trials: Sequence[Trial], config: SearchSettings) -> Figure:
    """The score of each trial that has one, in the order of the proposals, and the best score so far."""
    figure, ((axes,),) = figures.page(6.4, 3.6)
    scored = sorted((trial for trial in trials if trial.score is not None), key=lambda trial: trial.number)
    numbers, scores = [trial.number for trial in scored], _scores(scored)
    best = (np.minimum if config.direction == "min" else np.maximum).accumulate(scores)
    axes.plot(numbers, scores, "o", color=BLUE, markersize=4, alpha=0.6, label="trial")
    axes.step(numbers, best, where="post", color=ORANGE, linewidth=1.8, label="best so far")
    if _needs_log_scale(scores):
        axes.set_yscale("log")
    axes.set(xlabel="trial", ylabel=config.objective_name, title="scores")
    axes.legend(frameon=False, fontsize=9)
    return figure


def pareto_front(trials: Sequence[Trial], config: SearchSettings) -> Figure:
    """Trials by each pair of objectives, those marked that no other one beats in all objectives.

    Args:
        trials: the search's; those without a score are left out.
        config: the search, with several objectives.
    """
    front = {trial.number for trial in best_of(trials, config)}
    scored = [trial for trial in trials if trial.score is not None]
    values = np.array([trial.objectives(config) for trial in scored])
    on_front = np.array([trial.number in front for trial in scored])
    pairs = list(itertools.combinations(range(len(config.objectives)), 2))
    columns = min(len(pairs), 3)
    figure, grid = figures.page(
        5.4 * columns, 4.0 * math.ceil(len(pairs) / columns), math.ceil(len(pairs) / columns), columns
    )
    every = [axes for row in grid for axes in row]
    for axes, (x, y) in zip(every, pairs, strict=False):
        axes.plot(*values[~on_front][:, [x, y]].T, "o", color=GREY, markersize=4, alpha=0.6, label="trial")
        best = values[on_front][:, [x, y]]
        best = best[np.lexsort((best[:, 1], best[:, 0]))]
        if len(pairs) == 1:
            # Between two points of the front the worse value of each can be had.
            where = "post" if config.objectives[0][1] == "min" else "pre"
            axes.step(*best.T, where=where, color=ORANGE, linewidth=1.3)
        axes.plot(*best.T, "o", color=ORANGE, markersize=6, label="on the Pareto front")
        for index, set_scale, set_label in (
            (x, axes.set_xscale, axes.set_xlabel),
            (y, axes.set_yscale, axes.set_ylabel),
        ):
            name, direction = config.objectives[index]
            set_label(f"{name} ({'lower' if direction == 'min' else 'higher'} is better)", parse_math=False)
            if _needs_log_scale(values[:, index]):
                set_scale("log")
    for axes in every[len(pairs) :]:
        axes.set_axis_off()
    every[0].legend(frameon=False, fontsize=9)
    return figure


def parallel_coordinates(trials: Sequence[Trial], config: SearchSettings) -> Figure:
    """Every trial as a line through its values to its score: the darker, the better.

    Args:
        trials: the search's, the best first; those without a score are left out.
        config: the search.
    """
    scored = [trial for trial in trials if trial.score is not None]
    lines = np.full((len(scored), len(config.space) + 1), np.nan)
    draw = np.random.default_rng(0)
    ticks: list[dict[float, str]] = []
    for column, (key, parameter) in enumerate(config.space.items()):
        position, texts = _coordinate(parameter)
        ticks.append(texts)
        lines[:, column] = [position(trial.values[key]) if key in trial.values else np.nan for trial in scored]
        if isinstance(parameter, Choice):
            # Spread out a little, so that lines through one choice do not coincide.
            lines[:, column] += draw.uniform(-0.12, 0.12, len(scored)) * min(1 / max(len(texts) - 1, 1), 0.3)
    scores = _scores(scored)
    scaled = np.log(scores) if _needs_log_scale(scores) else scores
    lines[:, -1] = (scaled - scaled.min()) / (np.ptp(scaled) or 1.0)
    ticks.append({0.0: f"{scores.min():.4g}", 1.0: f"{scores.max():.4g}"})

    figure, ((axes,),) = figures.page(max(8.0, 1.75 * len(ticks)), 4.6)
    axes.set_axis_off()
    colors = matplotlib.colormaps["cividis_r"]
    # Colours follow the rank: by score, a few bad trials would leave all others one colour. The best are drawn last.
    for rank in range(len(scored) - 1, -1, -1):
        quality = 1 - rank / max(len(scored) - 1, 1)
        axes.plot(
            range(len(ticks)), lines[rank], color=colors(0.1 + 0.9 * quality), alpha=0.35 + 0.5 * quality,
            linewidth=2.6 if rank == 0 else 1.2, solid_joinstyle="round",
        )  # fmt: skip
    names = [*short_names(config.space), config.objective_name]
    for column, (name, texts) in enumerate(zip(names, ticks, strict=True)):
        _draw_coordinate(axes, column, name, texts)
    axes.set(xlim=(-0.35, len(ticks) - 0.45), ylim=(-0.08, 1.18))
    return figure


def _coordinate(parameter: Choice | Range) -> tuple[Callable[[Any], float], dict[float, str]]:
    """The position of a value from 0 to 1, and the texts of the ticks by position."""
    if isinstance(parameter, Range):
        scale = math.log if parameter.sampling == "log" else float
        low, high = scale(parameter.min), scale(parameter.max)
        return lambda value: (scale(value) - low) / (high - low), {0.0: f"{parameter.min:g}", 1.0: f"{parameter.max:g}"}
    choices = [canonical_json(choice) for choice in parameter.choices]
    positions = [index / (len(choices) - 1) for index in range(len(choices))] if len(choices) > 1 else [0.5]
    texts = [shortened(cell_text(choice), 16) for choice in parameter.choices]
    return lambda value: positions[choices.index(canonical_json(value))], dict(zip(positions, texts, strict=True))


def _draw_coordinate(axes: Axes, column: int, name: str, ticks: Mapping[float, str]) -> None:
    axes.plot([column, column], [0, 1], color=INK, linewidth=1, zorder=3)
    axes.text(column, 1.1, shortened(name, 20), ha="center", fontsize=10, color=INK, parse_math=False)
    background = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
    for position, text in ticks.items():
        axes.plot([column - 0.02, column + 0.02], [position, position], color=INK, linewidth=1, zorder=3)
        axes.text(
            column + 0.04, position, text, va="center", fontsize=8.5, color=INK, bbox=background, zorder=4,
            parse_math=False,
        )  # fmt: skip


def _scores(trials: Sequence[Trial]) -> NDArray[np.float64]:
    return np.array([float(trial.score or 0) for trial in trials])


def _needs_log_scale(scores: NDArray[np.float64]) -> bool:
    return bool(scores.min() > 0 and scores.max() / scores.min() > 20)
