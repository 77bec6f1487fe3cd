"""load and from_arrays: parts, splits, targets."""

import re
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kerasnn.config.sections import DataConfig
from kerasnn.data.loading import Data, from_arrays, load_data

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(100, 3))
X[:, 0] = np.arange(100)  # tells examples apart
Y = np.repeat([0, 1, 2, 3], [40, 30, 20, 10])


def config(**fields: object) -> DataConfig:
    return DataConfig(name="arrays", scaling="none", **fields)  # type: ignore[arg-type]


def identities(data: Data) -> list[list[int]]:
    parts = (data.x_train, data.x_validation, data.x_test)
    return [[] if part is None else part[:, 0].astype(int).tolist() for part in parts]


def test_digits_by_default() -> None:
    data = load_data(DataConfig())
    assert (len(data.x_train), len(data.x_validation), len(data.x_test)) == (1294, 144, 359)
    assert data.x_train.shape[1:] == data.input_shape == (64,)
    assert (data.raw_shape, data.image_shape, data.outputs, data.task) == ((8, 8), (8, 8), 10, "multiclass")
    assert data.class_names == tuple("0123456789")
    assert (data.x_train.dtype, data.y_train.dtype, data.y_train.shape) == (np.float32, np.int32, (1294,))
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    every = np.concatenate([data.x_train, data.x_validation, data.x_test]) * 16
    original = load_digits().data
    np.testing.assert_array_equal(np.unique(every, axis=0), np.unique(original, axis=0))
    assert "array" not in repr(data)


def test_importing_and_loading_need_no_keras() -> None:
    code = "import sys, kerasnn.data as d; from kerasnn.config import DataConfig as C; d.load_data(C())\n"
    code += "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.2), (0.5, 0.5), (0, 0.3), (0.25, 0), (0, 0), (1e-9, 1e-9)])
def test_split_is_disjoint_and_complete(validation: float, test: float) -> None:
    data = from_arrays(X, Y, config=config(validation_share=validation, test_share=test))
    parts = identities(data)
    assert sorted(chain.from_iterable(parts)) == list(range(100))
    tests = max(1, round(100 * test)) if test else 0
    validations = max(1, round((100 - tests) * validation)) if validation else 0
    assert [len(part) for part in parts] == [100 - tests - validations, validations, tests]
    assert (data.x_test is None, data.y_test is None) == (test == 0, test == 0)
    assert (data.x_validation is None, data.y_validation is None) == (validation == 0, validation == 0)
    labels = (data.y_train, data.y_validation, data.y_test)
    for part, y in zip(parts, labels, strict=True):
        assert not part or y.tolist() == Y[part].tolist()


def test_split_is_stratified() -> None:
    data = from_arrays(X, Y, config=config(validation_share=0.5, test_share=0.2))
    assert np.bincount(data.y_test).tolist() == [8, 6, 4, 2]
    assert np.bincount(data.y_validation).tolist() == np.bincount(data.y_train).tolist() == [16, 12, 8, 4]


def test_split_where_a_class_is_too_rare_to_stratify() -> None:
    y = np.r_[Y[:-1], 4]
    data = from_arrays(X, y, config=config())
    assert data.outputs == 5
    assert sorted(chain.from_iterable(identities(data))) == list(range(100))


def test_split_depends_on_the_seed_alone() -> None:
    first = identities(from_arrays(X, Y, config=config(seed=3)))
    assert identities(from_arrays(X, Y, config=config(seed=3, one_hot=True))) == first
    assert identities(from_arrays(X, Y, config=config(seed=4))) != first
    assert identities(from_arrays(X, Y, config=config(seed=3, validation_share=0.4)))[2] == first[2]
    assert set(first[1]).isdisjoint(first[2])


def test_given_parts_are_kept() -> None:
    data = from_arrays(X, Y, X[:7], Y[:7], X[:5], Y[:5], config=config())
    assert identities(data) == [list(range(100)), list(range(5)), list(range(7))]
    data = from_arrays(X, Y, x_test=X[:7], y_test=Y[:7], config=config())
    assert [len(part) for part in identities(data)] == [90, 10, 7]


def test_given_arrays_are_not_changed_or_shared() -> None:
    x = X.astype(np.float32)
    data = from_arrays(x, Y, config=config(validation_share=0, test_share=0))
    data.x_train[:] = 0
    np.testing.assert_array_equal(x, X.astype(np.float32))


@pytest.mark.parametrize(
    ("task", "y", "one_hot", "dtype", "shape", "outputs"),
    [
        ("multiclass", Y, False, np.int32, (100,), 4),
        ("multiclass", Y.astype(float)[:, None], False, np.int32, (100,), 4),
        ("multiclass", np.eye(4)[Y], False, np.int32, (100,), 4),
        ("multiclass", np.eye(6)[Y], True, np.float32, (100, 6), 6),
        ("multiclass", Y, True, np.float32, (100, 4), 4),
        ("binary", Y > 1, False, np.float32, (100,), 1),
        ("binary", (Y > 1)[:, None], False, np.float32, (100,), 1),
        ("multilabel", np.stack([Y > 1, Y > 0], 1), False, np.float32, (100, 2), 2),
        ("regression", X[:, 0], False, np.float32, (100, 1), 1),
        ("regression", X, False, np.float32, (100, 3), 3),
    ],
)
def test_targets(task: str, y: np.ndarray, one_hot: bool, dtype: type, shape: tuple[int, ...], outputs: int) -> None:
    data = from_arrays(X, y, config=config(one_hot=one_hot, validation_share=0, test_share=0), task=task)
    assert (data.y_train.dtype, data.y_train.shape, data.outputs) == (dtype, shape, outputs)
    expected = np.eye(outputs)[Y] if one_hot else Y if task == "multiclass" else np.asarray(y).reshape(shape)
    np.testing.assert_allclose(data.y_train, expected, rtol=1e-6)


def test_class_names_tell_of_unused_classes() -> None:
    data = from_arrays(X, Y * 2, config=config(), class_names=list("abcdefgh"))
    assert (data.outputs, data.class_names) == (8, tuple("abcdefgh"))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"y": Y * 2},
            "y_train's labels must be 0 to 6 without gaps; 1 is missing: number the classes without gaps, or",
        ),
        ({"y": Y + 1}, "y_train's labels must be 0 to 4 without gaps; 0 is missing"),
        ({"x_test": X}, "x_test and y_test belong together; y_test is missing"),
        ({"y_validation": Y}, "x_validation and y_validation belong together; x_validation is missing"),
        ({"x_test": X[:, :2], "y_test": Y}, "x_test's examples must have x_train's shape (3,); received (2,)"),
        (
            {"x_test": X.astype(np.uint8), "y_test": Y},
            "x_test must have x_train's scale; only one of them holds unsigned bytes",
        ),
        (
            {"x_test": X, "y_test": Y + 1},
            "y_test must hold labels 0 to 3 for 4 classes; y_test[90] is 4 (10 such values)",
        ),
        (
            {"x_test": X[:0], "y_test": Y[:0]},
            "x_test must hold at least one example and one feature; received the shape",
        ),
        ({"y": np.full((100, 4), 0.25)}, "y_train must hold at least two classes; all its labels are 0"),
        (
            {"y": np.r_[np.eye(2)[[0, 1]], np.full((98, 2), 0.5)]},
            "y_train's one-hot rows must hold one 1 and zeros; soft",
        ),
        ({"task": "binary"}, "y_train must be 0 or 1 for task binary; y_train[70] is 2 (30 such values)"),
        ({"task": "binary", "y": Y > 1, "class_names": "abc"}, "class_names must be two for task binary; received 3"),
        (
            {"task": "regression", "class_names": ["a"]},
            "class_names must be None for task regression, which has no class",
        ),
        (
            {"class_names": ["a", "a", "b", "c"]},
            "class_names must differ from each other; received ('a', 'a', 'b', 'c')",
        ),
        ({"class_names": [1, 2, 3, 4]}, "class_names must be a sequence of text; received [1, 2, 3, 4]"),
        ({"class_names": "abc"}, "class_names must be a sequence of text; received 'abc'"),
        (
            {"class_names": ["a", "b"]},
            "y_train must hold labels 0 to 1 for 2 classes; y_train[70] is 2 (30 such values)",
        ),
        ({"config": DataConfig()}, "data.name must be 'arrays' for arrays; received 'digits'"),
        (
            {"config": config(one_hot=True), "task": "binary"},
            "data.one_hot is for task multiclass; received task 'binary'",
        ),
        (
            {"task": "classification"},
            "task must be one of binary, multiclass, multilabel, regression; received 'classif",
        ),
        ({"x": X[:2], "y": [0, 1]}, "data.validation_share 0.1 of 1 examples leaves none to train on"),
        ({"config": config(test_share=0.999)}, "data.test_share 0.999 of 100 examples leaves none to train on"),
    ],
)
def test_refused_arrays(fields: dict[str, object], line: str) -> None:
    if fields.get("task") == "binary" and fields.get("class_names") == "abc":
        fields = fields | {"class_names": list("abc")}
    with pytest.raises((ValueError, TypeError), match="^" + re.escape(line)) as caught:
        from_arrays(**({"x": X, "y": Y, "config": config()} | fields))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "task", "line"),
    [
        (
            {"name": "mnist", "test_path": "x"},
            "multiclass",
            "data.test_path is for table, npz; received 'x' with",
        ),
        (
            {"name": "npz", "path": "x", "target": "y"},
            "multiclass",
            "data.target is for table, arrays; received 'y' with",
        ),
        (
            {"name": "arrays"},
            "multiclass",
            "data.name 'arrays' has no file to load; pass the arrays to kerasnn.from_",
        ),
        ({}, "binary", "y_train must be 0 or 1 for task binary; y_train[2] is 2 (1437 such values)"),
        ({}, "multilabel", "y_train must have the shape (examples, labels) for task multilabel; received (1797,)"),
    ],
)
def test_refused_configs(fields: dict[str, object], task: str, line: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(line)) as caught:
        load_data(DataConfig(**fields), task)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_regression_on_digits() -> None:
    data = load_data(DataConfig(), "regression")
    assert (data.class_names, data.outputs, data.y_train.shape) == (None, 1, (1294, 1))
