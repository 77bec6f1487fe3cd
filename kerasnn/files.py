"""Files that are either whole or not there."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".*.partial*"
"""Matches what a kill within `replacing` leaves."""


def inside(folder: str | Path, name: str) -> Path:
    """The path of a folder's own file, not of one that a link there leads away to.

    Args:
        folder: any folder, links to it allowed.
        name: the file's name in it; it need not be there.

    Returns:
        `folder / name`.

    Raises:
        ValueError: one line, where the file would be somewhere else.
    """
    path = Path(folder) / name
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"{path} must lie in its folder, received a link to {path.resolve()}")
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there takes its place on success and vanishes on failure.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        A path with the same suffix in the same folder.

    Raises:
        OSError: from the writing; the file that was there before is then untouched.

    Reference: write, fsync, rename (POSIX's atomic `rename`).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: str | Path, rule: str) -> Iterator[None]:
    """Within it, no other process is within it for the same folder; a kill ends it too.

    Args:
        folder: an existing folder.
        rule: what the folder is for, as the start of a sentence (`"run_dir"`).

    Raises:
        ValueError: one line, where another process is.

    Reference: POSIX's `flock`.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{rule} must be free, received {folder}, which another process is using") from None
        yield
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as a whole: a reader sees the old content or the new, never a part.

    Args:
        path: the file; its folder must exist.
        text: what to write, in UTF-8.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
