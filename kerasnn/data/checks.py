"""Refusals of examples, labels and sample weights that would train to silent garbage."""

from typing import Any

import numpy as np

from kerasnn.config.schema import one_of, short

TASKS = ("binary", "multiclass", "multilabel", "regression")
LARGEST = 1e38
"""Largest size of a value: twice it still fits float32, so that differences stay finite."""


def as_numbers(values: Any, name: str) -> np.ndarray:
    """`values` as a numpy array of booleans, integers or floats.

    Args:
        values: array, nested list, data frame or tensor.
        name: what the error calls it (`"x_train"`).

    Raises:
        TypeError: text, objects, complex numbers, dates; ragged lists; arrays with masked entries.
    """
    if np.ma.is_masked(values):
        raise TypeError(f"{name} has {np.ma.count_masked(values)} masked values; fill them in or drop their examples")
    try:
        array = np.asarray(values)
    except ValueError:
        raise TypeError(f"{name} must be an array of numbers; received rows of different lengths") from None
    if array.dtype.kind not in "biuf":
        hint = "; number the classes 0, 1, 2, …" if name.startswith("y") and array.dtype.kind in "OSUT" else ""
        first = short(array.reshape(-1)[:1].tolist()[0], 30) if array.size else "nothing"
        raise TypeError(f"{name} must be an array of numbers; received dtype {array.dtype} (first value {first}){hint}")
    return array


def check_examples(x: Any, y: Any, task: str, classes: int | None = None, part: str = "train") -> None:
    """Refuse examples from which no network can learn what its user means.

    Args:
        x: features, `(examples, …)`, at least two dimensions.
        y: binary: 0 or 1, `(examples,)` or `(examples, 1)`. Multiclass: integer labels of the same shapes, or rows
            `(examples, classes)` between 0 and 1 that sum to 1. Multilabel: 0 or 1, `(examples, labels)`.
            Regression: `(examples,)` or `(examples, values)`.
        task: binary, multiclass, multilabel or regression.
        classes: how many classes (labels, values) the network has units for, if that is known.
        part: which part this is, for the error's wording; a "train" part must also hold at least two classes. `""`
            words plain `x` and `y`.

    Raises:
        ValueError: nothing to learn from; lengths, shapes or values that break the above; NaN, infinite or beyond 1e38.
        TypeError: not numbers.
    """
    if task not in TASKS:
        raise ValueError(one_of("task", task, TASKS))
    x_name, y_name = (f"x_{part}", f"y_{part}") if part else ("x", "y")
    x = as_numbers(x, x_name)
    check_features(x, x_name)
    y = as_numbers(y, y_name)
    if y.ndim == 0:
        raise ValueError(f"{y_name} must hold one target an example; received the single value {y:g}")
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
    """Refuse features that are not `(examples, …)`, are empty, or hold NaN, infinite or values beyond 1e38.

    Raises:
        ValueError: in one line, with the first such value's index.
    """
    if x.ndim < 2:
        raise ValueError(f"{name} must have the shape (examples, features, …); received {x.shape}")
    if x.size == 0:
        raise ValueError(f"{name} must hold at least one example and one feature; received the shape {x.shape}")
    _check_finite(x, name)


def check_sample_weight(weight: Any, examples: int, part: str = "train") -> None:
    """Refuse sample weights that stop or reverse learning.

    Args:
        weight: one weight an example, `(examples,)`.
        examples: how many examples there are.
        part: which part this is, for the error's wording.

    Raises:
        ValueError: another shape or length; NaN, infinite or negative weights; none above 0.
        TypeError: not numbers.
    """
    name = f"sample_weight of the {part} part" if part else "sample_weight"
    weight = as_numbers(weight, name)
    if weight.shape != (examples,):
        raise ValueError(f"{name} must have the shape ({examples},), one an example; received {weight.shape}")
    _check_finite(weight, name)
    _refuse(weight < 0, weight, name, "must not be negative")
    if not weight.any():
        raise ValueError(f"{name} must not all be 0; nothing would be learned")


def _check_finite(values: np.ndarray, name: str) -> None:
    if values.dtype.kind == "f":
        # Written so that NaN fails it too.
        _refuse(~(np.abs(values) <= LARGEST), values, name, f"must be finite and at most {LARGEST:g} in size")


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
            raise ValueError(f"{name} must have the shape (examples, {classes}), a column a class; received {y.shape}")
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
        _refuse(y > np.iinfo(np.int32).max, y, name, "must hold labels that number classes")
    else:
        _refuse(y >= classes, y, name, f"must hold labels 0 to {classes - 1} for {classes} classes")


def _check_multilabel(y: np.ndarray, name: str, labels: int | None) -> None:
    if y.ndim != 2 or y.shape[1] == 0:
        raise ValueError(f"{name} must have the shape (examples, labels) for task multilabel; received {y.shape}")
    if labels is not None and y.shape[1] != labels:
        raise ValueError(f"{name} must have the shape (examples, {labels}), a column a label; received {y.shape}")
    _refuse((y != 0) & (y != 1), y, name, "must be 0 or 1 for task multilabel")


def _check_regression(y: np.ndarray, name: str, values: int | None) -> None:
    if y.ndim > 2 or y.size == 0:
        raise ValueError(
            f"{name} must have the shape (examples,) or (examples, values) for task regression; received {y.shape}"
        )
    columns = 1 if y.ndim == 1 else y.shape[1]
    if values is not None and columns != values:
        raise ValueError(f"{name} must have the shape (examples, {values}), a column a value; received {y.shape}")


def _refuse(wrong: np.ndarray, values: np.ndarray, name: str, rule: str) -> None:
    if wrong.any():
        index = np.unravel_index(int(wrong.argmax()), wrong.shape)
        place = ", ".join(str(part) for part in index)
        count = int(wrong.sum())
        more = f" ({count} such values)" if count > 1 else ""
        raise ValueError(f"{name} {rule}; {name}[{place}] is {values[index]:g}{more}")
