"""A search over the models that a function builds: its space, its results, its resuming, its errors."""

import os
import shutil
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasnn
from kerasnn.search import search
from kerasnn.search.model_space import find_space, hyperparameters_of
from kerasnn.search.result import read_search
from kerasnn.search.space import Choice, Range
from kerasnn.study import study
from kerasnn.tuners import HyperModel, Objective

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
SHARED = {"epochs": 3, "batch_size": 16, "validation_split": 0.25, "progress": "silent", "tensorboard": False}


def build(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2, "softmax")])
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
    momentum = hp.Choice("momentum", [0.5, 0.9])
    model.compile(keras.optimizers.SGD(rate, momentum), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


KINDS = {
    "random": {"trials": 5, "trials_at_once": 3, "seeds_per_trial": 2},
    "bayesian": {"trials": 5, "trials_at_once": 2, "oracle": {"name": "bayesian", "initial_points": 2}},
    "hyperband": {"trials": 8, "oracle": "hyperband", "callbacks": [keras.callbacks.EarlyStopping("loss", patience=1)]},
    "grid": {"trials": 5, "trials_at_once": 4, "oracle": "grid", "stopper": "median", "objective": "val_accuracy"},
}


def searched(kind, folder, **changes):
    return search(build, X, Y, search_dir=folder, **{**SHARED, **KINDS[kind], **changes})


ALL = "KERASNN_ALL_TESTS" in os.environ


@pytest.mark.parametrize("kind", KINDS if ALL else ["hyperband"])
def test_it_goes_on_from_any_line_of_its_journal(kind, tmp_path):
    whole = searched(kind, tmp_path / "whole")
    lines = (tmp_path / "whole" / "journal.jsonl").read_text().splitlines(keepends=True)
    for cut in range(1, len(lines)) if ALL else [len(lines) // 2]:
        folder = tmp_path / f"cut-{cut}"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "journal.jsonl").write_text("".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        found = searched(kind, folder)
        assert [(trial.values, trial.curve, trial.status) for trial in found.trials] == [
            (trial.values, trial.curve, trial.status) for trial in whole.trials
        ]
    assert read_search(tmp_path / "whole").trials == whole.trials
    # The kept model, with the weights of its best epoch, has the trial's score.
    scores = whole.best.scores or (whole.best.score,)
    [model] = whole.best_models()
    logs = model.evaluate(X[48:], Y[48:], verbose=0, return_dict=True)
    best = max(scores) if whole.config.direction == "max" else min(scores)
    assert logs[whole.config.objective_name.removeprefix("val_")] == pytest.approx(best, rel=1e-5)


def test_a_trial_is_what_fit_of_its_model_finds(tmp_path):
    found = searched("random", tmp_path / "search")
    keras.utils.set_random_seed(1)
    model = build(hyperparameters_of(found.best.values))
    history = kerasnn.fit(model, X, Y, epochs=3, batch_size=16, validation_split=0.25, seed=1, verbose=0)
    np.testing.assert_allclose(found.best.curves[1], history.history["val_loss"], rtol=1e-5)


def test_space_is_found_in_loops_and_under_conditions():
    def ask(hp):
        for layer in range(hp.Int("layers", 1, 3)):
            hp.Int(f"units_{layer}", 8, 32, step=8)
        kind = hp.Choice("kind", ["a", "b"])
        with hp.conditional_scope("kind", ["b"]):
            if kind == "b" and hp.Boolean("deep"):
                hp.Float("rate", 0.0, 0.5)
        hp.Fixed("fixed", 3)
        if kind == "a":
            hp.Float("scale", 1, 100, sampling="log")

    assert find_space(ask) == {
        "layers": Range(min=1, max=3),
        "units_0": Range(min=8, max=32, step=8),
        "kind": Choice(choices=("a", "b")),
        "fixed": Choice(choices=(3,)),
        "scale": Range(min=1.0, max=100.0, sampling="log"),
        "units_1": Range(min=8, max=32, step=8),
        "deep": Choice(choices=(False, True), when={"kind": ("b",)}),
        "units_2": Range(min=8, max=32, step=8),
        "rate": Range(min=0.0, max=0.5, when={"kind": ("b",)}),
    }


def test_two_meanings_of_a_name_are_refused():
    def ask(hp):
        hp.Int("units", 1, hp.Choice("most", [4, 8]))

    with pytest.raises(ValueError, match="'units' must have the same values wherever build asks for it"):
        find_space(ask)


def test_what_goes_wrong_in_one_trial_is_that_trials(tmp_path):
    class Model(HyperModel):
        in_search = False

        def build(self, hp):
            kind = hp.Choice("kind", ["good", "raises", "grows", "nan"])
            if kind == "raises" and self.in_search:
                raise RuntimeError("no such network")
            if kind == "grows" and self.in_search:
                hp.Float("unseen", 0, 1)
            model = build(hp)
            if kind == "nan":
                model.optimizer.learning_rate = 1e38
                self.in_search = True
            return model

    options = {**SHARED, "epochs": 2}
    found = search(
        Model(), X, Y, oracle="grid", trials=100, search_dir=tmp_path / "search", stopper="halving", **options
    )
    errors = {trial.values["kind"]: trial.error for trial in found.trials}
    assert errors["good"] is None
    assert errors["raises"] == "RuntimeError: no such network"
    assert errors["grows"].startswith(
        "Model must ask for the same hyperparameters as when the space was found, received 'unseen'"
    )
    assert "must stay finite, received NaN or infinity in epoch 1" in errors["nan"]


class Unsaved(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def build(self, shape):
        self.layer.build(shape)

    def call(self, x):
        return self.layer(x)


def test_a_model_that_keras_cannot_save_keeps_its_weights(tmp_path):
    def own(hp):
        model = Unsaved(keras.layers.Dense(2, "softmax"))
        model.build((None, 4))
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "sparse_categorical_crossentropy")
        return model

    found = search(own, X, Y, trials=2, search_dir=tmp_path / "search", **{**SHARED, "epochs": 1})
    [model] = found.best_models()
    model.compile(loss="sparse_categorical_crossentropy")
    assert model.evaluate(X[48:], Y[48:], verbose=0) == pytest.approx(found.best.score, rel=1e-5)
    with pytest.raises(
        ValueError, match="holds weights only: call search again, with the function that builds the mod"
    ):
        read_search(tmp_path / "search").best_models()


class Unbuilt(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2, "softmax")

    def call(self, x):
        return self.dense(x)


def test_a_model_that_is_not_built_before_it_trains(tmp_path):
    def own(hp):
        model = Unbuilt()
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "sparse_categorical_crossentropy")
        return model

    data = tf.data.Dataset.from_tensor_slices((X, Y))
    options = {"objective": Objective("val_loss", "min"), "validation_data": data.take(20).batch(16), "epochs": 1}
    options |= {"progress": "silent", "tensorboard": False, "trials": 2, "search_dir": tmp_path / "search"}
    found = search(own, data.batch(16), **options)
    [model] = found.best_models()
    assert model.evaluate(X[:20], Y[:20], verbose=0) == pytest.approx(found.best.score, rel=1e-5)
    assert search(own, data.batch(16), **options).trials == found.trials
    with pytest.raises(
        TypeError, match=r"x must be readable for each trial, as arrays or tf.data; received a generator"
    ):
        search(own, iter([(X, Y)]), **options)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"objective": "val_acc_"}, ValueError, "objective.direction must be 'min' or 'max' for 'val_acc_'"),
        (
            {"objective": "val_auc"},
            ValueError,
            "objective must be one of loss, accuracy, val_loss, val_accuracy; received",
        ),
        ({"batchsize": 3}, TypeError, "a further argument must be one of .* \\(did you mean 'batch_size'\\?\\)"),
        ({"oracle": "randon"}, ValueError, "oracle.name must be one of"),
        ({"trials": 0}, ValueError, "trials must"),
    ],
)
def test_settings_are_checked(changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        searched("random", tmp_path / "search", **changes)


def test_a_search_without_a_result_leaves_its_folder_to_another(tmp_path):
    with pytest.raises(ValueError, match="objective must be one of"):
        searched("random", tmp_path / "search", objective="val_auc")
    found = searched("random", tmp_path / "search", objective="val_accuracy", seed=1, trials=3)
    again = searched("random", tmp_path / "again", objective="val_accuracy", seed=1, trials=3)
    assert [(trial.values, trial.score) for trial in found.trials] == [
        (trial.values, trial.score) for trial in again.trials
    ]
    assert read_search(tmp_path / "search").trials == found.trials


def test_another_search_is_refused(tmp_path):
    searched("random", tmp_path / "search", trials=1, seeds_per_trial=1, epochs=1)
    with pytest.raises(ValueError, match="began with another epochs, data"):
        search(
            build, X[:32], Y[:32], search_dir=tmp_path / "search",
            **{**SHARED, "trials": 1, "trials_at_once": 3, "epochs": 2},
        )  # fmt: skip
    with pytest.raises(TypeError, match="search takes a SearchConfig, or a function that builds a model, received str"):
        search("config.json")


@pytest.mark.parametrize("call", [search, partial(study, factors={"rate": [0.1, 0.2]})])
def test_objective_on_validation_examples_needs_some(call):
    with pytest.raises(ValueError, match=r"objective 'val_\w+' needs validation_data or validation_split; received"):
        call(lambda hp=None, rate=0.0: build(hp), X, Y, epochs=1)
