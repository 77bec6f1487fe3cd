"""Odd tables: what people export without thinking of a network."""

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from kerasnn.config.data import DataConfig
from kerasnn.data.encoding import TableEncoding
from kerasnn.data.loading import Data, load_data
from kerasnn.data.table_examples import read_rows

ROWS = 60
NUMBERS = np.random.default_rng(0).random(ROWS).round(3)


def load(
    folder: Path, values: Iterable[object], target: list[str] | None = None, name: str = "a", task: str = "auto"
) -> Data:
    target = ["yes" if row % 2 else "no" for row in range(ROWS)] if target is None else target
    lines = [f"{value},{number},{label}" for value, number, label in zip(values, NUMBERS, target, strict=True)]
    (folder / "odd.csv").write_text("\n".join([f"{name},b,y", *lines]) + "\n", encoding="utf-8")
    return load_data(DataConfig(path=str(folder / "odd.csv")), task)


def kind(data: Data) -> str:
    assert isinstance(data.preparation, TableEncoding)
    return data.preparation.columns[0].kind


@pytest.mark.parametrize(
    ("name", "values", "expected", "why"),
    [
        ("a", ["02139", "10001", "94105"], "category", "digits with zeros in front"),
        ("zip", ["12139", "10001", "94105"], "category", "numbers that are names"),
        ("Postal Code", ["12139", "10001", "94105"], "category", "numbers that are names"),
        ("zipper", ["12139", "10001", "94105"], "number", ""),
        ("a", ["0.5", "07.5", "1"], "number", ""),
        ("a", ["$1.50", "$12", "$1e3"], "number", ""),
        ("a", ["5%", "7 %", "-2.5%"], "number", ""),
        ("class", ["1", "2", "3"], "number", ""),
    ],
)
def test_kinds(tmp_path: Path, name: str, values: list[str], expected: str, why: str) -> None:
    data = load(tmp_path, values * (ROWS // 3), name=name)
    assert kind(data) == expected
    assert why in data.about


def test_zeros_in_front_are_kept_in_further_rows(tmp_path: Path) -> None:
    data = load(tmp_path, ["02139", "10001", "94105"] * 20)
    assert isinstance(data.preparation, TableEncoding)
    assert set(data.preparation.columns[0].levels) == {"02139", "10001", "94105"}
    # Only beyond the part of the file in which its format is found.
    many = "\n".join(["a,b", *["10001,0.5"] * 20_000, "02139,0.5"])
    (tmp_path / "new.csv").write_text(many + "\n")
    rows = read_rows(tmp_path / "new.csv", DataConfig(), data.preparation)
    assert rows["a"].tolist()[-2:] == ["10001", "02139"]


def test_amounts_are_numbers(tmp_path: Path) -> None:
    data = load(
        tmp_path, [f"$1,{row}00".replace(",", "") for row in range(ROWS)], [f"{row}.5 €" for row in range(ROWS)]
    )
    assert data.task == "regression"
    assert isinstance(data.preparation, TableEncoding)
    raw = data.preparation.raw({"a": ["$100", "-5 %"], "b": [0, 0]})
    assert raw["a"].tolist() == [100, -5]


def test_a_cell_that_is_no_number_is_pointed_out(tmp_path: Path) -> None:
    data = load(tmp_path, ["oops", *map(str, range(1, ROWS))])
    assert "left out" in data.about
    assert "numbers but for 'oops', perhaps a word for --data.missing_values" in data.about


def test_classes_that_differ_only_in_case_are_pointed_out(tmp_path: Path) -> None:
    data = load(tmp_path, ["1", "2", "3"] * 20, ["Yes", "yes", "no"] * 20)
    assert "warning     the classes 'Yes' and 'yes' differ only in case" in data.about


def test_two_thousand_columns(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).random((ROWS, 2000)).round(2).astype(str)
    lines = [",".join([*row, "yes" if number % 2 else "no"]) for number, row in enumerate(numbers)]
    header = ",".join([*(f"c{column}" for column in range(2000)), "y"])
    (tmp_path / "wide.csv").write_text("\n".join([header, *lines]) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_data(DataConfig(path=str(tmp_path / "wide.csv"))).input_shape == (2000,)


@pytest.mark.parametrize("task", ["auto", "multiclass", "regression"])
@pytest.mark.parametrize("kinds", [2, 3, ROWS])
def test_infinite_target_is_refused_with_its_row_in_the_file(tmp_path: Path, task: str, kinds: int) -> None:
    target = [f"{row % kinds}.5" if kinds == ROWS else str(row % kinds) for row in range(ROWS)]
    # Rows without a target are left out, but count.
    target[1], target[5] = "", "-inf"
    with pytest.raises(ValueError, match=r"target 'y' of .* must hold finite numbers up to 1e38; row 6 has -inf"):
        load(tmp_path, range(ROWS), target, task=task)


def test_rows_of_features_count_from_the_top_of_the_file(tmp_path: Path) -> None:
    values = [*map(str, range(ROWS - 1)), "inf"]
    with pytest.raises(ValueError, match=rf"column 'a' of .*; row {ROWS} has inf"):
        load(tmp_path, values, ["", "", *map(str, range(ROWS - 2))])


def test_a_word_in_a_target_of_numbers_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold numbers; correct 'oops', or name them in data\.missing_values"):
        load(tmp_path, range(ROWS), ["oops", *(f"{row}.5" for row in range(1, ROWS))])


def test_column_without_features_is_said_to_be_left_out(tmp_path: Path) -> None:
    about = load(tmp_path, [f"ticket {row}" for row in range(ROWS)], name="ticket").about
    assert re.search(r"ticket +left out .* ticket 0 +no value occurs twice in the training part", about)
