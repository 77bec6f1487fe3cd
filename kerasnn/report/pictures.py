"""Pictures of runs and searches for a report."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kerasnn import figures
from kerasnn.figures.style import BLUE, GREY, INK, ORANGE
from kerasnn.search.importance import Importance
from kerasnn.search.space import Range, SearchConfig, as_text
from kerasnn.search.trial import Trial, cell_text, short_names

History = Mapping[str, Sequence[float]]


def _shortened(name: str, limit: int = 30) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def curves(histories: Mapping[str, History], name: str) -> Figure:
    """A logged value by epoch, on training and validation examples.

    Args:
        histories: each run's logged values by epoch.
        name: of the value, without `val_`.
    """
    many = len(histories) > 1
    figure, ((axes,),) = figures.page(6.4, 3.6)
    styles = figures.line_styles(len(histories))
    for (run, history), line in zip(histories.items(), styles, strict=True):
        for key, part in ((name, "training"), (f"val_{name}", "validation")):
            if key not in history:
                continue
            color = line["color"] if many else {"training": BLUE, "validation": ORANGE}[part]
            label = f"{_shortened(run)}, {part}" if many else part
            epochs = np.arange(1, len(history[key]) + 1)
            dash = "--" if part == "training" and many else "-"
            axes.plot(epochs, history[key], color=color, linestyle=dash, linewidth=1.7, label=label)
            if len(epochs) == 1:
                axes.plot(epochs, history[key], "o", color=color)
    axes.set(xlabel="epoch", title=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend = axes.legend(frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def rates(histories: Mapping[str, History]) -> Figure:
    """The learning rate at the end of each epoch."""
    figure, ((axes,),) = figures.page(6.4, 3.6)
    for (run, history), line in zip(histories.items(), figures.line_styles(len(histories)), strict=True):
        if "learning_rate" in history:
            values = history["learning_rate"]
            axes.plot(np.arange(1, len(values) + 1), values, linewidth=1.7, label=_shortened(run), **line)
    axes.set(xlabel="epoch", title="learning rate")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(histories) > 1:
        for text in axes.legend(frameon=False, fontsize=9).get_texts():
            text.set_parse_math(False)
    return figure


def by_layer(name: str, values: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Figure:
    """Something measured in each layer by epoch.

    Args:
        name: what.
        values: layer to steps and values.
    """
    figure, ((axes,),) = figures.page(6.4, 3.6)
    for (layer, (steps, course)), line in zip(values.items(), figures.line_styles(len(values)), strict=True):
        axes.plot(np.asarray(steps) + 1, course, linewidth=1.6, label=_shortened(layer), **line)
    every = np.concatenate([np.asarray(course) for _, course in values.values()])
    share = name.endswith(("dead", "saturated"))
    if share:
        axes.set_ylim(-0.03, 1.03)
    elif len(every) and every.min() > 0 and every.max() / every.min() > 30:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", title=name.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for text in axes.legend(frameon=False, fontsize=8.5, ncols=math.ceil(len(values) / 6)).get_texts():
        text.set_parse_math(False)
    return figure


def importances(found: Importance) -> Figure:
    """How much each hyperparameter decides, with its spread."""
    figure, ((axes,),) = figures.page(6.4, 1.2 + 0.36 * len(found.keys))
    rows = range(len(found.keys))
    axes.barh(rows, np.maximum(found.values, 0), color=BLUE, height=0.62)
    axes.errorbar(found.values, rows, xerr=found.spread, fmt="none", ecolor=INK, capsize=3, linewidth=1)
    axes.set_yticks(rows, [_shortened(key, 38) for key in found.keys], parse_math=False)
    axes.set(xlabel="drop of R² when shuffled", title="importance", ylim=(len(found.keys) - 0.4, -0.6))
    axes.axvline(0, color=GREY, linewidth=0.8)
    return figure


def by_trial(trials: Sequence[Trial], config: SearchConfig) -> Figure:
    """Each trial's score in the order of the proposals, and the best so far."""
    figure, ((axes,),) = figures.page(6.4, 3.6)
    scored = sorted((trial for trial in trials if trial.score is not None), key=lambda trial: trial.number)
    numbers, scores = [trial.number for trial in scored], [float(trial.score or 0) for trial in scored]
    best = (np.minimum if config.direction == "min" else np.maximum).accumulate(scores)
    axes.plot(numbers, scores, "o", color=BLUE, markersize=4, alpha=0.6, label="trial")
    axes.step(numbers, best, where="post", color=ORANGE, linewidth=1.8, label="best so far")
    if min(scores) > 0 and max(scores) / min(scores) > 20:
        axes.set_yscale("log")
    axes.set(xlabel="trial", ylabel=config.objective_name, title="scores")
    axes.legend(frameon=False, fontsize=9)
    return figure


def parallel_coordinates(trials: Sequence[Trial], config: SearchConfig) -> Figure:
    """Every trial as a line through its values to its score: the darker, the better.

    Args:
        trials: the search's, the best first; those without a score are left out.
        config: the search.
    """
    scored = [trial for trial in trials if trial.score is not None]
    keys = list(config.space)
    places = np.empty((len(scored), len(keys) + 1))
    draw = np.random.default_rng(0)
    ticks: list[list[tuple[float, str]]] = []
    for column, key in enumerate(keys):
        parameter = config.space[key]
        if isinstance(parameter, Range):
            scale = math.log if parameter.sampling == "log" else float
            low, high = scale(parameter.min), scale(parameter.max)
            for row, trial in enumerate(scored):
                places[row, column] = (scale(trial.values[key]) - low) / (high - low) if key in trial.values else np.nan
            ticks.append([(0.0, f"{parameter.min:g}"), (1.0, f"{parameter.max:g}")])
        else:
            choices = [as_text(choice) for choice in parameter.choices]
            step = 1 / max(len(choices) - 1, 1)
            start = 0.5 if len(choices) == 1 else 0.0
            for row, trial in enumerate(scored):
                # Apart a little, so that lines through one choice are not one line.
                place = start + step * choices.index(as_text(trial.values[key])) if key in trial.values else np.nan
                places[row, column] = place + draw.uniform(-0.12, 0.12) * min(step, 0.3)
            ticks.append(
                [
                    (start + step * index, _shortened(_told(choice), 16))
                    for index, choice in enumerate(parameter.choices)
                ]
            )
    scores = np.array([float(trial.score or 0) for trial in scored])
    positive = scores.min() > 0 and scores.max() / scores.min() > 20
    shown = np.log(scores) if positive else scores
    spread = np.ptp(shown) or 1.0
    places[:, -1] = (shown - shown.min()) / spread
    ticks.append([(0.0, f"{scores.min():.4g}"), (1.0, f"{scores.max():.4g}")])
    width = max(8.0, 1.75 * (len(keys) + 1))
    figure, ((axes,),) = figures.page(width, 4.6)
    axes.set_axis_off()
    colors = matplotlib.colormaps["cividis_r"]
    # By rank: a few bad trials would leave all others one colour. The best are drawn last, over the others.
    for rank in range(len(scored) - 1, -1, -1):
        goodness = 1 - rank / max(len(scored) - 1, 1)
        axes.plot(
            range(len(keys) + 1), places[rank], color=colors(0.1 + 0.9 * goodness), alpha=0.35 + 0.5 * goodness,
            linewidth=2.6 if rank == 0 else 1.2, solid_joinstyle="round",
        )  # fmt: skip
    names = [*short_names(keys), config.objective_name]
    blank = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
    for column, (name, marks) in enumerate(zip(names, ticks, strict=True)):
        axes.plot([column, column], [0, 1], color=INK, linewidth=1, zorder=3)
        axes.text(column, 1.1, _shortened(name, 20), ha="center", fontsize=10, color=INK, parse_math=False)
        for place, text in marks:
            axes.plot([column - 0.02, column + 0.02], [place, place], color=INK, linewidth=1, zorder=3)
            axes.text(
                column + 0.04, place, text, va="center", fontsize=8.5, color=INK, bbox=blank, zorder=4, parse_math=False
            )
    axes.set(xlim=(-0.35, len(keys) + 0.55), ylim=(-0.08, 1.18))
    return figure


def _told(choice: Any) -> str:
    return cell_text(choice) if isinstance(choice, str | float) else json.dumps(choice)
