"""Checks of examples and labels that would otherwise train without an error, to a useless model."""

from typing import Any, get_args

import numpy as np

from kerasnn.config.schema import one_of, short
from kerasnn.config.sections import Task

LARGEST = 1e38
"""Maximum absolute value: twice this fits float32, so that differences stay finite."""


def as_numbers(values: Any, name: str) -> np.ndarray:
    """Convert values to a numpy array of booleans, integers or floats.

    Args:
        values: array, nested list, data frame or tensor.
        name: name in the error message (`"x_train"`).

    Raises:
        TypeError: one line: text, objects, complex numbers, dates, ragged lists, or masked entries.
    """
    if np.ma.is_masked(values):
        raise TypeError(f"{name} has {np.ma.count_masked(values)} masked values; fill them in or drop their examples")
    try:
        array = np.asarray(values)
    except ValueError:
        raise TypeError(f"{name} must be an array of numbers; received rows of different lengths") from None
    if is_floating(array.dtype) and array.dtype.kind != "f":
        return array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        hint = "; number the classes 0, 1, 2, …" if name.startswith("y") and array.dtype.kind in "OSUT" else ""
        first = short(array.reshape(-1)[:1].tolist()[0], 30) if array.size else "nothing"
        raise TypeError(f"{name} must be an array of numbers; received dtype {array.dtype} (first value {first}){hint}")
    return array


def is_floating(dtype: np.dtype) -> bool:
    """Whether a dtype is a floating-point type, including bfloat16 and float8, which numpy does not know as such.

    >>> import ml_dtypes
    >>> is_floating(np.dtype(ml_dtypes.bfloat16)), is_floating(np.dtype("int32")), is_floating(np.dtype("V4"))
    (True, False, False)
    """
    return dtype.kind == "f" or (np.can_cast(dtype, np.float32) and not np.can_cast(dtype, np.int64))


def as_floats(values: np.ndarray) -> np.ndarray | None:
    """Numbers of any dtype as float64; None for text and other values that are not numbers."""
    return values.astype(np.float64) if values.dtype.kind in "biu" or is_floating(values.dtype) else None


def check_examples(x: Any, y: Any, task: str, classes: int | None = None, part: str = "train") -> None:
    """Refuse examples that do not suit the task.

    Args:
        x: features, `(examples, …)`, at least two dimensions.
        y: binary: 0 or 1, `(examples,)` or `(examples, 1)`. Multiclass: integer labels of the same shapes, or rows
            `(examples, classes)` between 0 and 1 that sum to 1. Multilabel: 0 or 1, `(examples, labels)`.
            Regression: `(examples,)` or `(examples, values)`.
        task: binary, multiclass, multilabel or regression.
        classes: number of classes (labels, values) of the network, if known.
        part: name of the part in the error message; a "train" part must hold at least two classes. With `""` the
            message says `x` and `y`.

    Raises:
        ValueError: one line: no examples, or lengths, shapes or values other than the above; NaN, infinity or absolute
            values above 1e38.
        TypeError: one line, if x or y are not numbers.
    """
    if task not in get_args(Task):
        raise ValueError(one_of("task", task, get_args(Task)))
    x_name, y_name = (f"x_{part}", f"y_{part}") if part else ("x", "y")
    x = as_numbers(x, x_name)
    check_features(x, x_name)
    y = as_numbers(y, y_name)
    if y.ndim == 0:
        raise ValueError(f"{y_name} must hold one target per example; received the single value {y:g}")
    if len(y) != len(x):
        raise ValueError(f"{x_name} has {len(x)} examples and {y_name} has {len(y)}; each example needs one target")
    _check_finite(y, y_name)
    match task:
        case "binary":
            _check_binary(y, y_name)
        case "multiclass":
            _check_multiclass(y, y_name, classes)
        case "multilabel":
            _check_multilabel(y, y_name, classes)
        case "regression":
            _check_regression(y, y_name, classes)
    if part == "train" and task in ("binary", "multiclass"):
        labels = y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y
        if (labels == labels.flat[0]).all():
            raise ValueError(f"{y_name} must hold at least two classes; all its labels are {labels.flat[0]:g}")


def check_features(x: np.ndarray, name: str = "x") -> None:
    """Refuse features of a shape other than `(examples, …)`, without examples, with NaN, infinity or values above 1e38.

    Raises:
        ValueError: one line, with the index of the first such value.
    """
    if x.ndim < 2:
        raise ValueError(f"{name} must have the shape (examples, features, …); received {x.shape}")
    if x.size == 0:
        raise ValueError(f"{name} must hold at least one example and one feature; received the shape {x.shape}")
    _check_finite(x, name)


def _check_finite(values: np.ndarray, name: str) -> None:
    if values.dtype.kind == "f":
        # In this form the condition is also true for NaN. Half precision does not hold the limit itself.
        limit = min(LARGEST, float(np.finfo(values.dtype).max))
        _refuse(~(np.abs(values) <= limit), values, name, f"must be finite and at most {LARGEST:g} in absolute value")


def _check_integral(y: np.ndarray, name: str) -> None:
    if y.dtype.kind == "f":
        _refuse(y != np.floor(y), y, name, "must hold integer labels (task regression predicts other numbers)")


def _check_binary(y: np.ndarray, name: str) -> None:
    if y.shape not in ((len(y),), (len(y), 1)):
        hint = "; one-hot rows are for task multiclass" if y.ndim == 2 else ""
        raise ValueError(f"{name} must have the shape (examples,) for task binary; received {y.shape}{hint}")
    _refuse((y != 0) & (y != 1), y, name, "must be 0 or 1 for task binary")


def _check_multiclass(y: np.ndarray, name: str, classes: int | None) -> None:
    if y.ndim == 2 and y.shape[1] > 1:
        if classes is not None and y.shape[1] != classes:
            raise ValueError(
                f"{name} must have the shape (examples, {classes}), one column per class; received {y.shape}"
            )
        wrong = (y < 0).any(axis=1) | (y > 1).any(axis=1) | (np.abs(y.sum(axis=1, dtype=np.float64) - 1) > 1e-4)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"{name}'s one-hot rows must lie between 0 and 1 and sum to 1; {name}[{row}] is "
                f"{short(y[row].tolist())} ({wrong.sum()} such rows)"
            )
        return
    if y.shape not in ((len(y),), (len(y), 1)):
        raise ValueError(f"{name} must have the shape (examples,) or (examples, classes); received {y.shape}")
    _check_integral(y, name)
    _refuse(y < 0, y, name, "must hold labels that count from 0")
    if classes is None:
        _refuse(y > np.iinfo(np.int32).max, y, name, "must hold labels within int32")
    else:
        _refuse(y >= classes, y, name, f"must hold labels 0 to {classes - 1} for {classes} classes")


def _check_multilabel(y: np.ndarray, name: str, labels: int | None) -> None:
    if y.ndim != 2 or y.shape[1] == 0:
        raise ValueError(f"{name} must have the shape (examples, labels) for task multilabel; received {y.shape}")
    if labels is not None and y.shape[1] != labels:
        raise ValueError(f"{name} must have the shape (examples, {labels}), one column per label; received {y.shape}")
    _refuse((y != 0) & (y != 1), y, name, "must be 0 or 1 for task multilabel")


def _check_regression(y: np.ndarray, name: str, values: int | None) -> None:
    if y.ndim > 2 or y.size == 0:
        raise ValueError(
            f"{name} must have the shape (examples,) or (examples, values) for task regression; received {y.shape}"
        )
    columns = 1 if y.ndim == 1 else y.shape[1]
    if values is not None and columns != values:
        raise ValueError(f"{name} must have the shape (examples, {values}), one column per value; received {y.shape}")


def _refuse(wrong: np.ndarray, values: np.ndarray, name: str, rule: str) -> None:
    if wrong.any():
        index = np.unravel_index(int(wrong.argmax()), wrong.shape)
        position = ", ".join(str(part) for part in index)
        count = int(wrong.sum())
        more = f" ({count} such values)" if count > 1 else ""
        raise ValueError(f"{name} {rule}; {name}[{position}] is {values[index]:g}{more}")
