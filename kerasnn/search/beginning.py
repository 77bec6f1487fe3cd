"""What a search begins with: values that are tried first, and results of an earlier search."""

import csv
import json
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kerasnn.config.schema import one_of, short
from kerasnn.files import existing_file
from kerasnn.search.config import SearchConfig, SearchSettings
from kerasnn.search.oracle_config import Hyperband, Pbt
from kerasnn.search.result import read_search
from kerasnn.search.space import Choice, Range, active_values, canonical_json

Table = str | Path | Iterable[Mapping[str, Any]]
"""Rows of values: a CSV file, a list of dicts, or a pandas data frame."""


@dataclass(frozen=True)
class Known:
    """A result of an earlier search.

    Args:
        values: value by name.
        scores: the value of each objective.
        epoch: epoch of these values.
    """

    values: dict[str, Any]
    scores: list[float]
    epoch: int


@dataclass(frozen=True)
class Beginning:
    """What a search begins with.

    Args:
        initial: values of the first trials.
        earlier: results that the oracle learns from before it proposes.
    """

    initial: tuple[dict[str, Any], ...] = ()
    earlier: tuple[Known, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The journal's part."""
        return {"initial": list(self.initial), "earlier": [vars(known) for known in self.earlier]}

    @classmethod
    def from_json(cls, part: Mapping[str, Any]) -> Self:
        """What a journal's part says."""
        return cls(tuple(part["initial"]), tuple(Known(**known) for known in part["earlier"]))


def read_beginning(initial: Table | None, earlier: str | Path | None, config: SearchSettings) -> Beginning | None:
    """What a search is told to begin with; None where nothing is given.

    Args:
        initial: rows of values for the first trials; a value that is missing keeps its default.
        earlier: folder of an earlier search with the same objectives, of whose trials those in this space count.
        config: the search.

    Raises:
        FileNotFoundError: where a file or folder does not exist.
        ValueError: one line, for values outside the space, and an earlier search that teaches nothing.
    """
    if initial is None and earlier is None:
        return None
    if isinstance(config.oracle, Pbt):
        raise ValueError("initial and earlier must be null for pbt, whose members change their values while they train")
    first = [] if initial is None else [_checked(row, number, config) for number, row in enumerate(_rows(initial))]
    return Beginning(tuple(first), () if earlier is None else tuple(_learned(Path(earlier), config)))


def _rows(table: Table) -> list[dict[str, Any]]:
    if isinstance(table, str | Path):
        with existing_file(table).open(encoding="utf-8-sig", newline="") as file:
            rows: Any = [{key: _parsed(text) for key, text in row.items() if text} for row in csv.DictReader(file)]
    elif hasattr(table, "to_dict"):
        rows = [{key: value for key, value in row.items() if value == value} for row in table.to_dict("records")]
    else:
        rows = list(table)
    for row in rows:
        if not isinstance(row, Mapping):
            raise ValueError(
                f"initial must be a list of dicts, a data frame or a CSV file, received a row {short(row)}"
            )
    if not rows:
        raise ValueError("initial must have at least one row, received none")
    return [dict(row) for row in rows]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _checked(row: Mapping[str, Any], number: int, config: SearchSettings) -> dict[str, Any]:
    """The values of a row, of the types that the space has."""
    values = {}
    # A search's trials.csv has columns that are no keys.
    is_own = row.keys() >= {"trial", "status"}
    for key, value in row.items():
        if key in config.space:
            values[key] = _value(f"initial[{number}][{key!r}]", config.space[key], value)
        elif not is_own:
            raise ValueError(one_of(f"initial[{number}]'s keys", key, config.space))
    given = {key: values.get(key) for key in config.space}
    values = {key: value for key, value in active_values(config.space, given).items() if key in values}
    if isinstance(config, SearchConfig):
        try:
            config.run_with(values)
        except ValueError as error:
            raise ValueError(f"initial[{number}] must make a valid run: {error}") from None
    return values


def _value(name: str, parameter: Choice | Range, value: Any) -> Any:
    """A value in the type of its parameter.

    Raises:
        ValueError: one line, where it is outside.
    """
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(parameter, Choice):
        for choice in parameter.values:
            if choice == plain and isinstance(choice, bool) == isinstance(plain, bool):
                return choice
        raise ValueError(one_of(name, plain, map(canonical_json, parameter.values)))
    is_number = isinstance(plain, numbers.Real) and not isinstance(plain, bool)
    if not is_number or not parameter.min <= plain <= parameter.max:
        raise ValueError(f"{name} must be from {parameter.min} to {parameter.max}, received {short(value)}")
    if parameter.step is not None:
        nearest = min(parameter.values, key=lambda each: abs(each - plain))
        if abs(nearest - plain) > 1e-9 * max(1.0, abs(plain)):
            raise ValueError(
                f"{name} must be a step from {parameter.min}, received {short(value)}; nearest is {nearest}"
            )
        return nearest
    if parameter.is_integer and plain != int(plain):
        raise ValueError(f"{name} must be a whole number, received {short(value)}")
    return int(plain) if parameter.is_integer else float(plain)


def _learned(folder: Path, config: SearchSettings) -> list[Known]:
    """The results of an earlier search in the space of another."""
    before = read_search(folder)
    if isinstance(config.oracle, Hyperband):
        raise ValueError("earlier must be null for hyperband, which compares trials of one bracket only")
    if before.config.objectives != config.objectives:
        raise ValueError(
            f"earlier must have the objective {_names(config)}, received {folder} with {_names(before.config)}"
        )
    known = []
    for trial in sorted(before.trials, key=lambda trial: trial.number):
        scores = trial.objectives(before.config)
        # What Hyperband ended after a few epochs compares with nothing here.
        is_short = isinstance(before.config.oracle, Hyperband) and trial.epochs < before.config.max_epochs
        if scores is not None and not is_short and _is_inside(trial.values, config):
            known.append(Known(_checked(trial.values, trial.number, config), scores, trial.epoch))
    if not known:
        raise ValueError(f"earlier must have trials in this search's space, received {folder} with none of them")
    return known


def _is_inside(values: Mapping[str, Any], config: SearchSettings) -> bool:
    """Whether values are one point of the space."""
    try:
        checked = _checked(values, 0, config)
    except ValueError:
        return False
    given: Sequence[str] = [*active_values(config.space, {key: values.get(key) for key in config.space})]
    return checked.keys() == values.keys() == set(given)


def _names(config: SearchSettings) -> str:
    return ", ".join(f"{name} ({direction})" for name, direction in config.objectives)
