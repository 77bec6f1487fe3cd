"""The journal of a search: its proposals and results on disk, so that a kill costs at most the trials in flight."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from kerasnn.config.schema import short
from kerasnn.files import lock

_CHECKED = re.compile(rb'(\{.*), "checksum": "([0-9a-f]{16})"\}\n', re.DOTALL)


class Journal:
    """An append-only file of JSON objects, one on each line, locked while it is open.

    Entries are on disk once `append` has returned. Each line ends with a checksum of itself and of all lines before it,
    so that a changed, lost or moved line is noticed; lines of kerasnn 0.1 have none. Opening drops a last line that a
    kill cut short.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
    ...     journal.append([{"proposal": 0}, {"proposal": 1}])
    ...     len(journal.entries)
    2

    Args:
        path: the file, in a folder that exists; made where it is missing.

    Raises:
        ValueError: one line, where another process has it open, or a line before the last is damaged.

    Reference: write-ahead logging; POSIX's `fsync` and `flock`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self._file = path.open("a+b")
        try:
            if not lock(self._file.fileno(), path):
                raise ValueError(
                    f"search_dir must be free, received {path.parent}, in which another process is searching"
                )
            self._file.seek(0)
            content = self._file.read()
            self.entries, length = _parse(content, path)
            self._file.truncate(length)
            self._digest = hashlib.blake2b(content[:length], digest_size=8)
        except BaseException:
            self._file.close()
            raise

    def append(self, entries: Iterable[dict[str, Any]]) -> None:
        """Write entries and wait until they are on disk; a crash may leave only the first of them."""
        entries = list(entries)
        digest, lines = self._digest.copy(), list[bytes]()
        for text in [json.dumps(entry, allow_nan=False)[:-1].encode() for entry in entries]:
            digest.update(text)
            lines.append(text + f', "checksum": "{digest.hexdigest()}"}}\n'.encode())
            digest.update(lines[-1][len(text) :])
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._digest = digest
        self.entries += entries

    def clear(self) -> None:
        """Remove all entries."""
        self._file.truncate(0)
        self._digest = hashlib.blake2b(digest_size=8)
        self.entries = []

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The entries of a journal, which another process may be writing.

    Raises:
        ValueError: one line, where a line before the last is damaged.
    """
    return _parse(path.read_bytes(), path)[0]


def results_by_number(entries: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The results by trial number; `left` counts those appended together that follow, without which one is dropped.

    >>> results_by_number([{"result": 0, "left": 0}, {"result": 1, "left": 1}])
    {0: {'result': 0, 'left': 0}}
    """
    results: dict[int, dict[str, Any]] = {}
    group: list[dict[str, Any]] = []
    for entry in entries:
        if "result" in entry:
            if group and entry["left"] != group[-1]["left"] - 1:
                group = []
            group.append(entry)
            if not entry["left"]:
                results.update({one["result"]: one for one in group})
                group = []
    return results


def _parse(content: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """The entries and their length in bytes, without a last line that was cut short."""
    entries: list[dict[str, Any]] = []
    digest, length, checked = hashlib.blake2b(digest_size=8), 0, False
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            match = _CHECKED.fullmatch(line)
            text = line if match is None else match[1]
            digest.update(text)
            if match is not None and digest.hexdigest() != match[2].decode():
                raise ValueError("the checksum does not match")
            if not line.endswith(b"\n") or (match is None and checked):
                raise ValueError("the line has no end")
            entry = json.loads(line if match is None else text + b"}")
            if not isinstance(entry, dict) or "checksum" in entry:
                raise ValueError("not an entry")
        except (ValueError, RecursionError):
            if number < len(lines):
                raise ValueError(f"{path} is damaged at line {number}: {short(line)}") from None
            break
        digest.update(line[len(text) :])
        checked = match is not None
        entries.append(entry)
        length += len(line)
    return entries, length
