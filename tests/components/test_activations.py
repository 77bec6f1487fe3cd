import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasnn.components import activations
from kerasnn.config import catalog

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "golden.json").read_text())
THRESHOLD = {"name": "threshold", "threshold": 0.3, "default_value": -2.0}
SPECS = [THRESHOLD if name == "threshold" else name for name in catalog.ACTIVATIONS]
# Keras converts variables to arrays the old way when it saves.
LAYERS = {"prelu", "rrelu", "srelu", "crelu", "maxout", "glu"}


def spec_id(spec):
    return spec if isinstance(spec, str) else "-".join(str(value) for value in spec.values())


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def softplus(x):
    return np.log1p(np.exp(x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sparsemax(x):
    # The Euclidean projection onto the simplex.
    rows = []
    for row in x:
        z = np.sort(row)[::-1]
        k = np.arange(1, len(z) + 1)
        support = k[1 + k * z > np.cumsum(z)].max()
        rows.append(relu(row - (z[:support].sum() - 1) / support))
    return np.array(rows)


def normal_cdf(x):
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

FORMULAS = [
    ("linear", lambda x: x),
    ("identity", lambda x: x),
    ("step", lambda x: (x > 0) * 1.0),
    ("sigmoid", sigmoid),
    ("hard_sigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    ("sparse_sigmoid", lambda x: np.clip((x + 1) / 2, 0, 1)),
    ("log_sigmoid", lambda x: -softplus(-x)),
    ("tanh", np.tanh),
    ("hard_tanh", lambda x: np.clip(x, -1, 1)),
    ("tanh_shrink", lambda x: x - np.tanh(x)),
    ("relu", relu),
    (
        {"name": "relu", "negative_slope": 0.1, "max_value": 1.5, "threshold": 0.2},
        lambda x: np.where(x >= 1.5, 1.5, np.where(x >= 0.2, x, 0.1 * (x - 0.2))),
    ),
    ("relu6", lambda x: np.clip(x, 0, 6)),
    ("leaky_relu", lambda x: np.where(x > 0, x, 0.2 * x)),
    ({"name": "leaky_relu", "negative_slope": 0.01}, lambda x: np.where(x > 0, x, 0.01 * x)),
    ("prelu", relu),
    ({"name": "prelu", "initial_slope": 0.25}, lambda x: np.where(x > 0, x, 0.25 * x)),
    ("rrelu", lambda x: np.where(x > 0, x, x * 11 / 48)),
    ({"name": "rrelu", "lower": 0.1, "upper": 0.2}, lambda x: np.where(x > 0, x, 0.15 * x)),
    ("srelu", lambda x: np.where(x > 0, x, 0.2 * x)),
    ("crelu", lambda x: np.concatenate([relu(x), relu(-x)], -1)),
    ("elu", lambda x: np.where(x > 0, x, np.expm1(x))),
    ({"name": "elu", "alpha": 0.5}, lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    ("selu", lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(x))),
    ({"name": "celu", "alpha": 2.0}, lambda x: np.where(x > 0, x, 2 * np.expm1(x / 2))),
    ("gelu", lambda x: x * normal_cdf(x)),
    (
        {"name": "gelu", "approximate": True},
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    ("silu", lambda x: x * sigmoid(x)),
    ("swish", lambda x: x * sigmoid(x)),
    ("hard_silu", lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    ("mish", lambda x: x * np.tanh(softplus(x))),
    ("softplus", softplus),
    ("sparse_plus", lambda x: np.where(x <= -1, 0, np.where(x < 1, (x + 1) ** 2 / 4, x))),
    ("squareplus", lambda x: (x + np.sqrt(x**2 + 4)) / 2),
    ({"name": "squareplus", "b": 1}, lambda x: (x + np.sqrt(x**2 + 1)) / 2),
    ("softsign", lambda x: x / (1 + np.abs(x))),
    ("exponential", np.exp),
    ("soft_shrink", lambda x: np.sign(x) * relu(np.abs(x) - 0.5)),
    ({"name": "hard_shrink", "threshold": 1.0}, lambda x: np.where(np.abs(x) > 1, x, 0)),
    (THRESHOLD, lambda x: np.where(x > 0.3, x, -2.0)),
    ("softmax", softmax),
    ("log_softmax", lambda x: np.log(softmax(x))),
    ("sparsemax", sparsemax),
    ("glu", lambda x: x[:, :4] * sigmoid(x[:, 4:])),
    ("maxout", lambda x: np.maximum(x[:, :4], x[:, 4:])),
    ({"name": "maxout", "pieces": 4}, lambda x: x.reshape(-1, 4, 2).max(1)),
]

# No two features of a row meet, and none lies on a kink of any activation.
X = np.array(
    [
        [-4.1, -2.3, -1.21, -0.73, -0.11, 0.17, 0.61, 1.37],
        [3.7, 7.1, -0.37, 0.23, -6.3, 2.9, -1.7, 0.87],
        [0.77, -0.27, 0.41, 0.13, 1.13, -0.43, -0.83, -3.3],
    ]
)
X32 = X.astype("float32")


def value_and_gradient(layer, x, weights=None, training=False, jit=True):
    """The output for `x`, and the gradient of its sum weighted by `weights`, of a compiled dynamic batch."""

    @tf.function(jit_compile=jit, input_signature=[tf.TensorSpec([None, x.shape[1]], x.dtype)])
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training) if isinstance(layer, activations.RReLU) else layer(x)
            total = tf.reduce_sum(y if weights is None else tf.cast(weights, y.dtype) * y)
        return y, tape.gradient(total, x)

    layer.build(x.shape)
    y, gradient = run(tf.constant(x))
    return y.numpy(), gradient.numpy()


@pytest.mark.parametrize(("spec", "formula"), FORMULAS, ids=[spec_id(spec) for spec, _ in FORMULAS])
def test_value_and_derivative(spec, formula):
    expected = formula(X)
    weights = np.random.default_rng(1).normal(size=expected.shape)
    numeric = np.zeros_like(X)
    for index in np.ndindex(X.shape):
        shift = np.zeros_like(X)
        shift[index] = 1e-6
        numeric[index] = np.sum(weights * (formula(X + shift) - formula(X - shift))) / 2e-6
    y, gradient = value_and_gradient(activations.layer(spec), X32, weights)
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=2e-6 * np.abs(numeric).max() + 1e-6)


def test_every_name_has_a_formula():
    names = {spec if isinstance(spec, str) else spec["name"] for spec, _ in FORMULAS}
    assert {catalog.canonical(catalog.ACTIVATIONS, name) for name in names} == set(catalog.ACTIVATIONS)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "exponential"], ids=spec_id)
def test_finite_far_out(spec):
    x = np.array([[-1000, 1000, -100, 100, 0, 85, -85, 0]], "float32")
    y, gradient = value_and_gradient(activations.layer(spec), x)
    assert np.all(np.isfinite(y))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("key", "dtype"), [("scores_9", "float32"), ("scores_10", "float32")])
def test_softmax_golden(key, dtype, jit):
    x = np.array([GOLDEN["softmax"][key]["x"]], dtype)
    y, _ = value_and_gradient(activations.layer("softmax"), x, jit=jit)
    np.testing.assert_allclose(y[0], GOLDEN["softmax"][key]["p"], rtol=1e-6)


def test_softmax_of_large_scores_in_float64():
    golden = GOLDEN["softmax"]["overflow_float64"]
    y = activations.get("softmax")(np.array([golden["x"]], "float64"))
    np.testing.assert_allclose(np.asarray(y)[0], golden["p"], rtol=1e-12)


def test_sigmoid_and_tanh_saturate():
    x = np.linspace(-10, 10, 401, dtype="float32")[None]
    _, slope = value_and_gradient(activations.layer("sigmoid"), x)
    assert slope.max() == 0.25
    assert np.all(slope[np.abs(x) > 6] < 0.0025)
    _, slope = value_and_gradient(activations.layer("tanh"), x)
    assert slope.max() == 1
    assert np.all(slope[np.abs(x) > 3] < 0.01)


def test_step_at_zero_and_its_gradient():
    y, gradient = value_and_gradient(activations.layer("step"), np.array([[-0.0, 0.0, 1e-30, np.nan]], "float32"))
    np.testing.assert_array_equal(y, [[0, 0, 1, np.nan]])
    np.testing.assert_array_equal(gradient[0, :3], [0, 0, 0])


class TestSReLU:
    def test_four_parameters_per_unit(self):
        layer = activations.SReLU()
        layer.build((None, 7))
        assert layer.count_params() == 28
        assert [weight.name for weight in layer.trainable_weights] == ["t_l", "a_l", "t_r", "a_r"]

    def test_gradients_of_its_parameters(self):
        layer = activations.SReLU()
        layer.build((None, 1))
        layer.set_weights([np.array([value], "float32") for value in (-1.0, 0.5, 2.0, 3.0)])
        x = tf.constant([[-3.0], [0.5], [4.0]])
        with tf.GradientTape(persistent=True) as tape:
            y = layer(x)
            rows = [y[i, 0] for i in range(3)]
        np.testing.assert_array_equal(y, [[-2.0], [0.5], [8.0]])
        weights = [weight.value for weight in layer.trainable_weights]
        for row, expected in zip(rows, ([0.5, -2, 0, 0], [0, 0, 0, 0], [0, 0, -2, 2]), strict=True):
            np.testing.assert_array_equal([gradient.numpy()[0] for gradient in tape.gradient(row, weights)], expected)

    def test_parameters_per_channel(self):
        layer = activations.SReLU()
        assert layer(np.ones((2, 5, 5, 3), "float32")).shape == (2, 5, 5, 3)
        assert layer.count_params() == 12


class TestRReLU:
    X = np.full((50, 40), -1.0, "float32")

    def slopes(self, seed, **arguments):
        return -np.asarray(activations.layer({"name": "rrelu", **arguments}, seed)(self.X, training=True))

    def test_slopes_in_training(self):
        slopes = self.slopes(3)
        assert slopes.min() >= 1 / 8
        assert slopes.max() <= 1 / 3
        assert len(np.unique(slopes)) > 1900
        assert slopes.mean() == pytest.approx(11 / 48, rel=0.01)

    def test_gradient_is_the_slope(self):
        y, gradient = value_and_gradient(activations.layer("rrelu", 3), self.X, training=True)
        np.testing.assert_array_equal(gradient, -y)

    def test_positive_values_pass(self):
        y, _ = value_and_gradient(activations.layer("rrelu", 3), -self.X, training=True)
        np.testing.assert_array_equal(y, -self.X)

    def test_seed(self):
        np.testing.assert_array_equal(self.slopes(3), self.slopes(np.uint32(3)))
        assert not np.array_equal(self.slopes(3), self.slopes(4))
        assert self.slopes(2**32 - 1).min() >= 1 / 8

    def test_each_batch_draws_anew_and_the_sequence_repeats(self):
        one, other = activations.layer("rrelu", 3), activations.layer("rrelu", 3)
        batches = [[np.asarray(layer(self.X, training=True)) for _ in range(2)] for layer in (one, other)]
        assert not np.array_equal(*batches[0])
        np.testing.assert_array_equal(batches[0], batches[1])

    def test_config_keeps_the_seed(self):
        layer = activations.layer({"name": "rrelu", "lower": 0.1}, 3)
        again = keras.layers.deserialize(keras.layers.serialize(layer))
        np.testing.assert_array_equal(again(self.X, training=True), layer(self.X, training=True))

    def test_inference_draws_nothing(self):
        layer = activations.layer("rrelu", 3)
        state = layer.seed_generator.state.numpy()
        layer(self.X, training=False)
        np.testing.assert_array_equal(layer.seed_generator.state.numpy(), state)


def test_maxout_refuses_features_that_pieces_do_not_divide():
    with pytest.raises(ValueError, match="maxout needs a multiple of pieces=3 as features; received 8"):
        activations.layer({"name": "maxout", "pieces": 3}).build((None, 8))


@pytest.mark.parametrize(
    ("spec", "before"),
    [("maxout", 20), ({"name": "maxout", "pieces": 5}, 50), ("glu", 20), ("crelu", 10), ("relu", 10), ("srelu", 10)],
)
def test_units_before(spec, before):
    assert activations.units_before(spec, 10) == before


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_width(spec):
    inputs = keras.Input((activations.units_before(spec, 10),))
    width = activations.layer(spec)(inputs).shape[-1]
    assert width == (20 if spec == "crelu" else 10)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_is_layer(spec):
    expected = spec in LAYERS if isinstance(spec, str) else False
    assert activations.is_layer(spec) is expected
    if expected:
        with pytest.raises(
            ValueError, match=f"must be a function of its input alone; received '{spec}', which is a layer"
        ):
            activations.get(spec)
    else:
        np.testing.assert_array_equal(activations.get(spec)(X32), activations.layer(spec)(X32))


def test_a_saved_name_must_be_an_activation():
    with pytest.raises(ValueError, match=r"^activation must be one of .*; received 'deserialize'"):
        activations.ActivationFunction.from_config({"name": "deserialize", "arguments": {}})


def test_plain_names_are_keras_own_functions():
    assert activations.get("relu") is keras.activations.relu
    assert activations.get("identity") is keras.activations.linear


def test_layers_are_new_and_named():
    for spec in SPECS:
        layer = activations.layer(spec, seed=1, name="mine")
        assert layer.name == "mine"
        assert layer is not activations.layer(spec, seed=1, name="mine")


def test_float16():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        for spec in SPECS:
            assert activations.layer(spec)(X[:, :8].astype("float16"), training=True).dtype == "float16", spec
    finally:
        keras.config.set_dtype_policy(policy)


def test_saved_and_loaded_elsewhere(tmp_path):
    inputs = keras.Input((8,))
    features = [activations.layer(spec, seed=1)(inputs) for spec in SPECS]
    features.append(keras.layers.Dense(4, activation=activations.get({"name": "elu", "alpha": 0.5}))(inputs))
    features += [keras.layers.Dense(4, activation=activations.get(name))(inputs) for name in ("step", "sparsemax")]
    model = keras.Model(inputs, keras.layers.Concatenate()(features))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X32)
    np.save(tmp_path / "y.npy", model(X32))
    code = (
        "import sys, numpy as np, keras, kerasnn\n"
        "model = keras.models.load_model('model.keras')\n"
        "np.testing.assert_array_equal(np.load('y.npy'), model(np.load('x.npy')))\n"
    )
    repository = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": repository})
