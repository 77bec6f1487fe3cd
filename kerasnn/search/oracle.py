"""keras-tuner's oracles, asked for many trials at once and rebuilt from their seed instead of from their files."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner import oracles
from keras_tuner.engine.trial import Trial
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from kerasnn.search.config import SearchSettings
from kerasnn.search.oracle_config import Bayesian, Grid, Hyperband
from kerasnn.search.space import Choice, Range, Space, canonical_json, ordered
from kerasnn.search.trial import Proposal


class Oracle:
    """Proposes trials: for the same search and the same results, the same proposals.

    >>> from kerasnn.search.config import SearchConfig
    >>> config = SearchConfig(space={"optimizer.name": {"choices": ["sgd", "adam"]}}, oracle="grid")
    >>> [proposal.values for proposal in Oracle(config).ask(5)]
    [{'optimizer.name': 'sgd'}, {'optimizer.name': 'adam'}]

    Args:
        config: the search.

    Reference: `keras_tuner.Oracle`; its `create_trial`, `update_trial` and `end_trial`.
    """

    def __init__(self, config: SearchSettings) -> None:
        self._config = config
        self._space = ordered(config.space)
        with quiet(None):
            self._oracle = _build(config, _hyperparameters(self._space))
        # Its files are never read again: unlike them, a journal and a replay survive kills.
        self._oracle.save = lambda: None
        self._oracle._save_trial = lambda trial: None
        # Nothing to find without a limit, for which it walks all trials whenever one ends.
        self._oracle._check_consecutive_failures = lambda: None
        self._oracle.verbose = 0
        self._open: dict[int, Any] = {}
        # The epochs after which a proposal and those that it continues end, by its number.
        self._ends: dict[int, tuple[int, ...]] = {}
        # Results of combinations that a grid need not try, by their values.
        self._grid_known: dict[str, tuple[list[float], int]] = {}
        self._count = 0

    def ask(self, count: int) -> list[Proposal]:
        """Propose new trials.

        Args:
            count: number of trials wanted.

        Returns:
            That many, or fewer while the oracle waits for results; none once all trials have their results and the
            space is exhausted.
        """
        count = min(count, first_rungs(self._oracle) or count)
        proposals: list[Proposal] = []
        with quiet(self._oracle):
            while len(proposals) < count:
                trial = self._oracle.create_trial(f"{self._count}")
                if trial.status != "RUNNING":
                    break
                proposal = self._proposal(self._count, trial.hyperparameters.values)
                if known := self._grid_known.get(canonical_json(proposal.values)):
                    self._end(trial, *known)
                    continue
                self._open[self._count] = trial
                proposals.append(proposal)
                self._count += 1
        return proposals

    def tell(self, number: int, scores: Sequence[float] | None, epoch: int = 0) -> None:
        """Report the result of a proposal.

        Args:
            number: the proposal's.
            scores: the trial's value of each objective; None for a failed trial.
            epoch: epoch of these values.
        """
        with quiet(self._oracle):
            self._end(self._open.pop(number), scores, epoch)

    def _end(self, trial: Any, scores: Sequence[float] | None, epoch: int) -> None:
        if scores is None:
            trial.status = "FAILED"
        else:
            self._oracle.update_trial(trial.trial_id, {self._config.objective_name: scores[0]}, step=epoch)
            trial.status = "COMPLETED"
        self._oracle.end_trial(trial)

    def learn(self, values: Mapping[str, Any], scores: Sequence[float], epoch: int) -> None:
        """Report a result that was not proposed. Hyperband does not learn from it: it compares within brackets.

        Args:
            values: value by name.
            scores: the value of each objective.
            epoch: epoch of these values.
        """
        match self._config.oracle:
            case Hyperband():
                return
            case Grid():
                self._grid_known[canonical_json(values)] = (list(scores), epoch)
                return
        space = self._oracle.get_space()
        space.values = {
            key: canonical_json(value) if _is_choice(self._space[key]) else value for key, value in values.items()
        }
        trial = Trial(space, f"learned-{len(self._oracle.trials)}", "COMPLETED")
        with quiet(self._oracle):
            self._oracle.trials[trial.trial_id] = trial
            self._oracle.update_trial(trial.trial_id, {self._config.objective_name: scores[0]}, step=epoch)
            trial.score, trial.best_step = scores[0], epoch
            self._oracle._record_values(trial)

    def _proposal(self, number: int, drawn: Mapping[str, Any]) -> Proposal:
        values = {key: _value(parameter, drawn[key]) for key, parameter in self._space.items() if key in drawn}
        epochs = drawn.get("tuner/epochs", self._config.epochs_of(values))
        parent = drawn.get("tuner/trial_id")
        continues = None if parent is None else int(parent)
        before = () if continues is None else self._ends[continues]
        self._ends[number] = (*before, epochs)
        return Proposal(number, values, epochs, continues, before)


@contextmanager
def quiet(oracle: Any) -> Iterator[None]:
    """Silence warnings about Python's deprecations and the Gaussian process's convergence, and run that process on one
    thread: its matrices are so small that synchronizing threads takes longer than computing."""
    limit = threadpool_limits(1) if isinstance(oracle, oracles.BayesianOptimizationOracle) else nullcontext()
    with warnings.catch_warnings(), limit:
        warnings.simplefilter("ignore")
        yield


def first_rungs(oracle: Any) -> int | None:
    """How many trials Hyperband begins at once, or None: with more, the best of an iteration would begin the next."""
    if not isinstance(oracle, oracles.HyperbandOracle):
        return None
    return sum(oracle._get_size(bracket, 0) for bracket in range(oracle._get_num_brackets()))


class GridOracle(oracles.GridSearchOracle):
    """keras-tuner's own waits for each trial, which may add keys to the space; ours is known, so all can start."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        response: dict[str, Any] = super().populate_space(trial_id)
        if response["status"] == "RUNNING":
            self._populate_next.append(trial_id)
        return response


def _build(config: SearchSettings, space: keras_tuner.HyperParameters) -> Any:
    options: dict[str, Any] = {
        "objective": keras_tuner.Objective(config.objective_name, config.direction),
        "hyperparameters": space,
        # keras-tuner adds 1 for every value drawn: searches of seeds 1 and 5 would share all but one of their trials.
        "seed": int(np.random.SeedSequence(config.seed).generate_state(1)[0] >> 1),
        "allow_new_entries": False,
        # The journal records failed trials; keras-tuner would end the search after three in a row.
        "max_consecutive_failed_trials": None,
    }
    match config.oracle:
        case Grid():
            return GridOracle(**options)
        case Bayesian(initial_points=points, alpha=alpha, beta=beta):
            options |= {"num_initial_points": points, "alpha": alpha, "beta": beta}
            return oracles.BayesianOptimizationOracle(max_trials=None, **options)
        case Hyperband(factor=factor):
            # Without a limit on its iterations: the search counts the trials.
            options |= {"max_epochs": config.max_epochs, "factor": factor}
            return oracles.HyperbandOracle(hyperband_iterations=None, **options)
        case _:
            return oracles.RandomSearchOracle(max_trials=None, **options)


def _hyperparameters(space: Space) -> keras_tuner.HyperParameters:
    hyperparameters = keras_tuner.HyperParameters()
    for key, parameter in space.items():
        with _conditions(hyperparameters, parameter.when):
            if _is_choice(parameter):
                hyperparameters.Choice(key, [canonical_json(value) for value in parameter.values])
            elif isinstance(parameter, Range):
                make = hyperparameters.Int if parameter.is_integer else hyperparameters.Float
                make(key, parameter.min, parameter.max, parameter.step, parameter.sampling)
    return hyperparameters


@contextmanager
def _conditions(space: keras_tuner.HyperParameters, when: Mapping[str, tuple[Any, ...]]) -> Iterator[None]:
    if not when:
        yield
        return
    (parent, allowed), *rest = when.items()
    texts = [canonical_json(value) for value in allowed]
    with space.conditional_scope(parent, texts), _conditions(space, dict(rest)):
        yield


def _is_choice(parameter: Choice | Range) -> bool:
    """Whether keras-tuner gets the parameter as a choice. Its choices have one simple type: here, JSON text.

    Ranges with steps are choices too, unless the steps are linear and integer: keras-tuner's own steps lose the last
    value to rounding.
    """
    if isinstance(parameter, Choice):
        return True
    return parameter.step is not None and not (parameter.is_integer and parameter.sampling == "linear")


def _value(parameter: Choice | Range, drawn: Any) -> Any:
    if isinstance(parameter, Choice) or _is_choice(parameter):
        return json.loads(drawn)
    # A power of a ratio may end beyond the range by a rounding error.
    inside = min(max(drawn, parameter.min), parameter.max)
    return int(inside) if parameter.is_integer else float(inside)
