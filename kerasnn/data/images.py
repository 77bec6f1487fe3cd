"""MNIST and Fashion-MNIST from a folder, Keras's cache, Debian's package or a download, and IDX files."""

import gzip
import io
import math
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np

from kerasnn.config.schema import short
from kerasnn.data.npz import read_npz
from kerasnn.files import check_size, existing_file

IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CLASS_NAMES = {"mnist": tuple("0123456789"), "fashion_mnist": _FASHION}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TIMEOUT = 10.0
"""Timeout of a download in seconds."""


def read_images(name: str, path: str | None = None) -> dict[str, np.ndarray]:
    """Read `mnist` or `fashion_mnist`, unchanged.

    Args:
        name: `"mnist"` or `"fashion_mnist"`.
        path: folder with the four IDX files (gzipped or not) or `<name>.npz`, or such an npz file. None searches
            Keras's cache, then Debian's `dataset-fashion-mnist`, then downloads into Keras's cache.

    Returns:
        x_train, y_train, x_test, y_test: images uint8 `(examples, 28, 28)`, labels uint8 `(examples,)`.

    Raises:
        ValueError: one line: files that are missing, incomplete, damaged or of another kind; no network.
    """
    if path is not None:
        given = Path(path).expanduser()
        if not given.is_dir():
            return _four_arrays(existing_file(given))
        arrays = _from_folder(name, given)
        if arrays is None:
            raise ValueError(f"{given} has no data of {name}; it needs {_file_names(name)}")
        return arrays
    folders = [_keras_folder(name)]
    if name == "fashion_mnist":
        folders.append(DEBIAN_FOLDER)
    for folder in folders:
        arrays = _from_folder(name, folder)
        if arrays is not None:
            return arrays
    return _download(name)


def read_idx(path: str | Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped if its name ends in `.gz`.

    Args:
        path: the file.
        dimensions: expected number of dimensions: 3 for images, 1 for labels.

    Returns:
        uint8 array of the shape in the file's header.

    Raises:
        ValueError: one line: not such a file, a truncated or damaged one, or bytes beyond its shape.

    Reference: "The IDX file format", Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits.
    """
    file = existing_file(path)
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            return _idx(stream, file, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} cannot be read: {short(str(error))}") from None


def _idx(stream: io.BufferedIOBase, file: Path, dimensions: int) -> np.ndarray:
    expected = bytes((0, 0, 8, dimensions))
    magic = stream.read(4)
    if magic != expected:
        raise ValueError(
            f"{file} must be an IDX file of unsigned bytes with {dimensions} dimensions, which starts with "
            f"{expected.hex()}; it starts with {magic.hex() or 'nothing'}"
        )
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise ValueError(f"{file} is truncated: it ends within its header")
    shape = struct.unpack(f">{dimensions}I", sizes)
    size = math.prod(shape)
    check_size(file, size)
    body = stream.read(size + 1)
    if len(body) != size:
        fault = f"it ends after {len(body)}" if len(body) < size else "more follow"
        raise ValueError(f"{file} must hold {size} bytes for its shape {shape}; {fault}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _from_folder(name: str, folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays from a folder, or None if it has no file of this data set."""
    found: dict[str, Path] = {}
    for key, stem in IDX_FILES.items():
        for file in (folder / stem, folder / f"{stem}.gz"):
            if file.exists():
                found.setdefault(key, file)
    if found:
        if missing := [stem for key, stem in IDX_FILES.items() if key not in found]:
            raise ValueError(f"{folder} lacks {', '.join(missing)} (or the same with .gz)")
        return {key: read_idx(file, 3 if key.startswith("x") else 1) for key, file in found.items()}
    for stem in dict.fromkeys((name, name.replace("_", "-"))):
        if (folder / f"{stem}.npz").exists():
            return _four_arrays(folder / f"{stem}.npz")
    return None


def _four_arrays(file: Path) -> dict[str, np.ndarray]:
    arrays = read_npz(file)
    if missing := [key for key in IDX_FILES if key not in arrays]:
        raise ValueError(f"{file} lacks {', '.join(missing)}; it needs {', '.join(IDX_FILES)}")
    return {key: arrays[key] for key in IDX_FILES}


def _keras_folder(name: str) -> Path:
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"
    return home if name == "mnist" else home / "fashion-mnist"


def _file_names(name: str) -> str:
    return f"{name}.npz, or {', '.join(IDX_FILES.values())} (each also as .gz)"


def _download(name: str) -> dict[str, np.ndarray]:
    import keras

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception where a download fails.
        debian = ", install Debian's dataset-fashion-mnist" if name == "fashion_mnist" else ""
        raise ValueError(
            f"{name} is not on this machine and could not be downloaded ({short(str(error), 160)}): put "
            f"{_file_names(name)} into {_keras_folder(name)}{debian} or give their folder as data.path"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
