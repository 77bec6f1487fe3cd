"""keras-tuner's oracles, asked for many trials at a time and rebuilt from their seed instead of from their files."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.oracles import (
    BayesianOptimizationOracle,
    GridSearchOracle,
    HyperbandOracle,
    RandomSearchOracle,
)
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from kerasnn.search.space import Bayesian, Choice, Grid, Hyperband, Parameter, Range, SearchConfig, as_text


@dataclass(frozen=True)
class Proposal:
    """A trial to train.

    Args:
        number: trials proposed before it.
        values: dotted key to value, of the keys that are active.
        epochs: epochs after which it ends.
        continues: number of the trial that it takes further, or None.
    """

    number: int
    values: dict[str, Any]
    epochs: int
    continues: int | None = None


class Oracle:
    """Who proposes: same search, same answers, same proposals.

    Args:
        config: the search.

    Reference: `keras_tuner.Oracle`; its `create_trial`, `update_trial` and `end_trial`.
    """

    def __init__(self, config: SearchConfig) -> None:
        self._config = config
        self._space = dict(config.ordered_space())
        with self._quiet():
            self._oracle = _build(config, _hyperparameters(self._space))
        # Its files are not read again: a journal and replay survive kills that they don't.
        self._oracle.save = lambda: None
        self._oracle._save_trial = lambda trial: None
        self._oracle.verbose = 0
        self._open: dict[int, Any] = {}
        self._count = 0

    def ask(self, count: int) -> list[Proposal]:
        """New trials.

        Args:
            count: trials wanted.

        Returns:
            As many, or fewer where it waits for results; none where all trials are answered and the space is exhausted.
        """
        if isinstance(self._oracle, HyperbandOracle):
            # More would begin the next iteration before the best of this one go on.
            brackets = range(self._oracle._get_num_brackets())
            count = min(count, sum(self._oracle._get_size(bracket, 0) for bracket in brackets))
        proposals: list[Proposal] = []
        with self._quiet():
            while len(proposals) < count:
                trial = self._oracle.create_trial(f"{self._count}")
                if trial.status != "RUNNING":
                    break
                self._open[self._count] = trial
                proposals.append(self._proposal(self._count, trial.hyperparameters.values))
                self._count += 1
        return proposals

    def tell(self, number: int, score: float | None, epoch: int = 0) -> None:
        """Answer a proposal.

        Args:
            number: the proposal's.
            score: the trial's objective; None where it failed.
            epoch: epoch of that score.
        """
        trial = self._open.pop(number)
        with self._quiet():
            if score is None:
                trial.status = "FAILED"
            else:
                self._oracle.update_trial(trial.trial_id, {self._config.objective_name: score}, step=epoch)
                trial.status = "COMPLETED"
            self._oracle.end_trial(trial)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Without warnings of what Python deprecates and of the Gaussian process's convergence, and with that on one
        thread: its matrices are so small that threads take longer to meet than to compute."""
        limit = threadpool_limits(1) if isinstance(self._config.oracle, Bayesian) else nullcontext()
        with warnings.catch_warnings(), limit:
            warnings.simplefilter("ignore")
            yield

    def _proposal(self, number: int, found: Mapping[str, Any]) -> Proposal:
        values = {key: _value(parameter, found[key]) for key, parameter in self._space.items() if key in found}
        parent = found.get("tuner/trial_id")
        return Proposal(
            number,
            values,
            epochs=found.get("tuner/epochs", self._config.run_with(values).training.epochs),
            continues=None if parent is None else int(parent),
        )


class _GridOracle(GridSearchOracle):
    """keras-tuner's waits for each trial, which may add keys to the space; ours is known, so all can come at once."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        response: dict[str, Any] = super().populate_space(trial_id)
        if response["status"] == "RUNNING":
            self._populate_next.append(trial_id)
        return response


def _build(config: SearchConfig, space: keras_tuner.HyperParameters) -> Any:
    options: dict[str, Any] = {
        "objective": keras_tuner.Objective(config.objective_name, config.direction),
        "hyperparameters": space,
        # keras-tuner adds 1 for every value drawn: searches of seeds 1 and 5 would share all but one of their trials.
        "seed": int(np.random.SeedSequence(config.seed).generate_state(1)[0] >> 1),
        "allow_new_entries": False,
        # Failed trials are the journal's matter; otherwise the third in a row ends the search.
        "max_consecutive_failed_trials": None,
    }
    match config.oracle:
        case Grid():
            return _GridOracle(**options)
        case Bayesian(initial_points=points, alpha=alpha, beta=beta):
            return BayesianOptimizationOracle(
                max_trials=None, num_initial_points=points, alpha=alpha, beta=beta, **options
            )
        case Hyperband(factor=factor):
            # Iterations without end: trials are counted outside.
            return HyperbandOracle(
                max_epochs=config.run.training.epochs, factor=factor, hyperband_iterations=None, **options
            )
        case _:
            return RandomSearchOracle(max_trials=None, **options)


def _hyperparameters(space: Mapping[str, Parameter]) -> keras_tuner.HyperParameters:
    found = keras_tuner.HyperParameters()
    for key, parameter in space.items():
        with _scopes(found, parameter.when):
            if _is_chosen(parameter):
                found.Choice(key, [as_text(value) for value in parameter.values])
            elif isinstance(parameter, Range):
                make = found.Int if parameter.whole else found.Float
                make(key, parameter.min, parameter.max, parameter.step, parameter.sampling)
    return found


@contextmanager
def _scopes(space: keras_tuner.HyperParameters, when: Mapping[str, tuple[Any, ...]]) -> Iterator[None]:
    if not when:
        yield
        return
    (parent, allowed), *rest = when.items()
    with space.conditional_scope(parent, [as_text(value) for value in allowed]), _scopes(space, dict(rest)):
        yield


def _is_chosen(parameter: Parameter) -> bool:
    """Whether keras-tuner knows it as a choice, which is of one simple type: text.

    Steps too, but for whole ones: keras-tuner's own lose the last one to rounding.
    """
    if isinstance(parameter, Choice):
        return True
    return parameter.step is not None and not (parameter.whole and parameter.sampling == "linear")


def _value(parameter: Parameter, proposed: Any) -> Any:
    if isinstance(parameter, Choice) or _is_chosen(parameter):
        return json.loads(proposed)
    # A power of a ratio may end a rounding beyond the range.
    inside = min(max(proposed, parameter.min), parameter.max)
    return int(inside) if parameter.whole else float(inside)
