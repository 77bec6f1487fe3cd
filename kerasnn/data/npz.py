"""Arrays from npz files, read without running code from the file."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from kerasnn.config.schema import one_of, short
from kerasnn.files import check_size, existing_file

NPZ_KEYS = ("x", "y", "x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test", "class_names")


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file without unpickling; arrays larger than the memory are refused before unpacking.

    Args:
        path: the file, with keys among `NPZ_KEYS`.

    Raises:
        ValueError: one line: not an npz file, a damaged one, pickled objects, unknown keys, arrays larger than the
            memory.
    """
    file = existing_file(path)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            check_size(file, sum(member.file_size for member in members))
            arrays = {}
            for member in members:
                key = member.filename.removesuffix(".npy")
                if key not in NPZ_KEYS:
                    raise ValueError(one_of(f"{file}: key", key, NPZ_KEYS))
                if key in arrays:
                    raise ValueError(f"{file} has {key!r} twice")
                _check_npy(archive, member, file)
                with archive.open(member) as stream:
                    arrays[key] = np.lib.format.read_array(stream, allow_pickle=False)
            return arrays
    except (OSError, EOFError, MemoryError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as npz: {short(str(error))}") from None


def _check_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> None:
    """Refuse a member whose header does not match its size, or that holds Python objects."""
    with archive.open(member) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = readers[version](stream)
        except (ValueError, KeyError):
            raise ValueError(f"{file}: {member.filename!r} is not a plain numpy array") from None
        size = member.file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{file}: {member.filename!r} holds pickled Python objects, which can run code; save numbers")
    if dtype.itemsize == 0 or max(shape, default=0) > 2**62 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{file}: {member.filename!r} declares {shape} of {dtype}, but holds {size} bytes")


def read_npz_parts(path: str | Path, test_path: str | Path | None) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """The arrays of an npz file by part (`x_train`, `y_train`, …), and the names of its classes.

    Args:
        path: a file with x and y, or with x and y of each part.
        test_path: a file with the test part, or None.

    Raises:
        ValueError: one line, for arrays that are missing, superfluous or unreadable.
    """
    arrays: dict[str, Any] = read_npz(path)
    _rename(arrays, "train", path)
    if test_path is not None:
        if "x_test" in arrays:
            raise ValueError(f"{path} has a test part; data.test_path must be null")
        x_test, y_test = read_npz_test(test_path)
        arrays |= {"x_test": x_test, "y_test": y_test}
    names = arrays.pop("class_names", None)
    if names is not None and names.dtype.kind != "U":
        raise ValueError(f"{path}: class_names must be text; received dtype {names.dtype}")
    return arrays, None if names is None else tuple(names.ravel().tolist())


def read_npz_test(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The only part of an npz file, as a test part."""
    arrays = read_npz(path)
    _rename(arrays, "test", path)
    if extra := [key for key in arrays if key not in ("x_test", "y_test", "class_names")]:
        raise ValueError(f"{path} must hold x and y, or x_test and y_test; it also has {', '.join(extra)}")
    return arrays["x_test"], arrays["y_test"]


def _rename(arrays: dict[str, Any], part: str, path: str | Path) -> None:
    """Rename x and y to the x and y of a part."""
    for kind in ("x", "y"):
        if kind in arrays:
            if f"{kind}_{part}" in arrays:
                raise ValueError(f"{path} must hold {kind} or {kind}_{part}; it has both")
            arrays[f"{kind}_{part}"] = arrays.pop(kind)
    for key in (f"x_{part}", f"y_{part}"):
        if key not in arrays:
            raise ValueError(f"{path} must hold x and y, or x_{part} and y_{part}; {key} is missing")
