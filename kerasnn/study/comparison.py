"""Every combination of a study with its interval, and against its baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kerasnn.search.space import as_text
from kerasnn.search.trial import Trial, cell_text
from kerasnn.study.config import StudyConfig
from kerasnn.study.statistics import Interval, holm, interval, p_value


@dataclass(frozen=True)
class Comparison:
    """A combination against its baseline, seed by seed.

    Args:
        difference: score minus the baseline's, mean over the seeds and 95 % interval.
        p_value: of the paired t-test, two-sided.
        p_adjusted: the same after Holm's correction for all of the study's comparisons.
    """

    difference: Interval
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class Cell:
    """One combination of levels.

    Args:
        levels: factor to level.
        scores: each seed's objective, the best over the epochs; empty where training failed.
        score: their mean and 95 % interval; None where training failed.
        curves: each seed's objective by epoch.
        error: why it failed, on one line.
        comparison: against the baseline; None for the baseline itself, and where either failed.
    """

    levels: dict[str, Any]
    scores: tuple[float, ...] = field(repr=False)
    score: Interval | None
    curves: tuple[tuple[float, ...], ...] = field(repr=False)
    error: str | None = None
    comparison: Comparison | None = None


def compared(trials: Sequence[Trial], config: StudyConfig) -> list[Cell]:
    """Trials of a study's search as its cells, in the table's order.

    Args:
        trials: one for each combination.
        config: the study.

    Returns:
        Cells that are compared with one another together, the best first, those that failed last.
    """
    by_levels = {as_text(trial.values): trial for trial in trials}
    found = {}
    for trial in trials:
        base = by_levels[as_text({**trial.values, **config.reference})]
        if base is trial or not (trial.scores and base.scores):
            continue
        differences = np.subtract(trial.scores, base.scores)
        found[trial.number] = (interval(differences), p_value(differences))
    adjusted = dict(zip(found, holm([p for _, p in found.values()]), strict=True))
    cells = [
        Cell(
            {key: trial.values[key] for key in config.factors},
            trial.scores,
            interval(trial.scores) if trial.scores else None,
            trial.curves,
            trial.error,
            Comparison(*found[trial.number], adjusted[trial.number]) if trial.number in found else None,
        )
        for trial in trials
    ]
    sign = -1 if config.search.direction == "max" else 1

    def place(cell: Cell) -> tuple[Any, ...]:
        block = [config.factors[key].index(level) for key, level in cell.levels.items() if key not in config.reference]
        return (block, cell.score is None, sign * (cell.score.mean if cell.score else 0))

    return sorted(cells, key=place)


def is_baseline(levels: Mapping[str, Any], config: StudyConfig) -> bool:
    """Whether others are compared with this combination."""
    return all(as_text(levels[key]) == as_text(level) for key, level in config.reference.items())


def level_text(level: Any) -> str:
    """A level as a picture shows it: `random_normal stddev 1.0` for a name with arguments."""
    if isinstance(level, Mapping) and "name" in level:
        return " ".join(
            [str(level["name"]), *(f"{key} {cell_text(value)}" for key, value in level.items() if key != "name")]
        )
    return cell_text(level)
