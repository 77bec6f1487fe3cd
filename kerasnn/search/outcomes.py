"""Outcomes of training as the journal keeps them, and as trials."""

import statistics
from collections.abc import Sequence

from kerasnn.search.journal import Record
from kerasnn.search.oracle import Proposal
from kerasnn.search.trainer import History, Outcome
from kerasnn.search.trial import Trial


def record_of(outcome: Outcome, objective: str, direction: str) -> Record:
    """An outcome as the journal keeps it.

    Args:
        outcome: a trial's.
        objective: the logged value that trials are compared by.
        direction: "min" or "max", which is better.
    """
    record: Record = {
        "result": outcome.number,
        "status": outcome.status,
        "seconds": round(outcome.seconds, 3),
        "epochs": outcome.epochs,
    }
    if outcome.alone is not None:
        record["alone"] = outcome.alone
    if outcome.status == "failed":
        return {**record, "error": outcome.error}
    bests = [best_of(history, objective, direction) for history in outcome.histories]
    scores = [score for score, _ in bests]
    record["score"] = statistics.fmean(scores)
    record["std"] = statistics.stdev(scores) if len(scores) > 1 else None
    if len(scores) > 1:
        record["scores"] = scores
        record["curves"] = [history[objective] for history in outcome.histories]
    record["epoch"] = round(statistics.fmean(epoch for _, epoch in bests))
    record["metrics"] = {
        name: statistics.fmean(
            history[name][epoch - 1] for history, (_, epoch) in zip(outcome.histories, bests, strict=True)
        )
        for name in outcome.histories[0]
    }
    # Of the seeds that still trained in an epoch.
    record["curve"] = [
        statistics.fmean(history[objective][epoch] for history in outcome.histories if epoch < len(history[objective]))
        for epoch in range(outcome.epochs)
    ]
    return record


def best_of(history: History, objective: str, direction: str) -> tuple[float, int]:
    """The best value and its epoch, from 1 on, the first of equals."""
    values = history[objective]
    best = min(values) if direction == "min" else max(values)
    return best, values.index(best) + 1


def trial_of(record: Record, proposal: Proposal) -> Trial:
    """A record of the journal and what was proposed, as a trial."""
    kept = {
        key: record[key]
        for key in ("status", "score", "std", "epoch", "epochs", "metrics", "seconds", "error")
        if key in record
    }
    return Trial(
        proposal.number,
        proposal.values,
        continues=proposal.continues,
        curve=tuple(record.get("curve", ())),
        scores=tuple(record.get("scores", ())),
        curves=tuple(map(tuple, record.get("curves", ()))),
        **kept,
    )


def complete(records: Sequence[Record]) -> dict[int, Record]:
    """Results by number, without those at the end whose companions did not reach the disk."""
    found: dict[int, Record] = {}
    waiting: list[Record] = []
    for record in records:
        if "result" in record:
            if waiting and record["left"] != waiting[-1]["left"] - 1:
                waiting = []
            waiting.append(record)
            if not record["left"]:
                found.update({one["result"]: one for one in waiting})
                waiting = []
    return found
