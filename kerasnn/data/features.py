"""Features of one column: how its values become numbers between which a network can learn."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from kerasnn.config.schema import Schema
from kerasnn.data.columns import FoundColumn
from kerasnn.data.compact import BITS, Kept, pack
from kerasnn.data.preparation import Preparation
from kerasnn.data.values import Texts

SHARED = 0.25
"""Fraction of a column's features that rare categories share where there are more categories than features."""
DAYS_A_SECOND = np.float32(1 / 86400)
"""A factor: TensorFlow divides by a constant only approximately."""
CYCLES = {"month": 12, "weekday": 7, "hour": 24}
"""Cycles of dates, each of which becomes a point on a circle, and their lengths."""

# As Keras's TextVectorization standardizes.
_PUNCTUATION = re.compile(r"[!\"#$%&()\*\+,-\./:;<=>?@\[\\\]^_`{|}~\']")
_LOWER = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


class Column(Schema):
    """A column, and how its values become features.

    A category or word that the training part held less than twice has zeros, and so has a missing one.
    """

    name: str
    """Name of the column."""
    kind: Literal["number", "boolean", "category", "date", "text"]
    """What the column holds."""
    written: str = ""
    """Style of numbers, or format of dates, that are texts."""
    center: float = 0.0
    """Number, or days since 1970, that becomes 0."""
    factor: float = 1.0
    """Factor on the difference from `center`."""
    fill: float = 0.0
    """Number, or days since 1970, that a missing value becomes: the training part's median."""
    indicator: bool = False
    """Whether the last feature is 1 where the value is missing."""
    levels: tuple[str, ...] = ()
    """Categories or words with a feature."""
    places: tuple[int, ...] = ()
    """The feature of each level."""
    cycles: tuple[Literal["month", "weekday", "hour"], ...] = ()
    """Cycles of dates in which the training part's rows differ."""

    @property
    def width(self) -> int:
        """Number of features."""
        coded = self.kind in ("category", "text")
        return (max(self.places, default=-1) + 1 if coded else 1 + 2 * len(self.cycles)) + self.indicator

    @property
    def kept(self) -> Kept:
        """How training keeps the features."""
        if self.kind in ("category", "text"):
            return Kept("code" if self.kind == "category" and self.width < 2**BITS else "bits", self.width)
        return Kept("values", self.width)


def fit_column(found: FoundColumn, values: np.ndarray | Texts, scaling: str, most: tuple[int, int]) -> Column:
    """Fit a column's features to its values in the training part.

    Args:
        found: the column.
        values: float64 numbers, datetime64 dates or texts.
        scaling: of numbers and dates, as in `Preparation.fit`.
        most: most features of a column of categories, and of a column of text.
    """
    described: dict[str, Any] = {"name": found.name, "kind": found.kind, "written": found.written}
    if isinstance(values, Texts):
        levels, places = _words(values, most[1]) if found.kind == "text" else _categories(values, most[0])
        return Column(**described, levels=levels, places=places, indicator=bool((values.codes < 0).any()))
    missing = np.isnat(values) if found.kind == "date" else np.isnan(values)
    known = values[~missing] if missing.any() else values
    if found.kind == "date":
        parts = calendar(known)
        described["cycles"] = tuple(cycle for cycle in CYCLES if len(parts[cycle]) and np.ptp(parts[cycle]))
        known = parts["day"] + parts["second"] / 86400
    if len(known) and found.kind != "boolean":
        preparation = Preparation.fit(known[:, None], scaling, flatten=True)
        described["center"] = float(preparation.center.reshape(-1)[0])
        described["factor"] = float(preparation.factor.reshape(-1)[0])
    fill = float(np.float32(np.median(known))) if len(known) else 0.0
    return Column(**described, fill=fill, indicator=bool(missing.any()))


def _categories(values: Texts, most: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Categories that occur at least twice, the most frequent first, and their features."""
    counts = np.bincount(values.codes[values.codes >= 0], minlength=len(values.distinct))
    found = sorted((-int(counts[code]), values.distinct[code]) for code in np.flatnonzero(counts > 1))
    levels = tuple(level for _, level in found)
    own = len(levels) if len(levels) <= most else most - int(most * SHARED)
    shared = most - own
    return levels, tuple(rank if rank < own else own + (rank - own) % shared for rank in range(len(levels)))


def _words(values: Texts, most: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Words that occur in at least two texts, the most frequent first, and their features."""
    counts = np.bincount(values.codes[values.codes >= 0], minlength=len(values.distinct))
    found: Counter[str] = Counter()
    for text, count in zip(values.distinct, counts.tolist(), strict=True):
        if count:
            found.update(dict.fromkeys(words_of(text), count))
    ranked = sorted((-count, word) for word, count in found.items() if count > 1)[:most]
    return tuple(word for _, word in ranked), tuple(range(len(ranked)))


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation, as Keras's `TextVectorization` finds them."""
    return _PUNCTUATION.sub("", text.translate(_LOWER)).split()


def calendar(dates: np.ndarray) -> dict[str, np.ndarray]:
    """Days since 1970, seconds of the day, month, weekday and hour of dates, as integers."""
    days = dates.astype("datetime64[D]")
    day, second = days.astype(np.int64), (dates - days).astype(np.int64)
    month = dates.astype("datetime64[M]").astype(np.int64) % 12
    return {"day": day, "second": second, "month": month, "weekday": (day + 3) % 7, "hour": second // 3600}


def circle(cycle: str) -> np.ndarray:
    """The points on a circle that stand for the positions of a cycle, float32 `(length, 2)`."""
    angles = 2 * np.pi * np.arange(CYCLES[cycle]) / CYCLES[cycle]
    return np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def encoder_of(column: Column, values: np.ndarray | Texts) -> Callable[[np.ndarray, np.ndarray], None]:
    """A function that writes what is kept of some rows of a column into an array.

    Args:
        column: the column.
        values: its raw values.

    Returns:
        A function of positions of rows and of an array, float32 `(rows, column.kept.width)`.
    """
    if isinstance(values, Texts):
        return _category_encoder(column, values) if column.kind == "category" else _words_encoder(column, values)

    def encode(rows: np.ndarray, kept: np.ndarray) -> None:
        numbers = values[rows]
        missing = np.isnat(numbers) if column.kind == "date" else np.isnan(numbers)
        if column.kind == "date":
            parts = calendar(np.where(missing, np.datetime64(0, "s"), numbers))
            numbers = parts["day"].astype(np.float32) + parts["second"].astype(np.float32) * DAYS_A_SECOND
            for position, cycle in enumerate(column.cycles):
                points = circle(cycle)[parts[cycle]]
                kept[:, 1 + 2 * position : 3 + 2 * position] = np.where(missing[:, None], 0, points)
        scaled = np.where(missing, np.float32(column.fill), numbers.astype(np.float32))
        kept[:, 0] = (scaled - np.float32(column.center)) * np.float32(column.factor)
        if column.indicator:
            kept[:, -1] = missing

    return encode


def _category_encoder(column: Column, values: Texts) -> Callable[[np.ndarray, np.ndarray], None]:
    places = dict(zip(column.levels, column.places, strict=True))
    missing = column.width - 1 if column.indicator else -1
    place = np.array([*(places.get(text, -1) for text in values.distinct), missing], np.int32)

    def encode(rows: np.ndarray, kept: np.ndarray) -> None:
        found = place[values.codes[rows]]
        if column.kept.form == "code":
            kept[:, 0] = found
        else:
            kept[:] = pack(found[:, None] == np.arange(column.width))

    return encode


def _words_encoder(column: Column, values: Texts) -> Callable[[np.ndarray, np.ndarray], None]:
    places = dict(zip(column.levels, column.places, strict=True))

    def encode(rows: np.ndarray, kept: np.ndarray) -> None:
        distinct, position = np.unique(values.codes[rows], return_inverse=True)
        features = np.zeros((len(distinct), column.width), bool)
        for row, code in enumerate(distinct.tolist()):
            words = [] if code < 0 else words_of(values.distinct[code])
            features[row, [places[word] for word in words if word in places]] = True
        if column.indicator:
            features[:, -1] = distinct < 0
        kept[:] = pack(features)[position]

    return encode
