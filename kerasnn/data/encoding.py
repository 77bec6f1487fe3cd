"""Encoding of a table's rows as features of a network, fitted to the training part."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field

from kerasnn.config.schema import Schema, short
from kerasnn.data.columns import FoundColumn
from kerasnn.data.compact import Layout
from kerasnn.data.features import Column, encoder_of, fit_column
from kerasnn.data.values import PLAIN, Texts, as_dates, as_floats, as_texts, counted, style_of

if TYPE_CHECKING:
    import keras
    import pandas as pd

BLOCK = 4096
"""Rows that are encoded at a time."""
Raw = dict[str, np.ndarray | Texts]
"""Values by column: float64 numbers and booleans, datetime64 dates, NaN and NaT where they are missing, and `Texts`."""


class TableEncoding(Schema):
    """How a table's rows become features `(rows, width)`, and what its targets mean.

    The same encoding is a Keras layer within the saved model: `kerasnn.data.table_encoder.TableEncoder`.
    """

    columns: tuple[Column, ...]
    """The columns, in the order of their features."""
    targets: tuple[str, ...] = ()
    """Names of the target columns."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes or labels."""
    target_center: tuple[float, ...] = Field(default=())
    """Mean of each target over the training part; empty if the network learns the targets as they are."""
    target_scale: tuple[float, ...] = Field(default=())
    """Standard deviation of each target over the training part; empty if the network learns the targets as they are."""
    decimal: Literal[".", ","] = "."
    """Decimal mark of the table's file."""

    @classmethod
    def fit(
        cls,
        found: Sequence[FoundColumn],
        raw: Raw,
        scaling: str,
        most: tuple[int, int],
        rows: np.ndarray | slice = slice(None),
        **fields: Any,
    ) -> Self:
        """Fit an encoding to the training part.

        Args:
            found: the columns that are not left out.
            raw: their values.
            scaling: of numbers and dates, as in `Preparation.fit`.
            most: most features of a column of categories, and of a column of text.
            rows: positions of the training part's rows.
            fields: other fields of the encoding.
        """
        # One column after the other, so that no second table is in memory.
        columns = [fit_column(column, take_rows({"": raw[column.name]}, rows)[""], scaling, most) for column in found]
        return cls(columns=tuple(column for column in columns if column.width), **fields)

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """Shape of one raw example: the number of columns."""
        return (len(self.columns),)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one encoded example."""
        return (sum(column.width for column in self.columns),)

    def raw(self, table: "pd.DataFrame | Mapping[str, Any]", source: str = "the table") -> Raw:
        """The values of the encoding's columns in a table, whose columns may have any order.

        Args:
            table: a data frame, or arrays of equal length by column name; other columns are ignored.
            source: the table's name in an error message.

        Raises:
            ValueError: one line, for a missing column and for values of another kind.
        """
        import pandas as pd

        frame = counted(table) if isinstance(table, pd.DataFrame) else _frame(table, source)
        if missing := [column.name for column in self.columns if column.name not in frame.columns]:
            near = get_close_matches(missing[0], map(str, frame.columns), n=1)
            hint = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            hint += f" (is {near[0]!r} meant?)" if near else ""
            raise ValueError(f"{source} must have the training table's columns; it lacks {missing[0]!r}{hint}")
        return {column.name: _values(frame[column.name], column, source) for column in self.columns}

    @property
    def layout(self) -> Layout:
        """How training keeps the features of a row."""
        return Layout(tuple(column.kept for column in self.columns))

    def compact(self, raw: Raw, rows: np.ndarray | None = None) -> np.ndarray:
        """Raw values as training keeps them: float32 `(rows, layout.width)`.

        Args:
            raw: values by column.
            rows: positions of the rows to encode; None: all.
        """
        rows = np.arange(row_count(raw)) if rows is None else rows
        kept = np.empty((len(rows), self.layout.width), np.float32)
        encoders = [(column.kept.width, encoder_of(column, raw[column.name])) for column in self.columns]
        # Blocks that fit into the processor's cache are many times faster than whole columns.
        for first in range(0, len(rows), BLOCK):
            block, start = slice(first, first + BLOCK), 0
            for width, encode in encoders:
                encode(rows[block], kept[block, start : start + width])
                start += width
        return kept

    def __call__(self, raw: Raw) -> np.ndarray:
        """Encode raw values: float32 `(rows, width)`."""
        return self.layout.expand(self.compact(raw))

    def layers(self) -> "list[keras.layers.Layer]":
        """The encoding as a Keras layer that takes a dictionary of columns."""
        from kerasnn.data.table_encoder import TableEncoder

        return [TableEncoder(self.model_dump(mode="json"))]

    def original_targets(self, outputs: np.ndarray) -> np.ndarray:
        """Scaled targets, or predictions of them, in the targets' own units."""
        if not self.target_scale:
            return outputs
        return outputs * np.asarray(self.target_scale, np.float32) + np.asarray(self.target_center, np.float32)


def row_count(raw: Raw) -> int:
    """Number of rows of raw values."""
    return len(next(iter(raw.values()), ()))


def take_rows(raw: Raw, rows: np.ndarray | slice) -> Raw:
    """The raw values of some rows."""
    return {name: values.take(rows) if isinstance(values, Texts) else values[rows] for name, values in raw.items()}


def raw_values(values: "pd.Series[Any]", kind: str, written: str, name: str) -> np.ndarray | Texts:
    """The raw values of a column of a kind.

    Args:
        values: the column.
        kind: number, boolean, category, date or text.
        written: style of its numbers or format of its dates, where they are texts.
        name: name of the column in the error message, with its table.
    """
    if kind in ("number", "boolean"):
        return as_floats(values, name, written or PLAIN)
    return as_dates(values, name, written or "ISO8601") if kind == "date" else as_texts(values)


def _values(values: "pd.Series[Any]", column: Column, source: str) -> np.ndarray | Texts:
    import pandas as pd

    name = f"column {column.name!r} of {source}"
    textual = column.kind in ("category", "text") and column.levels and style_of(column.levels) is None
    if textual and pd.api.types.is_numeric_dtype(values.dtype) and not values.isna().all():
        like = ", ".join(map(repr, column.levels[:3]))
        if not {"True", "False"} & set(column.levels):
            raise ValueError(f"{name} must hold a {column.kind} like {like}; received {short(values.dropna().iloc[0])}")
    return raw_values(values, column.kind, column.written, name)


def _frame(table: Mapping[str, Any], source: str) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.DataFrame(
            {
                name: values.array if isinstance(values, pd.Series) else np.ravel(np.asarray(values))
                for name, values in table.items()
            }
        )
    except ValueError as error:
        raise ValueError(f"{source} must have columns of equal length; {short(str(error))}") from None
