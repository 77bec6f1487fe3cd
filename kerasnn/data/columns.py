"""Columns of a table: what each holds, and which of them a network can learn from."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kerasnn.config.data import DataConfig, Kind
from kerasnn.config.schema import one_of, short
from kerasnn.data.tables import UNNAMED, WITH_ZEROS
from kerasnn.data.values import PLAIN, Texts, as_texts, date_format, is_missing, style_of

if TYPE_CHECKING:
    import pandas as pd

_ROW_ID = re.compile(r"(unnamed: \d+|index|row|row[ _.]?(names?|numbers?|no|num|id)|(.*[ _.])?(id|uuid|guid))", re.I)
_POSTAL = re.compile(r"(.*[ _.])?(zip|zip[ _.]?code|postal[ _.]?code|postcode|plz)", re.I)
_CAMEL_ID = re.compile(r".*[a-z](Id|ID)")
MANY_ROWS = 10
"""Rows from which texts that all differ identify their rows."""


class FoundColumn(NamedTuple):
    """What a column of a table holds.

    Args:
        name: the column's name.
        kind: number, boolean, category, date or text; drop if it is left out.
        why: why it is left out, or how its values are written.
        missing: number of missing values.
        distinct: number of distinct values.
        example: a value.
        written: style of its numbers or format of its dates, where they are texts.
    """

    name: str
    kind: Kind
    why: str
    missing: int
    distinct: int
    example: str
    written: str = ""


def find_columns(frame: "pd.DataFrame", config: DataConfig, targets: Sequence[str] = ()) -> list[FoundColumn]:
    """What each column of a table holds, other than the targets.

    Args:
        frame: the table.
        config: given kinds, and columns to leave out.
        targets: names of the target columns.

    Raises:
        ValueError: one line, for a given column that the table does not have, or a target among them.
    """
    _check_names(frame, config, targets)
    return [_find(frame[name], str(name), config) for name in frame.columns if name not in targets]


def _check_names(frame: "pd.DataFrame", config: DataConfig, targets: Sequence[str]) -> None:
    given = {f"data.{key}": [getattr(config, key)] for key in ("group", "time", "split") if getattr(config, key)}
    for key, names in {"data.columns": config.columns, "data.drop": config.drop, **given}.items():
        for name in names:
            if name not in frame.columns:
                raise ValueError(one_of(f"a column of {key}", name, map(str, frame.columns)))
            if name in targets:
                raise ValueError(f"{key} is for features, received {name!r}, which is the target")


def _find(values: "pd.Series[Any]", name: str, config: DataConfig) -> FoundColumn:
    import pandas as pd

    dtype = values.dtype
    missing, given = int(values.isna().sum()), config.columns.get(name)
    if name in config.drop or given == "drop":
        return FoundColumn(name, "drop", "as data.drop says", missing, int(values.nunique()), _example(values))
    if name in (config.group, config.split):
        why = f"data.{'group' if name == config.group else 'split'}"
        return FoundColumn(name, "drop", why, missing, int(values.nunique()), _example(values))
    if dtype.kind == "c" or (
        dtype.kind == "O" and any(isinstance(each, list | dict | set) for each in values.iloc[:100])
    ):
        raise ValueError(f"column {name!r} must hold numbers, texts or dates; received {short(_example(values))}")
    texts = None
    if pd.api.types.is_bool_dtype(dtype):
        kind: Kind = "boolean"
    elif pd.api.types.is_numeric_dtype(dtype) and not isinstance(dtype, pd.CategoricalDtype):
        kind = "number"
    elif pd.api.types.is_datetime64_any_dtype(dtype):
        kind = "date"
    else:
        texts = as_texts(values)
        missing = int((texts.codes < 0).sum())
        kind = "category" if isinstance(dtype, pd.CategoricalDtype) else "text"
    distinct = len(texts.distinct) if texts is not None else int(values.nunique())
    found = FoundColumn(name, kind, "", missing, distinct, _example(values))
    if given is None and (why := _useless(values, found, texts)):
        return found._replace(kind="drop", why=why)
    if texts is None:
        if given is None and kind == "number" and _POSTAL.fullmatch(name) and not (values.dropna() % 1).any():
            return found._replace(kind="category", why="numbers that are names")
        return found._replace(kind=given or kind)
    return _as_written(found, texts, given, config)


def _as_written(found: FoundColumn, texts: Texts, given: Kind | None, config: DataConfig) -> FoundColumn:
    """A column of texts: numbers, booleans and dates that are written out, categories or running text."""
    known = [text for text in texts.distinct if not is_missing(text)]
    if given in (None, "boolean") and known and {text.lower() for text in known} <= {"true", "false"}:
        return found._replace(kind="boolean")
    if given == "boolean":
        raise ValueError(f"column {found.name!r} must hold true and false to be boolean; received {found.example}")
    if given is None and known and any(map(WITH_ZEROS.fullmatch, known)) and all(map(str.isdigit, known)):
        return found._replace(kind="category", why="digits with zeros in front")
    if given in (None, "number") and found.kind != "category":
        few = known[:100]
        style = style_of(known, config.thousands) if few and style_of(few, config.thousands) else None
        if style is not None or given == "number":
            words = [text for text in texts.distinct if is_missing(text)]
            unknown = int(np.isin(texts.codes, [texts.distinct.index(word) for word in words]).sum())
            why = f"{', '.join(map(repr, words))} counts as missing" if words else ""
            return found._replace(kind="number", written=style or PLAIN, missing=found.missing + unknown, why=why)
    if given in (None, "date") and (written := date_format(known)):
        why = "" if written == "ISO8601" else f"written as {written}"
        return found._replace(kind="date", written=written, why=why)
    if given == "date":
        raise ValueError(f"column {found.name!r} must hold dates; received {found.example}")
    if given is not None:
        return found._replace(kind=given)
    if found.kind == "category":
        return found
    some = known[:1000]
    odd = [text for text in some if style_of([text], config.thousands) is None]
    mostly = 0 < len(odd) < 0.1 * len(some)
    why = f"numbers but for {short(odd[0], 20)}, perhaps a word for --data.missing_values" if mostly else ""
    words_each = np.mean([text.count(" ") + 1 for text in texts.distinct])
    present = len(texts) - found.missing
    if found.distinct == present >= MANY_ROWS and words_each < 1.5:
        return found._replace(kind="drop", why=why or "a different value in every row")
    running = words_each >= 2.5 and found.distinct > max(20, 0.2 * present)
    return found._replace(kind="text" if running else "category", why=why)


def _useless(values: "pd.Series[Any]", found: FoundColumn, texts: Texts | None) -> str:
    """Why a column is left out: it has no values, only one, or numbers the rows."""
    if found.distinct == 0:
        return "no values"
    if found.distinct == 1 and not found.missing:
        return "the same value in every row"
    named = bool(_ROW_ID.fullmatch(found.name) or _CAMEL_ID.fullmatch(found.name))
    # Identifiers may repeat where a few rows were entered twice.
    most = 0.9 if named else 1
    if found.distinct < most * len(values) or len(values) < MANY_ROWS or found.kind in ("date", "boolean"):
        return ""
    if texts is None and not (values % 1 == 0).all():
        return ""
    if named or found.name.startswith(UNNAMED):
        return "identifies the rows"
    return ""


def _example(values: "pd.Series[Any]") -> str:
    position = values.first_valid_index()
    if position is None:
        return ""
    value = values.loc[position]
    value = value.iloc[0] if hasattr(value, "iloc") else value
    return short(value.item() if isinstance(value, np.generic) else str(value), 40).strip("'")


def columns_table(found: Sequence[FoundColumn], widths: Mapping[str, int], rows: int) -> str:
    """The columns as a table of text: name, kind, features, missing, distinct, example.

    Args:
        found: the columns.
        widths: number of features that each column becomes.
        rows: rows of the table.
    """
    cells = [("column", "kind", "features", "missing", "distinct", "example", "")]
    for column in found:
        kind = "left out" if column.kind == "drop" else column.kind
        missing = f"{column.missing / rows:.1%}" if column.missing else ""
        features = str(widths[column.name]) if column.name in widths else ""
        cells.append((column.name, kind, features, missing, f"{column.distinct:,}", column.example, column.why))
    sizes = [min(32, max(len(row[index]) for row in cells)) for index in range(6)]
    lines = []
    for row in cells:
        aligned = [
            cell[:size].rjust(size) if index in (2, 3, 4) else cell[:size].ljust(size)
            for index, (cell, size) in enumerate(zip(row, sizes, strict=False))
        ]
        lines.append("  ".join([*aligned, row[6]]).rstrip())
    return "\n".join(lines)
