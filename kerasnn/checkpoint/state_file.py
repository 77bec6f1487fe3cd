"""Training states on disk: files that are whole, or known not to be, and that hold data only."""

import hashlib
import json
import logging
import math
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kerasnn.config.schema import short
from kerasnn.files import replacing

logger = logging.getLogger("kerasnn")

MAGIC = b"kerasnn state 1\n"
_HEAD = struct.Struct("<32sQQ")
"""SHA-256 of all that follows it, bytes of the JSON, bytes of the arrays."""
_ARRAY = "__array__"
_NAMES = "bool float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64"
_DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)} | {name: np.dtype(name) for name in _NAMES.split()}


class DamagedStateError(ValueError):
    """A state file that is not what was written; the message is one line."""


def encode(tree: dict[str, Any]) -> list[bytes]:
    """A tree of JSON values and numpy arrays as the bytes of a state file.

    Layout: `MAGIC`, SHA-256 of the rest, two lengths, JSON (the tree with arrays by number, and each array's dtype and
    shape), the arrays' bytes one after the other.

    Args:
        tree: nested dictionaries with string keys, and lists.

    Returns:
        The file's content in pieces.

    Raises:
        TypeError: one line, for anything else in the tree.

    Reference: the layout of the safetensors format, with a checksum.
    """
    arrays: list[np.ndarray] = []
    plain = _without_arrays(tree, "state", arrays)
    described = {"tree": plain, "arrays": [[array.dtype.name, list(array.shape)] for array in arrays]}
    text = json.dumps(described).encode()
    data = [np.ascontiguousarray(array).tobytes() for array in arrays]
    lengths = struct.pack("<QQ", len(text), sum(map(len, data)))
    digest = hashlib.sha256(lengths)
    for piece in (text, *data):
        digest.update(piece)
    return [MAGIC, digest.digest(), lengths, text, *data]


def decode(content: bytes) -> dict[str, Any]:
    """The tree in a state file's content. Nothing in the file is run, and it takes no more memory than its size.

    Args:
        content: the whole file.

    Returns:
        The tree; its arrays are copies.

    Raises:
        DamagedStateError: one line, where one bit is not as it was written.
    """
    start = len(MAGIC) + _HEAD.size
    if not content.startswith(MAGIC) or len(content) < start:
        raise DamagedStateError(f"no state file: it begins with {short(content[: len(MAGIC)])}")
    digest, text_bytes, data_bytes = _HEAD.unpack_from(content, len(MAGIC))
    if len(content) != start + text_bytes + data_bytes:
        raise DamagedStateError(f"{len(content)} bytes where {start + text_bytes + data_bytes} were written")
    if hashlib.sha256(memoryview(content)[start - 16 :]).digest() != digest:
        raise DamagedStateError("the checksum is another")
    try:
        described = json.loads(content[start : start + text_bytes])
        arrays, at = [], start + text_bytes
        for dtype, shape in described["arrays"]:
            if dtype not in _DTYPES or not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError(f"no array: {short([dtype, shape])}")
            count = math.prod(shape)
            if count * _DTYPES[dtype].itemsize > len(content) - at:
                raise ValueError(f"an array beyond the end: {short([dtype, shape])}")
            arrays.append(np.frombuffer(content, _DTYPES[dtype], count, at).reshape(shape).copy())
            at += arrays[-1].nbytes
        tree = _with_arrays(described["tree"], arrays)
        if not isinstance(tree, dict):
            raise ValueError(f"no object: {short(tree)}")
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise DamagedStateError(f"not a state: {short(error)}") from None
    return tree


def _without_arrays(value: Any, place: str, arrays: list[np.ndarray]) -> Any:
    match value:
        case dict():
            for key in value:
                if not isinstance(key, str) or key == _ARRAY:
                    raise TypeError(f"{place} must have strings for keys, received {short(key)}")
            return {key: _without_arrays(inner, f"{place}.{key}", arrays) for key, inner in value.items()}
        case list() | tuple():
            return [_without_arrays(inner, f"{place}.{index}", arrays) for index, inner in enumerate(value)]
        case np.ndarray() if value.dtype.name in _DTYPES:
            arrays.append(value)
            return {_ARRAY: len(arrays) - 1}
        case np.bool_() | np.integer() | np.floating():
            return value.item()
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{place} must be made of JSON values and numpy arrays, received {short(value)}")


def _with_arrays(value: Any, arrays: Sequence[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_with_arrays(inner, arrays) for inner in value]
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        return {key: _with_arrays(inner, arrays) for key, inner in value.items()}
    return value


class StateFolder:
    """The last states of a run, one file each, named by position.

    Args:
        path: the folder; made where it is missing.
        keep: how many states stay, at least 1.
    """

    def __init__(self, path: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, received {keep}")
        self.path = Path(path)
        self.keep = keep

    def write(self, tree: dict[str, Any]) -> None:
        """Write a state, whole and on disk when this returns, and drop the oldest ones.

        Args:
            tree: with "epoch" and "step", the position.

        Raises:
            OSError: one line, where it can't be written; the states that were there are then untouched.
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
        """The newest state that is whole, or None. What is damaged is set aside, and the log says so."""
        for path in reversed(self.files()):
            try:
                if path.is_symlink() or not path.is_file():
                    raise DamagedStateError("a link or no file")
                return decode(path.read_bytes())
            except DamagedStateError as error:
                logger.warning("%s is damaged (%s); the state before it is used", path, error)
                path.replace(path.with_suffix(".damaged"))
        return None

    @property
    def epochs(self) -> int:
        """Whole epochs in the newest state."""
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
