"""Files that are complete or absent, and checks of files before they are read."""

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

log = logging.getLogger("kerasnn")

_PARTIAL = re.compile(r"\..+\.\d+\.partial(\..+)?")
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def dated_path(*parts: str) -> Path:
    """The path of results for which none was given: `logs/<time>-<part>-<part>`."""
    return Path("logs") / "-".join([f"{datetime.now():%Y%m%d-%H%M%S}", *parts])


def inside(folder: str | Path, name: str | Path) -> Path:
    """The path of a file in a folder, refused if the file or a folder on the way is a link.

    Args:
        folder: any folder; the folder itself may be a link.
        name: the file's name or relative path; the file need not exist.

    Returns:
        `folder / name`.

    Raises:
        ValueError: one line with the link's target, or for a file that has another name elsewhere (a hard link).
    """
    path = Path(folder) / name
    if path.resolve() != Path(folder).resolve() / name:
        raise ValueError(f"{path} must lie in its folder, received a link to {path.resolve()}")
    if path.is_file() and (names := path.stat().st_nlink) > 1:
        raise ValueError(f"{path} must have one name, received a file with {names} (hard links); copy it to use it")
    return path


def refuse_links(folder: str | Path, *names: str) -> None:
    """Refuse links among files and folders that are about to be written, truncated, deleted or read.

    Args:
        folder: any folder; the folder itself may be a link.
        names: files and folders in it, with all that the folders hold; they need not exist.

    Raises:
        ValueError: one line that names the link and its target.
    """
    for name in names:
        path = inside(folder, name)
        for inner in path.rglob("*") if path.is_dir() else ():
            inside(folder, inner.relative_to(folder))


def partial_files(folder: str | Path) -> list[Path]:
    """The temporary files in a folder that a process leaves when it is killed within `replacing`."""
    folder = Path(folder)
    return [path for path in folder.iterdir() if _PARTIAL.fullmatch(path.name)] if folder.is_dir() else []


def delete_partial_files(*folders: str | Path) -> None:
    """Delete the temporary files that a kill has left in folders, which need not exist."""
    for folder in folders:
        for path in partial_files(folder):
            path.unlink()


def existing_file(path: str | Path) -> Path:
    """The path of an existing regular file, with `~` expanded.

    Raises:
        ValueError: one line: the file does not exist (with the nearest name in its folder), or is not a regular file.
    """
    file = Path(path).expanduser()
    if not file.exists():
        names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        near = get_close_matches(file.name, names, n=1)
        raise ValueError(f"no file {file}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if not file.is_file():
        raise ValueError(f"{file} must be a file; received a {'folder' if file.is_dir() else 'special file'}")
    return file


def check_size(path: Path, size: int) -> None:
    """Refuse a file whose content does not fit into the machine's memory.

    Args:
        path: the file, for the error message.
        size: bytes of the unpacked content, as the file or its header declares them.

    Raises:
        ValueError: one line with both sizes.
    """
    limit = memory_size()
    if size > limit:
        needed, available = f"{size / 2**30:,.1f} GiB", f"{limit / 2**30:,.1f} GiB"
        raise ValueError(f"{path} declares {needed} of content; this machine has {available} of memory")


def memory_size() -> int:
    """Bytes of the machine's memory; 16 GiB where the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 16 * 2**30


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, which replaces `path` on success and is deleted on failure.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        A path in the same folder with the same suffixes.

    Raises:
        OSError: from writing; an earlier file at `path` is then untouched.

    Reference: POSIX's atomic `rename`, after `fsync`.
    """
    path = Path(path)
    suffixes = "".join(path.suffixes)
    temporary = path.with_name(f".{path.name.removesuffix(suffixes)}.{os.getpid()}.partial{suffixes}")
    # A link at this path would lead the writer elsewhere.
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: str | Path, rule: str) -> Iterator[None]:
    """Lock a folder against other processes; the lock ends with the process, also when it is killed.

    Args:
        folder: an existing folder.
        rule: name of the folder in the error message (`"run_dir"`).

    Raises:
        ValueError: one line, if another process holds the lock.

    Reference: POSIX's `flock`.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not lock(handle, folder):
            raise ValueError(f"{rule} must be free, received {folder}, which another process is using")
        yield
    finally:
        os.close(handle)


def lock(handle: int, path: str | Path) -> bool:
    """Lock an open file against other processes; False if another process holds the lock.

    A file system without locks gives a warning, and True.

    Args:
        handle: the file's descriptor.
        path: the file, for the warning.

    Reference: POSIX's `flock`.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s cannot be locked (%s): let no other process use it", path, error.strerror)
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically: a reader sees the old content or the new, never a part.

    Args:
        path: the file; its folder must exist.
        text: the content, written as UTF-8.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
