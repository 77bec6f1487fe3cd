"""Every combination of a study with its interval, compared with its baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kerasnn.search.space import canonical_json
from kerasnn.search.table import cell_text
from kerasnn.search.trial import Trial
from kerasnn.study.config import StudySettings
from kerasnn.study.statistics import Interval, holm, interval, p_value


@dataclass(frozen=True)
class Comparison:
    """A combination against its baseline, seed by seed.

    Args:
        difference: score minus the baseline's, mean over the seeds and 95 % interval.
        p_value: p-value of the two-sided paired t-test.
        p_adjusted: p-value after Holm's correction for all of the study's comparisons.
    """

    difference: Interval
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class Cell:
    """One combination of levels.

    >>> cell = Cell({"network.activation": "relu"}, (0.9, 0.8), interval((0.9, 0.8)), ((0.9,), (0.8,)))
    >>> round(cell.score.mean, 2)
    0.85

    Args:
        levels: level by factor.
        scores: each seed's objective, the best over the epochs; empty where training failed.
        score: their mean and 95 % interval; None where training failed.
        curves: each seed's objective by epoch.
        error: reason of the failure, on one line.
        comparison: against the baseline; None for the baseline itself, and where either failed.
    """

    levels: dict[str, Any]
    scores: tuple[float, ...] = field(repr=False)
    score: Interval | None
    curves: tuple[tuple[float, ...], ...] = field(repr=False)
    error: str | None = None
    comparison: Comparison | None = None


def compare(trials: Sequence[Trial], config: StudySettings) -> list[Cell]:
    """The trials of a study's search as its cells: those that share a baseline together, the best first, failed ones
    last."""
    by_levels = {canonical_json(trial.values): trial for trial in trials}
    tests = {}
    for trial in trials:
        base = by_levels[canonical_json({**trial.values, **config.reference})]
        if base is trial or not (trial.scores and base.scores):
            continue
        differences = np.subtract(trial.scores, base.scores)
        tests[trial.number] = (interval(differences), p_value(differences))
    adjusted = dict(zip(tests, holm([p for _, p in tests.values()]), strict=True))
    cells = [
        Cell(
            {key: trial.values[key] for key in config.factors},
            trial.scores,
            interval(trial.scores) if trial.scores else None,
            trial.curves,
            trial.error,
            Comparison(*tests[trial.number], adjusted[trial.number]) if trial.number in tests else None,
        )
        for trial in trials
    ]
    as_loss = config.search.as_loss

    def order(cell: Cell) -> tuple[Any, ...]:
        panel = [config.factors[key].index(level) for key, level in cell.levels.items() if key not in config.reference]
        return (panel, cell.score is None, as_loss(cell.score.mean if cell.score else 0))

    return sorted(cells, key=order)


def is_baseline(levels: Mapping[str, Any], config: StudySettings) -> bool:
    """Whether other combinations are compared with this one."""
    return all(canonical_json(levels[key]) == canonical_json(level) for key, level in config.reference.items())


def level_text(level: Any) -> str:
    """A level as a figure shows it.

    >>> level_text({"name": "random_normal", "stddev": 1.0})
    'random_normal stddev 1'
    """
    if isinstance(level, Mapping) and "name" in level:
        arguments = (f"{key} {cell_text(value)}" for key, value in level.items() if key != "name")
        return " ".join([str(level["name"]), *arguments])
    return cell_text(level)
