"""Trains trials of the models that a function builds, as many together as their structures allow."""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerasnn.config.schema import one_of
from kerasnn.fused.structure import Structure
from kerasnn.search.execution import Execution, fit_executions
from kerasnn.search.model_config import ModelSearchConfig
from kerasnn.search.oracle_config import Hyperband
from kerasnn.search.trainer import OnEpoch, error_line
from kerasnn.search.trial import Outcome, Proposal, SearchError

Make = Callable[[Mapping[str, Any]], keras.Model]
"""Builds the compiled model of a trial's values."""


class _Task:
    """A trial in training.

    Args:
        proposal: the trial.
        executions: its trainings, one for each seed, or the error that building ended in.
    """

    def __init__(self, proposal: Proposal, executions: list[Execution] | Exception) -> None:
        self.proposal = proposal
        self.error = executions if isinstance(executions, Exception) else None
        self.executions = [] if isinstance(executions, Exception) else executions
        self.was_stopped = False


class ModelTrainer:
    """Trains proposals in this process.

    Args:
        config: the search.
        make: builds the model of a trial's values.
        arguments: arguments of `fit` for all trials.
    """

    def __init__(self, config: ModelSearchConfig, make: Make, arguments: Mapping[str, Any]) -> None:
        self._config, self._make, self._arguments = config, make, arguments
        self._objective = keras_tuner.Objective(config.objective_name, config.direction)
        # Trials of this batch and, where some may continue, of the one before, each with its batch.
        self._kept: dict[int, tuple[int, _Task]] = {}

    def train(self, batch: int, proposals: Sequence[Proposal], on_epoch: OnEpoch) -> Iterator[list[Outcome]]:
        """Train proposals; as `Trainer.train`."""
        oldest = batch - 1 if isinstance(self._config.oracle, Hyperband) else batch
        self._kept = {number: kept for number, kept in self._kept.items() if kept[0] >= oldest}
        start = time.perf_counter()
        tasks = [self._task(proposal) for proposal in proposals]
        building = (time.perf_counter() - start) / len(tasks)
        groups: dict[Any, list[_Task]] = {}
        for task in tasks:
            groups.setdefault(self._group_key(task), []).append(task)
        for group in groups.values():
            start = time.perf_counter()
            self._train_group(group, on_epoch)
            seconds = building + (time.perf_counter() - start) / len(group)
            self._kept |= {task.proposal.number: (batch, task) for task in group}
            yield [self._outcome(task, seconds) for task in group]

    def model(self, number: int, seed: int) -> keras.Model:
        """The model of a trial that has just ended."""
        return self._kept[number][1].executions[seed].model

    def _task(self, proposal: Proposal) -> _Task:
        kept = None if proposal.continues is None else self._kept.get(proposal.continues)
        if kept is not None:
            return _Task(proposal, kept[1].error or kept[1].executions)
        try:
            executions = [self._execution(proposal, seed) for seed in range(self._config.seeds_per_trial)]
        except Exception as error:
            return _Task(proposal, error)
        for one in executions:
            # What it continues was lost in a kill.
            one.train(itertools.pairwise((0, *proposal.before)), self._arguments, self._max_members)
        return _Task(proposal, executions)

    def _execution(self, proposal: Proposal, seed: int) -> Execution:
        number = self._config.seed + seed

        def make() -> keras.Model:
            keras.utils.set_random_seed(number)
            return self._make(proposal.values)

        def callbacks() -> list[Any]:
            return copy.deepcopy(list(self._arguments.get("callbacks") or ()))

        return Execution(make, callbacks, self._objective, number)

    def _group_key(self, task: _Task) -> Any:
        """A key that is equal for trials whose outcomes are known together, in a resumed search too."""
        if not task.executions:
            return task.proposal.number
        segment = task.proposal.before[-1:], task.proposal.epochs
        models = [one.model for one in task.executions]
        return segment, tuple(Structure(model).key if model.built else None for model in models[:1])

    @property
    def _max_members(self) -> int:
        return self._config.trials_per_batch * self._config.seeds_per_trial

    def _train_group(self, tasks: Sequence[_Task], on_epoch: OnEpoch) -> None:
        running = [(task, one) for task in tasks for one in task.executions if not one.has_ended]
        name = self._config.objective_name

        def report(epoch: int, logs: dict[int, Mapping[str, Any]]) -> list[int]:
            values: dict[int, list[float]] = {}
            for index, log in logs.items():
                for each, _ in self._config.objectives:
                    if each not in log:
                        raise SearchError(one_of("objective", each, log))
                values.setdefault(running[index][0].proposal.number, []).append(float(log[name]))
            means = {number: sum(seeds) / len(seeds) for number, seeds in values.items()}
            stop = set(on_epoch(epoch + 1, {number: mean for number, mean in means.items() if math.isfinite(mean)}))
            for task in tasks:
                task.was_stopped |= task.proposal.number in stop
            # A trial fails with the first of its seeds.
            stop |= {number for number, mean in means.items() if not math.isfinite(mean)}
            return [index for index in logs if running[index][0].proposal.number in stop]

        if running:
            proposal = running[0][0].proposal
            options = {**self._arguments, "initial_epoch": (0, *proposal.before)[-1], "epochs": proposal.epochs}
            fit_executions([one for _, one in running], options, self._max_members, report)

    def _outcome(self, task: _Task, seconds: float) -> Outcome:
        histories = tuple(one.history for one in task.executions)
        results = [task.error, *(one.result for one in task.executions)]
        error = next((error_line(result) for result in results if isinstance(result, Exception)), None)
        error = error or next(filter(None, map(self._not_finite, histories)), None)
        if error is not None:
            return Outcome(task.proposal.number, "failed", histories, seconds, error)
        weights: list[list[np.ndarray] | None] = [one.best.weights for one in task.executions]
        status = "stopped" if task.was_stopped else "completed"
        return Outcome(task.proposal.number, status, histories, seconds, weights=tuple(weights))

    def _not_finite(self, history: Mapping[str, Sequence[float]]) -> str | None:
        """An error that names the first loss or objective that is not finite, or None."""
        for name in dict.fromkeys(("loss", self._config.objective_name)):
            for epoch, value in enumerate(history.get(name, ()), 1):
                if not math.isfinite(value):
                    return f"{name} must stay finite, received NaN or infinity in epoch {epoch}"
        return None
