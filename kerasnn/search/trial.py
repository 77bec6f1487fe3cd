"""What a search shows while it runs, and its tables."""

import csv
import io
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from kerasnn.callbacks.progress import duration, shown_as


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Args:
        number: trials proposed before it.
        values: dotted key to value, of the keys that were active.
        status: "completed", "stopped" (ended early by the stopper) or "failed".
        score: the objective at its best epoch, mean over the seeds; None where the trial failed.
        std: standard deviation of the score over the seeds, n - 1 in its denominator; None for a single seed.
        epoch: the best epoch, from 1 on, mean over the seeds.
        epochs: epochs trained.
        metrics: every logged value at the best epoch, mean over the seeds.
        seconds: time that it took; its share where it was trained with others.
        error: why it failed, on one line.
        continues: number of the trial that it took further, or None.
        curve: the objective by epoch, mean over the seeds.
        scores: each seed's score; empty for a single seed.
        curves: each seed's objective by epoch; empty for a single seed.
    """

    number: int
    values: dict[str, Any]
    status: str
    score: float | None = None
    std: float | None = None
    epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    seconds: float = 0.0
    error: str | None = None
    continues: int | None = None
    curve: tuple[float, ...] = field(default=(), repr=False)
    scores: tuple[float, ...] = field(default=(), repr=False)
    curves: tuple[tuple[float, ...], ...] = field(default=(), repr=False)


def ranked(trials: Iterable[Trial], direction: str) -> list[Trial]:
    """Trials, the best first, equals by their number, and those without a score last."""
    sign = -1 if direction == "max" else 1
    return sorted(trials, key=lambda trial: (trial.score is None, sign * (trial.score or 0.0), trial.number))


def table(trials: Sequence[Trial], keys: Sequence[str], objective: str) -> str:
    """Trials as lines of text in the order given.

    Args:
        trials: what to show.
        keys: dotted keys, a column each.
        objective: name of the score.
    """
    with_std = any(trial.std is not None for trial in trials)
    rows = [["rank", "trial", objective, "epoch", "status", *short_names(keys)]]
    for rank, trial in enumerate(trials, 1):
        score = "-" if trial.score is None else f"{trial.score:.4f}"
        score += f" ± {trial.std:.4f}" if with_std and trial.std is not None else ""
        rows.append(
            [
                str(rank),
                str(trial.number),
                score,
                f"{trial.epoch}/{trial.epochs}",
                trial.status,
                *(cell_text(trial.values[key]) if key in trial.values else "-" for key in keys),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def to_csv(trials: Sequence[Trial], keys: Sequence[str]) -> str:
    """Trials as CSV in the order given, every value whole; lists and objects as JSON."""
    metrics = list(dict.fromkeys(name for trial in trials for name in trial.metrics))
    fixed = ("trial", "status", "score", "std", "epoch", "epochs", "seconds", "continues", "error")
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*fixed, *keys, *metrics])
    for trial in trials:
        start = [getattr(trial, "number" if name == "trial" else name) for name in fixed]
        values = [trial.values.get(key) for key in keys]
        values = [json.dumps(value) if isinstance(value, list | dict | bool) else value for value in values]
        rows.writerow([*start, *values, *(trial.metrics.get(name) for name in metrics)])
    return text.getvalue()


class Board:
    """The best so far: a table that stays in its place on a terminal, a line for each batch of results elsewhere.

    Args:
        objective: name of the score.
        direction: "min" or "max".
        keys: the space's dotted keys.
        trials: how many there will be at most.
        style: "auto" looks at the stream; "bar" is the table, "lines" the lines, "silent" nothing.
        stream: where to; None takes the standard output.
    """

    SHOWN = 5

    def __init__(
        self,
        objective: str,
        direction: str,
        keys: Sequence[str],
        trials: int,
        style: str = "auto",
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream or sys.stdout
        self._objective, self._direction, self._keys, self._count = objective, direction, keys, trials
        self._style = shown_as(style, self._stream)
        self._begin = time.monotonic()
        self._drawn_at, self._height = -1.0, 0
        self._best: list[Trial] = []
        self._done = 0
        self._replayed = 0

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._style != "silent":
            self._wipe()
            print(line, file=self._stream, flush=True)

    def results(self, trials: Mapping[int, Trial], replayed: int = 0) -> None:
        """Trials have ended; `trials` are all that have, `replayed` those that took no time just now."""
        self._done = len(trials)
        self._replayed += replayed
        self._best = [t for t in ranked(trials.values(), self._direction) if t.score is not None][: self.SHOWN]
        if self._style == "lines":
            self.say(self._line())
        else:
            self._draw(self._line())

    def epoch(self, epoch: int, running: Mapping[int, float]) -> None:
        """An epoch has ended in the trials that run, with the objective of each."""
        if self._style == "bar" and running and time.monotonic() - self._drawn_at > 0.1:
            now = min(running.values()) if self._direction == "min" else max(running.values())
            plural = "s" if len(running) > 1 else ""
            self._draw(f"{self._line()}; {len(running)} trial{plural} in epoch {epoch}, best now {now:.4f}")

    def close(self) -> None:
        """Take the table away: the last one is printed in its place."""
        self._wipe()

    def _line(self) -> str:
        seconds = time.monotonic() - self._begin
        text = f"{self._done}/{self._count} trials, {duration(seconds)}"
        if (new := self._done - self._replayed) > 0 and self._done < self._count:
            text += f", {duration((self._count - self._done) * seconds / new)} left"
        if self._best:
            best = self._best[0]
            text += f", best {self._objective} {best.score:.4f} in epoch {best.epoch} of trial {best.number}"
        return text

    def _draw(self, line: str) -> None:
        if self._style != "bar":
            return
        text = line + ("\n" + table(self._best, self._keys, self._objective) if self._best else "")
        # A line that wraps would count as two.
        columns = shutil.get_terminal_size().columns
        text = "\n".join(row[:columns] for row in text.split("\n"))
        self._wipe()
        print(text, file=self._stream, flush=True)
        self._height = text.count("\n") + 1
        self._drawn_at = time.monotonic()

    def _wipe(self) -> None:
        if self._height:
            # Cursor up to the table's first line, and clear from there.
            print(f"\x1b[{self._height}F\x1b[J", end="", file=self._stream, flush=True)
            self._height = 0


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key, or as many parts as tell it from the others."""
    names = []
    for key in keys:
        parts = key.split(".")
        size = next(
            (n for n in range(1, len(parts)) if sum(other.split(".")[-n:] == parts[-n:] for other in keys) == 1),
            len(parts),
        )
        names.append(".".join(parts[-size:]))
    return names


def cell_text(value: Any) -> str:
    """A value of a run as a table shows it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:39] + "…"
