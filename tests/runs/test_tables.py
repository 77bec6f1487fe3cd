"""A table from `kerasnn train` to `predict`, `evaluate` and `compare`, as a new user would."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from kerasnn.config.run import RunConfig
from kerasnn.data.loading import load_data
from kerasnn.data.table_examples import read_rows
from kerasnn.runs.evaluate import evaluate_run
from kerasnn.runs.predict import predict_file, write_predictions
from kerasnn.runs.train import Result, train
from kerasnn.study.peers import compare_with_peers

ROWS = 200
RANDOM = np.random.default_rng(0)
QUIET = {"progress": "silent", "tensorboard": False, "health": False, "graph": False}


def passengers() -> pd.DataFrame:
    sex, age = RANDOM.choice(["man", "woman"], ROWS), RANDOM.normal(40, 10, ROWS).round(1)
    frame = pd.DataFrame({"sex": sex, "age": age, "fare": RANDOM.random(ROWS), "survived": sex == "woman"})
    frame["survived"] = frame["survived"].map({True: "=yes", False: "-no"})
    frame.loc[3, "age"] = np.nan
    return frame


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig, Result]:
    folder = tmp_path_factory.mktemp("table")
    passengers().to_csv(folder / "ship.csv")
    settings = {"data": {"path": str(folder / "ship.csv")}, "report": QUIET, "training": {"epochs": 15}}
    config = RunConfig.model_validate(settings)
    return folder, config, train(config, folder / "run")


def test_result_has_scores_and_the_constant(trained) -> None:
    folder, _, result = trained
    assert RunConfig.load(folder / "run").task == "binary"
    record = json.loads((folder / "run" / "result.json").read_text())
    assert record["constant"] == result.constant
    assert (result.metrics["accuracy"], result.scores) == (1, {"auc": 1, "f1": 1})
    assert 0.4 < result.constant["accuracy"] < 0.7


def test_evaluate_takes_the_test_part_and_labelled_files(trained) -> None:
    folder, _, result = trained
    evaluation = evaluate_run(folder / "run")
    assert evaluation.metrics["loss"] == pytest.approx(result.metrics["loss"], rel=1e-5)
    assert evaluation.class_names == ("-no", "=yes")
    assert "always predicting the most frequent class: accuracy" in str(evaluation)
    passengers().iloc[::-1, ::-1].to_csv(folder / "other.csv", index=False)
    assert evaluate_run(folder / "run", folder / "other.csv").confusion.sum() == ROWS
    passengers().assign(survived="perhaps").to_csv(folder / "other.csv", index=False)
    with pytest.raises(ValueError, match=r"target 'survived' of other.csv, row 1: label must be one of -no, =yes; rec"):
        evaluate_run(folder / "run", folder / "other.csv")


def test_a_run_finds_its_data_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passengers().to_csv(tmp_path / "ship.csv")
    monkeypatch.chdir(tmp_path)
    settings = {"data": {"path": "ship.csv"}, "report": QUIET, "training": {"epochs": 1}}
    result = train(RunConfig.model_validate(settings), "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate_run("../run").metrics == pytest.approx(result.metrics, rel=1e-5)
    (tmp_path / "ship.csv").unlink()
    with pytest.raises(ValueError, match=r"ship\.csv"):
        evaluate_run("../run")


def test_predictions_of_raw_rows_are_equal_in_a_new_process(trained) -> None:
    folder, _, result = trained
    rows = passengers().drop(columns="survived").iloc[:50, ::-1]
    rows.to_csv(folder / "new.csv", index=False)
    columns = predict_file(folder / "run", folder / "new.csv")
    assert list(columns) == ["predicted", "probability_-no", "probability_=yes"]
    # In one batch, as there: the last rows of a batch may be rounded otherwise.
    expected = result.model.predict(rows, batch_size=1024, verbose=0)
    np.testing.assert_array_equal(columns["probability_=yes"], expected[:, 0])
    code = "import sys, numpy as np, kerasnn, keras, pandas as pd; m = keras.models.load_model(sys.argv[1])\n"
    code += "np.save(sys.argv[3], m.predict(dict(pd.read_csv(sys.argv[2])), verbose=0))"
    arguments = [folder / "run" / "best.keras", folder / "new.csv", folder / "new.npy"]
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True)
    best = keras.models.load_model(folder / "run" / "best.keras").predict(rows, verbose=0)
    np.testing.assert_array_equal(np.load(folder / "new.npy"), best)


def test_written_predictions_are_harmless_to_spreadsheets(trained) -> None:
    folder, _, _ = trained
    passengers().drop(columns="survived").to_csv(folder / "new.csv", index=False)
    columns = predict_file(folder / "run", folder / "new.csv")
    write_predictions(columns, folder / "predictions.csv")
    with (folder / "predictions.csv").open() as file:
        cells = {row[0] for row in csv.reader(file)}
    assert cells == {"predicted", "'=yes", "'-no"}
    evaluate_run(folder / "run").write_csv(folder / "all.csv")
    with (folder / "all.csv").open() as file:
        assert not any(cell.startswith(("=", "-", "+", "@")) for row in csv.reader(file) for cell in row[:3])


def test_regression_is_reported_in_its_own_units(tmp_path: Path) -> None:
    frame = passengers().assign(price=lambda table: table["age"].fillna(40) * 1000)
    frame.drop(columns="survived").to_csv(tmp_path / "a.csv", index=False)
    settings = {"data": {"path": str(tmp_path / "a.csv")}, "report": QUIET, "training": {"epochs": 60}}
    config = RunConfig.model_validate(settings)
    result = train(config, tmp_path / "run")
    assert result.metrics["mean_absolute_error"] < 0.5 * result.constant["mean_absolute_error"]
    assert result.scores["r2"] > 0.5
    assert result.constant["mean_absolute_error"] > 1000
    evaluation = evaluate_run(tmp_path / "run")
    assert evaluation.metrics == pytest.approx(result.metrics, rel=1e-4)
    found = predict_file(tmp_path / "run", tmp_path / "a.csv")["predicted_price"]
    assert 20_000 < found.mean() < 60_000
    encoding = load_data(config.data).preparation
    assert len(read_rows(tmp_path / "a.csv", config.data, encoding)) == ROWS


@pytest.mark.skipif("KERASNN_ALL_TESTS" not in os.environ, reason="takes half a minute; set KERASNN_ALL_TESTS=1")
def test_comparison_with_other_models(trained) -> None:
    _, config, _ = trained
    scores = compare_with_peers(config, seeds=2)
    assert set(scores.values) == {
        "this network", "logistic regression", "random forest", "gradient boosting", "constant",
    }  # fmt: skip
    assert scores.values["random forest"] == [1, 1]
    assert scores.best_peer() in ("logistic regression", "random forest", "gradient boosting")
    assert str(scores).splitlines()[0].startswith("model                mean accuracy")
