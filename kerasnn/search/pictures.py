"""Figures of a search's trials."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kerasnn import figures
from kerasnn.figures.style import BLUE, GREY, INK, ORANGE, shortened, single_axes
from kerasnn.search.config import SearchSettings
from kerasnn.search.space import Choice, Range, canonical_json
from kerasnn.search.table import cell_text, short_names
from kerasnn.search.trial import Trial, best_of


def by_trial(trials: Sequence[Trial], config: SearchSettings) -> Figure:
    """The score of each trial that has one, in the order of the proposals, and the best score so far."""
    figure, axes = single_axes(6.4, 3.6)
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
