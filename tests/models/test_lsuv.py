"""LSUV scales each hidden layer to unit variance, alike in all styles."""

import keras
import numpy as np
import pytest

from kerasnn.config.run import RunConfig
from kerasnn.config.sections import NetworkConfig
from kerasnn.data.loading import load_data
from kerasnn.models.building import build_model
from kerasnn.models.lsuv import lsuv
from kerasnn.runs.train import train

X = np.random.default_rng(0).uniform(size=(256, 12)).astype("float32")
NETWORK = NetworkConfig(hidden=(20, 30, 20), activation="tanh", kernel_initializer="orthogonal")


def pre_activations(model, x):
    """What each layer gives before its activation."""
    for layer in model.layers:
        z = x @ layer.kernel.numpy() + layer.bias.numpy()
        yield z
        x = np.tanh(z)


def test_every_hidden_layer_has_variance_1_and_the_output_keeps_its_weights():
    model = build_model(NETWORK, (12,), 4)
    before = model.get_weights()
    variances = lsuv(model, X)
    *hidden, _ = pre_activations(model, X)
    assert [z.var() for z in hidden] == pytest.approx([1, 1, 1], abs=1e-4)
    assert list(variances) == ["dense_1", "dense_2", "dense_3"]
    assert variances["dense_1"] == pytest.approx((X @ before[0]).var(), rel=1e-4)
    np.testing.assert_array_equal(model.get_weights()[-2], before[-2])
    assert "call" not in vars(model.layers[0])


def test_biases_that_are_not_0_are_no_obstacle():
    model = build_model(
        NETWORK.model_copy(update={"bias_initializer": {"name": "random_normal", "stddev": 0.5}}), (12,), 4
    )
    lsuv(model, X)
    *hidden, _ = pre_activations(model, X)
    assert [z.var() for z in hidden] == pytest.approx([1, 1, 1], abs=0.01)


def test_convolutions_and_batch_norm():
    network = NetworkConfig(hidden=({"filters": 4, "batch_norm": True}, {"filters": 8}, 10))
    model = build_model(network, (8, 8, 1), 3)
    lsuv(model, X.reshape(-1)[: 48 * 64].reshape(48, 8, 8, 1))
    inner = keras.Model(model.inputs[0], model.get_layer("conv_1").output)
    assert inner(X.reshape(-1)[: 48 * 64].reshape(48, 8, 8, 1)).numpy().var() == pytest.approx(1, abs=1e-4)


def test_zeros_are_refused():
    model = build_model(NetworkConfig(kernel_initializer="zeros"), (12,), 4)
    with pytest.raises(ValueError, match="received variance 0 in layer 'dense_1' \\(Zeros\\)"):
        lsuv(model, X)


def test_a_run_with_lsuv_is_the_same_in_all_styles(tmp_path):
    weights = []
    for style in ("sequential", "functional", "subclassed"):
        config = RunConfig(
            style=style,
            network=NETWORK,
            training={"lsuv": True, "epochs": 1, "batch_size": 256},
            report={"progress": "silent", "tensorboard": False, "graph": False, "health": False},
        )
        weights.append(train(config, tmp_path / style, load_data(config.data)).model.get_weights())
    for other in weights[1:]:
        for a, b in zip(weights[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
