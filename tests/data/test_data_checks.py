"""Every refusal of examples, labels and sample weights, by its line."""

import re

import numpy as np
import pytest

from kerasnn.data.checks import check_examples

X = np.linspace(0, 1, 8).reshape(4, 2)
LABELS = np.array([0, 1, 2, 1])
BITS = np.array([0, 1, 1, 0])
NAN, INF = float("nan"), float("inf")
FINITE = "must be finite and at most 1e+38 in absolute value"


def with_value(value: float, *index: int) -> np.ndarray:
    x = X.copy()
    x[index] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "task", "classes"),
    [
        (X, LABELS, "multiclass", None),
        (X, LABELS.astype(float), "multiclass", 3),
        (X, LABELS[:, None], "multiclass", 5),
        (X, LABELS.tolist(), "multiclass", None),
        (X, np.eye(3)[LABELS], "multiclass", 3),
        (X, np.array([[0.25, 0.75], [1, 0], [0, 1], [0.5, 0.5]]), "multiclass", 2),
        (X > 0.5, BITS.astype(bool), "binary", None),
        (X, BITS[:, None], "binary", None),
        (X, np.stack([BITS, BITS], 1), "multilabel", 2),
        (X, X[:, 0], "regression", None),
        (X, X, "regression", 2),
        (np.ones((4, 2)), X, "regression", 2),
        (np.zeros((4, 3, 3, 1), np.uint8), LABELS, "multiclass", 3),
        (with_value(1e38, 0, 0), LABELS, "multiclass", 3),
    ],
)
def test_accepted(x: object, y: object, task: str, classes: int | None) -> None:
    check_examples(x, y, task, classes)


@pytest.mark.parametrize(
    ("x", "y", "task", "classes", "line"),
    [
        (X, LABELS, "multi", None, "task must be one of binary, multiclass, multilabel, regression; received 'multi'"),
        (X[:, 0], LABELS, "multiclass", None, "x_train must have the shape (examples, features, …); received (4,)"),
        (
            X[:0],
            LABELS[:0],
            "multiclass",
            None,
            "x_train must hold at least one example and one feature; received the shape (0, 2)",
        ),
        (
            X[:, :0],
            LABELS,
            "multiclass",
            None,
            "x_train must hold at least one example and one feature; received the shape (4, 0)",
        ),
        (
            with_value(NAN, 2, 1),
            LABELS,
            "multiclass",
            None,
            "x_train must be finite and at most 1e+38 in absolute value; x_train[2, 1] is nan",
        ),
        (
            with_value(-INF, slice(1, None), 0),
            LABELS,
            "multiclass",
            None,
            "x_train must be finite and at most 1e+38 in absolute value; x_train[1, 0] is -inf (3 such values)",
        ),
        (
            with_value(1e300, 0, 0),
            LABELS,
            "multiclass",
            None,
            "x_train must be finite and at most 1e+38 in absolute value; x_train[0, 0] is 1e+300",
        ),
        (X, LABELS[:3], "multiclass", None, "x_train has 4 examples and y_train has 3; each example needs one target"),
        (X, 1, "multiclass", None, "y_train must hold one target per example; received the single value 1"),
        (
            X,
            [0, 1.5, 2, 2.5],
            "multiclass",
            None,
            "y_train must hold integer labels (task regression predicts other numbers); y_train[1] is 1.5 (2",
        ),
        (
            X,
            [0, NAN, 2, 1],
            "multiclass",
            None,
            f"y_train {FINITE}; y_train[1] is nan",
        ),
        (X, [0, -1, 2, 1], "multiclass", None, "y_train must hold labels that count from 0; y_train[1] is -1"),
        (X, [0, 1, 10, 1], "multiclass", 10, "y_train must hold labels 0 to 9 for 10 classes; y_train[2] is 10"),
        (
            X,
            [0, 1, 2**40, 1],
            "multiclass",
            None,
            "y_train must hold labels within int32; y_train[2] is 1.09951e",
        ),
        (X, [1, 1, 1, 1], "multiclass", None, "y_train must hold at least two classes; all its labels are 1"),
        (
            X,
            np.eye(3)[[1, 1, 1, 1]],
            "multiclass",
            3,
            "y_train must hold at least two classes; all its labels are 1",
        ),
        (
            X,
            [[0, 1], [1, 1], [0, 0], [1, 0]],
            "multiclass",
            2,
            "y_train's one-hot rows must lie between 0 and 1 and sum to 1; y_train[1] is [1, 1] (2 such rows)",
        ),
        (
            X,
            [[0, 1], [2, -1], [0, 1], [1, 0]],
            "multiclass",
            2,
            "y_train's one-hot rows must lie between 0 and 1 and sum to 1; y_train[1] is [2, -1] (1 such rows)",
        ),
        (
            X,
            np.eye(3)[LABELS],
            "multiclass",
            4,
            "y_train must have the shape (examples, 4), one column per class; received (4, 3)",
        ),
        (
            X,
            np.zeros((4, 2, 2)),
            "multiclass",
            None,
            "y_train must have the shape (examples,) or (examples, classes); received (4, 2, 2)",
        ),
        (X, LABELS, "binary", None, "y_train must be 0 or 1 for task binary; y_train[2] is 2"),
        (X, [-1, 1, -1, 1], "binary", None, "y_train must be 0 or 1 for task binary; y_train[0] is -1 (2 such values)"),
        (X, [1, 1, 1, 1], "binary", None, "y_train must hold at least two classes; all its labels are 1"),
        (
            X,
            np.eye(2)[BITS],
            "binary",
            None,
            "y_train must have the shape (examples,) for task binary; received (4, 2); one-hot rows are",
        ),
        (
            X,
            BITS,
            "multilabel",
            None,
            "y_train must have the shape (examples, labels) for task multilabel; received (4,)",
        ),
        (X, X * 3, "multilabel", 2, "y_train must be 0 or 1 for task multilabel; y_train[0, 1] is 0.428571 (7 such"),
        (
            X,
            np.eye(2)[BITS],
            "multilabel",
            3,
            "y_train must have the shape (examples, 3), one column per label; received (4, 2)",
        ),
        (
            X,
            np.zeros((4, 2, 2)),
            "regression",
            None,
            "y_train must have the shape (examples,) or (examples, values) for task regression; received (4, 2, 2)",
        ),
        (X, X, "regression", 1, "y_train must have the shape (examples, 1), one column per value; received (4, 2)"),
        (
            X,
            [0, 1, INF, 2],
            "regression",
            1,
            f"y_train {FINITE}; y_train[2] is inf",
        ),
    ],
)
def test_refused_values(x: object, y: object, task: str, classes: int | None, line: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(line)) as caught:
        check_examples(x, y, task, classes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "y", "line"),
    [
        (X.astype(str), LABELS, "x_train must be an array of numbers; received dtype <U"),
        (X.astype(object), LABELS, "x_train must be an array of numbers; received dtype object (first value 0.0)"),
        (X + 1j, LABELS, "x_train must be an array of numbers; received dtype complex128 (first value "),
        (X.astype("datetime64[s]"), LABELS, "x_train must be an array of numbers; received dtype datetime64[s]"),
        (
            [[1, 2], [3], [4, 5], [6, 7]],
            LABELS,
            "x_train must be an array of numbers; received rows of different length",
        ),
        (None, LABELS, "x_train must be an array of numbers; received dtype object (first value None)"),
        (np.ma.masked_less(X, 0.2), LABELS, "x_train has 2 masked values; fill them in or drop their examples"),
        (
            X,
            ["cat", "dog", "cat", "cow"],
            "y_train must be an array of numbers; received dtype <U3 (first value 'cat'); number the classes",
        ),
    ],
)
def test_refused_kinds(x: object, y: object, line: str) -> None:
    with pytest.raises(TypeError, match="^" + re.escape(line)) as caught:
        check_examples(x, y, "multiclass")
    assert "\n" not in str(caught.value)


def test_part_is_named_and_only_training_needs_two_classes() -> None:
    check_examples(X, [1, 1, 1, 1], "multiclass", 3, part="test")
    with pytest.raises(ValueError, match=r"^y_test must hold labels 0 to 2 for 3 classes; y_test\[0\] is 3"):
        check_examples(X, [3, 1, 1, 1], "multiclass", 3, part="test")
    with pytest.raises(ValueError, match=r"^x has 4 examples and y has 1"):
        check_examples(X, [1], "multiclass", part="")


def test_infinite_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be finite and at most 1e.38 in absolute value; x_train.1, 0. is inf"):
        check_examples(np.array([[1], [np.inf]], np.float16), [0, 1], "binary")
