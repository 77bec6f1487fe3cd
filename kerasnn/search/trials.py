"""Trains trials: those of one program as one fused network, the others one by one."""

import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn.config import RunConfig, replace_at
from kerasnn.data import Data
from kerasnn.schema import short
from kerasnn.training import fused
from kerasnn.training.run import train

History = dict[str, list[float]]
Watch = Callable[[int, Mapping[int, float]], Collection[int]]
"""Told the epochs done and the objective of each running trial by number; answers with the trials to end."""


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
    """

    number: int
    status: str
    histories: tuple[History, ...]
    seconds: float
    error: str | None = None
    alone: str | None = None
    states: tuple[Any, ...] = field(default=(), repr=False)
    ended: tuple[bool, ...] = ()

    @property
    def epochs(self) -> int:
        """Epochs of the longest seed."""
        return max((len(values) for history in self.histories for values in history.values()), default=0)


def train_jobs(
    jobs: Sequence[Job], data_of: Callable[[RunConfig], Data], objective: str, watch: Watch
) -> Iterator[list[Outcome]]:
    """Train trials, as many together as their programs allow.

    Args:
        jobs: the trials.
        data_of: the data of a run; equal runs' data are the same object.
        objective: logged value that decides.
        watch: told after each epoch.

    Yields:
        The outcomes of trials that ended together; every trial once.
    """
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        run = job.runs[0]
        key = fused.program_key(run)
        place = ("alone", job.number) if key is None else (key, run.task, run.data.model_dump_json(), job.start)
        groups.setdefault(place, []).append(job)
    for place, group in groups.items():
        if place[0] == "alone":
            yield [_alone(group[0], data_of, objective, watch, fused.why_not(group[0].runs[0]) or "no program")]
            continue
        try:
            yield _together(group, data_of, objective, watch)
        except Exception as error:
            # One of them may be to blame, or their number: each gets its own chance, and its own error.
            for job in group:
                yield [_alone(job, data_of, objective, watch, one_line(error))]


def _together(jobs: Sequence[Job], data_of: Callable[[RunConfig], Data], objective: str, watch: Watch) -> list[Outcome]:
    members = [
        (job, seed) for job in jobs for seed in range(len(job.runs)) if job.before is None or not job.before.ended[seed]
    ]
    stopped: set[int] = set()

    def on_epoch(epoch: int, logs: Mapping[int, Mapping[str, float]]) -> list[int]:
        values: dict[int, list[float]] = {}
        for index, log in logs.items():
            values.setdefault(members[index][0].number, []).append(log[objective])
        means = {number: float(np.mean(found)) for number, found in values.items()}
        stop = set(watch(epoch + 1, {number: mean for number, mean in means.items() if math.isfinite(mean)}))
        stopped.update(stop)
        stop |= {job.number for job in jobs if epoch + 1 >= job.epochs}
        # A trial fails with the first of its seeds.
        stop |= {number for number, mean in means.items() if not math.isfinite(mean)}
        return [index for index in logs if members[index][0].number in stop]

    begin = time.perf_counter()
    found: Sequence[fused.Member] = []
    if members:
        found = fused.train_fused(
            [job.runs[seed] for job, seed in members],
            data_of(members[0][0].runs[0]),
            on_epoch=on_epoch,
            initial=[job.before.states[seed] if job.before else None for job, seed in members],
        )
    seconds = (time.perf_counter() - begin) / len(jobs)
    trained = {(job.number, seed): member for (job, seed), member in zip(members, found, strict=True)}
    return [_outcome(job, trained, job.number in stopped, seconds) for job in jobs]


def _outcome(job: Job, trained: Mapping[tuple[int, int], fused.Member], stopped: bool, seconds: float) -> Outcome:
    histories, states, error = [], [], None
    for seed in range(len(job.runs)):
        member = trained.get((job.number, seed))
        if member is None:
            assert job.before is not None
            histories.append(job.before.histories[seed])
            states.append(job.before.states[seed])
            continue
        histories.append(member.history)
        states.append(member.state)
        if member.status == "diverged":
            error = f"loss and weights must stay finite, received NaN or infinity in epoch {member.epochs + 1}"
        error = error or _bad(member.history)
    if error is not None:
        return Outcome(job.number, "failed", tuple(histories), seconds, error)
    ended = tuple(max(map(len, history.values())) < job.epochs for history in histories)
    status = "stopped" if stopped else "completed"
    return Outcome(job.number, status, tuple(histories), seconds, states=tuple(states), ended=ended)


def _alone(job: Job, data_of: Callable[[RunConfig], Data], objective: str, watch: Watch, why: str) -> Outcome:
    begin = time.perf_counter()
    histories: list[History] = []
    status, error, epochs = "completed", None, job.epochs
    for seed, run in enumerate(job.runs):
        # Seeds after the first end where the first was ended.
        watcher = _Watcher(job.number, objective, epochs, watch if seed == 0 else None)
        quiet = {"report.tensorboard": False, "report.progress": "silent", "training.save_best": False}
        try:
            with tempfile.TemporaryDirectory() as folder:
                train(replace_at(run, quiet), Path(folder) / "run", data_of(run), callbacks=[watcher])
        except Exception as reason:
            status, error = "failed", one_line(reason)
        histories.append(watcher.history)
        if error is not None:
            break
        if watcher.stopped:
            status, epochs = "stopped", watcher.epochs
    keras.backend.clear_session(free_memory=False)
    return Outcome(job.number, status, tuple(histories), time.perf_counter() - begin, error, alone=why)


class _Watcher(keras.callbacks.Callback):
    """Keeps the logs, tells of them, and ends training when told to."""

    def __init__(self, number: int, objective: str, epochs: int, watch: Watch | None) -> None:
        super().__init__()
        self.number, self.objective, self.epochs, self.watch = number, objective, epochs, watch
        self.history: History = {}
        self.stopped = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        value = float(logs[self.objective])
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
