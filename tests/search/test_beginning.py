"""What a search begins with: rows that are trained first, results of an earlier search, and what is refused."""

import json

import keras
import numpy as np
import pandas as pd
import pytest

from kerasnn.search import search
from kerasnn.search.beginning import Beginning, read_beginning
from kerasnn.search.config import SearchConfig
from kerasnn.search.model_config import ModelSearchConfig
from kerasnn.search.proposers import Begun, proposer_of

SPACE = {
    "kind": {"choices": ["a", "b"]},
    "rate": {"min": 0.0, "max": 1.0},
    "units": {"min": 2, "max": 8, "step": 2, "when": {"kind": ["b"]}},
}
ORACLES = [
    "random",
    "grid",
    "hyperband",
    {"name": "bayesian", "initial_points": 2},
    {"name": "tpe", "startup_trials": 2},
]
X = np.random.default_rng(0).normal(size=(32, 2)).astype("float32")


def config_of(oracle="random", **changes):
    described = {"build": "build", "space": SPACE, "oracle": oracle, "epochs": 2, **changes}
    return ModelSearchConfig.model_validate(described)


def proposals(config, beginning, count):
    oracle = Begun(proposer_of(config), beginning, config)
    found = []
    while len(found) < count and (new := oracle.ask(2)):
        for each in new:
            oracle.tell(each.number, [each.values["rate"]], 1)
        found += new
    return found


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_rows_come_first_and_the_oracle_learns_from_them(oracle):
    config = config_of(oracle)
    rows = [{"kind": "b", "rate": 0.25, "units": 4}, {"kind": "a", "rate": 1}, {"kind": "a", "rate": 0.05}]
    beginning = read_beginning(rows, None, config)
    found = proposals(config, beginning, 9)
    assert [each.values for each in found[:3]] == [*rows[:1], {"kind": "a", "rate": 1.0}, {"kind": "a", "rate": 0.05}]
    assert [each.number for each in found] == list(range(len(found)))
    texts = [json.dumps(each.values, sort_keys=True) for each in found]
    if oracle != "hyperband" and "bayesian" not in str(oracle):
        assert len(set(texts)) == len(texts)
    if oracle not in ("random", "hyperband"):
        without = proposals(config, Beginning(), 9)
        assert [each.values for each in found[3:9]] != [each.values for each in without[:6]]


@pytest.mark.parametrize("form", ["list", "frame", "csv"])
def test_rows_may_be_dicts_a_frame_or_a_file(form, tmp_path):
    rows = [{"kind": "b", "rate": 0.25, "units": 4}, {"kind": "a", "rate": 1.0}]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    given = {"list": rows, "frame": frame, "csv": tmp_path / "rows.csv"}[form]
    assert list(read_beginning(given, None, config_of()).initial) == rows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"kinds": "a"}, r"initial\[0\]'s keys must be one of kind, rate, units; received 'kinds'"),
        ({"kind": "c"}, r"initial\[0\]\['kind'\] must be one of \"a\", \"b\"; received 'c'"),
        ({"rate": 1.5}, r"initial\[0\]\['rate'\] must be from 0.0 to 1.0, received 1.5"),
        ({"rate": "much"}, r"initial\[0\]\['rate'\] must be from 0.0 to 1.0, received 'much'"),
        ({"rate": True}, r"initial\[0\]\['rate'\] must be from 0.0 to 1.0, received True"),
        ({"kind": "b", "units": 3}, r"initial\[0\]\['units'\] must be a step from 2, received 3"),
    ],
)
def test_values_outside_the_space_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        read_beginning([row], None, config_of())
    with pytest.raises(ValueError, match="initial must have at least one row, received none"):
        read_beginning([], None, config_of())


def build(hp):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.0, 0.2), hp.Choice("momentum", [0.0, 0.5])), "mse")
    return model


def searched(folder, **options):
    given = {"objective": "loss", "trials": 4, "trials_at_once": 2, "progress": "silent", "tensorboard": False}
    return search(build, X, X[:, :1], search_dir=folder, **given, **options)


def results(found):
    return [(trial.number, trial.values, trial.curve) for trial in found.trials]


def test_a_search_begins_with_its_rows_and_goes_on_with_them(tmp_path):
    rows = [{"rate": 0.1, "momentum": 0.5}, {"rate": 0.2}]
    first = searched(tmp_path / "first", initial=rows)
    assert [trial.values for trial in sorted(first.trials, key=lambda trial: trial.number)][:2] == rows
    journal = tmp_path / "first" / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:4]))
    assert results(searched(tmp_path / "first")) == results(first)
    assert results(searched(tmp_path / "first", initial=rows)) == results(first)
    with pytest.raises(ValueError, match="began with another initial or earlier"):
        searched(tmp_path / "first", initial=rows[:1])

    known = {(trial.values["rate"], trial.values.get("momentum")) for trial in first.trials}
    second = searched(tmp_path / "second", earlier=tmp_path / "first", oracle={"name": "bayesian", "initial_points": 2})
    assert not known & {(trial.values["rate"], trial.values["momentum"]) for trial in second.trials}
    header = json.loads((tmp_path / "second" / "journal.jsonl").read_text().splitlines()[0])
    # The trial without a momentum is none of this space.
    assert len(header["beginning"]["earlier"]) == 3
    with pytest.raises(ValueError, match=r"earlier must have the objective val_loss \(min\), received .* with loss"):
        search(build, X, X[:, :1], validation_split=0.5, earlier=tmp_path / "first", search_dir=tmp_path / "third")


def test_rows_of_a_config_are_runs():
    config = SearchConfig(
        space={"optimizer.learning_rate": {"min": 0.1, "max": 0.2}, "network.hidden": {"choices": [[3]]}}
    )
    [values] = read_beginning([{"optimizer.learning_rate": 0.15, "network.hidden": [3]}], None, config).initial
    assert values == {"optimizer.learning_rate": 0.15, "network.hidden": [3]}
