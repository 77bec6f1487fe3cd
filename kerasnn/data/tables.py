"""Examples from csv and npz files, read without running code from the file."""

import csv
import math
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerasnn.config.schema import one_of, short
from kerasnn.files import check_size, existing_file

NPZ_KEYS = ("x", "y", "x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test", "class_names")


class Table(NamedTuple):
    """The examples of a csv file.

    Args:
        x: features, `(examples, features)`, float64.
        y: labels `(examples,)`, int64, or numbers `(examples, targets)`, float64.
        class_names: names of the labels, in the labels' order; of the target columns for multilabel; None for
            regression.
        columns: names of all columns.
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
    """Read a comma-separated file with a header, numeric features and one or more target columns.

    A classification target may hold text or integers: the classes are its distinct values, sorted (integers by value).

    Args:
        path: the file, UTF-8.
        task: binary, multiclass, multilabel or regression.
        target: name or names of the target columns; None: the last column.
        class_names: the classes if they are known, as for a test file; other labels are refused.

    Raises:
        ValueError: one line: no file, no header, no rows; a missing target column; rows of different lengths; a cell
            that should be a finite number and is not; an unknown or missing label.
    """
    file = existing_file(path)
    check_size(file, file.stat().st_size)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            rows = ((reader.line_num, row) for row in reader if row)
            columns = _header(next(rows, (0, []))[1], file)
            targets = _target_positions(columns, target, task, file)
            features = [position for position in range(len(columns)) if position not in targets]
            numeric = features + (targets if task in ("multilabel", "regression") else [])
            values, labels, lines = _cells(rows, columns, numeric, targets[0], file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read as csv: {short(str(error))}") from None
    x, y = values[:, : len(features)], values[:, len(features) :]
    if task == "regression":
        return Table(x, y, None, columns)
    if task == "multilabel":
        return Table(x, y, tuple(columns[position] for position in targets), columns)
    column = f"{file} column {columns[targets[0]]!r}"
    y, names = _encode(labels, lines, column, class_names)
    if task == "binary" and len(names) != 2:
        raise ValueError(
            f"{column} must hold two labels for task binary; it holds {len(names)}: {short(', '.join(names))}"
        )
    return Table(x, y, names, columns)


def _cells(
    rows: Iterable[tuple[int, list[str]]], columns: tuple[str, ...], numeric: list[int], label: int, file: Path
) -> tuple[np.ndarray, list[str], list[int]]:
    """The numbers `(rows, numeric columns)`, and each row's label and line number."""
    cells, labels, lines = array("d"), [], []
    for line, row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{file} line {line} has {len(row)} cells; the header has {len(columns)}")
        try:
            cells.extend([float(row[position]) for position in numeric])
        except ValueError:
            position = next(position for position in numeric if not _is_number(row[position]))
            raise ValueError(
                f"{file} line {line}, column {columns[position]!r} must be a number; received {short(row[position])}"
            ) from None
        labels.append(" ".join(row[label].split()))
        lines.append(line)
    if not lines:
        raise ValueError(f"{file} has a header and no rows")
    values = np.array(cells).reshape(len(lines), len(numeric))
    for row_number, column in np.argwhere(~np.isfinite(values)):
        raise ValueError(
            f"{file} line {lines[row_number]}, column {columns[numeric[column]]!r} must be a finite number; "
            f"received {values[row_number, column]}"
        )
    return values, labels, lines


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
    if dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{file}: {member.filename!r} declares {shape} of {dtype}, but holds {size} bytes")


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


def _target_positions(
    columns: tuple[str, ...], target: str | tuple[str, ...] | None, task: str, file: Path
) -> list[int]:
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
    labels: list[str], lines: list[int], column: str, class_names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as integers, and the names of the classes."""
    for label, line in zip(labels, lines, strict=True):
        if label.lower() in ("", "nan"):
            raise ValueError(f"{column} has no label in line {line}; received {label!r}")
    if all(_is_number(label) for label in labels):
        for label, line in zip(labels, lines, strict=True):
            if not float(label).is_integer():
                raise ValueError(
                    f"{column} must hold integers or text to be classes; line {line} has {label!r} "
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
            raise ValueError(one_of(f"{column} line {line}: label", label, names))
    return np.array([position[label] for label in labels]), names
