"""Models of all kinds end with the bits of an uninterrupted run when they are killed and resumed."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasnn
from kerasnn.checkpoint.state_file import StateFolder
from kerasnn.checkpoint.training_state import TrainingState
from kerasnn.checkpoint.variables import training_variables
from tests.checkpoint.killing import Dead, Die
from tests.zoo.models import BATCH, ZOO

L = keras.layers
X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
Y = X[:, :1] * 2


def compiled(model, *arguments, **options):
    return kerasnn.fit(model, *arguments, **options)


def plain(model, *arguments, **options):
    return model.fit(*arguments, **options)


def trained(build, fit, folder, at=0, y=Y, **options):
    """The values of every variable, and the history."""
    keras.utils.set_random_seed(4)
    model = build()
    state = TrainingState(folder, seconds=0)
    options = {"epochs": 3, "batch_size": BATCH, "shuffle": False, "verbose": 0} | options
    history = fit(model, X, y, **options, **state.resume(model, [Die(at)]))
    values = {name: [raw(each) for each in group] for name, group in training_variables(model).items()}
    return values, history.epoch, history.history


def raw(variable):
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable).tolist()


def assert_resumes(build, fit, folder, **options):
    whole = trained(build, fit, folder / "whole", **options)
    # Three batches an epoch: within the first epoch, within the second, at the third's begin.
    for at in (2, 3, 3):
        with pytest.raises(Dead):
            trained(build, fit, folder / "killed", at, **options)
    assert trained(build, fit, folder / "killed", **options) == whole
    return whole


everything = pytest.mark.skipif("KERASNN_ALL_TESTS" not in os.environ, reason="all models; set KERASNN_ALL_TESTS=1")


@pytest.mark.parametrize("fit", [compiled, plain])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("gan", "vae", "siamese") else everything) for name in ZOO],
)
def test_a_killed_model_of_the_zoo_resumes(tmp_path, name, fit):
    def run(folder, at=0):
        model, x, y, options = ZOO[name]()
        state = TrainingState(folder, seconds=0)
        settings = {"epochs": 3, "batch_size": BATCH, "shuffle": False, "verbose": 0} | dict(options)
        history = fit(model, x, y, **settings, **state.resume(model, [Die(at)]))
        values = {path: [raw(each) for each in group] for path, group in training_variables(model).items()}
        return values, history.epoch, repr(history.history)

    whole = run(tmp_path / "whole")
    for at in (2, 3):
        with pytest.raises(Dead):
            run(tmp_path / "killed", at)
    assert run(tmp_path / "killed") == whole


class Counts:
    """An object of the user's own."""

    def __init__(self):
        self.steps = tf.Variable(0, dtype=tf.int64)


class Holder(keras.Model):
    """Holds variables where Keras does not look for them."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(1)
        self.scale = tf.Variable(1.0)
        self.averages = {"loss": [tf.Variable(0.0)]}
        self.counts = Counts()
        self.noise = tf.random.Generator.from_seed(3)

    def call(self, x):
        return self.dense(x) * self.scale

    def train_step(self, data):
        x, y = data
        logs = super().train_step((x + 0.1 * self.noise.normal(tf.shape(x)), y))
        self.scale.assign_add(0.1)
        average = self.averages["loss"][0]
        average.assign(0.9 * average + 0.1 * logs["loss"])
        self.counts.steps.assign_add(1)
        return logs


def holder():
    model = Holder()
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("fit", [compiled, plain])
def test_variables_that_keras_does_not_track_are_saved(tmp_path, fit):
    values, *_ = assert_resumes(holder, fit, tmp_path)
    found = {path: value for path, value in values.items() if path.startswith("model.")}
    assert list(found) == ["model.scale", "model.noise", "model.counts.steps", "model.averages['loss'][0]"]
    assert found["model.counts.steps"] == [9]
    assert found["model.scale"] == pytest.approx([1.9])


def by_layer():
    model = keras.Sequential([keras.Input((6,)), L.Dense(4, name="first"), L.Dense(1, name="last")])
    kinds = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.01, momentum=0.9))
    kinds["first/.*"] = keras.optimizers.Adam(0.01)
    model.compile(keras.optimizers.MultiOptimizer(kinds), "mse")
    return model


class Alternating(keras.Model):
    """Two optimizers in an object that is no optimizer."""

    class Pair:
        def __init__(self):
            self.optimizers = [keras.optimizers.Adam(0.01), keras.optimizers.Nadam(0.01)]

    def __init__(self):
        super().__init__()
        self.parts = [L.Dense(3), L.Dense(1)]
        self.pair = self.Pair()

    def call(self, x):
        return self.parts[1](self.parts[0](x))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = keras.ops.mean((self(x) - y) ** 2)
        for optimizer, part in zip(self.pair.optimizers, self.parts, strict=True):
            optimizer.apply(tape.gradient(loss, part.trainable_weights), part.trainable_weights)
        self._loss_tracker.update_state(loss)
        return {"loss": self._loss_tracker.result()}


def alternating():
    model = Alternating()
    model.compile()
    return model


def scaled():
    model = keras.Sequential([keras.Input((6,)), L.Dense(1)])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), dynamic_growth_steps=2), "mse")
    return model


def unbuilt():
    model = keras.Sequential([L.Dense(4, "relu"), L.Dropout(0.2), L.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    return model


def eager():
    model = unbuilt()
    model.compile("adam", "mse", run_eagerly=True)
    return model


def blocks():
    model = unbuilt()
    model.compile("adam", "mse", steps_per_execution=2)
    return model


@pytest.mark.parametrize("fit", [compiled, plain])
@pytest.mark.parametrize("build", [by_layer, alternating, scaled, unbuilt])
def test_all_optimizers_and_late_variables_resume(tmp_path, build, fit):
    assert_resumes(build, fit, tmp_path)


@pytest.mark.parametrize("build", [eager, blocks])
def test_late_variables_resume_however_steps_run(tmp_path, build):
    whole = trained(build, plain, tmp_path / "whole")
    with pytest.raises(Dead):
        trained(build, plain, tmp_path / "killed", 2)
    assert trained(build, plain, tmp_path / "killed") == whole


def test_a_state_of_another_model_is_refused_when_its_variables_exist(tmp_path):
    def wider():
        model = keras.Sequential([L.Dense(4, "relu"), L.Dense(1), L.Dense(1)])
        model.compile("adam", "mse", metrics=["mae"])
        return model

    trained(unbuilt, plain, tmp_path, epochs=1)
    with pytest.raises(ValueError, match="the state must be of this model, received one with 5 model variables"):
        trained(wider, plain, tmp_path)


def test_variables_that_no_epoch_is_left_to_create_are_named(tmp_path, caplog):
    trained(unbuilt, plain, tmp_path)
    values, epochs, _ = trained(unbuilt, plain, tmp_path)
    assert epochs == [0, 1, 2]
    assert len(values["model"]) == 1  # dropout's seed
    line = "no epoch was left to create variables, so they are not restored: model, optimizer; build the model before"
    assert line in caplog.text


@pytest.mark.parametrize(("fit", "epochs"), [(compiled, 2), (plain, 1)])
def test_variables_that_no_attribute_leads_to_are_named(tmp_path, caplog, fit, epochs):
    hidden, constant = tf.Variable(0.0, name="hidden"), tf.Variable(1.0, name="constant")

    class Hiding(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(1)

        def call(self, x):
            return self.dense(x) * constant

        def train_step(self, data):
            hidden.assign_add(1.0)
            return super().train_step(data)

    def build():
        model = Hiding()
        model.compile("sgd", "mse")
        return model

    trained(build, fit, tmp_path, epochs=epochs)
    lines = [record.getMessage() for record in caplog.records if "lacks variables" in record.getMessage()]
    assert lines == [
        "the training state lacks variables that training changes, so a restart resets them: hidden:0; make them "
        "attributes of the model"
    ]


def test_random_numbers_that_can_not_be_saved_are_named(tmp_path, caplog):
    class Noisy(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(1)

        def call(self, x):
            return self.dense(x + tf.random.normal(tf.shape(x)))

    def build():
        model = Noisy()
        model.compile("sgd", "mse")
        return model

    trained(build, plain, tmp_path, epochs=1)
    assert "the state of RandomStandardNormal (tf.random) can't be saved" in caplog.text


def test_variables_that_come_even_later_are_named(tmp_path, caplog):
    class Late(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.late = tf.Variable(1.0)

    def run(epochs):
        model = scaled()
        state = TrainingState(tmp_path)
        model.fit(X, Y, epochs=epochs, verbose=0, **state.resume(model, [Late()]))

    run(1)
    run(2)
    assert "the state holds variables that the model lacks after a restart: model.late" in caplog.text


def test_ordinary_models_are_saved_in_silence(tmp_path, caplog):
    model = by_layer()
    kerasnn.fit(model, X, Y, epochs=2, verbose=0, **TrainingState(tmp_path).resume(model))
    assert caplog.text == ""


def test_the_orders_of_a_run_without_a_seed_resume(tmp_path):
    def run(folder, at=0):
        model = scaled()
        state = TrainingState(folder, seconds=0)
        resumed = state.resume(model, [Die(at)])
        history = kerasnn.fit(model, X, Y, epochs=3, batch_size=BATCH, verbose=0, **resumed)
        return state.shuffle_seed, model.get_weights()[0].tolist(), history.history

    keras.utils.set_random_seed(1)
    whole = run(tmp_path / "whole")
    keras.utils.set_random_seed(1)
    with pytest.raises(Dead):
        run(tmp_path / "killed", 4)
    # Another process, whose generator would draw another seed.
    keras.utils.set_random_seed(2)
    assert run(tmp_path / "killed") == whole


def test_states_of_earlier_versions_are_readable(tmp_path):
    values, *_ = trained(scaled, plain, tmp_path, epochs=2)
    folder = StateFolder(tmp_path)
    tree = folder.newest()
    kept = ("model", "optimizer", "metrics", "seeds")
    tree["variables"] = {name: tree["variables"][name] for name in kept}
    del tree["shuffle_seed"]
    folder.write(tree)
    assert trained(scaled, plain, tmp_path, epochs=2)[0]["model"] == values["model"]
