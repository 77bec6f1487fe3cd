"""A worker: a process that trains the trials that a search's chief assigns to it."""

import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import grpc

from kerasnn.data.loading import fingerprint
from kerasnn.search.config import SearchConfig
from kerasnn.search.trainer import Trainer, cached_data
from kerasnn.search.trial import Outcome, Proposal
from kerasnn.search.wire import IDLE, STOPPED, Client, content, message, outcome_to_json

HEARTBEAT = 1.0
"""Seconds between two heartbeats."""
GONE_AFTER = 30.0
"""Seconds without an answer after which the other side counts as dead. A worker then exits; the chief assigns the
worker's trials to others."""
POLL = 0.1
"""Seconds between two requests for trials while the chief has none."""

Answer = TypeVar("Answer")


class ChiefGone(SystemExit):
    """The chief has stopped answering; ends the process, past the handlers of a trial's errors."""


def work(address: str, name: str, parent: int | None = None) -> None:
    """Train the trials that the chief assigns, until it has no more.

    A worker whose chief has died exits: at the next heartbeat where the chief is its parent process, otherwise after
    `GONE_AFTER` seconds and a call's deadline.

    Args:
        address: the chief's, `host:port`.
        name: this worker's, unique among all.
        parent: process id of the chief where it started this process.

    Raises:
        ValueError: one line, where this machine reads other examples than the chief.
    """
    connection = _Connection(address, name, parent)
    described = content(connection.ask(connection.client.get_space))
    config = SearchConfig.model_validate(described["search"])
    data_of = cached_data()
    if fingerprint(data_of(config.run_with({}))) != described["data"]:
        raise ValueError(f"data must be the chief's, {config.run.data.name} here has other examples")
    trainer = Trainer(config, data_of)
    while True:
        assignment = connection.ask(connection.client.create_trial, name)
        if assignment.status == STOPPED:
            return
        if assignment.status == IDLE:
            time.sleep(POLL)
            continue
        connection.assignment = assignment.trial_id
        _train(connection, config, trainer, content(assignment.hyperparameters))


def _train(connection: "_Connection", config: SearchConfig, trainer: Trainer, assignment: Mapping[str, Any]) -> None:
    proposals = [Proposal(**fields) for fields in assignment["proposals"]]

    def on_epoch(epoch: int, values: Mapping[int, float]) -> Collection[int]:
        metrics = {str(number): value for number, value in values.items()}
        answer = connection.ask(connection.client.update_trial, connection.assignment, metrics, epoch)
        # An assignment that went to another worker meanwhile is dropped.
        return list(values) if answer.status == STOPPED else content(answer.hyperparameters)

    for outcomes in trainer.train(assignment["batch"], proposals, on_epoch):
        kept = _worth_keeping(outcomes, config, assignment["to_beat"])
        described = [outcome_to_json(outcome, outcome.number in kept) for outcome in outcomes]
        connection.ask(connection.client.end_trial, message(connection.assignment, STOPPED, described))
    connection.assignment = connection.name


def _worth_keeping(outcomes: Collection[Outcome], config: SearchConfig, score_to_beat: float | None) -> set[int]:
    """Numbers of the trials that may be among the search's best; only their weights are sent."""
    losses = []
    for outcome in outcomes:
        if bests := outcome.best_epochs(config):
            losses.append((config.as_loss(statistics.fmean(best for best, _ in bests)), outcome.number))
    worst = math.inf if score_to_beat is None else config.as_loss(score_to_beat)
    return {number for loss, number in sorted(losses)[: config.keep_best] if loss <= worst}


class _Connection:
    """The connection to the chief; a thread sends heartbeats, and ends the process when the chief stops answering."""

    def __init__(self, address: str, name: str, parent: int | None) -> None:
        self.client = Client(address, name)
        self.assignment = name
        self.name, self._address, self._parent = name, address, parent
        self._answered = time.monotonic()
        threading.Thread(target=self._send_heartbeats, daemon=True).start()

    def ask(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """Repeat a call until the chief answers; every call may be repeated."""
        while True:
            try:
                answer = call(*arguments)
            except grpc.RpcError as error:
                if self._chief_is_gone():
                    raise ChiefGone(self._farewell(error)) from None
            else:
                self._answered = time.monotonic()
                return answer

    def _send_heartbeats(self) -> None:
        client = Client(self._address, self.name)
        while True:
            time.sleep(HEARTBEAT)
            try:
                client.update_trial(self.assignment, {}, 0)
                self._answered = time.monotonic()
            except grpc.RpcError as error:
                if self._chief_is_gone():
                    print(self._farewell(error), file=sys.stderr, flush=True)
                    # At once: the main thread may be compiling for minutes.
                    os._exit(1)

    def _chief_is_gone(self) -> bool:
        orphaned = self._parent is not None and os.getppid() != self._parent
        return orphaned or time.monotonic() - self._answered > GONE_AFTER

    def _farewell(self, error: grpc.RpcError) -> str:
        return f"worker {self.name} exits: the chief at {self._address} does not answer ({error.code().name})"


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
