"""Columns of a table: what is found, encoded and refused; and the saved model that takes raw rows."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import kerasnn
from kerasnn.config.data import DataConfig
from kerasnn.data.columns import find_columns
from kerasnn.data.encoding import TableEncoding, raw_values
from kerasnn.data.loading import from_arrays, load_data
from kerasnn.models.table_model import TableModel

ROWS = 120
RANDOM = np.random.default_rng(0)


def messy() -> pd.DataFrame:
    """A table with a column of each kind, and a missing value in most of them."""
    hours = pd.to_datetime("1999-12-31") + pd.to_timedelta(RANDOM.integers(0, 90_000, ROWS), "h")
    words = ["Foo,", "bar!", "baz", "É", "don't", "x-y"]
    frame = pd.DataFrame(
        {
            "Unnamed: 0": np.arange(ROWS),
            "passengerId": RANDOM.permutation(ROWS),
            "hash": [f"{number:06x}" for number in RANDOM.choice(2**24, ROWS, replace=False)],
            "one": 1,
            "nothing": np.nan,
            "age": RANDOM.normal(size=ROWS).round(2),
            "class": RANDOM.integers(1, 4, ROWS),
            "alone": RANDOM.random(ROWS) > 0.5,
            "town": RANDOM.choice(["Ulm", "São Paulo", "Bern"], ROWS),
            "street": RANDOM.choice([f"street {number}" for number in range(40)], ROWS),
            "born": pd.to_datetime("1850-01-01") + pd.to_timedelta(RANDOM.integers(0, 40_000, ROWS), "D"),
            "seen": hours.strftime("%d/%m/%Y %H:%M"),
            "price": [f"{number:,}" if number % 7 else "?" for number in RANDOM.integers(0, 10**6, ROWS)],
            "note": [" ".join(RANDOM.choice(words, 5)) + f" {number}" for number in range(ROWS)],
        }
    )
    for row, name in enumerate(("age", "town", "born", "seen", "note")):
        frame.loc[row, name] = None
    return frame


def encoded(frame: pd.DataFrame, scaling: str = "standardize") -> tuple[TableEncoding, np.ndarray]:
    found = [column for column in find_columns(frame, DataConfig()) if column.kind != "drop"]
    raw = {each.name: raw_values(frame[each.name], each.kind, each.written, each.name) for each in found}
    encoding = TableEncoding.fit(found, raw, scaling, most=(16, 200))
    return encoding, encoding(raw)


def test_kinds_are_found() -> None:
    found = {column.name: column for column in find_columns(messy(), DataConfig())}
    assert {name: column.kind for name, column in found.items()} == {
        "Unnamed: 0": "drop", "passengerId": "drop", "hash": "drop", "one": "drop", "nothing": "drop", "age": "number",
        "class": "number", "alone": "boolean", "town": "category", "street": "category", "born": "date", "seen": "date",
        "price": "number", "note": "text",
    }  # fmt: skip
    assert found["seen"].written == "%d/%m/%Y %H:%M"
    assert found["price"].written == ",."
    assert (found["town"].missing, found["town"].distinct) == (1, 3)


def test_kinds_are_given() -> None:
    frame = messy()
    config = DataConfig(name="arrays", columns={"class": "category", "hash": "category", "age": "drop"}, drop=("town",))
    found = {column.name: column.kind for column in find_columns(frame, config)}
    assert [found[name] for name in ("class", "hash", "age", "town")] == ["category", "category", "drop", "drop"]
    with pytest.raises(
        ValueError, match=r"a column of data.drop must be one of .* received 'twon' \(did you mean 'town'"
    ):
        find_columns(frame, DataConfig(name="arrays", drop=("twon",)))


@pytest.mark.parametrize("scaling", ["none", "unit", "standardize"])
def test_keras_layer_equals_numpy(tmp_path: Path, scaling: str) -> None:
    frame = messy()
    encoding, expected = encoded(frame, scaling)
    network = keras.Sequential([keras.Input(encoding.input_shape), keras.layers.Identity()])
    model = TableModel(*encoding.layers(), network)
    model.save(tmp_path / "model.keras")
    for each in (
        model,
        keras.models.load_model(tmp_path / "model.keras"),
        kerasnn.load_model(tmp_path / "model.keras"),
    ):
        np.testing.assert_array_equal(each.predict(frame[frame.columns[::-1]], verbose=0), expected)
    columns = {name: frame[name].to_numpy() for name in frame}
    np.testing.assert_array_equal(model.predict(columns, verbose=0), expected)


def test_features_of_each_kind() -> None:
    frame = pd.DataFrame(
        {
            "number": [1.0, np.nan, 5.0, 3.0],
            "truth": [True, False, True, True],
            "town": ["Ulm", "Bern", "Ulm", "Bern"],
            "day": ["2020-01-06", "2020-01-06", "2020-02-03", "2020-02-03"],
        }
    )
    encoding, features = encoded(frame, "unit")
    assert [column.width for column in encoding.columns] == [2, 1, 2, 3]
    np.testing.assert_allclose(
        features[:, :5], [[0, 0, 1, 0, 1], [0.5, 1, 0, 1, 0], [1, 0, 1, 0, 1], [0.5, 0, 1, 1, 0]]
    )
    half, root = 0.5, 3**0.5 / 2
    np.testing.assert_allclose(features[1:3, 5:], [[0, 0, 1], [1, half, root]], atol=1e-6)
    unknown = encoding.raw({"number": [None], "truth": [None], "town": ["Rom"], "day": [None]})
    np.testing.assert_allclose(encoding(unknown)[0, :5], [0.5, 1, 1, 0, 0])


def test_rare_categories_share_features() -> None:
    towns = [f"town {number}" for number in range(20) for _ in range(20 - number + 1)]
    encoding, features = encoded(pd.DataFrame({"town": towns, "x": np.arange(len(towns))}))
    assert encoding.columns[0].width == 16
    assert encoding.columns[0].places == (*range(12), *(12, 13, 14, 15, 12, 13, 14, 15))
    assert (features[:, :16].sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda frame: frame.drop(columns="age").assign(aeg=1), "it lacks 'age' (is 'aeg' meant?)"),
        (lambda frame: frame.assign(age="old"), "column 'age' of x must hold numbers; row 1 has 'old'"),
        (lambda frame: frame.assign(town=7), "column 'town' of x must hold a category like "),
        (
            lambda frame: frame.assign(seen="soon"),
            "column 'seen' of x must hold dates written as %d/%m/%Y %H:%M; row 1",
        ),
        (
            lambda frame: frame.assign(age=np.inf),
            "column 'age' of x must hold finite numbers up to 1e38; row 1 has inf",
        ),
    ],
)
def test_refused_rows(change, line: str) -> None:
    encoding, _ = encoded(messy())
    with pytest.raises(ValueError, match=re.escape(line)) as caught:
        encoding.raw(change(messy()), "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([1, 0] * 20, "binary"),
        ([True, False] * 20, "binary"),
        (["yes", "no"] * 20, "binary"),
        ([4, 6, 8, 4] * 10, "multiclass"),
        (["a", "b", "c", "a"] * 10, "multiclass"),
        ([0.5, 1.5, 2, 3] * 10, "regression"),
        (list(range(40)), "regression"),
        (pd.array([1, 2, 3, None] * 10, dtype="Int64"), "multiclass"),
        (pd.Categorical(["a", "b", "a", "b"] * 10), "binary"),
    ],
)
def test_task_is_inferred(values: object, task: str) -> None:
    frame = pd.DataFrame({"x": np.arange(40.0), "truth": [True, False] * 20})
    data = from_arrays(frame, pd.Series(values, name="y"), task="auto")
    assert data.task == task
    assert len(data.x_train) == (22 if isinstance(values, pd.arrays.IntegerArray) else 29)


def test_implausibly_many_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    pd.DataFrame({"x": np.arange(400.0), "price": np.arange(400) // 2}).to_csv(path)
    assert load_data(DataConfig(path=str(path))).task == "regression"
    line = "200 distinct labels in 400 rows; task regression predicts numbers"
    with pytest.raises(ValueError, match=line):
        load_data(DataConfig(path=str(path)), "multiclass")


def test_text_labels_of_arrays() -> None:
    x = np.arange(40.0).reshape(20, 2)
    data = from_arrays(x, ["b", "a"] * 10, x_test=x[:2], y_test=np.array(["a", "b"]))
    assert (data.class_names, data.y_test.tolist()) == (("a", "b"), [0, 1])


def test_targets_are_scaled_for_training_only() -> None:
    y = np.arange(40.0) * 1000
    data = from_arrays(pd.DataFrame({"x": np.arange(40.0)}), y, task="regression")
    assert abs(data.y_train.mean()) < 1e-6
    assert abs(data.y_train.std() - 1) < 1e-6
    everything = np.concatenate([data.y_train, data.y_validation, data.y_test])
    np.testing.assert_allclose(np.sort(data.preparation.original_targets(everything).ravel()), y, atol=0.01)


def test_pandas_is_imported_for_tables_alone() -> None:
    code = "import sys, kerasnn.data.loading; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
