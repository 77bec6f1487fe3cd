"""Trains trials: those of one program as one fused network, the others one by one."""

import functools
import math
import tempfile
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import short
from kerasnn.config.sections import DataConfig, Task
from kerasnn.data.loading import Data, fingerprint, load_data
from kerasnn.fused.groups import train_fused
from kerasnn.fused.member import Member
from kerasnn.fused.structure import program_key, reason_not_fusable
from kerasnn.runs.train import train
from kerasnn.search.oracle import Proposal
from kerasnn.search.space import Hyperband, SearchConfig

History = dict[str, list[float]]
Watch = Callable[[int, Mapping[int, float]], Collection[int]]
"""Told the epochs done and the objective of each running trial by number; answers with the trials to end."""

DATA_KEPT = 4
"""Data sets that are kept in memory where trials differ in their data."""


@dataclass(frozen=True)
class Job:
    """A trial to train.

    Args:
        number: the trial's.
        runs: its run once for each seed.
        epochs: epochs after which it ends.
        before: the outcome that it continues, or None.
    """

    number: int
    runs: tuple[RunConfig, ...]
    epochs: int
    before: "Outcome | None" = None

    @property
    def start(self) -> int:
        """Epochs already done."""
        return 0 if self.before is None else self.before.epochs


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Args:
        number: the trial's.
        status: "completed", "stopped" (by the search's stopper) or "failed".
        histories: each seed's logged values by epoch, from the first epoch on.
        seconds: the trial's share of the time.
        error: why it failed, on one line.
        alone: why it was trained by itself, on one line; None where it was fused.
        states: each seed's training state, for going on; empty where there is none.
        ended: whether each seed ended by itself, by its early stopping, and must not go on.
        weights: each seed's weights of the best epoch, as `get_weights()` gives them; empty where there are none.
    """

    number: int
    status: str
    histories: tuple[History, ...]
    seconds: float
    error: str | None = None
    alone: str | None = None
    states: tuple[Any, ...] = field(default=(), repr=False)
    ended: tuple[bool, ...] = ()
    weights: tuple[list[np.ndarray] | None, ...] = field(default=(), repr=False)

    @property
    def epochs(self) -> int:
        """Epochs of the longest seed."""
        return max((len(values) for history in self.histories for values in history.values()), default=0)


class DataOf:
    """The prepared data of a run; equal runs' data are the same object, as long as few others came between.

    Args:
        given: data for all runs; None loads what each describes.
    """

    def __init__(self, given: Data | None = None) -> None:
        self._given = given
        self._load = functools.lru_cache(maxsize=DATA_KEPT)(self._read)

    def __call__(self, run: RunConfig) -> Data:
        """A run's data."""
        return self._given or self._load(run.task, run.data)

    def fingerprint(self, run: RunConfig) -> str:
        """What two machines, or two days, must share to train on the same examples."""
        return fingerprint(self(run))

    @staticmethod
    def _read(task: Task, data: DataConfig) -> Data:
        return load_data(data, task)


class Trainer:
    """Trains what is proposed, in this process.

    Args:
        config: the search.
        data_of: the data of a run.
    """

    def __init__(self, config: SearchConfig, data_of: DataOf) -> None:
        self._config, self._data_of = config, data_of
        self._kin = [config.run_with(values) for values in config.one_at_a_time()]
        # What hyperband may continue: trials of the batch before and of this one.
        self._kept: dict[int, tuple[int, Outcome]] = {}

    def train(self, batch: int, proposals: Sequence[Proposal], watch: Watch) -> Iterator[list[Outcome]]:
        """Train trials, as many together as their programs allow.

        Args:
            batch: number of the batch that they were proposed in.
            proposals: the trials.
            watch: told after each epoch.

        Yields:
            The outcomes of trials that ended together; every trial once.
        """
        self._kept = {number: kept for number, kept in self._kept.items() if kept[0] >= batch - 1}
        jobs = [self._job(proposal) for proposal in proposals]
        for together in train_jobs(jobs, self._data_of, self._config, watch, self._kin):
            if isinstance(self._config.oracle, Hyperband):
                self._kept |= {each.number: (batch, each) for each in together if each.states}
            yield together

    def _job(self, proposal: Proposal) -> Job:
        run = self._config.run_with(proposal.values)
        others = (replace_at(run, {"seed": run.seed + index}) for index in range(1, self._config.seeds_per_trial))
        # Without its state, after a kill or on another machine, it is trained from the start: to the same end.
        _, before = self._kept.get(proposal.continues, (0, None)) if proposal.continues is not None else (0, None)
        return Job(proposal.number, (run, *others), proposal.epochs, before)


def place_of(run: RunConfig, number: int, start: int) -> Hashable:
    """Equal for trials that train together.

    Args:
        run: the trial's.
        number: the trial's.
        start: epochs already done.
    """
    key = program_key(run)
    return ("alone", number) if key is None else (key, run.task, run.data, start)


def train_jobs(
    jobs: Sequence[Job],
    data_of: Callable[[RunConfig], Data],
    config: SearchConfig,
    watch: Watch,
    kin: Sequence[RunConfig],
) -> Iterator[list[Outcome]]:
    """Train trials, as many together as their programs allow.

    Args:
        jobs: the trials.
        data_of: the data of a run; equal runs' data are the same object.
        config: the search, whose objective decides.
        watch: told after each epoch.
        kin: runs such as other trials may be, which programs are compiled for too.

    Yields:
        The outcomes of trials that ended together; every trial once.
    """
    groups: dict[Hashable, list[Job]] = {}
    for job in jobs:
        groups.setdefault(place_of(job.runs[0], job.number, job.start), []).append(job)
    for group in groups.values():
        if reason := reason_not_fusable(group[0].runs[0]):
            yield [_alone(group[0], data_of, config, watch, reason)]
            continue
        try:
            yield _together(group, data_of, config, watch, kin)
        except Exception as error:
            # One of them may be to blame, or their number: each gets its own chance, and its own error.
            for job in group:
                yield [_alone(job, data_of, config, watch, one_line(error))]


def _together(
    jobs: Sequence[Job],
    data_of: Callable[[RunConfig], Data],
    config: SearchConfig,
    watch: Watch,
    kin: Sequence[RunConfig],
) -> list[Outcome]:
    members = [
        (job, seed) for job in jobs for seed in range(len(job.runs)) if job.before is None or not job.before.ended[seed]
    ]
    stopped: set[int] = set()

    def on_epoch(epoch: int, logs: Mapping[int, Mapping[str, float]]) -> list[int]:
        values: dict[int, list[float]] = {}
        for index, log in logs.items():
            values.setdefault(members[index][0].number, []).append(log[config.objective_name])
        means = {number: sum(found) / len(found) for number, found in values.items()}
        stop = set(watch(epoch + 1, {number: mean for number, mean in means.items() if math.isfinite(mean)}))
        stopped.update(stop)
        stop |= {job.number for job in jobs if epoch + 1 >= job.epochs}
        # A trial fails with the first of its seeds.
        stop |= {number for number, mean in means.items() if not math.isfinite(mean)}
        return [index for index in logs if members[index][0].number in stop]

    begin = time.perf_counter()
    found: Sequence[Member] = []
    if members:
        found = train_fused(
            [job.runs[seed] for job, seed in members],
            data_of(members[0][0].runs[0]),
            on_epoch=on_epoch,
            initial=[job.before.states[seed] if job.before else None for job, seed in members],
            direction=config.direction,
            later_configs=kin,
            max_members=config.batch * config.seeds_per_trial,
        )
    seconds = (time.perf_counter() - begin) / len(jobs)
    trained = {(job.number, seed): member for (job, seed), member in zip(members, found, strict=True)}
    return [_outcome(job, trained, job.number in stopped, seconds) for job in jobs]


def _outcome(job: Job, trained: Mapping[tuple[int, int], Member], stopped: bool, seconds: float) -> Outcome:
    histories, states, weights, error = [], [], [], None
    for seed in range(len(job.runs)):
        member = trained.get((job.number, seed))
        if member is None:
            assert job.before is not None
            histories.append(job.before.histories[seed])
            states.append(job.before.states[seed])
            weights.append(job.before.weights[seed])
            continue
        histories.append(member.history)
        states.append(member.state)
        weights.append(member.best_weights)
        if member.status == "diverged":
            error = f"loss and weights must stay finite, received NaN or infinity in epoch {member.epochs + 1}"
        error = error or _bad(member.history)
    if error is not None:
        return Outcome(job.number, "failed", tuple(histories), seconds, error)
    ended = tuple(max(map(len, history.values())) < job.epochs for history in histories)
    status = "stopped" if stopped else "completed"
    return Outcome(
        job.number, status, tuple(histories), seconds, states=tuple(states), ended=ended, weights=tuple(weights)
    )


def _alone(job: Job, data_of: Callable[[RunConfig], Data], config: SearchConfig, watch: Watch, why: str) -> Outcome:
    begin = time.perf_counter()
    histories: list[History] = []
    weights: list[list[np.ndarray] | None] = []
    status, error, epochs = "completed", None, job.epochs
    for seed, run in enumerate(job.runs):
        # Seeds after the first end where the first was ended.
        watcher = _Watcher(job.number, config, epochs, watch if seed == 0 else None)
        quiet = {"report.tensorboard": False, "report.progress": "silent", "training.save_best": False}
        quiet |= {"training.save_state": False, "training.on_nan": "stop"}
        try:
            with tempfile.TemporaryDirectory() as folder:
                train(replace_at(run, quiet), Path(folder) / "run", data_of(run), callbacks=[watcher])
        except Exception as reason:
            status, error = "failed", one_line(reason)
        histories.append(watcher.history)
        weights.append(watcher.weights)
        if error is not None:
            break
        if watcher.stopped:
            status, epochs = "stopped", watcher.epochs
    keras.backend.clear_session(free_memory=False)
    seconds = time.perf_counter() - begin
    return Outcome(job.number, status, tuple(histories), seconds, error, alone=why, weights=tuple(weights))


class _Watcher(keras.callbacks.Callback):
    """Keeps the logs and the best weights, tells of them, and ends training when told to."""

    def __init__(self, number: int, config: SearchConfig, epochs: int, watch: Watch | None) -> None:
        super().__init__()
        self.number, self.objective, self.epochs, self.watch = number, config.objective_name, epochs, watch
        self.sign = -1.0 if config.direction == "max" else 1.0
        self.history: History = {}
        self.stopped = False
        self.weights: list[np.ndarray] | None = None
        self._best = math.inf

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        value = float(logs[self.objective])
        if self.sign * value < self._best:
            self._best, self.weights = self.sign * value, self.model.get_weights()
        if self.watch is not None and self.number in self.watch(epoch + 1, {self.number: value}):
            self.stopped, self.epochs = True, epoch + 1
        if epoch + 1 >= self.epochs:
            self.model.stop_training = True


def _bad(history: History) -> str | None:
    for name, values in history.items():
        for epoch, value in enumerate(values, 1):
            if not math.isfinite(value):
                return f"{name} must stay finite, received NaN or infinity in epoch {epoch}"
    return None


def one_line(error: BaseException) -> str:
    """An exception's message on one line, its kind where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = short(lines[0], 302)[1:-1]
    return text if isinstance(error, ValueError | ArithmeticError) else f"{type(error).__name__}: {text}"
