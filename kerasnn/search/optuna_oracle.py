"""Optuna's samplers, asked for many trials at once and rebuilt from their seed."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from kerasnn.search.config import SearchSettings
from kerasnn.search.oracle_config import Cmaes, Gp, Nsga2, Tpe
from kerasnn.search.space import Choice, Range, canonical_json, ordered
from kerasnn.search.trial import Proposal

RANDOM_DRAWS = 20
"""Random values tried in the place of ones that were proposed before; then the space counts as exhausted."""


class OptunaOracle:
    """Proposes trials: for the same search and the same results, the same proposals.

    Each proposal has a sampler of its own, seeded by the search's seed and the proposal's number: nothing that a
    sampler keeps in memory decides what is proposed after a kill. Values that were proposed before, which would train
    to the same score, are replaced by random ones.

    >>> from kerasnn.search.config import SearchConfig
    >>> space = {"optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"}}
    >>> proposals = OptunaOracle(SearchConfig(space=space, oracle="tpe")).ask(2)
    >>> [proposal.number for proposal in proposals]
    [0, 1]

    Args:
        config: the search, whose oracle is one of Optuna's.

    Reference: Akiba et al., "Optuna: A Next-Generation Hyperparameter Optimization Framework", KDD 2019.
    """

    def __init__(self, config: SearchSettings) -> None:
        self._config = config
        self._space = ordered(config.space)
        directions = [optuna.study.StudyDirection[_DIRECTIONS[direction]] for _, direction in config.objectives]
        with _quiet():
            storage = optuna.storages.InMemoryStorage()
            study_id = storage.create_new_study(directions, "search")
            self._study = optuna.study.Study(storage.get_study_name_from_id(study_id), storage)
        self._open: dict[int, optuna.Trial] = {}
        self._proposed: set[str] = set()
        self._count = 0

    def ask(self, count: int) -> list[Proposal]:
        """Propose new trials.

        Args:
            count: number of trials wanted.

        Returns:
            That many, or fewer once nothing new is found in the space.
        """
        proposals: list[Proposal] = []
        with _quiet():
            while len(proposals) < count:
                found = self._new()
                if found is None:
                    break
                self._open[self._count], values = found
                self._proposed.add(canonical_json(values))
                proposals.append(Proposal(self._count, values, epochs=self._config.epochs_of(values)))
                self._count += 1
        return proposals

    def tell(self, number: int, scores: Sequence[float] | None, epoch: int = 0) -> None:
        """Report the result of a proposal.

        Args:
            number: the proposal's.
            scores: the trial's value of each objective; None for a failed trial.
            epoch: epoch of these values.
        """
        trial = self._open.pop(number)
        with _quiet():
            if scores is None:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(trial, list(scores))

    def learn(self, values: Mapping[str, Any], scores: Sequence[float], epoch: int) -> None:
        """Report a result that was not proposed.

        Args:
            values: value by name.
            scores: the value of each objective.
            epoch: epoch of these values.
        """
        self._proposed.add(canonical_json(values))
        params = {key: _coded(self._space[key], value) for key, value in values.items()}
        distributions = {key: _distribution(self._space[key]) for key in values}
        with _quiet():
            self._study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, values=list(scores))
            )

    def _new(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """A trial with values that were not proposed before, or None."""
        for draw in range(1 + RANDOM_DRAWS):
            seed = int(np.random.SeedSequence([self._config.seed, self._count, draw]).generate_state(1)[0])
            self._study.sampler = optuna.samplers.RandomSampler(seed) if draw else self._sampler(seed)
            trial = self._study.ask()
            values = self._values(trial)
            if canonical_json(values) not in self._proposed:
                return trial, values
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return None

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        options: dict[str, Any] = {"seed": seed}
        match self._config.oracle:
            case Tpe(startup_trials=trials):
                options |= {"n_startup_trials": trials, "warn_independent_sampling": False}
                if any(parameter.when for parameter in self._space.values()):
                    # Keys under one condition are modelled together.
                    options |= {"multivariate": True, "group": True}
                return optuna.samplers.TPESampler(**options)
            case Gp(startup_trials=trials):
                options |= {"n_startup_trials": trials, "warn_independent_sampling": False}
                return optuna.samplers.GPSampler(**options)
            case Cmaes(population_size=size):
                return optuna.samplers.CmaEsSampler(popsize=size, warn_independent_sampling=False, **options)
            case Nsga2(population_size=size):
                return optuna.samplers.NSGAIISampler(population_size=size, **options)
        raise ValueError(f"oracle must be one of Optuna's, received {self._config.oracle.name}")

    def _values(self, trial: optuna.Trial) -> dict[str, Any]:
        """The values of a trial, asked for in the order of their conditions."""
        values: dict[str, Any] = {}
        for key, parameter in self._space.items():
            if all(parent in values and values[parent] in allowed for parent, allowed in parameter.when.items()):
                values[key] = _suggested(trial, key, parameter)
        return values


_DIRECTIONS = {"min": "MINIMIZE", "max": "MAXIMIZE"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's log and its warnings about experimental arguments, and compute on one thread: matrices are so
    small that synchronizing threads takes longer, and would make the last digits depend on their number."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _suggested(trial: optuna.Trial, key: str, parameter: Choice | Range) -> Any:
    """The value that a trial's sampler draws."""
    if isinstance(parameter, Choice):
        # Choices have one simple type: here, JSON text.
        texts = {canonical_json(value): value for value in parameter.values}
        return texts[trial.suggest_categorical(key, list(texts))]
    log = parameter.sampling == "log"
    if parameter.step is not None:
        # By their index, steps keep their order, whether they are differences or ratios.
        return parameter.values[trial.suggest_int(key, 0, len(parameter.values) - 1)]
    if parameter.is_integer:
        return trial.suggest_int(key, int(parameter.min), int(parameter.max), log=log)
    return trial.suggest_float(key, parameter.min, parameter.max, log=log)


def _coded(parameter: Choice | Range, value: Any) -> Any:
    """A value as Optuna stores it: see `_suggested`."""
    if isinstance(parameter, Choice):
        return canonical_json(value)
    return value if parameter.step is None else parameter.values.index(value)


def _distribution(parameter: Choice | Range) -> optuna.distributions.BaseDistribution:
    """What `_suggested` draws from."""
    if isinstance(parameter, Choice):
        return optuna.distributions.CategoricalDistribution([canonical_json(value) for value in parameter.values])
    log = parameter.sampling == "log"
    if parameter.step is not None:
        return optuna.distributions.IntDistribution(0, len(parameter.values) - 1)
    if parameter.is_integer:
        return optuna.distributions.IntDistribution(int(parameter.min), int(parameter.max), log=log)
    return optuna.distributions.FloatDistribution(parameter.min, parameter.max, log=log)
