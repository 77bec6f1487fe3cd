"""What every reader of a file asks first: is it there, is it a file, does it fit into memory."""

import os
from difflib import get_close_matches
from pathlib import Path


def existing_file(path: str | Path) -> Path:
    """The path, `~` expanded, of a file that is there.

    Raises:
        ValueError: it is not there (with the nearest name in its folder) or not a regular file.
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
    """Refuse a file whose content would not fit into the machine's memory.

    Args:
        path: the file, for the error's wording.
        size: the bytes that it, or its header, says it unpacks to.

    Raises:
        ValueError: more than the memory.
    """
    limit = memory()
    if size > limit:
        needed, there = f"{size / 2**30:,.1f} GiB", f"{limit / 2**30:,.1f} GiB"
        raise ValueError(f"{path} says that it unpacks to {needed}; this machine has {there} of memory")


def memory() -> int:
    """Bytes of the machine's memory; 16 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 16 * 2**30
