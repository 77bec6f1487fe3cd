"""keras-tuner's interface: proposals and results, resumed from any moment; failures; what is trained one at a time."""

import json
import os
import shutil
import warnings

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import plugin_data_pb2

from kerasnn import tuners
from kerasnn.report import report

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")


def build(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Choice("units", [4, 6]), "tanh")])
    if hp.Boolean("dropout"):
        with hp.conditional_scope("dropout", True):
            model.add(keras.layers.Dropout(hp.Float("rate", 0.1, 0.5, step=0.2)))
    model.add(keras.layers.Dense(2, "softmax"))
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


KINDS = {
    "random": lambda folder: tuners.RandomSearch(
        build, "val_loss", max_trials=5, seed=4, executions_per_trial=2, directory=folder, trials_at_once=3
    ),
    "bayesian": lambda folder: tuners.BayesianOptimization(
        build, "val_loss", max_trials=6, num_initial_points=2, seed=4, directory=folder, trials_at_once=2
    ),
    "hyperband": lambda folder: tuners.Hyperband(build, "val_loss", max_epochs=4, factor=2, seed=4, directory=folder),
    "grid": lambda folder: tuners.GridSearch(
        build, "val_accuracy", max_trials=5, seed=4, directory=folder, trials_at_once=4
    ),
}


def searched(kind, folder):
    tuner = KINDS[kind](folder)
    tuner.search(X[:48], Y[:48], epochs=2, batch_size=16, validation_data=(X[48:], Y[48:]), verbose=0)
    return tuner


def results(tuner):
    return [(trial.hyperparameters.values, trial.status, trial.score) for trial in tuner.oracle.trials.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_goes_on_from_any_line_of_its_journal(kind, tmp_path):
    whole = searched(kind, tmp_path / "whole")
    expected = results(whole)
    assert all(status == "COMPLETED" for _, status, _ in expected)
    journal = tmp_path / "whole" / "untitled_project" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    cuts = range(1, len(lines)) if "KERASNN_ALL_TESTS" in os.environ else [len(lines) // 2]
    for cut in cuts:
        folder = tmp_path / f"cut-{cut}"
        shutil.copytree(tmp_path / "whole", folder)
        half = lines[cut][: len(lines[cut]) // 2]
        (folder / "untitled_project" / "journal.jsonl").write_text("".join(lines[:cut]) + half)
        assert results(searched(kind, folder)) == expected
    again = KINDS[kind](tmp_path / "whole")
    assert results(again) == expected
    if whole.executions_per_trial > 1:
        return
    best = again.get_best_models(1)[0]
    logs = best.evaluate(X[48:], Y[48:], verbose=0, return_dict=True)
    np.testing.assert_allclose(
        logs[again.oracle.objective.name.removeprefix("val_")], again.oracle.get_best_trials()[0].score, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["random", "bayesian"])
def test_first_proposals_are_keras_tuners(kind, tmp_path):
    name = {"random": "RandomSearch", "bayesian": "BayesianOptimization"}[kind]
    options = {"max_trials": 5, "seed": 4, "directory": tmp_path}
    ours = getattr(tuners, name)(build, "val_loss", trials_at_once=1, **options)
    theirs = getattr(keras_tuner, name)(build, "val_loss", **options)
    ours._ask(2)
    warnings.simplefilter("ignore")
    expected = [theirs.oracle.create_trial(f"tuner{number}").hyperparameters.values for number in range(2)]
    assert [trial.hyperparameters.values for _, trial in ours._batch] == expected


def test_what_models_ask_for_under_conditions_is_searched_in_the_first_batch(tmp_path):
    tuner = tuners.RandomSearch(build, "loss", max_trials=12, seed=4, directory=tmp_path)
    tuner._ask(12)
    values = [trial.hyperparameters.values for _, trial in tuner._batch]
    assert len({each.get("rate") for each in values}) > 2


def test_a_project_has_a_page_of_hparams_and_a_report(tmp_path):
    tuner = searched("random", tmp_path)
    page = report(tmp_path / "untitled_project").read_text()
    assert all(
        text in page
        for text in ("learning_rate", "Values and scores", f"{tuner.oracle.get_best_trials()[0].score:.4f}")
    )
    [declared, *runs] = sorted((tmp_path / "untitled_project").rglob("events.out.tfevents.0.search"))
    data = [
        plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in EventFileLoader(str(declared)).Load()
        for value in event.summary.value
    ]
    assert [each.name for each in data[0].experiment.hparam_infos] == ["units", "dropout", "learning_rate", "rate"]
    assert {"score", "val_loss"} <= {each.name.tag for each in data[0].experiment.metric_infos}
    assert len(runs) == 10


def test_a_failed_trial_is_its_own(tmp_path):
    def sometimes(hp):
        if hp.Choice("kind", ["good", "bad"]) == "bad":
            raise RuntimeError("no such network")
        return build(hp)

    tuner = tuners.GridSearch(sometimes, "loss", max_trials=4, directory=tmp_path, max_consecutive_failed_trials=9)
    tuner.search(X, Y, epochs=1, verbose=0)
    statuses = {trial.hyperparameters["kind"]: trial.status for trial in tuner.oracle.trials.values()}
    assert statuses.get("good") == "COMPLETED"
    failed = [trial for trial in tuner.oracle.trials.values() if trial.hyperparameters["kind"] == "bad"]
    assert all(trial.status == "FAILED" and "no such network" in trial.message for trial in failed)


def test_a_search_of_failed_trials_alone_says_why(tmp_path):
    tuner = tuners.RandomSearch(build, "val_accuracy", max_trials=2, directory=tmp_path)
    reason = r"every trial failed, the last one with ValueError: objective must be one of .*; received 'val_accuracy'"
    with pytest.raises(RuntimeError, match=reason):
        tuner.search(X, Y, epochs=1, verbose=0)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["FAILED", "FAILED"]


def test_own_fit_runs_one_trial_at_a_time(tmp_path, caplog):
    class Own(tuners.HyperModel):
        def build(self, hp):
            return build(hp)

        def fit(self, hp, model, *args, **kwargs):
            return model.fit(*args, batch_size=hp.Choice("batch_size", [16, 32]), **kwargs)

    tuner = tuners.RandomSearch(Own(), "loss", max_trials=2, seed=1, directory=tmp_path)
    tuner.search(X, Y, epochs=1, verbose=0)
    assert {record.getMessage() for record in caplog.records if record.name == "kerasnn"} == {
        "trials train one at a time: Own.fit is the user's own"
    }
    assert all("batch_size" in trial.hyperparameters.values for trial in tuner.oracle.trials.values())
    assert results(tuners.RandomSearch(Own(), "loss", max_trials=2, seed=1, directory=tmp_path)) == results(tuner)


def test_a_trial_s_random_numbers_do_not_depend_on_how_it_trains(tmp_path):
    drawn = []

    class Drawing(tuners.HyperModel):
        def build(self, hp):
            drawn.append(float(tf.random.normal((), seed=3)))
            return build(hp)

    class Own(Drawing):
        def fit(self, hp, model, *args, **kwargs):
            return model.fit(*args, **kwargs)

    by_kind = []
    for kind in (Own, Drawing, Own):
        folder = tmp_path / str(len(by_kind))
        tuners.RandomSearch(kind(), "loss", max_trials=2, seed=77, directory=folder).search(X, Y, epochs=1, verbose=0)
        by_kind.append(drawn[-2:])
    assert by_kind[0] == by_kind[1] == by_kind[2]


def test_objectives_may_be_several(tmp_path):
    objective = [tuners.Objective("val_loss", "min"), "val_accuracy"]
    tuner = tuners.RandomSearch(build, objective, max_trials=2, seed=1, directory=tmp_path)
    tuner.search(X[:48], Y[:48], epochs=2, validation_data=(X[48:], Y[48:]), verbose=0)
    for trial in tuner.oracle.trials.values():
        metrics = {name: trial.metrics.get_best_value(name) for name in ("val_loss", "val_accuracy")}
        assert trial.score == pytest.approx(metrics["val_loss"] - metrics["val_accuracy"])


def test_another_search_is_refused(tmp_path):
    searched("random", tmp_path)
    with pytest.raises(ValueError, match="began with another objective: give a new project_name"):
        tuners.RandomSearch(build, "val_accuracy", max_trials=5, seed=4, executions_per_trial=2, directory=tmp_path)
    fresh = tuners.RandomSearch(build, "val_accuracy", max_trials=5, directory=tmp_path, overwrite=True)
    assert not fresh.oracle.trials
    fresh.search(X, Y, epochs=1, validation_split=0.25, verbose=0)
    assert len(fresh.oracle.trials) == 5


def test_a_seed_that_was_drawn_is_kept(tmp_path):
    def search():
        tuner = tuners.RandomSearch(build, "loss", max_trials=2, directory=tmp_path)
        tuner.search(X, Y, epochs=1, verbose=0)
        return results(tuner)

    assert search() == search()
    first_line = (tmp_path / "untitled_project" / "journal.jsonl").read_text().splitlines()[0]
    assert json.loads(first_line)["tuner"]["seed"]
