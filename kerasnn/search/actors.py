"""The actors of a search on Ray: workers that train, and the mailbox through which they report.

They are apart from `kerasnn.search.cluster` because a process imports TensorFlow only where it trains.
"""

import asyncio
import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kerasnn.search.config import SearchConfig
from kerasnn.search.model_config import ModelSearchConfig
from kerasnn.search.trial import Outcome, Proposal

if TYPE_CHECKING:
    from kerasnn.search.model_trainer import ModelTrainer
    from kerasnn.search.trainer import Trainer

WorkersConfig = SearchConfig | ModelSearchConfig
"""What workers search."""

REPORT_EVERY = 0.2
"""Seconds between two reports that nobody waits for."""
ANSWER_AFTER = 10.0
"""Seconds after which a process answers whether it runs."""


class NotReadyError(Exception):
    """A worker's process has begun anew since the worker was ready."""


class Mailbox:
    """An actor through which workers report their epochs, and learn which trials to stop."""

    def __init__(self) -> None:
        self._keys = itertools.count()
        self._reports: list[tuple[int, int, Mapping[int, float]]] = []
        self._arrived = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Collection[int]]] = {}

    async def report(self, epoch: int, values: Mapping[int, float], wait: bool) -> Collection[int]:
        """Keep a report for the search.

        Args:
            epoch: number of epochs done.
            values: the objective of each running trial by number.
            wait: whether to wait for the numbers of the trials to stop, which are returned.
        """
        key = next(self._keys)
        self._reports.append((key, epoch, values))
        self._arrived.set()
        if not wait:
            return ()
        self._answers[key] = asyncio.get_running_loop().create_future()
        return await self._answers[key]

    async def take(self) -> list[tuple[int, int, Mapping[int, float]]]:
        """All reports that have come, at least one."""
        await self._arrived.wait()
        self._arrived.clear()
        taken, self._reports = self._reports, []
        return taken

    async def alive(self) -> None:
        """Answer after `ANSWER_AFTER` seconds, unless the process is stopped."""
        await asyncio.sleep(ANSWER_AFTER)

    async def answer(self, key: int, stop: Collection[int]) -> None:
        """Tell a worker that waits which trials to stop."""
        self._answers.pop(key).set_result(stop)


class Worker:
    """An actor that trains trials."""

    def __init__(self) -> None:
        self._trainer: Trainer | ModelTrainer | None = None

    def prepare(self, config: WorkersConfig, make: list[Any], mailbox: Any) -> str:
        """Get ready to train, once in each process.

        Args:
            config: the search.
            make: the reference of a function that makes the trainer.
            mailbox: where epochs are reported.

        Returns:
            The machine's name in Ray.
        """
        import ray

        if self._trainer is None:
            self._config, self._mailbox = config, mailbox
            self._trainer = ray.get(make[0])()
        return ray.get_runtime_context().get_node_id()

    def alive(self) -> None:
        """Answer after `ANSWER_AFTER` seconds, while another thread trains, unless the process is stopped."""
        time.sleep(ANSWER_AFTER)

    # What `ray.method` sets: this process has no Ray yet, and Ray's client takes it from nowhere else.
    alive.__ray_concurrency_group__ = "alive"  # type: ignore[attr-defined]

    def train(self, batch: int, proposals: Sequence[Proposal], score_to_beat: float | None) -> list[list[Outcome]]:
        """Train a share; the outcomes hold the weights of trials that may be among the best, and no states.

        Raises:
            NotReadyError: `prepare` must be called first.
        """
        import ray

        if self._trainer is None:
            raise NotReadyError
        wait, reported = self._config.stopper is not None, -math.inf

        def on_epoch(epoch: int, values: Mapping[int, float]) -> Collection[int]:
            nonlocal reported
            if wait:
                return ray.get(self._mailbox.report.remote(epoch, values, True))
            # Only shown: epochs may be shorter than what it takes to report them.
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                self._mailbox.report.remote(epoch, values, False)
            return ()

        return [
            _without_arrays(outcomes, self._config, score_to_beat)
            for outcomes in self._trainer.train(batch, proposals, on_epoch)
        ]


def _without_arrays(outcomes: Collection[Outcome], config: WorkersConfig, score_to_beat: float | None) -> list[Outcome]:
    """Outcomes without states, which stay with the worker, and without weights that are not among the best."""
    losses = []
    for outcome in outcomes:
        if bests := outcome.best_epochs(config):
            losses.append((config.as_loss(statistics.fmean(best for best, _ in bests)), outcome.number))
    worst = math.inf if score_to_beat is None else config.as_loss(score_to_beat)
    # With several objectives any may be on the Pareto front.
    count = config.keep_best if len(config.objectives) == 1 else min(config.keep_best, 1) * len(losses)
    kept = {number for loss, number in sorted(losses)[:count] if loss <= worst}
    return [
        dataclasses.replace(each, states=(), weights=each.weights if each.number in kept else ()) for each in outcomes
    ]
