"""Trains trials in several processes: Ray's actors, on this machine or on a cluster."""

import dataclasses
import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import keras
import keras_tuner
import numpy as np

from kerasnn.config.schema import short
from kerasnn.search.actors import Mailbox, NotReadyError, Worker, WorkersConfig
from kerasnn.search.connection import connect, import_ray
from kerasnn.search.oracle_config import Hyperband
from kerasnn.search.placement import divide_gpus
from kerasnn.search.progress import SearchProgress
from kerasnn.search.trainer import OnEpoch, error_line
from kerasnn.search.trial import Outcome, Proposal, SearchError

ATTEMPTS = 3
"""Attempts at a trial; with the last of them it fails."""
START = 300.0
"""Seconds after which a search ends without a single worker that is ready."""
SILENCE = 120.0
"""Seconds without an answer after which a process is killed, which may be stopped or hang without its thread's lock."""

Share = list["_Task"]


@dataclasses.dataclass(eq=False)
class _Task:
    """A proposal that waits for a worker or has one.

    Args:
        proposal: the trial.
        group: equal for trials that train together.
        failures: number of attempts that failed: the worker died, or its outcome was wrong.
    """

    proposal: Proposal
    group: Hashable
    failures: int = 0


class Cluster:
    """Divides trials among workers and collects their outcomes; a context, within which the workers run.

    Ray places, starts and restarts the workers, one GPU each where there are as many (`divide_gpus`). Where GPUs join
    or leave, a worker that trains nothing, and keeps nothing that Hyperband may continue, is made anew with its new
    share. Trials whose worker dies, or returns something wrong, are tried again: once together, then each alone, then
    they fail. A machine that leaves costs no trial an attempt. A worker that joins a running search takes its part;
    nobody waits for one that has left. A process that does not answer for `SILENCE` seconds, as one that is stopped, is
    killed and so counts as dead. A Ray that the program has begun is used, and left running.

    Args:
        config: the search.
        make: makes a worker's trainer; Ray stores it once on each machine, with the examples that it holds.
        group: returns a key of a trial, which is equal for trials that one worker may train together.
        progress: shows how many workers there are, and why one failed.
        worker: class of the actors that train.

    Raises:
        ValueError: one line, where Ray is not installed, does not answer, or offers no worker within `START` seconds.

    Reference: Ray's actors and its object store.
    """

    def __init__(
        self,
        config: WorkersConfig,
        make: Any,
        group: Callable[[Proposal], Hashable],
        progress: SearchProgress,
        worker: type[Worker] = Worker,
    ) -> None:
        self._config, self._make, self._group, self._progress, self._kind = config, make, group, progress, worker
        self._ray = import_ray()
        self._begun_here = not self._ray.is_initialized()
        # Each worker's actor, and the GPUs that it asks for.
        self._workers: dict[int, Any] = {}
        self._gpus: dict[int, float] = {}
        self._mailbox: Any = None
        self._reports: Any = None
        # The number of each worker that is ready or trains, by the reference that ends its call.
        self._starting: dict[Any, int] = {}
        self._ready: list[int] = []
        # The machine of each worker that has been ready.
        self._machines: dict[int, str] = {}
        self._shares: dict[Any, tuple[int, Share]] = {}
        self._waiting: list[_Task] = []
        # Which worker trained each trial of the last batch that Hyperband may continue.
        self._trained_by: dict[int | None, int] = {}
        self._failures = 0
        # By the reference of a process's answer that it runs: its actor, and the time when it was asked.
        self._asked: dict[Any, tuple[Any, float]] = {}
        self._seconds = 0.0

    def __enter__(self) -> Self:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._begun_here:
            connect(self._config)
        # Beside this process, whichever machines leave.
        here = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = self._ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Mailbox).remote()
        self._ask(self._mailbox)
        # One call at a time, for all batches: a second would leave one of the two without the reports.
        self._reports = self._mailbox.take.remote()
        self._stored = self._ray.put(self._make)
        # A worker that no machine has room for waits until another machine joins.
        self._actor = self._ray.remote(num_cpus=1, max_restarts=-1, concurrency_groups={"alive": 1})(self._kind)
        self._place(range(self._config.workers))
        return self

    def __exit__(self, *error: object) -> None:
        if self._begun_here:
            self._ray.shutdown()
            return
        for actor in [*self._workers.values(), self._mailbox]:
            self._ray.kill(actor)

    def train(
        self, batch: int, proposals: Sequence[Proposal], on_epoch: OnEpoch, score_to_beat: Callable[[], float | None]
    ) -> Iterator[list[Outcome]]:
        """Let workers train proposals; as `Trainer.train`.

        Args:
            batch: number of the batch that they were proposed in.
            proposals: the trials.
            on_epoch: called after each epoch.
            score_to_beat: returns the worst score of which workers send a trial's weights; None asks for all weights.

        Raises:
            ValueError: one line, where no worker is ready within `START` seconds, or one after the other fails.
        """
        continued = {each.continues for each in proposals}
        self._trained_by = {number: worker for number, worker in self._trained_by.items() if number in continued}
        self._waiting = [_Task(each, self._group(each)) for each in proposals]
        limit = math.ceil(len(proposals) / self._config.workers)
        since = time.monotonic()
        while self._waiting or self._shares:
            # What a worker keeps of a trial that is continued would be trained again.
            keeping = {*self._trained_by.values()}
            # Of those that start, the last is the last that Ray finds room for.
            self._place(
                [*reversed(self._starting.values()), *(number for number in self._ready if number not in keeping)]
            )
            self._assign(batch, limit, score_to_beat)
            begun = time.monotonic()
            done, _ = self._ray.wait([self._reports, *self._starting, *self._shares, *self._asked], timeout=1.0)
            # No more where this process was stopped, and the answers with it.
            self._seconds += min(time.monotonic() - begun, 2.0)
            if self._ready or self._shares:
                since = time.monotonic()
            elif time.monotonic() - since > START:
                raise ValueError(f"workers must be ready within {START:g} s, none of {len(self._workers)} is")
            for call in done:
                if call == self._reports:
                    # A mailbox that died starts anew; who waited for its answer fails, and is tried again.
                    with suppress(self._ray.exceptions.RayActorError):
                        self._answer(self._ray.get(call), on_epoch)
                    self._reports = self._mailbox.take.remote()
                elif call in self._starting:
                    self._begin(call)
                elif call in self._asked:
                    self._answered(call)
                else:
                    yield from self._collect(call)
            self._kill_silent()

    def _assign(self, batch: int, limit: int, score_to_beat: Callable[[], float | None]) -> None:
        """Give shares to the workers that are ready."""
        for number in list(self._ready):
            if share := self._next_share(number, limit):
                self._ready.remove(number)
                described = [task.proposal for task in share]
                call = self._workers[number].train.remote(batch, described, score_to_beat())
                self._shares[call] = number, share

    def _place(self, numbers: Sequence[int]) -> None:
        """Make those workers anew that have other GPUs than they would get now."""
        if not numbers:
            return
        gpus, without, with_gpus = divide_gpus(self._ray.nodes(), self._config.workers)
        # Ray may have placed one that asked for no GPU where others need the processor for theirs.
        misplaced = [each for each in numbers if self._gpus.get(each) == 0 and self._machines.get(each) in with_gpus]
        for number in dict.fromkeys([*misplaced, *numbers]):
            before = self._gpus.pop(number, None)
            others = [*self._gpus.values()].count(0.0)
            share = 0.0 if others < without and number not in misplaced else gpus
            self._gpus[number] = share
            if share == before:
                continue
            if before is not None:
                self._progress.message(f"worker {number} starts anew with {share:g} GPUs, it had {before:g}")
                self._remove(number)
                self._show()
            self._workers[number] = self._actor.options(num_gpus=share).remote()
            self._start(number)

    def _remove(self, number: int) -> None:
        actor = self._workers.pop(number)
        self._ready = [each for each in self._ready if each != number]
        self._starting = {call: each for call, each in self._starting.items() if each != number}
        self._asked = {call: asked for call, asked in self._asked.items() if asked[0] is not actor}
        self._ray.kill(actor)

    def _start(self, number: int) -> None:
        """Wait for a worker that starts, or that Ray starts anew."""
        prepare = self._workers[number].prepare.options(max_task_retries=-1)
        # In a list Ray passes the reference and not what it stands for.
        self._starting[prepare.remote(self._config, [self._stored], self._mailbox)] = number

    def _begin(self, call: Any) -> None:
        number = self._starting.pop(call)
        try:
            self._machines[number] = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            self._fail(number, [], error)
            return
        self._ready.append(number)
        self._ask(self._workers[number])
        self._show()

    def _ask(self, actor: Any) -> None:
        """Ask a process whether it runs, unless it is asked already."""
        if all(actor is not asked for asked, _ in self._asked.values()):
            self._asked[actor.alive.remote()] = actor, self._seconds

    def _answered(self, call: Any) -> None:
        """Ask a process again that has answered; a worker that died is asked once it is ready again."""
        actor, _ = self._asked.pop(call)
        try:
            self._ray.get(call)
        except self._ray.exceptions.RayError:
            if actor is not self._mailbox:
                return
        self._ask(actor)

    def _kill_silent(self) -> None:
        """Kill the process that was asked first, where it has not answered for too long; Ray starts it anew."""
        call, (actor, since) = next(iter(self._asked.items()))
        if self._seconds - since <= SILENCE:
            return
        if self._ray.wait([call], timeout=0)[0]:
            # Others were answered first.
            self._answered(call)
            return
        del self._asked[call]
        number = next((number for number, worker in self._workers.items() if worker is actor), None)
        name = "the mailbox" if number is None else f"worker {number}"
        self._progress.message(f"{name} has not answered for {SILENCE:g} s and is killed")
        self._ray.kill(actor, no_restart=False)
        if number is None:
            self._ask(actor)
        elif number in self._ready:
            self._ready.remove(number)
            self._start(number)

    def _show(self) -> None:
        self._progress.workers(len(self._ready) + len(self._shares), len(self._workers))

    def _next_share(self, worker: int, limit: int) -> Share:
        """The trials for a worker: those that continue its own, else those of no other worker, else any."""
        trainers = {task: self._trained_by.get(task.proposal.continues) for task in self._waiting}
        busy = {number for number, _ in self._shares.values()} | {*self._ready}
        continuing = [task for task, trainer in trainers.items() if trainer == worker]
        free = [task for task, trainer in trainers.items() if trainer not in busy]
        candidates = continuing or free or self._waiting
        if not candidates:
            return []
        first = candidates[0]
        share = [task for task in candidates if task.group == first.group and task.failures == first.failures]
        # The last attempt is each trial's alone, so that the one at fault is found.
        share = share[: 1 if first.failures >= ATTEMPTS - 1 else limit]
        taken = {*share}
        self._waiting = [task for task in self._waiting if task not in taken]
        return share

    def _collect(self, call: Any) -> list[list[Outcome]]:
        """The outcomes of a share that has ended, or that failed for the last time."""
        worker, share = self._shares.pop(call)
        try:
            outcomes = self._ray.get(call)
            for outcome in (each for together in outcomes for each in together):
                _check_outcome(outcome, self._config)
            numbers = sorted(each.number for together in outcomes for each in together)
            if numbers != sorted(task.proposal.number for task in share):
                raise ValueError(f"a worker must return its trials, received {numbers}")
        except (self._ray.exceptions.RayError, ValueError, TypeError, AttributeError) as error:
            if isinstance(cause := getattr(error, "cause", None), SearchError | keras_tuner.errors.FatalError):
                raise cause from None
            return self._fail(worker, share, error)
        self._failures = 0
        self._ready.append(worker)
        if isinstance(self._config.oracle, Hyperband):
            self._trained_by |= dict.fromkeys(numbers, worker)
        return outcomes

    def _fail(self, worker: int, share: Share, error: Exception) -> list[list[Outcome]]:
        """Have the trials of a failed worker tried again; the outcomes of those that have failed too often."""
        # Ray's own words are a paragraph.
        is_gone = isinstance(error, self._ray.exceptions.RayActorError | NotReadyError)
        reason = "its process or its machine is gone" if is_gone else _reason(error)
        counts = self._counts(worker, error)
        self._failures += 1
        if self._failures >= ATTEMPTS * len(self._workers):
            raise ValueError(f"workers must finish their trials, {self._failures} failed in a row, the last: {reason}")
        self._start(worker)
        failed = []
        for task in share:
            task.failures += counts
            if task.failures < ATTEMPTS:
                self._waiting.append(task)
            else:
                line = f"each of {ATTEMPTS} attempts failed, the last: {reason}"
                failed.append([Outcome(task.proposal.number, "failed", (), 0.0, line)])
                self._failures = 0
        consequence = f"; {len(share) - len(failed)} trials are tried again" if len(share) > len(failed) else ""
        self._progress.message(f"worker {worker} failed: {reason}{consequence}")
        self._show()
        return failed

    def _counts(self, worker: int, error: Exception) -> bool:
        """Whether a failure may be the trials' fault."""
        if isinstance(error, NotReadyError):
            return False
        left = {each["NodeID"] for each in self._ray.nodes() if not each["Alive"]}
        return self._machines.get(worker) not in left

    def _answer(self, reports: Sequence[tuple[int, int, Mapping[int, float]]], on_epoch: OnEpoch) -> None:
        training = {task.proposal.number for _, share in self._shares.values() for task in share}
        for key, epoch, values in reports:
            # A report may come later than the outcome.
            running = {number: value for number, value in values.items() if number in training}
            stop = on_epoch(epoch, running) if running else ()
            if self._config.stopper is not None:
                self._mailbox.answer.remote(key, list(stop))


def _check_outcome(outcome: Any, config: WorkersConfig) -> None:
    """Refuse an outcome that the search could not take in.

    Raises:
        ValueError, TypeError, AttributeError: with the fault.
    """
    if not isinstance(outcome, Outcome):
        raise TypeError(f"an outcome must be an Outcome, received {short(outcome)}")
    if outcome.status not in ("completed", "stopped", "failed"):
        raise ValueError(f"an outcome's status is completed, stopped or failed, received {outcome.status!r}")
    for best, _ in outcome.best_epochs(config):
        if not math.isfinite(best):
            raise ValueError(f"an outcome's objective must be finite, received {best}")
    if outcome.weights and len(outcome.weights) != config.seeds_per_trial:
        raise ValueError(f"an outcome has weights of {config.seeds_per_trial} seeds, received {len(outcome.weights)}")
    for array in (array for weights in outcome.weights for array in weights or ()):
        if not np.isfinite(np.asarray(array, np.float64)).all():
            raise ValueError("an outcome's weights must be finite")


def _reason(error: Exception) -> str:
    """Why a worker failed, on one line."""
    # What a worker raised comes wrapped in Ray's error.
    return error_line(getattr(error, "cause", None) or error)


def check_sendable(**parts: Any) -> None:
    """Refuse what cannot be sent to workers: all but arrays go through cloudpickle.

    Raises:
        ValueError: one line, also where Ray is not installed.
    """
    dumps = import_ray().cloudpickle.dumps
    for name, part in parts.items():
        for leaf in keras.tree.flatten(part):
            try:
                if not isinstance(leaf, np.ndarray):
                    dumps(leaf)
            except Exception as error:
                kind = getattr(leaf, "__name__", type(leaf).__name__)
                raise ValueError(
                    f"{name} must be what cloudpickle can send to workers, received {kind}: {error_line(error)}"
                ) from None
