"""Targets of a table: the task that they imply, and classes as integers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasnn.config.schema import one_of, short
from kerasnn.data.values import Texts, as_floats, as_texts, date_format, style_of

if TYPE_CHECKING:
    import pandas as pd

FEW_VALUES = 10
"""Distinct integers up to which a target is taken for classes."""
MANY_CLASSES = 50
"""Classes above which each must have some rows."""


def target_names(frame: "pd.DataFrame", target: str | Sequence[str] | None, task: str, source: str) -> tuple[str, ...]:
    """Names of the target columns; without a target, the last column's.

    Raises:
        ValueError: one line, for a column that the table does not have, and for several where the task needs one.
    """
    columns = tuple(map(str, frame.columns))
    names = (columns[-1],) if target is None else (target,) if isinstance(target, str) else tuple(target)
    for name in names:
        if name not in columns:
            raise ValueError(one_of(f"target column of {source}", name, columns))
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"target must name each column once, at least one; received {names}")
    if len(names) > 1 and task in ("binary", "multiclass"):
        raise ValueError(f"target must be one column for task {task}; received {', '.join(names)}")
    if len(names) == len(columns):
        raise ValueError(f"{source} must have a feature beside its targets; all columns are targets")
    return names


def infer_task(frame: "pd.DataFrame", names: Sequence[str]) -> tuple[str, str]:
    """The task that target columns imply, and the reason in words.

    Two values are a binary task, texts and up to ten integers are classes, other numbers a regression; several columns
    of 0 and 1 are a multilabel task, other columns of numbers a regression.

    >>> import pandas as pd
    >>> infer_task(pd.DataFrame({"price": [326.0, 327.5, 334.0]}), ["price"])
    ('regression', '3 distinct numbers')
    """
    if len(names) > 1:
        zeros_and_ones = all(set(frame[name].dropna().unique().tolist()) <= {0, 1} for name in names)
        return ("multilabel", "columns of 0 and 1") if zeros_and_ones else ("regression", f"{len(names)} columns")
    texts = as_texts(frame[names[0]])
    count = len(texts.distinct)
    if count <= 2:
        return "binary", "two distinct values"
    if style_of(texts.distinct) is None:
        return "multiclass", f"{count:,} distinct texts"
    whole = all(_integer(text) is not None for text in texts.distinct)
    if whole and count <= FEW_VALUES and len(texts) >= 5 * count:
        return "multiclass", f"{count:,} distinct integers"
    return "regression", f"{count:,} distinct numbers"


def target_values(
    frame: "pd.DataFrame", names: Sequence[str], task: str, source: str, class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Targets as numbers, and the names of classes or labels.

    Args:
        frame: a table without missing targets.
        names: the target columns.
        task: binary, multiclass, multilabel or regression.
        source: the table's name in an error message.
        class_names: the classes if they are known; None: the distinct values, sorted (integers by value).

    Returns:
        Labels `(rows,)`, int64, or numbers `(rows, targets)`, float64; the names, None for a regression.

    Raises:
        ValueError: one line, for values that do not suit the task, and for labels that are not among `class_names`.
    """
    if task in ("regression", "multilabel"):
        columns = [_numbers(frame[name], f"target {name!r} of {source}") for name in names]
        return np.stack(columns, axis=1), tuple(names) if task == "multilabel" else None
    column = f"target {names[0]!r} of {source}"
    if frame[names[0]].dtype.kind == "f":
        as_floats(frame[names[0]], column)  # Infinity is no class.
    texts = as_texts(frame[names[0]])
    found, texts = _sorted_classes(texts, column)
    if class_names is None:
        _check_count(texts, found, task, column)
    position = {name: index for index, name in enumerate(class_names or found)}
    for code, text in enumerate(texts.distinct):
        if text not in position:
            row = frame.index[(texts.codes == code).argmax()]
            raise ValueError(one_of(f"{column}, row {row + 1}: label", text, tuple(position)))
    labels = np.array([position[text] for text in texts.distinct], np.int64)[texts.codes]
    return labels, tuple(position)


def _numbers(values: "pd.Series[Any]", name: str) -> np.ndarray:
    import pandas as pd

    if pd.api.types.is_numeric_dtype(values.dtype):
        return as_floats(values, name)
    return as_floats(values, name, style_of(as_texts(values).distinct) or " .")


def _integer(text: str) -> int | None:
    try:
        number = float(text) if "_" not in text else np.nan
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _sorted_classes(texts: Texts, column: str) -> tuple[list[str], Texts]:
    """The classes in order, and the texts with integers written alike."""
    numbers = [_integer(text) for text in texts.distinct]
    if style_of(texts.distinct) is None or None in numbers:
        if style_of(texts.distinct) is not None and date_format(texts.distinct) is None:
            text = texts.distinct[numbers.index(None)]
            raise ValueError(
                f"{column} must hold integers or text to be classes; received {text!r} "
                "(task regression predicts numbers)"
            )
        return sorted(texts.distinct), texts
    written = [str(number) for number in numbers]
    merged = list(dict.fromkeys(written))
    codes = np.array([merged.index(text) for text in written], np.int32)[texts.codes]
    return sorted(merged, key=int), Texts(codes, tuple(merged))


def _check_count(texts: Texts, found: Sequence[str], task: str, column: str) -> None:
    """Refuse a number of classes that the task or the number of rows does not suit."""
    if task == "binary" and len(found) != 2:
        raise ValueError(
            f"{column} must hold two labels for task binary; it holds {len(found)}: {short(', '.join(found[:20]))}"
        )
    integers = style_of(found) is not None
    if len(found) > MANY_CLASSES and len(texts) < len(found) * (50 if integers else 5):
        remedy = "task regression predicts numbers" if integers else "give another data.target, or drop rare labels"
        odd = [text for text in found if style_of([text]) is None]
        if 0 < len(odd) < 0.1 * len(found):
            words = ", ".join(short(text, 20) for text in odd[:3])
            raise ValueError(f"{column} must hold numbers; correct {words}, or name them in data.missing_values")
        raise ValueError(
            f"{column} must have more rows for each class, received {len(found):,} distinct labels in {len(texts):,} "
            f"rows; {remedy}"
        )
