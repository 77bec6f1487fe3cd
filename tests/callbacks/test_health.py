"""Layers that do not learn are told of by name, and healthy ones are left in peace."""

import json
import logging
import os
from dataclasses import asdict

import keras
import numpy as np
import pytest

import kerasnn
from kerasnn.callbacks.health import Health
from kerasnn.callbacks.layer_probe import Probe
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import from_arrays, load_data
from kerasnn.models.building import build_model
from kerasnn.models.from_config import compile_model

NORMAL = {"name": "random_normal", "stddev": 1.0}


@pytest.fixture(scope="module")
def digits():
    return load_data(RunConfig().data)


def watched(config, data, epochs=3, examples=None):
    model = build_model(
        config.network, data.input_shape, data.outputs, config.style, config.seed,
        task=config.known_task, regularization=config.regularization,
    )  # fmt: skip
    compile_model(model, config)
    health = Health((data.x_train[:256], data.y_train[:256]))
    if epochs == 0:
        health.set_model(model)
        health.on_train_begin()
        return health
    kerasnn.fit(
        model, data.x_train[:examples], data.y_train[:examples], batch_size=config.training.batch_size, epochs=epochs,
        verbose=0, callbacks=[health], seed=config.seed, compiled="on" if epochs > 10 else "off",
    )  # fmt: skip
    return health


@pytest.mark.parametrize(
    ("changes", "told", "line"),
    [
        (
            {"optimizer.learning_rate": 1.0},
            ("dead", "dense_1", 2, 1),
            "layer dense_1: 100% of units dead since epoch 1; lower the learning rate or use leaky_relu",
        ),
        (
            {"network.hidden": [20] * 10, "network.activation": "sigmoid"},
            ("vanishing", "dense_1", 2, 1),
            "since epoch 1; use relu with he_normal, batch_norm or fewer layers",
        ),
        (
            {"network.kernel_initializer": NORMAL},
            ("exploding", "dense_1", 0, 0),
            "times that of the inputs before training; use he_normal or batch_norm",
        ),
        (
            {"network.kernel_initializer": NORMAL, "network.activation": "tanh"},
            ("saturated", "dense_1", 0, 0),
            "of outputs saturated before training; scale the inputs, use glorot_normal or batch_norm",
        ),
        (
            {"network.activation": "tanh", "optimizer.learning_rate": 1.0},
            ("saturated", "dense_2", 2, 1),
            "of outputs saturated since epoch 1; lower the learning rate, use glorot_normal or batch_norm",
        ),
        (
            {"network.kernel_initializer": "zeros"},
            ("identical", "dense_2", 0, 0),
            "layer dense_2: all units have the same weights before training; use a random kernel_initializer",
        ),
    ],
)
def test_a_sick_layer_is_told_of_by_name(digits, caplog, changes, told, line):
    with caplog.at_level(logging.WARNING, "kerasnn"):
        health = watched(replace_at(RunConfig(), changes), digits, examples=512)
    alarm = next(alarm for alarm in health.alarms if (alarm.kind, alarm.layer) == told[:2])
    assert (alarm.epoch, alarm.since) == told[2:]
    assert line in alarm.message
    # Once each, and nothing that is not kept.
    assert caplog.messages == [alarm.message for alarm in health.alarms]


def test_initializer_and_activation_that_do_not_suit_each_other_are_told_of_before_training(digits):
    for network, line in (
        ({"hidden": [20] * 6, "activation": "sigmoid"}, "layers dense_1 to dense_6: he_normal does not suit sigmoid"),
        (
            {"hidden": [20] * 4, "kernel_initializer": {"name": "random_normal", "stddev": 0.01}},
            "layers dense_1 to dense_4: random_normal does not suit relu",
        ),
    ):
        health = watched(RunConfig(network=network), digits, epochs=0)
        assert [(alarm.kind, alarm.layer, alarm.epoch) for alarm in health.alarms] == [("initialization", "dense_1", 0)]
        assert line in health.alarms[0].message
    assert watched(RunConfig(network={"hidden": [50] * 6}), digits, epochs=0).alarms == []


def healthy(name):
    if name != "regression":
        config = RunConfig(data={"name": name}, training={"batch_size": 128 if name == "fashion_mnist" else 32})
        return config, load_data(config.data)
    from sklearn.datasets import load_diabetes

    config = RunConfig(task="regression", data={"name": "arrays", "scaling": "standardize"})
    return config, from_arrays(*load_diabetes(scaled=False, return_X_y=True), config=config.data, task="regression")


@pytest.mark.parametrize("name", ["digits", "regression", "fashion_mnist"])
def test_healthy_defaults_raise_no_alarm(name):
    long = os.environ.get("KERASNN_ALL_TESTS") == "1"
    if name == "fashion_mnist" and not long:
        pytest.skip("set KERASNN_ALL_TESTS=1 to train 20 networks on Fashion-MNIST")
    config, data = healthy(name)
    for seed in range(20 if long else 1):
        assert watched(replace_at(config, {"seed": seed}), data, epochs=20 if long else 5).alarms == []


def network(activation="relu", normal=False):
    keras.utils.set_random_seed(0)
    inside = [keras.layers.BatchNormalization(name="norm")] if normal else []
    layers = [keras.layers.Dense(4, activation, name="hidden"), *inside, keras.layers.Dense(1, "sigmoid", name="out")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile("sgd", "binary_crossentropy")
    return model


X = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")


@pytest.mark.parametrize(("activation", "dead", "saturated"), [("relu", 0.75, None), ("tanh", None, 0.75)])
def test_shares_norms_and_moments_are_those_worked_out_by_hand(activation, dead, saturated):
    model = network(activation)
    kernel = np.zeros((3, 4), "float32")
    kernel[:, 0] = [0.1, 0.2, 0.3]
    # Three units that lie at -20 or below: dead for relu, at a bound for tanh.
    model.get_layer("hidden").set_weights([kernel, np.array([0, -20, -30, -40], "float32")])
    measured = Probe((X, Y)).measure(model)
    hidden, out = measured.activations["hidden"], measured.activations["out"]
    h = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[activation](X @ kernel + [0, -20, -30, -40])
    assert hidden.activation == activation
    assert (hidden.is_output, out.is_output) == (False, True)
    assert (hidden.dead, hidden.saturated) == pytest.approx((dead or np.nan, saturated or np.nan), nan_ok=True)
    assert (hidden.mean, hidden.std) == pytest.approx((h.mean(), h.std()), rel=1e-5)
    assert hidden.signal == pytest.approx(np.sqrt(h.var(axis=0).mean()), rel=1e-5)
    assert hidden.input_signal == pytest.approx(np.sqrt(X.var(axis=0).mean()), rel=1e-5)
    w, b = model.get_layer("out").get_weights()
    delta = (1 / (1 + np.exp(-(h @ w + b))) - Y) / len(X)
    assert hidden.gradient == pytest.approx(np.linalg.norm(delta @ w.T), rel=1e-4)
    norms = [np.sqrt(np.sum((h.T @ delta) ** 2) + np.sum(delta.sum(axis=0) ** 2)), np.sqrt(np.sum(w**2) + np.sum(b**2))]
    weights = measured.weights["out"]
    assert (weights.gradient, weights.weight) == pytest.approx(norms, rel=1e-4)
    assert (weights.gradient_ratio, weights.update_ratio) == pytest.approx(
        (norms[0] / norms[1], 0.01 * norms[0] / norms[1]), rel=1e-3
    )


def test_a_shared_probe_measures_once_for_each_state_of_the_model():
    probe = Probe((X, Y))
    model = network(normal=True)
    first = probe.measure(model)
    assert probe.measure(model) is first
    model.fit(X, Y, verbose=0)
    assert probe.measure(model) is not first
    assert set(first.scalars()) == {
        "gradient_norm",
        *(f"{tag}/{layer}" for tag in ("gradient_norm", "gradient_ratio", "update_ratio", "outputs_mean",
            "outputs_std", "outputs_gradient_norm") for layer in ("hidden", "norm", "out")),
        "units_dead/hidden", "outputs_saturated/out",
    }  # fmt: skip


def test_a_recurrent_layers_cell_and_an_embedding_are_no_obstacle():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Embedding(9, 4), keras.layers.LSTM(3)])
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    health = Health((np.arange(40).reshape(8, 5) % 9, Y[:8]))
    model.fit(np.arange(40).reshape(8, 5) % 9, Y[:8], epochs=2, verbose=0, callbacks=[health])
    assert health.alarms == []


@pytest.mark.parametrize("built", [True, False])
def test_a_watched_run_is_bit_identical_to_one_left_alone(built):
    ends = []
    for callbacks in ([], [Health((X[:16], Y[:16]))]):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1, "sigmoid")]
        model = keras.Sequential([keras.Input((3,)), *layers] if built else layers)
        model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
        history = model.fit(X, Y, epochs=3, verbose=0, callbacks=callbacks).history
        variables = [*model.variables, *model.optimizer.variables]
        ends.append(([variable.numpy().tobytes() for variable in variables], history))
    assert ends[0] == ends[1]


def test_a_frozen_layer_is_no_obstacle():
    model = network()
    model.get_layer("hidden").trainable = False
    model.compile("sgd", "binary_crossentropy")
    health = Health((X, Y))
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[health])
    assert health.alarms == []


def test_state_goes_on_where_it_was(digits):
    config = RunConfig(optimizer={"learning_rate": 1.0}, training={"batch_size": 128})
    states = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            states.append(json.loads(json.dumps(health.get_state())))

    health = Health((digits.x_train[:256], digits.y_train[:256]))
    model = build_model(config.network, digits.input_shape, digits.outputs)
    compile_model(model, config)
    model.fit(digits.x_train, digits.y_train, epochs=2, batch_size=128, verbose=0, callbacks=[health, Keep()])
    assert [len(state["alarms"]) for state in states] == [0, len(health.alarms)]
    assert len(health.alarms) > 0

    class Resume(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            resumed.set_state(states[0])

    # The first epoch was seen before the interruption: the second is the second in a row.
    resumed = Health((digits.x_train[:256], digits.y_train[:256]))
    model.fit(
        digits.x_train, digits.y_train, initial_epoch=1, epochs=2, batch_size=128, verbose=0,
        callbacks=[resumed, Resume()],
    )  # fmt: skip
    assert ("dead", "dense_1", 2, 1) in [(a.kind, a.layer, a.epoch, a.since) for a in resumed.alarms]


def test_alarms_are_kept_in_the_run_folder(tmp_path):
    config = RunConfig(
        network={"hidden": [8], "kernel_initializer": "zeros"},
        training={"epochs": 1, "batch_size": 512},
        report={"progress": "silent", "tensorboard": False, "graph": False},
    )
    kerasnn.train(config, tmp_path / "run")
    (alarm,) = json.loads((tmp_path / "run" / "result.json").read_text())["alarms"]
    assert (alarm["kind"], alarm["layer"], alarm["epoch"]) == ("identical", "dense_1", 0)
    assert set(alarm) == set(asdict(kerasnn.callbacks.health.Alarm("", "", 0, 0, "")))


def test_interval_is_refused():
    with pytest.raises(ValueError, match="every must be a number of epochs, at least 1; received 0"):
        Health((X, Y), every=0)
