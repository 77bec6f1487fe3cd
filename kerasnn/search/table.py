"""Trials as tables: text and CSV."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from kerasnn.search.config import SearchSettings
from kerasnn.search.trial import Trial, best_of


def trials_table(trials: Sequence[Trial], config: SearchSettings) -> str:
    """Trials of a search as lines of text, in the order given; `*` marks the Pareto front of several objectives."""
    further = [name for name, _ in config.objectives[1:]]
    rows = [["rank", "trial", config.objective_name, *further, "epoch", "status", *short_names(config.space)]]
    front = {trial.number for trial in best_of(trials, config)} if further else set()
    for rank, trial in enumerate(trials, 1):
        score = "-" if trial.score is None else f"{trial.score:.4f}"
        score += "" if trial.std is None else f" ± {trial.std:.4f}"
        others = [f"{trial.metrics[name]:.4f}" if name in trial.metrics else "-" for name in further]
        values = [cell_text(trial.values[key]) if key in trial.values else "-" for key in config.space]
        mark = "*" if trial.number in front else ""
        rows.append(
            [f"{rank}{mark}", str(trial.number), score, *others, f"{trial.epoch}/{trial.epochs}", trial.status, *values]
        )
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text, with the columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)).rstrip() for row in rows)


def trials_csv(trials: Sequence[Trial], config: SearchSettings) -> str:
    """Trials of a search as CSV, in the order given, with every digit; lists and objects as JSON.

    With several objectives `on_front` is 1 for the trials of the Pareto front, else 0.
    """
    front = {trial.number for trial in best_of(trials, config)}
    has_front = len(config.objectives) > 1
    metrics = list(dict.fromkeys(name for trial in trials for name in trial.metrics))
    fields = ("status", "score", "std", "epoch", "epochs", "seconds", "continues", "error")
    rows: list[list[Any]] = [["trial", *fields, *["on_front"] * has_front, *config.space, *metrics]]
    for trial in trials:
        values = [trial.values.get(key) for key in config.space]
        values = [json.dumps(value) if isinstance(value, list | dict | bool) else value for value in values]
        mark = [int(trial.number in front)] * has_front
        cells = [trial.number, *(getattr(trial, name) for name in fields), *mark, *values]
        rows.append([*cells, *map(trial.metrics.get, metrics)])
    return csv_text(rows)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of cells as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def short_names(keys: Iterable[str]) -> list[str]:
    """The last part of each dotted key, or as many parts as distinguish it from the others.

    >>> short_names(["optimizer.name", "schedule.name", "network.hidden"])
    ['optimizer.name', 'schedule.name', 'hidden']
    """
    every = [key.split(".") for key in keys]
    names = []
    for parts in every:
        size = next(
            (size for size in range(1, len(parts)) if sum(other[-size:] == parts[-size:] for other in every) == 1),
            len(parts),
        )
        names.append(".".join(parts[-size:]))
    return names


def cell_text(value: Any) -> str:
    """A value of a run as a table shows it.

    >>> cell_text(0.012345678), cell_text([50, 100])
    ('0.01235', '[50, 100]')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:39] + "…"
