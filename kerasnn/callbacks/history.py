"""The logs of all epochs as a CSV file."""

import csv
import io
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn.callbacks.logs import flat_logs
from kerasnn.files import write_text


class HistoryFile(keras.callbacks.Callback):
    """Write the logs of all epochs to a CSV file, one row per epoch, atomically after each epoch.

    Unlike `keras.callbacks.CSVLogger` it keeps columns that first appear in a later epoch (validation every second
    epoch), has a column for each entry of a metric that is a vector (`f1_score_0`), and never leaves half a row.

    Args:
        path: the CSV file, rewritten after each epoch.

    Reference: `keras.callbacks.CSVLogger`.

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> table = HistoryFile(Path(tempfile.mkdtemp()) / "history.csv")
    >>> history = model.fit(np.zeros((8, 2)), np.ones(8), epochs=2, verbose=0, callbacks=[table])
    >>> table.path.read_text().split()
    ['epoch,loss', '0,1.0', '1,1.0']
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.rows.append({"epoch": epoch, **flat_logs(logs)})
        self._write()

    def get_state(self) -> dict[str, Any]:
        """Each column as row numbers and values, `(values, 2)`: an array, or a list of lists for text."""
        columns: dict[str, list[list[Any]]] = {}
        for number, row in enumerate(self.rows):
            for name, value in row.items():
                columns.setdefault(name, []).append([number, value])
        return {
            name: column if any(isinstance(value, str) for _, value in column) else np.array(column, np.float64)
            for name, column in columns.items()
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from the result of `get_state`; rows of later epochs are removed from the file."""
        self.rows = [{} for _ in state.get("epoch", ())]
        for name, column in state.items():
            for number, value in column if isinstance(column, list) else column.tolist():
                self.rows[int(number)][name] = int(value) if name == "epoch" else value
        if self.rows:
            self._write()
        else:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_text(self.path, text.getvalue())
