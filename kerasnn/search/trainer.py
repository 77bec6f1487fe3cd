"""Trains trials: those of one program together as one fused network, the others one by one."""

import functools
import math
import tempfile
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn.config.description import replace_at
from kerasnn.config.monitor import BestValue
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import short
from kerasnn.data.loading import Data, load_data
from kerasnn.fused.member import Member
from kerasnn.fused.run_structure import program_key, reason_not_fusable
from kerasnn.fused.train import train_fused
from kerasnn.runs.train import train
from kerasnn.search.config import SearchConfig
from kerasnn.search.oracle_config import Hyperband
from kerasnn.search.space import one_at_a_time
from kerasnn.search.trial import Outcome, Proposal

OnEpoch = Callable[[int, Mapping[int, float]], Collection[int]]
"""Called after each epoch with the number of epochs done and the objective of each running trial by number; returns the
numbers of the trials to stop."""
DataOf = Callable[[RunConfig], Data]
"""Returns the prepared data of a run."""

DATA_SETS = 4
"""Data sets kept in memory where trials differ in their data."""


def cached_data(data: Data | None = None) -> DataOf:
    """A function that returns the prepared data of a run; the same object for runs with the same data, as long as few
    others come between.

    Args:
        data: data for all runs; None loads the data that each run describes.
    """
    load = functools.lru_cache(maxsize=DATA_SETS)(load_data)
    return lambda run: data or load(run.data, run.task)


def group_key(run: RunConfig, number: int, epoch: int) -> Hashable:
    """A key that is equal for trials that train together: runs of one program, on the same data, from one epoch on."""
    key = program_key(run)
    return ("alone", number) if key is None else (key, run.task, run.data, epoch)


def proposal_key(config: SearchConfig, proposal: Proposal) -> Hashable:
    """As `group_key`, for trials of which none has lost what it continues."""
    return group_key(config.run_with(proposal.values), proposal.number, (0, *proposal.before)[-1])


def trainer_with(config: SearchConfig, data: Data) -> "Trainer":
    """A trainer that has the examples of the search's run; others, which trials may ask for, it loads."""
    run, load = config.run_with({}), cached_data()
    return Trainer(config, lambda wanted: data if (wanted.data, wanted.task) == (run.data, run.task) else load(wanted))


class Trainer:
    """Trains proposals in this process.

    Args:
        config: the search.
        data_of: returns the data of a run.
    """

    def __init__(self, config: SearchConfig, data_of: DataOf) -> None:
        self._config, self._data_of = config, data_of
        # Programs are compiled for what later trials may need too.
        self._later_configs = [config.run_with(values) for values in one_at_a_time(config.space)]
        # What Hyperband may continue, by number: a trial of this batch or the one before, with its batch.
        self._continuable: dict[int, tuple[int, Outcome]] = {}

    def train(self, batch: int, proposals: Sequence[Proposal], on_epoch: OnEpoch) -> Iterator[list[Outcome]]:
        """Train proposals, as many together as their programs allow.

        Args:
            batch: number of the batch that they were proposed in.
            proposals: the trials.
            on_epoch: called after each epoch.

        Yields:
            The outcomes of trials that ended together; every trial once.
        """
        self._continuable = {number: kept for number, kept in self._continuable.items() if kept[0] >= batch - 1}
        groups: dict[Hashable, list[Proposal]] = {}
        for proposal in proposals:
            previous = self._previous(proposal)
            key = group_key(self._config.run_with(proposal.values), proposal.number, previous.epochs if previous else 0)
            groups.setdefault(key, []).append(proposal)
        for group in groups.values():
            for outcomes in self._train_group(group, on_epoch):
                if isinstance(self._config.oracle, Hyperband):
                    self._continuable |= {outcome.number: (batch, outcome) for outcome in outcomes if outcome.states}
                yield outcomes

    def _previous(self, proposal: Proposal) -> Outcome | None:
        """The outcome that a proposal continues. Where it is lost, after a kill or on another machine, the trial trains
        from the start, to the same end."""
        kept = None if proposal.continues is None else self._continuable.get(proposal.continues)
        return None if kept is None else kept[1]

    def _train_group(self, proposals: Sequence[Proposal], on_epoch: OnEpoch) -> Iterator[list[Outcome]]:
        if reason := reason_not_fusable(self._config.run_with(proposals[0].values)):
            yield [self._train_alone(proposals[0], on_epoch, reason)]
            return
        try:
            yield self._train_together(proposals, on_epoch)
        except Exception as error:
            # One trial may be the cause, or their number: alone, each succeeds or fails with its own error.
            for proposal in proposals:
                yield [self._train_alone(proposal, on_epoch, error_line(error))]

    def _train_together(self, proposals: Sequence[Proposal], on_epoch: OnEpoch) -> list[Outcome]:
        members: list[tuple[Proposal, int]] = []
        runs, states = [], []
        for proposal in proposals:
            previous = self._previous(proposal)
            for seed, run in enumerate(self._config.runs_with(proposal.values)):
                if previous is None or not previous.ended[seed]:
                    members.append((proposal, seed))
                    runs.append(run)
                    states.append(None if previous is None else previous.states[seed])
        stopped: set[int] = set()

        def stop_members(epoch: int, logs: Mapping[int, Mapping[str, float]]) -> list[int]:
            values: dict[int, list[float]] = {}
            for index, log in logs.items():
                values.setdefault(members[index][0].number, []).append(log[self._config.objective_name])
            means = {number: sum(seeds) / len(seeds) for number, seeds in values.items()}
            stop = set(on_epoch(epoch + 1, {number: mean for number, mean in means.items() if math.isfinite(mean)}))
            stopped.update(stop)
            stop |= {proposal.number for proposal in proposals if epoch + 1 >= proposal.epochs}
            # A trial fails with the first of its seeds.
            stop |= {number for number, mean in means.items() if not math.isfinite(mean)}
            return [index for index in logs if members[index][0].number in stop]

        start = time.perf_counter()
        trained: Sequence[Member] = []
        if members:
            trained = train_fused(
                runs,
                self._data_of(runs[0]),
                on_epoch=stop_members,
                initial=states,
                direction=self._config.direction,
                later_configs=self._later_configs,
                max_members=self._config.trials_per_batch * self._config.seeds_per_trial,
            )
        seconds = (time.perf_counter() - start) / len(proposals)
        by_seed: dict[int, dict[int, Member]] = {proposal.number: {} for proposal in proposals}
        for (proposal, seed), member in zip(members, trained, strict=True):
            by_seed[proposal.number][seed] = member
        return [self._outcome(each, by_seed[each.number], each.number in stopped, seconds) for each in proposals]

    def _outcome(self, proposal: Proposal, members: Mapping[int, Member], was_stopped: bool, seconds: float) -> Outcome:
        """The outcome of a fused trial; a seed that ended before it was continued has no member."""
        previous = self._previous(proposal)
        histories, states, weights, error = [], [], [], None
        for seed in range(self._config.seeds_per_trial):
            if (member := members.get(seed)) is None:
                assert previous is not None
                histories.append(previous.histories[seed])
                states.append(previous.states[seed])
                weights.append(previous.weights[seed])
                continue
            histories.append(member.history)
            states.append(member.state)
            weights.append(member.best_weights)
            if member.status == "diverged":
                error = f"loss and weights must stay finite, received NaN or infinity in epoch {member.epochs + 1}"
            error = error or _non_finite(member.history)
        if error is not None:
            return Outcome(proposal.number, "failed", tuple(histories), seconds, error)
        return Outcome(
            proposal.number,
            "stopped" if was_stopped else "completed",
            tuple(histories),
            seconds,
            states=tuple(states),
            ended=tuple(max(map(len, history.values())) < proposal.epochs for history in histories),
            weights=tuple(weights),
        )

    def _train_alone(self, proposal: Proposal, on_epoch: OnEpoch, reason: str) -> Outcome:
        start = time.perf_counter()
        histories: list[dict[str, list[float]]] = []
        weights: list[list[np.ndarray] | None] = []
        status, error, epochs = "completed", None, proposal.epochs
        quiet = {"report.tensorboard": False, "report.progress": "silent", "training.save_best": False}
        quiet |= {"training.save_state": False, "training.on_nan": "stop"}
        for seed, run in enumerate(self._config.runs_with(proposal.values)):
            # Later seeds end where the first one was stopped.
            callback = _TrialCallback(proposal.number, self._config, epochs, on_epoch if seed == 0 else None)
            try:
                with tempfile.TemporaryDirectory() as folder:
                    train(replace_at(run, quiet), Path(folder) / "run", self._data_of(run), callbacks=[callback])
            except Exception as exception:
                status, error = "failed", error_line(exception)
            histories.append(callback.history)
            weights.append(callback.best_weights)
            if error is not None:
                break
            if callback.stopped:
                status, epochs = "stopped", callback.epochs
        keras.backend.clear_session(free_memory=False)
        seconds = time.perf_counter() - start
        return Outcome(proposal.number, status, tuple(histories), seconds, error, alone=reason, weights=tuple(weights))


class _TrialCallback(keras.callbacks.Callback):
    """Keeps the logs and the best weights of one seed, reports each epoch, and stops training when asked to."""

    def __init__(self, number: int, config: SearchConfig, epochs: int, on_epoch: OnEpoch | None) -> None:
        super().__init__()
        self.number, self.config, self.epochs, self.on_epoch = number, config, epochs, on_epoch
        self.history: dict[str, list[float]] = {}
        self.stopped = False
        self.best_weights: list[np.ndarray] | None = None
        self._best = BestValue(config.direction)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        value = float(logs[self.config.objective_name])
        if self._best.update(value):
            self.best_weights = self.model.get_weights()
        if self.on_epoch is not None and self.number in self.on_epoch(epoch + 1, {self.number: value}):
            self.stopped, self.epochs = True, epoch + 1
        if epoch + 1 >= self.epochs:
            self.model.stop_training = True


def _non_finite(history: Mapping[str, Sequence[float]]) -> str | None:
    """An error that names the first value that is not finite, or None."""
    for name, values in history.items():
        for epoch, value in enumerate(values, 1):
            if not math.isfinite(value):
                return f"{name} must stay finite, received NaN or infinity in epoch {epoch}"
    return None


def error_line(error: BaseException) -> str:
    """An exception's message on one line, with its type where the message does not speak for itself."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = short(lines[0], 302)[1:-1]
    return text if isinstance(error, ValueError | ArithmeticError) else f"{type(error).__name__}: {text}"
