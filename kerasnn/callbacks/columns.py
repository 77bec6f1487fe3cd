"""Numbers that grow by a few every epoch, at a cost that does not grow with them."""

from collections.abc import Iterator
from typing import Any

import numpy as np


class GrowingArray:
    """A float64 array that rows are appended to.

    Args:
        shape: shape of a row.

    >>> array = GrowingArray((2,))
    >>> array.append((0, 1.5))
    >>> before = array.rows()
    >>> array.append((1, 2.5))
    >>> before.tolist(), len(array)
    ([[0.0, 1.5]], 2)
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self._rows = np.empty((16, *shape))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, row: Any) -> None:
        """Append a row."""
        if self._count == len(self._rows):
            # Arrays given away before keep the old memory.
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._count] = row
        self._count += 1

    def rows(self) -> np.ndarray:
        """All rows so far, which later ones do not change; not a copy."""
        return self._rows[: self._count]


class Columns:
    """Columns by name: arrays, or lists from the first value on that is no number.

    Args:
        shape: shape of an entry.

    >>> columns = Columns()
    >>> for value in (0.5, "none"):
    ...     columns.append("loss", value, is_number=isinstance(value, float))
    >>> columns.tree()
    {'loss': [0.5, 'none']}
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self._shape = shape
        self._columns: dict[str, GrowingArray | list[Any]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def length(self, name: str) -> int:
        """Number of entries of a column; 0 for one that does not exist."""
        return len(self._columns.get(name, ()))

    def append(self, name: str, entry: Any, is_number: bool) -> None:
        """Append an entry to a column, which begins with the first."""
        column = self._columns.setdefault(name, GrowingArray(self._shape))
        if not is_number and not isinstance(column, list):
            self._columns[name] = column = column.rows().tolist()
        column.append(entry)

    def tree(self) -> dict[str, Any]:
        """The columns, which later entries do not change."""
        return {
            name: list(column) if isinstance(column, list) else column.rows() for name, column in self._columns.items()
        }
