"""The files that a piece of code touches."""

import os
import sys
from pathlib import Path


class TouchedFiles:
    """A context that gives the paths that Python writes, deletes, renames or truncates within it, all resolved.

    Args:
        temporary: the folder for temporary files, whose paths are left out.
    """

    def __init__(self, temporary: Path) -> None:
        self._temporary = temporary
        self._active = False
        self._paths: set[Path] = set()
        sys.addaudithook(self._hear)

    def __enter__(self) -> set[Path]:
        self._active = True
        return self._paths

    def __exit__(self, *_: object) -> None:
        self._active = False

    def _hear(self, event: str, arguments: tuple) -> None:
        if not self._active:
            return
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes or event in ("os.truncate", "os.mkdir"):
            self._note(arguments[0])
        elif event in ("os.remove", "os.rmdir"):
            self._note(*arguments)
        elif event in ("os.rename", "os.link"):
            self._note(arguments[0], arguments[2])
            self._note(arguments[1], arguments[3])

    def _note(self, path: object, folder: int = -1) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            parent = Path(f"/proc/self/fd/{folder}").resolve() if folder != -1 else Path()
            resolved = (parent / os.fsdecode(path)).resolve()
            if not resolved.is_relative_to(self._temporary):
                self._paths.add(resolved)
