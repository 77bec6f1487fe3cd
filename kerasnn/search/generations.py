"""The intervals of population-based training as a table."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kerasnn.search.config import SearchSettings
from kerasnn.search.oracle_config import Pbt
from kerasnn.search.trial import Trial, ranked


def generation_rows(trials: Sequence[Trial], config: SearchSettings) -> list[list[Any]]:
    """A heading, and for each interval its epochs, the members' scores, how many were replaced, and the best's values.

    >>> from kerasnn.search.config import SearchConfig
    >>> space = {"optimizer.learning_rate": {"min": 0.001, "max": 0.1}}
    >>> config = SearchConfig(space=space, oracle={"name": "pbt", "members": 2, "interval": 10})
    >>> found = [(0.5, None), (0.7, None), (0.4, 0), (0.3, 0)]
    >>> trials = [
    ...     Trial(number, {"optimizer.learning_rate": 0.01}, "completed", score=score, epochs=10, continues=parent)
    ...     for number, (score, parent) in enumerate(found)
    ... ]
    >>> for row in generation_rows(trials, config)[1:]:
    ...     print(row)
    [1, 10, 0, 0.5, 0.6, 0.7, 0, 0, 0.01]
    [2, 10, 3, 0.3, 0.35, 0.4, 0, 1, 0.01]
    """
    assert isinstance(config.oracle, Pbt)
    members = config.oracle.members
    name = config.objective_name
    scores = [f"{part} {name}" for part in ("best", "median", "worst")]
    rows: list[list[Any]] = [["interval", "epochs", "best trial", *scores, "failed", "replaced", *config.space]]
    by_interval: dict[int, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        by_interval.setdefault(trial.number // members, []).append(trial)
    for interval, each in by_interval.items():
        best, found = (
            ranked(each, config)[0],
            sorted((trial.score for trial in each if trial.score is not None), key=config.as_loss),
        )
        shown = [found[0], statistics.median(found), found[-1]] if found else [None] * 3
        replaced = sum(trial.continues not in (None, trial.number - members) for trial in each)
        values = [best.values.get(key) for key in config.space]
        failed = len(each) - len(found)
        rows.append([interval + 1, best.epochs, best.number, *shown, failed, replaced, *values])
    return rows


def lineage(trial: Trial, trials: Mapping[int, Trial]) -> list[Trial]:
    """A member with those that it continues, the first one first.

    Args:
        trial: the member in its last interval.
        trials: all trials by number.
    """
    found = [trial]
    while (parent := found[-1].continues) is not None:
        found.append(trials[parent])
    return found[::-1]
