"""A study of a function's arguments: scores are those of `kerasnn.fit`, seed by seed; it resumes, and has a report."""

import keras
import numpy as np
import pytest

import kerasnn
from kerasnn.report import report
from kerasnn.study import study
from kerasnn.study.run_study import read_study

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
FACTORS = {"rate": [0.05, 0.5], "dropout": [0.0, 0.5]}
SHARED = {"epochs": 2, "batch_size": 16, "validation_split": 0.25}


def build(rate, dropout, units=4):
    layers = [keras.layers.Dense(units, "tanh"), keras.layers.Dropout(dropout), keras.layers.Dense(2, "softmax")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def studied(folder, **changes):
    given = {"factors": FACTORS, "seeds": 2, "objective": "val_loss", "seed": 3, "progress": "silent", **SHARED}
    return study(build, X, Y, study_dir=folder, **{**given, **changes})


def test_scores_are_those_of_fit_and_a_cut_journal_gives_them_again(tmp_path):
    found = studied(tmp_path / "study")
    assert len(found.cells) == 4
    assert found.config.reference == {"dropout": 0.0}
    for cell in found.cells[::3]:
        for seed, curve in zip((3, 4), cell.curves, strict=True):
            keras.utils.set_random_seed(seed)
            history = kerasnn.fit(build(**cell.levels), X, Y, seed=seed, verbose=0, **SHARED)
            np.testing.assert_allclose(curve, history.history["val_loss"], rtol=1e-5)
    assert read_study(tmp_path / "study").cells == found.cells
    journal = tmp_path / "study" / "search" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:6]))
    assert studied(tmp_path / "study").cells == found.cells
    page = report(tmp_path / "study").read_text()
    assert all(text in page for text in ("Against the baseline", "dropout", f"{found.cells[0].score.mean:.4f}"))
    assert (tmp_path / "study" / "table.csv").read_text().splitlines()[0].endswith("seed_3,seed_4,error")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"factors": {"rates": [0.1, 0.2]}},
            ValueError,
            "factors of build must be one of rate, dropout, units; received",
        ),
        ({"factors": {"rate": [0.1]}}, ValueError, "factors\\['rate'\\] must have two levels or more, all different"),
        ({"factors": {"rate": [0.1, object()]}}, ValueError, "choices must be values that JSON can hold"),
        ({"baseline": {"rate": 0.3}}, ValueError, "baseline\\['rate'\\] must be a level of that factor"),
        ({"batchsize": 3}, TypeError, "did you mean 'batch_size'"),
    ],
)
def test_what_cannot_be_studied_is_refused(changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        studied(tmp_path / "study", **changes)
