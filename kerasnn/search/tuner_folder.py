"""What a tuner shows of its search: files in its project's folder, TensorBoard's HParams page, the display."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_tuner import oracles

from kerasnn.files import write_text
from kerasnn.search import hparams
from kerasnn.search.config import ObjectiveConfig
from kerasnn.search.model_config import ModelSearchConfig
from kerasnn.search.model_space import space_of
from kerasnn.search.oracle_config import Bayesian, Grid, Hyperband, Random
from kerasnn.search.progress import SearchProgress
from kerasnn.search.table import trials_csv
from kerasnn.search.trial import Proposal, Trial, ranked


def describe(oracle: Any, build: str, executions: int, epochs: int = 1, progress: str = "auto") -> ModelSearchConfig:
    """The search of one of keras-tuner's oracles, as it is now.

    Args:
        oracle: the oracle.
        build: name of the function or class that builds the models.
        executions: trainings of each trial.
        epochs: epochs of a trial.
        progress: style of the progress display.
    """
    objective = oracle.objective
    return ModelSearchConfig(
        build=build,
        space=space_of(oracle.get_space()),
        oracle=_oracle(oracle),
        trials=_trials(oracle),
        objective=ObjectiveConfig(name=objective.name, direction=objective.direction or "min"),
        seeds_per_trial=executions,
        seed=oracle.seed,
        epochs=getattr(oracle, "max_epochs", epochs),
        progress=progress,
    )


def _oracle(oracle: Any) -> Any:
    match oracle:
        case oracles.GridSearchOracle():
            return Grid()
        case oracles.HyperbandOracle():
            return Hyperband(factor=oracle.factor)
        case oracles.BayesianOptimizationOracle():
            return Bayesian(initial_points=oracle.num_initial_points, alpha=oracle.alpha, beta=oracle.beta)
        case _:
            return Random()


def _trials(oracle: Any) -> int:
    """The number of trials at which a search ends."""
    if isinstance(oracle, oracles.HyperbandOracle):
        brackets = range(oracle._get_num_brackets())
        sizes = (oracle._get_size(each, rung) for each in brackets for rung in range(oracle._get_num_rounds(each)))
        return int(oracle.hyperband_iterations * sum(sizes))
    combinations = math.prod(len(list(each.values)) for each in oracle.get_space().space)
    return int(oracle.max_trials or combinations)


class TunerFolder:
    """The folder of a tuner's project, from which `report` makes a page.

    Args:
        folder: the folder.
        config: the search at its begin.
        trials: what was found before, by number.
    """

    def __init__(self, folder: Path, config: ModelSearchConfig, trials: Mapping[int, Trial]) -> None:
        self._folder, self._config, self._trials = folder, config, dict(trials)
        self._logged: list[str] = [config.objective_name]
        self._progress = SearchProgress(config)
        self._write()
        if trials:
            self._progress.results(ranked(trials.values(), config), replayed=len(trials))

    def _write(self) -> None:
        write_text(self._folder / "config.json", self._config.to_json() + "\n")
        hparams.write_search(self._folder, self._config, self._logged)

    def add(
        self,
        config: ModelSearchConfig,
        trials: Mapping[int, Trial],
        histories: Mapping[int, Sequence[Mapping[str, Any]]],
    ) -> None:
        """Show trials that have ended.

        Args:
            config: the search as it is now: trials may have asked for further hyperparameters.
            trials: those that have ended, by number.
            histories: logged values of each training of a trial by epoch, by the trial's number.
        """
        logged = dict.fromkeys([*self._logged, *(name for each in histories.values() for log in each for name in log)])
        if config != self._config or list(logged) != self._logged:
            self._config, self._logged = config, list(logged)
            self._write()
        self._trials |= trials
        for number, trial in trials.items():
            values = {name: value for name, value in trial.values.items() if name in config.space}
            scores = [(score, trial.epoch) for score in trial.scores or filter(None, [trial.score])]
            logs = histories.get(number, ()) if len(histories.get(number, ())) == len(scores) else ()
            name = f"{number:04d}"
            hparams.write_trial(self._folder, name, config, values, trial.status, logs or [{}] * len(scores), scores)
        ranking = ranked(self._trials.values(), config)
        write_text(self._folder / "trials.csv", trials_csv(ranking, config))
        self._progress.results(ranking)

    def close(self) -> None:
        """End the display."""
        self._progress.close()


def trial_of(entry: Mapping[str, Any], proposal: Mapping[str, Any]) -> Trial:
    """A trial of its entries in the journal."""
    return Trial.from_json(dict(entry), Proposal.from_json(dict(proposal)))


def completed_trial(
    number: int,
    values: dict[str, Any],
    metrics: dict[str, float],
    epoch: int,
    histories: Sequence[Mapping[str, Sequence[Any]]],
    objective: Any,
) -> Trial:
    """A trial that was trained.

    Args:
        number: number of trials proposed before it.
        values: value by name.
        metrics: its logged values at the best epoch, means over its trainings.
        epoch: the best epoch, counted from 1.
        histories: logged values of each training by epoch.
        objective: keras-tuner's objective.
    """
    curves = [_curve(history, objective) for history in histories]
    finite = [curve for curve in curves if curve and all(map(math.isfinite, curve))]
    epochs = max((len(logged) for history in histories for logged in history.values()), default=0)
    about: dict[str, Any] = {"epoch": epoch, "epochs": epochs, "metrics": metrics}
    if finite:
        last = range(max(map(len, finite)))
        about["curve"] = tuple(statistics.fmean(each[at] for each in finite if at < len(each)) for at in last)
    if len(finite) > 1 and len(finite) == len(curves):
        scores = tuple(max(each) if objective.direction == "max" else min(each) for each in finite)
        about |= {"std": statistics.stdev(scores), "scores": scores, "curves": tuple(map(tuple, finite))}
    return Trial(number, values, "completed", metrics.get(objective.name), **about)


def _curve(history: Mapping[str, Sequence[Any]], objective: Any) -> list[float]:
    """The objective by epoch; empty where it was not logged in each."""
    epochs = max(map(len, history.values()), default=0)
    whole = {name: values for name, values in history.items() if len(values) == epochs}
    logs = [{name: values[epoch] for name, values in whole.items()} for epoch in range(epochs)]
    return [float(objective.get_value(log)) for log in logs if objective.has_value(log)]
