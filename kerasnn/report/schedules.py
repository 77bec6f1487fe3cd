"""Figures of population-based training."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kerasnn import figures
from kerasnn.figures.style import GREY, ORANGE
from kerasnn.search.config import SearchSettings
from kerasnn.search.generations import lineage
from kerasnn.search.space import Range
from kerasnn.search.table import short_names
from kerasnn.search.trial import Trial


def schedules(trials: Sequence[Trial], config: SearchSettings) -> Figure:
    """The objective and the numbers of each member by epoch; the line of the best trial stands out.

    Args:
        trials: the search's.
        config: the search, whose oracle is `pbt`.
    """
    by_number = {trial.number: trial for trial in trials}
    scored = [trial for trial in trials if trial.score is not None]
    best = min(scored, key=lambda trial: config.as_loss(trial.score or 0.0))
    best_line = {trial.number for trial in lineage(best, by_number)}
    names = dict(zip(config.space, short_names(config.space), strict=True))
    keys = [key for key, parameter in config.space.items() if isinstance(parameter, Range)]
    figure, grid = figures.page(7.2, 2.3 * (1 + len(keys)), 1 + len(keys), 1, sharex=True)
    panels = [row[0] for row in grid]
    # The best are drawn last.
    for trial in sorted(trials, key=lambda trial: trial.number in best_line):
        parent = None if trial.continues is None else by_number[trial.continues]
        first = 0 if parent is None else parent.epochs
        is_best = trial.number in best_line
        style = {
            "color": ORANGE if is_best else GREY,
            "linewidth": 2.2 if is_best else 0.9,
            "alpha": 1 if is_best else 0.45,
        }
        curve = trial.curve[max(first - 1, 0) :]
        panels[0].plot(range(max(first, 1), max(first, 1) + len(curve)), curve, **style)
        for axes, key in zip(panels[1:], keys, strict=True):
            value = trial.values[key]
            before = value if parent is None else parent.values[key]
            axes.plot([first, first, trial.epochs], [before, value, value], **style)
    _finish(panels[0], config.objective_name, _is_wide([trial.score or 0.0 for trial in scored]))
    for axes, key in zip(panels[1:], keys, strict=True):
        _finish(axes, names[key], getattr(config.space[key], "sampling", "linear") == "log")
    panels[0].set_title("population; the best trial's line in orange")
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _is_wide(scores: Sequence[float]) -> bool:
    return min(scores) > 0 and max(scores) / min(scores) > 5


def _finish(axes: Axes, name: str, log: bool) -> None:
    axes.set_ylabel(name, parse_math=False)
    if log:
        axes.set_yscale("log")
