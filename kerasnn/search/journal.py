"""What a search proposed and found, on disk so that a kill costs at most the trials in flight."""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kerasnn.config.schema import short

Record = dict[str, Any]

ADDRESS = "address"
"""The file of a search's folder that says where workers reach the process that has it open."""


class FolderInUseError(ValueError):
    """Another process searches in this folder."""


class Journal:
    """An append-only file of JSON lines, locked while it is open.

    Each record is a JSON object on a line of its own. What `append` returned from is on disk. A last line that a kill
    cut short is dropped on opening.

    Args:
        path: the file; made where it is missing, in a folder that exists.

    Raises:
        FolderInUseError: one line, where another process has it open.
        ValueError: one line, where a line before the last is damaged.

    Reference: write-ahead logging; POSIX's `fsync` and `flock`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._file = path.open("a+b")
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def append(self, records: Iterable[Record]) -> None:
        """Add records and wait until they are on disk.

        Args:
            records: JSON objects; those given together are on disk together or, after a crash, the first of them.
        """
        records = list(records)
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        self._file.write(lines.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records += records

    def close(self) -> None:
        """Give the file back to others."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(
                f"search_dir must be free, received {self.path.parent}, in which another process is searching"
            ) from None

    def _read(self) -> None:
        self._file.seek(0)
        self.records, whole = _parsed(self._file.read(), self.path)
        self._file.truncate(whole)


def read(path: Path) -> list[Record]:
    """The records of a journal, also of one that another process is writing.

    Args:
        path: the file.

    Raises:
        ValueError: one line, where a line before the last is damaged.
    """
    return _parsed(path.read_bytes(), path)[0]


def _parsed(content: bytes, path: Path) -> tuple[list[Record], int]:
    """Records, and the length of what holds them: a last line that was cut short is left out."""
    records: list[Record] = []
    whole = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("no end")
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("no object")
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path} is damaged at line {number}: {short(line)}") from None
            break
        records.append(record)
        whole += len(line)
    return records, whole
