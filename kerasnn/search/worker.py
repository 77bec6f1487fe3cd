"""A process that trains what a search's chief hands it."""

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import grpc

from kerasnn.search.oracle import Proposal
from kerasnn.search.outcomes import record_of
from kerasnn.search.space import SearchConfig
from kerasnn.search.trainer import DataOf, Outcome, Trainer
from kerasnn.search.wire import IDLE, STOPPED, Client, content, message, outcome_to_json

BEAT = 1.0
"""Seconds between two signs of life."""
GONE_AFTER = 30.0
"""Seconds without an answer after which the other side is taken for dead. A worker then ends itself; the chief gives
the worker's trials to others."""
POLL = 0.1

Answer = TypeVar("Answer")


class ChiefGone(SystemExit):
    """The chief does not answer any more; ends the process, past handlers of a trial's errors."""


def work(address: str, name: str, parent: int | None = None) -> None:
    """Train what the chief hands out, until it has no more.

    A worker whose chief has died ends itself: within `GONE_AFTER` seconds, and a call's deadline; at the next sign of
    life where the chief is its parent process.

    Args:
        address: the chief's, `host:port`.
        name: this worker's, like no other's.
        parent: process id of the chief where it started this process.

    Raises:
        ValueError: one line, where this machine reads other examples than the chief.
    """
    line = _Line(address, name, parent)
    described = content(line.ask(line.client.get_space))
    config = SearchConfig.model_validate(described["search"])
    data_of = DataOf()
    found = data_of.fingerprint(config.run_with({}))
    if found != described["data"]:
        raise ValueError(f"data must be the chief's, {config.run.data.name} here has other examples")
    trainer = Trainer(config, data_of)
    while True:
        share = line.ask(line.client.create_trial, name)
        if share.status == STOPPED:
            return
        if share.status == IDLE:
            time.sleep(POLL)
            continue
        line.share = share.trial_id
        _train(line, config, trainer, content(share.hyperparameters))


def _train(line: "_Line", config: SearchConfig, trainer: Trainer, share: Mapping[str, Any]) -> None:
    proposals = [Proposal(**each) for each in share["proposals"]]

    def watch(epoch: int, values: Mapping[int, float]) -> Collection[int]:
        answer = line.ask(
            line.client.update_trial, line.share, {str(key): value for key, value in values.items()}, epoch
        )
        # A share that was given to others meanwhile is dropped.
        return list(values) if answer.status == STOPPED else content(answer.hyperparameters)

    for outcomes in trainer.train(share["batch"], proposals, watch):
        kept = _worth_keeping(outcomes, config, share["to_beat"])
        told = [outcome_to_json(outcome, outcome.number in kept) for outcome in outcomes]
        line.ask(line.client.end_trial, message(line.share, STOPPED, told))
    line.share = line.name


def _worth_keeping(outcomes: Collection[Outcome], config: SearchConfig, to_beat: float | None) -> set[int]:
    """Numbers of the trials that may be among the search's best; only their weights are sent."""
    sign = -1 if config.direction == "max" else 1
    found = [(record_of(each, config.objective_name, config.direction).get("score"), each.number) for each in outcomes]
    scores = sorted((sign * score, number) for score, number in found if score is not None)
    return {number for score, number in scores[: config.keep_best] if to_beat is None or score <= sign * to_beat}


class _Line:
    """The connection to the chief; a thread gives signs of life, and ends the process when none is answered."""

    def __init__(self, address: str, name: str, parent: int | None) -> None:
        self.client = Client(address, name)
        self.share = name
        self.name, self._address, self._parent = name, address, parent
        self._heard = time.monotonic()
        threading.Thread(target=self._live, daemon=True).start()

    def ask(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """Call until the chief answers; all calls may be repeated."""
        while True:
            try:
                answer = call(*arguments)
            except grpc.RpcError as error:
                if self._lost():
                    raise ChiefGone(self._why(error)) from None
            else:
                self._heard = time.monotonic()
                return answer

    def _live(self) -> None:
        signs = Client(self._address, self.name)
        while True:
            time.sleep(BEAT)
            try:
                signs.update_trial(self.share, {}, 0)
                self._heard = time.monotonic()
            except grpc.RpcError as error:
                if self._lost():
                    print(self._why(error), file=sys.stderr, flush=True)
                    # At once: the main thread may be compiling for minutes.
                    os._exit(1)

    def _lost(self) -> bool:
        orphaned = self._parent is not None and os.getppid() != self._parent
        return orphaned or time.monotonic() - self._heard > GONE_AFTER

    def _why(self, error: grpc.RpcError) -> str:
        return f"worker {self.name} ends: the chief at {self._address} is gone ({error.code().name})"


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
