"""XLA's compiled programs, kept from one process to the next.

TensorFlow can keep what XLA compiles in a folder, but believes whatever it finds there. So each process gives it a
folder of its own, with links to those programs whose checksums are right, and adds what was compiled when it ends.
"""

import atexit
import fcntl
import hashlib
import logging
import os
import platform
import re
import resource
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

log = logging.getLogger("kerasnn")

VARIABLE = "KERASNN_CACHE"
"""The environment variable with the cache's folder; empty: no cache. The default is `~/.cache/kerasnn`."""
SIZE = 128 * 2**20
"""Bytes of compiled programs that are kept; the oldest go first."""
FREE = 2**30
"""Bytes that must be free on the file system: where a program can't be kept, TensorFlow fails."""
ABANDONED = 86_400
"""Seconds after which a folder that a killed process has left is deleted."""
_PROGRAM = re.compile(r"(xla_compile_cache__\d+__\d+__XLA_CPU_JIT\.pb)\.([0-9a-f]{64})")
_OPTIONS = "--tf_xla_persistent_cache_directory={} --tf_xla_persistent_cache_device_types=CPU"
_INHERITED = re.compile(_OPTIONS.format(r"\S*/process-\S*"))


class CompilationCache:
    """Compiled programs of machines, versions and settings like these.

    Args:
        root: the folder of all caches; made if it is missing.

    Raises:
        OSError: it can't be made, or other users may write to it.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "xla" / _environment()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.folder.parent, self.folder):
            status = folder.stat()
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise PermissionError(f"{folder} must belong to this user alone")
        self.process_folder = Path(tempfile.mkdtemp(prefix="process-", dir=self.folder))
        # Held as long as the process lives.
        self._lock = os.open(self.process_folder, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def open(self) -> None:
        """Link the programs whose checksums are right into the folder of this process, and delete all others."""
        size = 0
        for path in sorted(self.folder.iterdir(), key=_written, reverse=True):
            # Another process may delete it meanwhile.
            with suppress(FileNotFoundError):
                if match := _PROGRAM.fullmatch(path.name):
                    size += path.lstat().st_size
                    self._link(path, match[1], match[2], fits=size <= SIZE)
                elif path.name.startswith("process-") and time.time() - _written(path) > ABANDONED:
                    _delete_unlocked(path)

    def _link(self, path: Path, name: str, digest: str, fits: bool) -> None:
        linked = self.process_folder / name
        right = not path.is_symlink() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
        if right and fits and not linked.exists():
            linked.hardlink_to(path)
        else:
            path.unlink()

    def close(self) -> None:
        """Keep what was compiled."""
        for path in self.process_folder.glob("*.pb"):
            if path.stat().st_nlink == 1:
                path.rename(self.folder / f"{path.name}.{hashlib.sha256(path.read_bytes()).hexdigest()}")
        shutil.rmtree(self.process_folder, ignore_errors=True)
        os.close(self._lock)


def begin() -> threading.Thread | None:
    """Have XLA's programs kept, in a process that has not compiled any yet.

    Returns:
        The thread that checks those of earlier processes, to be joined before the first is compiled; None: there is no
        cache, because `KERASNN_CACHE` is empty, TensorFlow has a cache of the user's, or the folder is not safe.
    """
    flags = _INHERITED.sub("", os.environ.get("TF_XLA_FLAGS", "")).strip()
    name = os.environ.get(VARIABLE, "~/.cache/kerasnn")
    if not name or "tf_xla_persistent_cache" in flags:
        return None
    try:
        root = Path(name).expanduser().absolute()
        if re.search(r"\s", str(root)) or resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
            return None
        cache = CompilationCache(root)
        if shutil.disk_usage(cache.folder).free < FREE:
            raise OSError(f"less than {FREE / 2**30:.0f} GiB is free")
    except (OSError, RuntimeError) as error:
        log.info("compiled programs are not kept: %s", error)
        return None
    os.environ["TF_XLA_FLAGS"] = f"{flags} {_OPTIONS.format(cache.process_folder)}".strip()
    atexit.register(cache.close)
    thread = threading.Thread(target=cache.open, name="compilation cache")
    thread.start()
    return thread


def _environment() -> str:
    """A name for all that a compiled program depends on besides the program: versions, processor, settings."""
    processor = platform.processor()
    if (file := Path("/proc/cpuinfo")).exists():
        processor = file.read_text().partition("\n\n")[0]
        processor = "\n".join(
            line for line in processor.splitlines() if line.startswith(("model", "flags", "Features"))
        )
    settings = [os.environ.get("XLA_FLAGS"), _INHERITED.sub("", os.environ.get("TF_XLA_FLAGS", "")).strip()]
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described = [version("tensorflow"), platform.platform(), processor, count, *settings]
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def _written(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _delete_unlocked(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        return
    finally:
        os.close(handle)
