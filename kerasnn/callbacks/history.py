"""The logs of all epochs as a CSV file."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import keras

from kerasnn.callbacks.columns import Columns
from kerasnn.callbacks.logs import flat_logs
from kerasnn.files import write_text


class HistoryFile(keras.callbacks.Callback):
    """Write the logs of all epochs to a CSV file, one row after each epoch; the first epoch is 1.

    Unlike `keras.callbacks.CSVLogger` it keeps columns that first appear in a later epoch (validation every second
    epoch), and has a column for each entry of a metric that is a vector (`f1_score_0`). The file is replaced as a whole
    when training begins or resumes and when a column is new, and where another program has changed it; otherwise a row
    is appended. What a kill left of a row is made right on resuming.

    Args:
        path: the CSV file.

    Raises:
        OSError: from `fit`, if the file can't be written; the rows before are then untouched.

    Reference: `keras.callbacks.CSVLogger`.

    >>> import tempfile
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> table = HistoryFile(Path(tempfile.mkdtemp()) / "history.csv")
    >>> history = model.fit(np.zeros((8, 2)), np.ones(8), epochs=2, verbose=0, callbacks=[table])
    >>> table.path.read_text().split()
    ['epoch,loss', '1,1.0', '2,1.0']
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []
        self._columns = Columns((2,))
        self._size: int | None = None
        """Bytes of the file after the last row; None before it is written."""

    def __repr__(self) -> str:
        return f"HistoryFile({str(self.path)!r})"

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        row = {"epoch": epoch, **flat_logs(logs)}
        columns = len(self._columns)
        self._add(row)
        if self._size is None or len(self._columns) > columns or not self._append(row):
            self._write()

    def get_state(self) -> dict[str, Any]:
        """Each column as row numbers and values, `(values, 2)`: an array, or a list of lists for text."""
        return self._columns.tree()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from the result of `get_state`; rows of later epochs are removed from the file."""
        rows: list[dict[str, Any]] = [{} for _ in state.get("epoch", ())]
        for name, column in state.items():
            for number, value in column if isinstance(column, list) else column.tolist():
                rows[int(number)][name] = int(value) if name == "epoch" else value
        self.rows, self._columns = [], Columns((2,))
        for row in rows:
            self._add(row)
        if self.rows:
            self._write()
        else:
            self.path.unlink(missing_ok=True)

    def _add(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            self._columns.append(name, [len(self.rows), value], is_number=not isinstance(value, str))
        self.rows.append(row)

    def _append(self, row: dict[str, Any]) -> bool:
        """Append a row to the file; False where it is not the file that was written last."""
        try:
            # Not through a link that has taken the file's place.
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            if os.fstat(handle).st_size != self._size:
                return False
            try:
                self._size += _write_all(handle, self._text([row]).encode())
            except OSError:
                os.ftruncate(handle, self._size)
                raise
        finally:
            os.close(handle)
        return True

    def _write(self) -> None:
        text = self._text(self.rows, heading=True)
        write_text(self.path, text)
        self._size = len(text.encode())

    def _text(self, rows: list[dict[str, Any]], heading: bool = False) -> str:
        text = io.StringIO()
        table = csv.DictWriter(text, list(self._columns), restval="", lineterminator="\n")
        if heading:
            table.writeheader()
        # Keras gives callbacks numbers from 0; people read of the first epoch.
        table.writerows({**row, "epoch": row["epoch"] + 1} for row in rows)
        return text.getvalue()


def _write_all(handle: int, content: bytes) -> int:
    written = 0
    while written < len(content):
        written += os.write(handle, content[written:])
    return written
