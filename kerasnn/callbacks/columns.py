"""Numbers that grow by a few every epoch, at a cost that does not grow with them."""

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
