"""Splits of tables by group, time and a column; and signs of leakage."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kerasnn.config.data import DataConfig
from kerasnn.data.loading import from_arrays, load_data, read_test_table

ROWS = 100
FRAME = pd.DataFrame(
    {
        "x": np.arange(ROWS) * 1.0,
        "patient": np.arange(ROWS) // 4,
        "day": (pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(ROWS)[::-1], "D")).astype(str),
        "part": np.repeat(["train", "validation", "test"], [70, 10, 20]),
        "y": np.arange(ROWS) % 2,
    }
)


def parts(**fields: object) -> list[list[int]]:
    """The rows of the training, validation and test parts."""
    config = DataConfig(name="arrays", scaling="none", **fields)  # type: ignore[arg-type]
    data = from_arrays(FRAME.drop(columns="y"), FRAME["y"], config=config, task="binary")
    return [sorted(x[:, 0].astype(int).tolist()) for x in (data.x_train, data.x_validation, data.x_test)]


def test_groups_stay_together() -> None:
    found = parts(group="patient", drop=("day", "part"))
    patients = [{row // 4 for row in part} for part in found]
    assert sorted(itertools.chain(*found)) == list(range(ROWS))
    assert [len(each) for each in patients] == [18, 2, 5]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]


def test_latest_rows_are_the_test_part() -> None:
    assert parts(time="day", drop=("part",)) == [list(range(28, 100)), list(range(20, 28)), list(range(20))]


def test_parts_of_a_column() -> None:
    assert parts(split="part") == [list(range(70)), list(range(70, 80)), list(range(80, 100))]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"group": "patient", "time": "day"}, "one of group, time and split may be given, received group and time"),
        ({"time": "part"}, "data.time must name a column of dates or numbers, received 'part'"),
        ({"split": "patient"}, "a value of column 'patient', which data.split names, must be one of train, validation"),
        ({"group": "patent"}, r"a column of data.group must be one of .* received 'patent' \(did you mean 'patient'"),
        ({"group": "patient", "test_share": 0.99}, "data.test_share 0.99 of 25 groups leaves none to train on"),
    ],
)
def test_refused_splits(fields: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        parts(**fields)


@pytest.mark.parametrize("fields", [{}, {"group": "patient"}, {"time": "day"}, {"split": "part"}])
def test_test_part_is_found_again(tmp_path: Path, fields: dict[str, str]) -> None:
    path = tmp_path / "a.csv"
    FRAME.to_csv(path, index=False)
    config = DataConfig(path=str(path), **fields)  # type: ignore[arg-type]
    data = load_data(config)
    found = read_test_table(config, "binary", data.preparation)
    assert found is not None
    np.testing.assert_array_equal(data.preparation.compact(found[0]), data.x_test)
    np.testing.assert_array_equal(found[1], data.y_test)


def test_leaks_are_pointed_out() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=200), "town": random.choice(["Ulm", "Bern"], 200)})
    y = random.integers(0, 2, 200)
    assert "warning" not in from_arrays(frame, y, task="binary").about
    leaky = frame.assign(paid=y * 100, word=np.where(y, "yes", "no"), cost=y + random.random(200) / 2)
    about = from_arrays(leaky, y, task="binary").about
    for name in ("paid", "word", "cost"):
        assert f"warning     {name!r} alone determines the target: --data.drop {name}" in about
    twice = pd.concat([frame, frame.iloc[:50]])
    assert (
        "of the test rows also occur in the training part" in from_arrays(twice, np.r_[y, y[:50]], task="binary").about
    )


def test_imbalance_is_pointed_out() -> None:
    about = from_arrays(pd.DataFrame({"x": np.arange(100.0)}), np.arange(100) < 4, task="binary").about
    assert "'True' is 4% of the rows, 'False' 96.0%; --training.class_weight balanced weighs classes equally" in about


def test_targets_that_features_add_up_to_are_pointed_out() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(20, 5, (90, 4)).round(1), columns=["low", "high", "weight", "size"])
    price = ((frame["low"] + frame["high"]) / 2).round(1)
    line = "the target is a linear function of 'low', 'high': --data.drop low, unless they are"
    assert line in from_arrays(frame, price, task="regression").about
    noisy = price + random.normal(size=90)
    assert "linear function" not in from_arrays(frame, noisy, task="regression").about


def test_rows_of_one_person_in_two_parts_are_pointed_out() -> None:
    random = np.random.default_rng(0)
    people = pd.DataFrame(random.normal(size=(60, 4)), columns=list("abcd"))
    frame = people.iloc[np.repeat(np.arange(60), 5)].reset_index(drop=True)
    line = "of the test rows have the features of a training row and perhaps another target: are they of one person"
    assert line in from_arrays(frame, random.normal(size=300), task="regression").about
    few = (frame > 0).astype(int)
    assert "one person" not in from_arrays(few, random.normal(size=300), task="regression").about
