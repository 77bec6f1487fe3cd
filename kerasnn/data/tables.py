"""Tables of examples from csv and npz files, read without running anything that they hold."""

import csv
import math
import zipfile
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerasnn.config.schema import one_of, short
from kerasnn.files import check_size, existing_file

NPZ_KEYS = ("x", "y", "x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test", "class_names")


class Table(NamedTuple):
    """A csv file's examples.

    Args:
        x: features, `(examples, features)`, float64.
        y: targets: labels `(examples,)`, int64, or numbers `(examples, targets)`, float64.
        class_names: the labels' names, in the labels' order; the target columns' for multilabel; None for regression.
        columns: every column's name.
    """

    x: np.ndarray
    y: np.ndarray
    class_names: tuple[str, ...] | None
    columns: tuple[str, ...]


def read_csv(
    path: str | Path,
    task: str,
    target: str | tuple[str, ...] | None = None,
    class_names: Sequence[str] | None = None,
) -> Table:
    """A comma-separated file with a header, numeric features and one or more target columns.

    A classification target may be text or integers: its distinct values, sorted (integers by size), are the classes.

    Args:
        path: the file, UTF-8.
        task: binary, multiclass, multilabel or regression.
        target: name or names of the target columns; None takes the last.
        class_names: the classes if they are fixed already, as for a test file; labels outside them are refused.

    Raises:
        ValueError: no file, no header, no rows; a missing target column; ragged rows; a cell that is no finite number
            where one is needed; an unknown or missing label.
    """
    file = existing_file(path)
    check_size(file, file.stat().st_size)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            rows = ((reader.line_num, row) for row in reader if row)
            columns = _header(next(rows, (0, []))[1], file)
            targets = _targets(columns, target, task, file)
            features = [index for index in range(len(columns)) if index not in targets]
            numbers = features + (targets if task in ("multilabel", "regression") else [])
            cells, labels, places = array("d"), [], []
            for line, row in rows:
                if len(row) != len(columns):
                    raise ValueError(f"{file} line {line} has {len(row)} cells; the header has {len(columns)}")
                try:
                    cells.extend([float(row[index]) for index in numbers])
                except ValueError:
                    index = next(index for index in numbers if not _is_number(row[index]))
                    raise ValueError(
                        f"{file} line {line}, column {columns[index]!r} must be a number; received {short(row[index])}"
                    ) from None
                labels.append(" ".join(row[targets[0]].split()))
                places.append(line)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read as csv: {short(str(error))}") from None
    if not places:
        raise ValueError(f"{file} has a header and no rows")
    values = np.array(cells).reshape(len(places), len(numbers))
    for row_index, index in np.argwhere(~np.isfinite(values)):
        place = f"{file} line {places[row_index]}, column {columns[numbers[index]]!r}"
        raise ValueError(f"{place} must be a finite number; received {values[row_index, index]}")
    x, y = values[:, : len(features)], values[:, len(features) :]
    if task == "regression":
        return Table(x, y, None, columns)
    if task == "multilabel":
        return Table(x, y, tuple(columns[index] for index in targets), columns)
    y, names = _encode(labels, places, f"{file} column {columns[targets[0]]!r}", class_names)
    if task == "binary" and len(names) != 2:
        raise ValueError(
            f"{file} column {columns[targets[0]]!r} must hold two labels for task binary; "
            f"it holds {len(names)}: {short(', '.join(names))}"
        )
    return Table(x, y, names, columns)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, never unpickled, refused before they are unpacked where they would not fit.

    Args:
        path: the file; its keys are among `NPZ_KEYS`.

    Raises:
        ValueError: another kind of file, a damaged one, pickled objects, unknown keys, more than the memory holds.
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
    """Refuse a member whose header asks for more, or for other things, than the member holds."""
    with archive.open(member) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = readers[version](stream)
        except (ValueError, KeyError):
            raise ValueError(f"{file}: {member.filename!r} is not a plain numpy array") from None
        held = member.file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{file}: {member.filename!r} holds pickled Python objects, which can run code; save numbers")
    if dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{file}: {member.filename!r} says {shape} of {dtype}, but holds {held} bytes")


def _header(cells: list[str], file: Path) -> tuple[str, ...]:
    columns = tuple(" ".join(cell.split()) for cell in cells)
    if not columns:
        raise ValueError(f"{file} is empty")
    if all(_is_number(column) for column in columns):
        raise ValueError(f"{file} must start with a header of column names; its first line is {short(list(columns))}")
    for index, column in enumerate(columns):
        if not column:
            raise ValueError(f"{file}: column {index + 1} of the header has no name")
        if column in columns[:index]:
            raise ValueError(f"{file} has two columns {column!r}")
    if len(columns) < 2:
        raise ValueError(f"{file} must have features and a target, separated by commas; its header is {columns[0]!r}")
    return columns


def _targets(columns: tuple[str, ...], target: str | tuple[str, ...] | None, task: str, file: Path) -> list[int]:
    """Positions of the target columns."""
    names = (columns[-1],) if target is None else (target,) if isinstance(target, str) else target
    for name in names:
        if name not in columns:
            raise ValueError(one_of(f"target column of {file}", name, columns))
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"target must name each column once, at least one; received {names}")
    if len(names) > 1 and task in ("binary", "multiclass"):
        raise ValueError(f"target must be one column for task {task}; received {', '.join(names)}")
    if len(names) == len(columns):
        raise ValueError(f"{file} must have a feature beside its targets; all columns are targets")
    return [columns.index(name) for name in names]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _encode(
    labels: list[str], lines: list[int], place: str, class_names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as integers, and the classes' names."""
    for label, line in zip(labels, lines, strict=True):
        if label.lower() in ("", "nan"):
            raise ValueError(f"{place} has no label in line {line}; received {label!r}")
    if all(_is_number(label) for label in labels):
        for label, line in zip(labels, lines, strict=True):
            if not float(label).is_integer():
                raise ValueError(
                    f"{place} must hold integers or text to be classes; line {line} has {label!r} "
                    "(task regression predicts numbers)"
                )
        labels = [str(int(float(label))) for label in labels]
        found = sorted(set(labels), key=int)
    else:
        found = sorted(set(labels))
    names = tuple(found if class_names is None else class_names)
    position = {name: index for index, name in enumerate(names)}
    for label, line in zip(labels, lines, strict=True):
        if label not in position:
            raise ValueError(one_of(f"{place} line {line}: label", label, names))
    return np.array([position[label] for label in labels]), names
