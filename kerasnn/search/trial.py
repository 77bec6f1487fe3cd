"""The three shapes of a trial: what an oracle proposes, what training finds, and what the search keeps."""

import bisect
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from kerasnn.search.config import SearchSettings
from kerasnn.search.pareto import fronts


class SearchError(ValueError):
    """An error that ends the search instead of a trial."""


@dataclass(frozen=True)
class Proposal:
    """A trial that an oracle asks for.

    >>> Proposal(3, {"optimizer.learning_rate": 0.01}, epochs=20).to_json()
    {'proposal': 3, 'values': {'optimizer.learning_rate': 0.01}, 'epochs': 20}

    Args:
        number: number of trials proposed before it.
        values: value by dotted key, for the active keys.
        epochs: number of epochs after which the trial ends, those of the trial that it continues included.
        continues: number of the trial that it continues, or None.
        before: with Hyperband, the epochs after which the trials end that it continues, the first one first.
    """

    number: int
    values: dict[str, Any]
    epochs: int
    continues: int | None = None
    before: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The journal's entry."""
        entry: dict[str, Any] = {"proposal": self.number, "values": self.values, "epochs": self.epochs}
        return entry if self.continues is None else {**entry, "continues": self.continues}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Self:
        """The proposal of a journal's entry."""
        return cls(entry["proposal"], entry["values"], entry["epochs"], entry.get("continues"))


@dataclass(frozen=True)
class Outcome:
    """What training found for a proposal.

    >>> Outcome(3, "completed", ({"val_loss": [0.5, 0.4]},), seconds=1.5).epochs
    2

    Args:
        number: the proposal's.
        status: "completed", "stopped" (by the search's stopper) or "failed".
        histories: each seed's logged values by epoch, from the first epoch on.
        seconds: training time; a trial's share of it where trials trained together.
        error: reason of the failure, on one line.
        alone: reason why the trial was not trained together with others, on one line; None where it could be.
        states: each seed's training state, from which training can continue; empty where none is kept.
        ended: whether each seed's early stopping ended it, so that it must not continue.
        weights: each seed's weights of the best epoch, as `get_weights()` returns them; empty where none are kept.
    """

    number: int
    status: str
    histories: tuple[dict[str, list[float]], ...]
    seconds: float
    error: str | None = None
    alone: str | None = None
    states: tuple[Any, ...] = field(default=(), repr=False)
    ended: tuple[bool, ...] = ()
    weights: tuple[list[np.ndarray] | None, ...] = field(default=(), repr=False)

    @property
    def epochs(self) -> int:
        """Number of epochs of the longest seed."""
        return max((len(values) for history in self.histories for values in history.values()), default=0)

    def best_epochs(self, config: SearchSettings) -> list[tuple[float, int]]:
        """Each seed's best objective and its epoch, counted from 1; empty for a failed trial."""
        if self.status == "failed":
            return []
        return [config.best_epoch(history[config.objective_name]) for history in self.histories]


@dataclass(frozen=True)
class Trial:
    """A trial that has ended, as a search shows it.

    >>> trials = [Trial(0, {}, "completed", score=0.5), Trial(1, {}, "failed"), Trial(2, {}, "completed", score=0.4)]
    >>> from kerasnn.search.config import SearchConfig
    >>> [trial.number for trial in ranked(trials, SearchConfig(objective="val_loss"))]
    [2, 0, 1]

    Args:
        number: number of trials proposed before it.
        values: value by dotted key, for the keys that were active.
        status: "completed", "stopped" (by the search's stopper) or "failed".
        score: the objective at its best epoch, mean over the seeds; None for a failed trial.
        std: standard deviation of the score over the seeds, with n - 1 in its denominator; None for a single seed.
        epoch: the best epoch, counted from 1, mean over the seeds.
        epochs: number of epochs trained.
        metrics: every logged value at the best epoch, mean over the seeds.
        seconds: training time; its share where trials trained together.
        error: reason of the failure, on one line.
        continues: number of the trial that it continues, or None.
        curve: the objective by epoch, mean over the seeds.
        scores: each seed's score; empty for a single seed.
        curves: each seed's objective by epoch; empty for a single seed.
        alone: reason why it was not trained together with others, on one line; None where it could be.
    """

    number: int
    values: dict[str, Any]
    status: str
    score: float | None = None
    std: float | None = None
    epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    seconds: float = 0.0
    error: str | None = None
    continues: int | None = None
    curve: tuple[float, ...] = field(default=(), repr=False)
    scores: tuple[float, ...] = field(default=(), repr=False)
    curves: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    alone: str | None = field(default=None, repr=False)

    @classmethod
    def from_outcome(cls, outcome: Outcome, proposal: Proposal, config: SearchSettings) -> Self:
        """The trial of a proposal that training has an outcome for."""
        shared: dict[str, Any] = {"epochs": outcome.epochs, "seconds": round(outcome.seconds, 3)}
        shared |= {"continues": proposal.continues, "alone": outcome.alone}
        if outcome.status == "failed":
            return cls(proposal.number, proposal.values, "failed", error=outcome.error, **shared)
        curves = tuple(tuple(history[config.objective_name]) for history in outcome.histories)
        scores, best_epochs = zip(*outcome.best_epochs(config), strict=True)
        bests = list(zip(outcome.histories, best_epochs, strict=True))
        metrics = {name: statistics.fmean(log[name][epoch - 1] for log, epoch in bests) for name in bests[0][0]}
        # Mean over the seeds that still trained in that epoch.
        curve = tuple(
            statistics.fmean(curve[epoch] for curve in curves if epoch < len(curve)) for epoch in range(outcome.epochs)
        )
        if len(scores) > 1:
            shared |= {"std": statistics.stdev(scores), "scores": scores, "curves": curves}
        score, epoch = statistics.fmean(scores), round(statistics.fmean(best_epochs))
        return cls(
            proposal.number, proposal.values, outcome.status, score, epoch=epoch, metrics=metrics, curve=curve, **shared
        )

    def objectives(self, config: SearchSettings) -> list[float] | None:
        """The value of each objective in the epoch in which the first is best; None for a failed trial."""
        if self.score is None:
            return None
        return [self.score, *(self.metrics[name] for name, _ in config.objectives[1:])]

    def to_json(self) -> dict[str, Any]:
        """The journal's entry."""
        entry: dict[str, Any] = {"result": self.number, "status": self.status, "seconds": self.seconds}
        entry["epochs"] = self.epochs
        if self.alone is not None:
            entry["alone"] = self.alone
        if self.status == "failed":
            return {**entry, "error": self.error}
        entry |= {"score": self.score, "std": self.std}
        if self.scores:
            entry |= {"scores": self.scores, "curves": self.curves}
        return {**entry, "epoch": self.epoch, "metrics": self.metrics, "curve": self.curve}

    @classmethod
    def from_json(cls, entry: dict[str, Any], proposal: Proposal) -> Self:
        """The trial of a journal's entry."""
        plain = ("status", "score", "std", "epoch", "epochs", "metrics", "seconds", "error", "alone")
        return cls(
            proposal.number,
            # A tuner's trial may ask for further hyperparameters when its model is built.
            entry.get("values", proposal.values),
            continues=proposal.continues,
            curve=tuple(entry.get("curve", ())),
            scores=tuple(entry.get("scores", ())),
            curves=tuple(map(tuple, entry.get("curves", ()))),
            **{key: entry[key] for key in plain if key in entry},
        )


def ranked(trials: Iterable[Trial], config: SearchSettings) -> list[Trial]:
    """The trials, the best first; equal ones by number, those without a score last.

    With several objectives those come first that no other trial beats in all of them, then those that only these beat,
    and so on; within such a front the first objective decides.
    """
    trials = list(trials)
    return sorted(trials, key=_rank(config, _fronts(trials, config)))


def add_ranked(ranking: list[Trial], trial: Trial, config: SearchSettings) -> None:
    """Add a trial to a ranking that `ranked` made, which with one objective takes no time that grows with its length.

    Args:
        ranking: trials, the best first; changed in place.
        trial: the trial that has ended.
        config: the search.
    """
    if len(config.objectives) > 1:
        ranking[:] = ranked([*ranking, trial], config)
    else:
        bisect.insort(ranking, trial, key=_rank(config, {}))


def _rank(config: SearchSettings, by_front: Mapping[int, int]) -> Callable[[Trial], tuple[bool, int, float, int]]:
    # Once for all trials: a config finds its objectives anew each time.
    sign = config.as_loss(1.0)
    return lambda trial: (trial.score is None, by_front.get(trial.number, 0), sign * (trial.score or 0.0), trial.number)


def best_of(trials: Iterable[Trial], config: SearchSettings) -> list[Trial]:
    """The best trial, or with several objectives the Pareto front: those that no other one beats in all of them.

    >>> from kerasnn.search.config import SearchConfig
    >>> config = SearchConfig(objective=("val_loss", "val_accuracy"))
    >>> found = [(0.5, 0.8), (0.4, 0.7), (0.6, 0.7)]
    >>> trials = [
    ...     Trial(number, {}, "completed", score=loss, metrics={"val_loss": loss, "val_accuracy": accuracy})
    ...     for number, (loss, accuracy) in enumerate(found)
    ... ]
    >>> [trial.number for trial in best_of(trials, config)]
    [1, 0]
    """
    ranking = [trial for trial in ranked(trials, config) if trial.score is not None]
    if len(config.objectives) == 1:
        return ranking[:1]
    by_front = _fronts(ranking, config)
    return [trial for trial in ranking if by_front[trial.number] == 0]


def _fronts(trials: Iterable[Trial], config: SearchSettings) -> dict[int, int]:
    """The front of each trial that has a score, by number; with one objective there are none."""
    if len(config.objectives) == 1:
        return {}
    signs = [-1 if direction == "max" else 1 for _, direction in config.objectives]
    losses = {
        trial.number: [sign * value for sign, value in zip(signs, values, strict=True)]
        for trial in trials
        if (values := trial.objectives(config)) is not None
    }
    return dict(zip(losses, fronts(list(losses.values())), strict=True))
