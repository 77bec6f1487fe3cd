"""The chief: the process that holds the search, and assigns trials to workers on this machine and on others."""

import dataclasses
import itertools
import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc
import keras_tuner
from keras_tuner.engine.trial import Trial

from kerasnn.distribute import processes
from kerasnn.files import write_text
from kerasnn.keras_private import tuner_service
from kerasnn.search.config import SearchConfig
from kerasnn.search.journal import ADDRESS
from kerasnn.search.trainer import OnEpoch, group_key
from kerasnn.search.trial import Outcome, Proposal
from kerasnn.search.wire import IDLE, OPTIONS, RUNNING, STOPPED, content, hyperparameters, message, outcome_from_json
from kerasnn.search.worker import GONE_AFTER

ATTEMPTS = 3
"""Workers that may die while they train a trial; it fails with the last of them."""
START = 120.0
"""Seconds that a local worker may take to start, in addition to `GONE_AFTER`."""
FAREWELL = 5.0
"""Seconds that the chief waits for workers to learn that the search has ended."""


@dataclass(eq=False)
class _Task:
    """A proposal that waits for a worker or has one.

    Args:
        proposal: the trial.
        group: equal for trials that train together.
        deaths: number of workers that died while they trained it.
    """

    proposal: Proposal
    group: Hashable
    deaths: int = 0


@dataclass(eq=False)
class _Assignment:
    """The trials that a worker has to train and has not returned, by number."""

    name: str
    worker: str
    tasks: dict[int, _Task] = field(default_factory=dict)


class Chief:
    """Assigns trials to workers and collects their outcomes; a context, within which workers run.

    It takes the place of an oracle in keras-tuner's gRPC service. It starts local workers as processes, each on its own
    GPU where there are several, and restarts those that die; other workers join at its address. The trials of a worker
    that dies, or is silent for `GONE_AFTER` seconds, are tried again: once together, then each alone, then they fail.

    Args:
        config: the search.
        fingerprint: hash of its examples, which workers must share.
        folder: the search's; holds the address and the workers' output.
        message: called with a line to show, about a worker's death.
    """

    def __init__(self, config: SearchConfig, fingerprint: str, folder: Path, message: Callable[[str], None]) -> None:
        self._config, self._fingerprint, self._folder, self._message = config, fingerprint, folder, message
        # Held by every call that changes what follows, and while the search takes outcomes in.
        self._changed = threading.Condition()
        self._waiting: list[_Task] = []
        self._assignments: dict[str, _Assignment] = {}
        self._outcomes: list[list[Outcome]] = []
        self._names = itertools.count()
        # When each worker was last heard of.
        self._heard: dict[str, float] = {}
        # Which worker trained each trial of the last batch: it can continue it.
        self._trained_by: dict[int | None, str] = {}
        # The name and the process of each local worker, by slot.
        self._processes: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
        self._deaths = 0
        self._batch, self._limit = 0, 1
        self._on_epoch: OnEpoch = lambda epoch, values: ()
        self._score_to_beat: Callable[[], float | None] = lambda: None
        self._ended = False
        self._dismissed: set[str] = set()
        host, _, port = (config.listen or "127.0.0.1:0").rpartition(":")
        self._server = grpc.server(ThreadPoolExecutor(32), options=OPTIONS)
        protos, _, OracleServicer = tuner_service()  # noqa: N806
        protos.get_service_grpc().add_OracleServicer_to_server(OracleServicer(self), self._server)
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            raise ValueError(
                f"listen must be an address of this machine that is free, received {host}:{port}"
            ) from None
        self.address = f"{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{bound}"

    def __enter__(self) -> Self:
        self._server.start()
        write_text(self._folder / ADDRESS, self.address + "\n")
        for slot in range(self._config.workers):
            self._start(slot)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._changed:
            self._ended = True
            known = {name for name, heard in self._heard.items() if time.monotonic() - heard < FAREWELL}
            end = time.monotonic() + (FAREWELL if kind is None else 0.0)
            while (left := end - time.monotonic()) > 0 and not known <= self._dismissed:
                self._changed.wait(left)
        for _, process in self._processes.values():
            if kind is None and process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, end - time.monotonic()))
            process.kill()
            process.wait()
        (self._folder / ADDRESS).unlink(missing_ok=True)
        self._server.stop(0).wait()

    # Called by the search.

    def train(
        self, batch: int, proposals: Sequence[Proposal], on_epoch: OnEpoch, score_to_beat: Callable[[], float | None]
    ) -> Iterator[list[Outcome]]:
        """Let workers train proposals; as `Trainer.train`.

        Args:
            score_to_beat: returns the worst score of which workers send a trial's weights; None asks for all weights.

        Raises:
            ValueError: one line, where one worker after the other dies without an outcome.
        """
        left = len(proposals)
        with self._changed:
            self._batch, self._on_epoch, self._score_to_beat = batch, on_epoch, score_to_beat
            self._limit = math.ceil(len(proposals) / max(self._config.workers, len(self._alive())))
            continued = {each.continues for each in proposals}
            self._trained_by = {number: name for number, name in self._trained_by.items() if number in continued}
            self._waiting = [
                _Task(each, group_key(self._config.run_with(each.values), each.number, each.continues is not None))
                for each in proposals
            ]
            while left:
                self._check_workers()
                if not self._outcomes:
                    self._changed.wait(0.2)
                    continue
                outcomes = self._outcomes.pop(0)
                left -= len(outcomes)
                # The lock stays held: the search takes in what `on_epoch` reads for the workers.
                yield outcomes

    # Called by keras-tuner's service, for workers.

    def get_space(self) -> keras_tuner.HyperParameters:
        """The search and the fingerprint of its examples."""
        return hyperparameters({"search": self._config.model_dump(mode="json"), "data": self._fingerprint})

    def create_trial(self, tuner_id: str) -> Trial:
        """Assign trials to a worker; where it asks again, it gets the same ones."""
        with self._changed:
            self._heard[tuner_id] = time.monotonic()
            if self._ended:
                self._dismissed.add(tuner_id)
                self._changed.notify_all()
                return message("", STOPPED)
            assignment = self._assignment_of(tuner_id)
            if assignment is None:
                tasks = self._next_tasks(tuner_id)
                if not tasks:
                    return message("", IDLE)
                name = f"share-{next(self._names)}"
                assignment = _Assignment(name, tuner_id, {task.proposal.number: task for task in tasks})
                self._assignments[name] = assignment
            proposals = [dataclasses.asdict(task.proposal) for task in assignment.tasks.values()]
            described = {"batch": self._batch, "proposals": proposals, "to_beat": self._score_to_beat()}
            return message(assignment.name, RUNNING, described)

    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Trial:
        """Take the objective of running trials, by number, after an epoch; without any, it is a heartbeat.

        Returns the trials to stop; all of them where they are no longer the worker's.
        """
        with self._changed:
            assignment = self._assignments.get(trial_id)
            worker = trial_id if assignment is None else assignment.worker
            if worker in self._heard:
                self._heard[worker] = time.monotonic()
            if assignment is None:
                return message(trial_id, STOPPED)
            values = {int(number): value for number, value in metrics.items()}
            return message(trial_id, RUNNING, sorted(self._on_epoch(step, values)) if values else [])

    def end_trial(self, trial: Trial) -> None:
        """Take the outcomes of some of a worker's trials; ignored where they are no longer the worker's."""
        outcomes = [outcome_from_json(fields) for fields in content(trial.hyperparameters)]
        with self._changed:
            assignment = self._assignments.get(trial.trial_id)
            if assignment is None or not all(outcome.number in assignment.tasks for outcome in outcomes):
                return
            self._heard[assignment.worker] = time.monotonic()
            for outcome in outcomes:
                del assignment.tasks[outcome.number]
                self._trained_by[outcome.number] = assignment.worker
            if not assignment.tasks:
                del self._assignments[assignment.name]
            self._deaths = 0
            self._outcomes.append(outcomes)
            self._changed.notify_all()

    # Internal.

    def _assignment_of(self, worker: str) -> _Assignment | None:
        return next((each for each in self._assignments.values() if each.worker == worker), None)

    def _next_tasks(self, worker: str) -> list[_Task]:
        """The trials to assign to a worker: those that continue its own, else no other worker's, else any."""
        alive = self._alive()
        trainers = {task: self._trained_by.get(task.proposal.continues) for task in self._waiting}
        continuing = [task for task, trainer in trainers.items() if trainer == worker]
        free = [task for task, trainer in trainers.items() if trainer not in alive]
        candidates = continuing or free or self._waiting
        if not candidates:
            return []
        first = candidates[0]
        tasks = [task for task in candidates if task.group == first.group and task.deaths == first.deaths]
        # After two deaths each alone, so that the trial at fault is found.
        tasks = tasks[: 1 if first.deaths >= ATTEMPTS - 1 else self._limit]
        self._waiting = [task for task in self._waiting if task not in tasks]
        return tasks

    def _alive(self) -> set[str]:
        now = time.monotonic()
        return {name for name, heard in self._heard.items() if now - heard < GONE_AFTER}

    def _check_workers(self) -> None:
        """Find workers that have died, and restart local ones."""
        for name in self._heard.keys() - self._alive():
            self._lose(name, f"was not heard of for {GONE_AFTER:g} s")
        for slot, (name, process) in list(self._processes.items()):
            if (code := process.poll()) is not None:
                self._deaths += 1
                if name in self._heard:
                    self._lose(name, f"ended with exit code {code}")
                if self._deaths >= ATTEMPTS * self._config.workers:
                    raise ValueError(
                        f"workers must finish their trials, {self._deaths} died one after the other; "
                        f"the last one's output is in {self._log(slot)}"
                    )
                self._start(slot)

    def _lose(self, worker: str, reason: str) -> None:
        """Let other workers try a dead worker's trials again."""
        for name, process in self._processes.values():
            if name == worker:
                process.kill()
        del self._heard[worker]
        assignment = self._assignment_of(worker)
        tasks = [] if assignment is None else list(assignment.tasks.values())
        if assignment is not None:
            del self._assignments[assignment.name]
        for task in tasks:
            task.deaths += 1
            if task.deaths < ATTEMPTS:
                self._waiting.append(task)
            else:
                error = f"each of {ATTEMPTS} workers that trained it died, the last one {reason}"
                self._outcomes.append([Outcome(task.proposal.number, "failed", (), 0.0, error)])
                self._deaths = 0
        consequence = f"; {len(tasks)} trials are tried again" if tasks else ""
        self._message(f"worker {worker} {reason}{consequence}")

    def _start(self, slot: int) -> None:
        """Start a local worker, on its own GPU where there are several."""
        name = f"{slot}-{next(self._names)}"
        environment = {**processes.environment(), "TF_CPP_MIN_LOG_LEVEL": "2", **processes.gpu_environment(slot)}
        log = self._log(slot)
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*processes.PYTHON_MODULE, "kerasnn.search.worker", self.address, name, str(os.getpid())],
                # A session of its own, because Ctrl-C must reach the chief only.
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True,
            )  # fmt: skip
        self._processes[slot] = name, process
        # A worker sends no heartbeat while it imports TensorFlow.
        self._heard[name] = time.monotonic() + START

    def _log(self, slot: int) -> Path:
        return self._folder / "workers" / f"{slot}.log"
