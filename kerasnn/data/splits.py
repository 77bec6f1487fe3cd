"""Splits of a table's rows: at random, by group, by time, or as a column says; and signs of leakage between parts."""

import math

import numpy as np

from kerasnn.config.data import DataConfig
from kerasnn.config.schema import one_of
from kerasnn.data.encoding import take_rows
from kerasnn.data.parts import split_rows
from kerasnn.data.table_examples import TableExamples
from kerasnn.data.values import Texts

PARTS = ("train", "validation", "test")
MANY_ROWS = 50
"""Rows from which a feature that separates the classes perfectly is suspicious."""

SOME_ROWS = 10_000
"""Rows on which features are looked at first."""
ROUNDING = 5e-4
"""Fraction of a target's variance that may be left where it is a linear function of features, because of rounding."""


def split_table(examples: TableExamples, y: np.ndarray, config: DataConfig) -> dict[str, np.ndarray]:
    """Positions of the rows of each part that has rows.

    Args:
        examples: the table.
        y: its targets in their final form.
        config: shares and seed, and the column of groups, times or parts.

    Raises:
        ValueError: one line, for an unsuitable column, or if none would be left to train on.
    """
    if config.split is not None:
        return _as_given(examples, config.split)
    rows = {"train": np.arange(len(y))}
    for part, share in (("test", config.test_share), ("validation", config.validation_share)):
        if not share or (part == "test" and config.test_path is not None):
            continue
        left = rows["train"]
        if config.time is not None:
            rest, taken = _by_time(_times(examples, config.time)[left], share, part)
        elif config.group is not None:
            groups = examples.texts_of(config.group).codes[left]
            rest, taken = _by_group(groups, share, part, config.seed)
        else:
            rest, taken = split_rows(part, share, y[left], config.seed, examples.task)
        rows["train"], rows[part] = left[rest], left[taken]
    return rows


def _as_given(examples: TableExamples, column: str) -> dict[str, np.ndarray]:
    texts = examples.texts_of(column)
    for text in texts.distinct:
        if text not in PARTS:
            raise ValueError(one_of(f"a value of column {column!r}, which data.split names,", text, PARTS))
    if (texts.codes < 0).any() or "train" not in texts.distinct:
        raise ValueError(f"column {column!r} must say train, validation or test in each row, and train in some")
    return {part: np.flatnonzero(texts.codes == texts.distinct.index(part)) for part in PARTS if part in texts.distinct}


def _times(examples: TableExamples, column: str) -> np.ndarray:
    times = examples.raw.get(column)
    if times is None or isinstance(times, Texts):
        raise ValueError(f"data.time must name a column of dates or numbers, received {column!r}")
    missing = np.isnat(times) if times.dtype.kind == "M" else np.isnan(times)
    if missing.any():
        raise ValueError(f"data.time must name a column without missing values; {missing.sum():,} rows have none")
    return times


def _by_time(times: np.ndarray, share: float, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The earlier rows, and the latest ones."""
    count = max(1, round(share * len(times)))
    if count >= len(times):
        raise ValueError(f"data.{part}_share {share:g} of {len(times)} examples leaves none to train on")
    order = np.argsort(times, kind="stable")
    return np.sort(order[:-count]), np.sort(order[-count:])


def _by_group(groups: np.ndarray, share: float, part: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of whole groups, about a fraction of all rows taken; rows without a group are a group."""
    found, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng([seed, PARTS.index(part)]).permutation(len(found))
    before = np.cumsum(sizes[shuffled]) - sizes[shuffled]
    chosen = shuffled[before < share * len(groups)]
    if len(chosen) == len(found):
        raise ValueError(f"data.{part}_share {share:g} of {len(found)} groups leaves none to train on")
    taken = np.isin(numbers, chosen)
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def leaks(examples: TableExamples, rows: dict[str, np.ndarray]) -> list[str]:
    """Signs that a test score will be too good: features that give the target away, and repeated rows.

    Args:
        examples: the table.
        rows: positions of the rows of each part.
    """
    some = np.arange(0, len(examples.y), max(1, len(examples.y) // SOME_ROWS))
    lines = [
        f"{name!r} alone determines the target: --data.drop {name}, unless it is known before the target"
        for name, values in examples.raw.items()
        if _determines(take_rows({"": values}, some)[""], examples.y[some], examples.task)
        and _determines(values, examples.y, examples.task)
    ]
    if not lines and (names := _linear_features(examples, some)):
        lines.append(
            f"the target is a linear function of {', '.join(map(repr, names))}: --data.drop {names[0]}, unless they "
            "are known before the target"
        )
    features = _hashes(examples)
    with_targets = _hashes(examples, features)
    if (repeated := _repeated(with_targets, rows)) > 0.01:
        lines.append(
            f"{repeated:.1%} of the test rows also occur in the training part, so the test score may be too good"
        )
    elif _combinations(examples) > 1000 * len(features) and (repeated := _repeated(features, rows, least=0)) > 0.2:
        lines.append(
            f"{repeated:.1%} of the test rows have the features of a training row and perhaps another target: are they "
            "of one person or place? --data.group COLUMN keeps such rows in one part"
        )
    return lines


def _linear_features(examples: TableExamples, rows: np.ndarray) -> list[str]:
    """The numbers of which a regression's target is a linear function, but for rounding; empty if it is none."""
    y = examples.y[rows]
    numbers = {
        name: each[rows]
        for name, each in examples.raw.items()
        if not isinstance(each, Texts) and each.dtype.kind == "f" and not np.isnan(each[rows]).all()
    }
    if examples.task != "regression" or y.shape[1] > 1 or len(rows) < max(MANY_ROWS, 2 * len(numbers) + 2):
        return []
    columns = [np.where(np.isnan(each), np.nanmean(each), each) for each in numbers.values()]
    found = [name for name, column in zip(numbers, columns, strict=True) if np.ptp(column)]
    scaled = {
        name: (each - each.mean()) / each.std() for name, each in zip(numbers, columns, strict=True) if each.std()
    }
    target = (y[:, 0] - y.mean()) / (y.std() or 1.0)
    # The second time without the columns whose factors only fit the rounding.
    for _ in range(2):
        x = np.stack([scaled[name] for name in found], axis=1) if found else np.zeros((len(y), 1))
        factors, *_ = np.linalg.lstsq(x, target, rcond=None)
        unexplained = float(np.sum((target - x @ factors) ** 2)) / (len(y) - x.shape[1] - 1)
        if unexplained > ROUNDING:
            return []
        used, found = found, [name for name, factor in zip(found, factors, strict=True) if abs(factor) > 0.05]
    return used


def _combinations(examples: TableExamples) -> float:
    """How many rows could differ: the product of the columns' numbers of distinct values."""
    return math.exp(min(700.0, sum(math.log(max(1, column.distinct)) for column in examples.features)))


def _determines(values: np.ndarray | Texts, y: np.ndarray, task: str) -> bool:
    """Whether a feature equals the target, is a linear function of it, or separates the classes without an error."""
    y = y.reshape(len(y), -1)
    if y.shape[1] > 1 or len(y) < MANY_ROWS:
        return False
    y = y[:, 0]
    if isinstance(values, Texts):
        classes = len(np.unique(y))
        pairs = len(np.unique(np.stack([values.codes, y]), axis=1).T)
        return task != "regression" and len(values.distinct) <= 2 * classes and pairs == len(np.unique(values.codes))
    if values.dtype.kind == "M" or np.isnan(values).any() or np.ptp(values) == 0 or np.ptp(y) == 0:
        return False
    if task == "regression":
        return abs(float(np.corrcoef(values, y)[0, 1])) > 1 - 1e-9
    order = np.lexsort((y, values))
    ranked, changes = values[order], np.diff(y[order]) != 0
    # Equal values with different classes would be changes, too.
    return int(changes.sum()) == len(np.unique(y)) - 1 and not (changes & (np.diff(ranked) == 0)).any()


def _hashes(examples: TableExamples, features: np.ndarray | None = None) -> np.ndarray:
    """A number for each row that depends on its features, or given these numbers on its targets, too."""
    import pandas as pd

    columns = list(examples.raw.values()) if features is None else list(examples.y.reshape(len(features), -1).T)
    hashes = np.zeros(len(examples.y), np.uint64) if features is None else features
    for values in columns:
        numbers = values.codes if isinstance(values, Texts) else values
        # An odd factor, so that a column's place among the others counts.
        hashes = hashes * np.uint64(1_000_003) + pd.util.hash_array(numbers)
    return hashes


def _repeated(hashes: np.ndarray, rows: dict[str, np.ndarray], least: float = 0.5) -> float:
    """The fraction of test rows that the training part also holds; 0 where fewer than a fraction of rows differ."""
    import pandas as pd

    if "test" not in rows or len(pd.unique(hashes)) < least * len(hashes):
        return 0.0
    return float(pd.Series(hashes[rows["test"]]).isin(hashes[rows["train"]]).mean())
