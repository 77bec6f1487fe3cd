"""One process that holds the search, and others that train for it, on this machine and on others."""

import dataclasses
import itertools
import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import keras_tuner
from keras_tuner.engine.trial import Trial

from kerasnn.distribute import processes
from kerasnn.files import write_text
from kerasnn.keras_private import tuner_service
from kerasnn.search.journal import ADDRESS
from kerasnn.search.oracle import Proposal
from kerasnn.search.space import SearchConfig
from kerasnn.search.trainer import Outcome, Watch, place_of
from kerasnn.search.wire import IDLE, OPTIONS, RUNNING, STOPPED, content, hyperparameters, message, outcome_from_json
from kerasnn.search.worker import GONE_AFTER

ATTEMPTS = 3
"""Workers that a trial may lose before it has failed."""
START = 120.0
"""Seconds that a local worker has beyond `GONE_AFTER` for starting."""
FAREWELL = 5.0
"""Seconds that workers have for learning that the search has ended."""


@dataclass(eq=False)
class _Task:
    """A proposal to be trained.

    Args:
        proposal: what to train.
        place: equal for trials that train together.
        lost: workers that died of it, or with it.
    """

    proposal: Proposal
    place: Any
    lost: int = 0


@dataclass(eq=False)
class _Share:
    """What a worker has been handed and not yet answered, by number."""

    name: str
    worker: str
    tasks: dict[int, _Task] = field(default_factory=dict)


class Chief:
    """Hands shares of trials to workers and takes their outcomes; used as a context, within which workers run.

    It stands where keras-tuner's gRPC service expects an oracle. Local workers are processes that it starts, each with
    a GPU of its own where there are several, and starts again where they die; others join through the address. Trials
    of a worker that dies, or is not heard of for `GONE_AFTER` seconds, are tried again: once more together, then each
    by itself, then they have failed.

    Args:
        config: the search.
        fingerprint: of its data, which workers must share.
        folder: the search's; the address is left there, and the workers' output.
        say: tells of a worker's death.
    """

    def __init__(self, config: SearchConfig, fingerprint: str, folder: Path, say: Callable[[str], None]) -> None:
        self._config, self._fingerprint, self._folder, self._say = config, fingerprint, folder, say
        # Held by whoever changes what follows: a call of a worker, or the search while it takes outcomes in.
        self._changed = threading.Condition()
        self._waiting: list[_Task] = []
        self._shares: dict[str, _Share] = {}
        self._done: list[list[Outcome]] = []
        self._names = itertools.count()
        self._heard: dict[str, float] = {}
        self._home: dict[int | None, str] = {}
        # By place among the local workers, each with its name.
        self._processes: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
        self._deaths = 0
        self._batch, self._limit = 0, 1
        self._watch: Watch = lambda epoch, values: ()
        self._to_beat: Callable[[], float | None] = lambda: None
        self._ended = False
        self._parted: set[str] = set()
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._ended = True
            known = {name for name, heard in self._heard.items() if time.monotonic() - heard < FAREWELL}
            end = time.monotonic() + (FAREWELL if kind is None else 0.0)
            while (left := end - time.monotonic()) > 0 and not known <= self._parted:
                self._changed.wait(left)
        for _, process in self._processes.values():
            if kind is None and process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, end - time.monotonic()))
            process.kill()
            process.wait()
        (self._folder / ADDRESS).unlink(missing_ok=True)
        self._server.stop(0).wait()

    # What the search asks

    def train(
        self, batch: int, proposals: Sequence[Proposal], watch: Watch, to_beat: Callable[[], float | None]
    ) -> Iterator[list[Outcome]]:
        """Have trials trained, in whichever order they end.

        Args:
            batch: number of the batch that they were proposed in.
            proposals: the trials.
            watch: told after each epoch.
            to_beat: the score from which on a trial's weights are wanted; None wants any.

        Yields:
            The outcomes of trials that ended together; every trial once.

        Raises:
            ValueError: one line, where one worker after the other dies without an outcome.
        """
        left = len(proposals)
        with self._changed:
            self._batch, self._watch, self._to_beat = batch, watch, to_beat
            self._limit = math.ceil(len(proposals) / max(self._config.workers, len(self._alive())))
            self._home = {
                each.continues: self._home[each.continues] for each in proposals if each.continues in self._home
            }
            self._waiting = [
                _Task(each, place_of(self._config.run_with(each.values), each.number, each.continues is not None))
                for each in proposals
            ]
            while left:
                self._tend()
                if not self._done:
                    self._changed.wait(0.2)
                    continue
                outcomes = self._done.pop(0)
                left -= len(outcomes)
                # The lock stays held: what the search takes in is what `watch` reads for the workers.
                yield outcomes

    # What keras-tuner's service asks for workers

    def get_space(self) -> keras_tuner.HyperParameters:
        """What is searched, and on which examples."""
        return hyperparameters({"search": self._config.model_dump(mode="json"), "data": self._fingerprint})

    def create_trial(self, tuner_id: str) -> Trial:
        """A share for a worker; the one that it has where it asks again."""
        with self._changed:
            self._heard[tuner_id] = time.monotonic()
            if self._ended:
                self._parted.add(tuner_id)
                self._changed.notify_all()
                return message("", STOPPED)
            share = next((each for each in self._shares.values() if each.worker == tuner_id), None)
            if share is None:
                tasks = self._next(tuner_id)
                if not tasks:
                    return message("", IDLE)
                share = _Share(f"share-{next(self._names)}", tuner_id, {task.proposal.number: task for task in tasks})
                self._shares[share.name] = share
            return message(
                share.name,
                RUNNING,
                {
                    "batch": self._batch,
                    "proposals": [dataclasses.asdict(task.proposal) for task in share.tasks.values()],
                    "to_beat": self._to_beat(),
                },
            )

    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Trial:
        """The objective of trials that run, by number, after an epoch; or nothing, as a sign of life.

        Answers which to end; all of them where the share is not the worker's any more.
        """
        with self._changed:
            share = self._shares.get(trial_id)
            worker = trial_id if share is None else share.worker
            if worker in self._heard:
                self._heard[worker] = time.monotonic()
            if share is None:
                return message(trial_id, STOPPED)
            values = {int(number): value for number, value in metrics.items()}
            return message(trial_id, RUNNING, sorted(self._watch(step, values)) if values else [])

    def end_trial(self, trial: Trial) -> None:
        """Outcomes of some trials of a share; ignored where it is not the worker's any more."""
        outcomes = [outcome_from_json(each) for each in content(trial.hyperparameters)]
        with self._changed:
            share = self._shares.get(trial.trial_id)
            if share is None or not all(outcome.number in share.tasks for outcome in outcomes):
                return
            self._heard[share.worker] = time.monotonic()
            for outcome in outcomes:
                del share.tasks[outcome.number]
                self._home[outcome.number] = share.worker
            if not share.tasks:
                del self._shares[share.name]
            self._deaths = 0
            self._done.append(outcomes)
            self._changed.notify_all()

    # Inside

    def _next(self, worker: str) -> list[_Task]:
        """What a worker is to train: what it began itself, else what nobody else began, else anything."""
        alive = self._alive()
        homes = {task: self._home.get(task.proposal.continues) for task in self._waiting}
        own = [task for task, home in homes.items() if home == worker]
        free = [task for task, home in homes.items() if home not in alive]
        pool = own or free or self._waiting
        # After two deaths each by itself, so that the one to blame is found.
        tasks = [task for task in pool if task.place == pool[0].place and task.lost == pool[0].lost]
        tasks = tasks[: 1 if pool[0].lost >= ATTEMPTS - 1 else self._limit]
        self._waiting = [task for task in self._waiting if task not in tasks]
        return tasks

    def _alive(self) -> set[str]:
        now = time.monotonic()
        return {name for name, heard in self._heard.items() if now - heard < GONE_AFTER}

    def _tend(self) -> None:
        """See who has died."""
        for name in self._heard.keys() - self._alive():
            self._lose(name, f"was not heard of for {GONE_AFTER:g} s")
        for slot, (name, process) in list(self._processes.items()):
            if (code := process.poll()) is not None:
                self._deaths += 1
                if name in self._heard:
                    self._lose(name, f"ended with exit code {code}")
                if self._deaths >= ATTEMPTS * self._config.workers:
                    raise ValueError(
                        f"workers must come to an end of their trials, {self._deaths} died one after the other; "
                        f"the last one's output is in {self._log(slot)}"
                    )
                self._start(slot)

    def _lose(self, worker: str, why: str) -> None:
        """Give a dead worker's trials back."""
        for name, process in self._processes.values():
            if name == worker:
                process.kill()
        del self._heard[worker]
        share = next((each for each in self._shares.values() if each.worker == worker), None)
        trials = [] if share is None else list(share.tasks.values())
        if share is not None:
            del self._shares[share.name]
        for task in trials:
            task.lost += 1
            if task.lost < ATTEMPTS:
                self._waiting.append(task)
            else:
                error = f"each of {ATTEMPTS} workers that trained it died, the last one {why}"
                self._done.append([Outcome(task.proposal.number, "failed", (), 0.0, error)])
                self._deaths = 0
        self._say(
            f"worker {worker} {why}; {len(trials)} trials are tried again" if trials else f"worker {worker} {why}"
        )

    def _start(self, slot: int) -> None:
        """Start a local worker, on a GPU of its own where there are several."""
        name = f"{slot}-{next(self._names)}"
        environment = {**processes.environment(), "TF_CPP_MIN_LOG_LEVEL": "2", **processes.gpu_environment(slot)}
        log = self._log(slot)
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*processes.PYTHON_MODULE, "kerasnn.search.worker", self.address, name, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                # Ctrl-C is for the chief.
                start_new_session=True,
            )
        self._processes[slot] = name, process
        # Importing TensorFlow is silent.
        self._heard[name] = time.monotonic() + START

    def _log(self, slot: int) -> Path:
        return self._folder / "workers" / f"{slot}.log"
