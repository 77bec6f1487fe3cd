"""Training states on disk: checksummed files of data only, written by a thread beside training."""

import hashlib
import json
import logging
import math
import os
import re
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kerasnn.config.schema import short
from kerasnn.files import replacing

logger = logging.getLogger("kerasnn")

MAGIC = b"kerasnn state 1\n"
_HEAD = struct.Struct("<32sQQ")
"""SHA-256 of the rest of the file, size of the JSON in bytes, size of the arrays in bytes."""
_ARRAY = "__array__"
_NAMES = "bool float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64"
DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)} | {name: np.dtype(name) for name in _NAMES.split()}


class DamagedStateError(ValueError):
    """A state file does not hold what was written; the message is one line."""


def encode(tree: dict[str, Any]) -> list[bytes]:
    """Encode a tree of JSON values and numpy arrays as a state file.

    Layout: `MAGIC`, SHA-256 of the rest, two sizes, JSON (the tree with numbers in place of the arrays, and the dtype
    and shape of each array), the bytes of the arrays.

    Args:
        tree: nested dictionaries with string keys, lists, JSON values and numpy arrays.

    Returns:
        The file's content in pieces.

    Raises:
        TypeError: one line, for anything else in the tree.

    Reference: the safetensors format, with a checksum.

    >>> decode(b"".join(encode({"epoch": 3, "weights": [np.ones(2)]})))
    {'epoch': 3, 'weights': [array([1., 1.])]}
    """
    arrays: list[np.ndarray] = []
    header = {
        "tree": _without_arrays(tree, "state", arrays),
        "arrays": [[array.dtype.name, list(array.shape)] for array in arrays],
    }
    text = json.dumps(header).encode()
    data = [np.ascontiguousarray(array).tobytes() for array in arrays]
    lengths = struct.pack("<QQ", len(text), sum(map(len, data)))
    digest = hashlib.sha256(lengths)
    for piece in (text, *data):
        digest.update(piece)
    return [MAGIC, digest.digest(), lengths, text, *data]


def decode(content: bytes) -> dict[str, Any]:
    """Decode a state file. Nothing in the file is executed, and the tree takes no more memory than the file.

    Args:
        content: the whole file.

    Returns:
        The tree; its arrays are copies.

    Raises:
        DamagedStateError: one line, if a single bit differs from what was written.
    """
    start = len(MAGIC) + _HEAD.size
    if not content.startswith(MAGIC) or len(content) < start:
        raise DamagedStateError(f"not a state file: it begins with {short(content[: len(MAGIC)])}")
    digest, text_bytes, data_bytes = _HEAD.unpack_from(content, len(MAGIC))
    if len(content) != start + text_bytes + data_bytes:
        raise DamagedStateError(f"{len(content)} bytes where {start + text_bytes + data_bytes} were written")
    if hashlib.sha256(memoryview(content)[start - 16 :]).digest() != digest:
        raise DamagedStateError("the checksum does not match")
    try:
        header = json.loads(content[start : start + text_bytes])
        arrays, offset = [], start + text_bytes
        for dtype, shape in header["arrays"]:
            if dtype not in DTYPES or not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError(f"not an array: {short([dtype, shape])}")
            count = math.prod(shape)
            if count * DTYPES[dtype].itemsize > len(content) - offset:
                raise ValueError(f"an array beyond the end: {short([dtype, shape])}")
            arrays.append(np.frombuffer(content, DTYPES[dtype], count, offset).reshape(shape).copy())
            offset += arrays[-1].nbytes
        tree = _with_arrays(header["tree"], arrays)
        if not isinstance(tree, dict):
            raise ValueError(f"not an object: {short(tree)}")
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise DamagedStateError(f"not a state: {short(error)}") from None
    return tree


def _without_arrays(value: Any, path: str, arrays: list[np.ndarray]) -> Any:
    match value:
        case dict():
            for key in value:
                if not isinstance(key, str) or key == _ARRAY:
                    raise TypeError(f"{path} must have strings for keys, received {short(key)}")
            return {key: _without_arrays(inner, f"{path}.{key}", arrays) for key, inner in value.items()}
        case list() | tuple():
            return [_without_arrays(inner, f"{path}.{index}", arrays) for index, inner in enumerate(value)]
        case np.ndarray() if value.dtype.name in DTYPES:
            arrays.append(value)
            return {_ARRAY: len(arrays) - 1}
        case np.bool_() | np.integer() | np.floating():
            return value.item()
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{path} must be made of JSON values and numpy arrays, received {short(value)}")


def _with_arrays(value: Any, arrays: Sequence[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_with_arrays(inner, arrays) for inner in value]
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        return {key: _with_arrays(inner, arrays) for key, inner in value.items()}
    return value


class StateFolder:
    """The newest states of a run, one file each, named by epoch and step.

    Args:
        path: the folder; created by the first `write`.
        keep: number of states to keep, at least 1.

    >>> import tempfile
    >>> folder = StateFolder(tempfile.mkdtemp())
    >>> for epoch in (1, 2, 3):
    ...     folder.write({"epoch": epoch, "step": 0})
    >>> folder.epochs, folder.newest(), len(folder.files())
    (3, {'epoch': 3, 'step': 0}, 2)
    """

    def __init__(self, path: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, received {keep}")
        self.path = Path(path)
        self.keep = keep

    def write(self, tree: dict[str, Any]) -> None:
        """Write a state, which is on disk when this returns, and delete the oldest ones.

        Args:
            tree: the state; "epoch" and "step" are its position.

        Raises:
            OSError: one line, if it can't be written; the states before it are then untouched.
        """
        path = self.path / f"{tree['epoch']:06d}-{tree['step']:08d}.state"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.writelines(encode(tree))
            self._sync()
        except OSError as error:
            raise OSError(
                error.errno, f"the state can't be saved, the one before is kept ({error.strerror})", str(path)
            ) from None
        for old in self.files()[: -self.keep]:
            old.unlink(missing_ok=True)

    def newest(self) -> dict[str, Any] | None:
        """The newest undamaged state, or None. Damaged files are renamed, and the log names them."""
        for path in reversed(self.files()):
            try:
                if path.is_symlink() or not path.is_file():
                    raise DamagedStateError("not a regular file")
                return decode(path.read_bytes())
            except DamagedStateError as error:
                logger.warning("%s is damaged (%s); the state before it is used", path, error)
                path.replace(path.with_suffix(".damaged"))
        return None

    @property
    def epochs(self) -> int:
        """Epochs completed in the newest state."""
        return max((int(path.name.partition("-")[0]) for path in self.files()), default=0)

    def files(self) -> list[Path]:
        """The state files, the oldest position first."""
        return sorted(path for path in self.path.glob("*.state") if re.fullmatch(r"\d{6,}-\d{8,}\.state", path.name))

    def _sync(self) -> None:
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class StateWriter:
    """Writes states in a thread. A state that is still waiting when the next one comes is left out.

    Args:
        write: writes one state.
    """

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def put(self, tree: dict[str, Any]) -> None:
        """Have a state written.

        Raises:
            OSError: the one before could not be written.
        """
        self._raise()
        with self._lock:
            self._waiting = tree
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="training state")
                self._thread.start()

    def flush(self) -> None:
        """Wait until the newest state is on disk.

        Raises:
            OSError: it could not be written.
        """
        if (thread := self._thread) is not None:
            thread.join()
        self._raise()

    def _run(self) -> None:
        while True:
            with self._lock:
                tree, self._waiting = self._waiting, None
                if tree is None:
                    self._thread = None
                    return
            try:
                self._write(tree)
            except BaseException as error:
                self._error = error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
