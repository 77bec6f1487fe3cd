import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest

from kerasnn.config import catalog
from kerasnn.config.sections import NetworkConfig, RegularizationConfig
from kerasnn.models.building import build_model, with_preprocessing
from kerasnn.models.layers import network_layers
from kerasnn.models.subclassed import Network

STYLES = ("sequential", "functional", "subclassed")
RICH = NetworkConfig(
    hidden=(
        8,
        {"units": 8, "activation": "prelu", "kernel_initializer": "glorot_uniform"},
        {"units": 6, "activation": "rrelu", "dropout": 0.3, "batch_norm": False},
        {"units": 5, "activation": "maxout", "l1": 1e-3},
        {"units": 4, "activation": "crelu", "bias_initializer": "ones"},
    )
)
RICH_REGULARIZATION = RegularizationConfig(l2=1e-3, dropout=0.2, batch_norm=True)


def examples(features=7, classes=3, count=48):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, features)).astype("float32")
    return x, generator.integers(0, classes, count)


def rich(style, seed=3):
    return build_model(RICH, (7,), 3, style=style, seed=seed, regularization=RICH_REGULARIZATION)


def gradients(model, x, y):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, model(x, training=True)))
        loss += sum(model.losses)
    return [gradient.numpy() for gradient in tape.gradient(loss, model.trainable_variables)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """For each style: weights, outputs, gradients, the loss curve, outputs after training, and reloaded ones."""
    x, y = examples()
    found = {}
    for style in STYLES:
        model = rich(style)
        weights, outputs, slopes = model.get_weights(), model(x).numpy(), gradients(model, x, y)
        model = rich(style)
        model.compile("adam", "sparse_categorical_crossentropy")
        curve = model.fit(x, y, epochs=3, batch_size=16, shuffle=False, verbose=0).history["loss"]
        path = tmp_path_factory.mktemp(style) / "model.keras"
        model.save(path)
        reloaded = keras.saving.load_model(path)
        found[style] = [weights, outputs, slopes, curve, model(x).numpy(), reloaded(x).numpy()]
    return found


@pytest.mark.parametrize("style", STYLES[1:])
@pytest.mark.parametrize("what", range(6), ids=["weights", "outputs", "gradients", "losses", "trained", "reloaded"])
def test_styles_are_bit_identical(trained, style, what):
    expected, actual = trained["sequential"][what], trained[style][what]
    if isinstance(expected, list):
        assert len(expected) == len(actual)
        assert all(np.array_equal(a, b) for a, b in zip(expected, actual, strict=True))
    else:
        np.testing.assert_array_equal(expected, actual)


def test_reloaded_model_predicts_the_same(trained):
    for style in STYLES:
        np.testing.assert_array_equal(trained[style][4], trained[style][5])


def test_types():
    assert type(rich("sequential")) is keras.Sequential
    assert isinstance(rich("subclassed"), Network)
    assert not isinstance(rich("functional"), keras.Sequential)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("hidden", "inputs", "outputs", "counts"),
    [((3, 2), 3, 2, [12, 8, 6]), ((50, 100), 784, 10, [39250, 5100, 1010]), ((), 4, 3, [15])],
)
def test_parameter_counts(style, hidden, inputs, outputs, counts):
    model = build_model(NetworkConfig(hidden=hidden), (inputs,), outputs, style=style)
    layers = [layer for layer in model.layers if layer.weights]
    assert [layer.count_params() for layer in layers] == counts
    assert model.count_params() == sum(counts)


@pytest.mark.parametrize("style", STYLES)
def test_summary_works_at_once_and_shows_every_shape(style):
    lines = []
    rich(style).summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert "?" not in text
    assert "(None, 8)" in text
    assert "dropout_5" in text


def test_untrained_network_is_at_chance():
    model = build_model(NetworkConfig(), (64,), 10)
    x = np.random.default_rng(0).uniform(size=(2000, 64)).astype("float32")
    y = np.random.default_rng(1).integers(0, 10, 2000)
    assert abs((model.predict(x, verbose=0).argmax(axis=1) == y).mean() - 0.1) < 0.05


def test_equal_shaped_layers_differ_and_neighbouring_seeds_share_nothing():
    network = NetworkConfig(hidden=(6, 6, 6))
    kernels = {}
    for seed in (0, 1, 2):
        for layer in build_model(network, (6,), 6, seed=seed).layers:
            kernels[seed, layer.name] = layer.kernel.numpy()
    for first, second in itertools.combinations(kernels, 2):
        assert not np.array_equal(kernels[first], kernels[second]), (first, second)


def test_dropout_scales_what_it_keeps_and_rests_in_inference():
    network = NetworkConfig(hidden=({"units": 1000, "kernel_initializer": "ones", "activation": "linear"},))
    layers = network_layers(network, (1,), 1, regularization=RegularizationConfig(dropout=0.4))
    dropout = next(layer for layer in layers if isinstance(layer, keras.layers.Dropout))
    kept = dropout(np.ones((4, 1000), "float32"), training=True).numpy()
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.6], rtol=1e-6)
    np.testing.assert_array_equal(dropout(np.ones((4, 1000), "float32"), training=False), 1)


@pytest.mark.parametrize(
    ("kind", "shape", "network", "expected"),
    [
        ("dropout", (4,), (3,), "Dropout"),
        ("alpha_dropout", (4,), (3,), "AlphaDropout"),
        ("gaussian_dropout", (4,), (3,), "GaussianDropout"),
        ("spatial_dropout", (4,), (3,), "Dropout"),
        ("spatial_dropout", (8, 2), ({"filters": 2},), "SpatialDropout1D"),
        ("spatial_dropout", (8, 8, 1), ({"filters": 2},), "SpatialDropout2D"),
        ("spatial_dropout", (4, 4, 4, 1), ({"filters": 2},), "SpatialDropout3D"),
    ],
)
def test_dropout_kinds(kind, shape, network, expected):
    layers = network_layers(
        NetworkConfig(hidden=network), shape, 2, regularization=RegularizationConfig(dropout=0.5, dropout_kind=kind)
    )
    assert expected in [type(layer).__name__ for layer in layers]


@pytest.mark.parametrize("style", STYLES)
def test_convolutions(style):
    network = NetworkConfig(hidden=({"filters": 4, "kernel_size": 3, "pool": 2}, {"filters": 2, "padding": "valid"}, 5))
    model = build_model(network, (8, 8, 1), 3, style=style, regularization=RegularizationConfig(batch_norm=True))
    assert model(np.zeros((2, 8, 8, 1), "float32")).shape == (2, 3)
    names = [layer.name for layer in model.layers if layer.name != "input"]
    assert names[:5] == ["conv_1", "batch_norm_1", "activation_1", "pool_1", "conv_2"]
    assert names[-4:] == ["dense_3", "batch_norm_3", "activation_3", "output"]


def test_images_before_dense_layers_are_flattened():
    assert build_model(NetworkConfig(hidden=(5,)), (8, 8, 1), 3).count_params() == 64 * 5 + 5 + 5 * 3 + 3


@pytest.mark.parametrize("activation", sorted(catalog.ACTIVATIONS))
def test_every_activation_in_every_builder(activation):
    spec = {"name": activation, **({"threshold": 0.1, "default_value": 0.0} if activation == "threshold" else {})}
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    network = NetworkConfig(hidden=({"units": 6, "activation": spec}, {"units": 4, "activation": spec}))
    outputs = [build_model(network, (4,), 3, style=style)(x).numpy() for style in STYLES]
    assert np.isfinite(outputs[0]).all()
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2])


@pytest.mark.parametrize("initializer", sorted(catalog.INITIALIZERS))
def test_every_initializer_in_every_builder(initializer):
    network = NetworkConfig(hidden=(6, {"units": 4, "kernel_initializer": initializer}), kernel_initializer=initializer)
    weights = [build_model(network, (5,), 3, style=style, seed=1).get_weights() for style in STYLES]
    for first, *others in zip(*weights, strict=True):
        assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: build_model(NetworkConfig(), (4,), 2, style="functionl"), "did you mean 'functional'"),
        (lambda: build_model(NetworkConfig(), (4,), 0), "outputs must be a positive number of units, received 0"),
        (lambda: build_model(NetworkConfig(hidden=({"filters": 2},)), (4,), 2), "needs input of shape"),
    ],
)
def test_refusals(call, line):
    with pytest.raises(ValueError, match=line):
        call()


@pytest.mark.parametrize("style", STYLES)
def test_preprocessing_travels_with_the_model(tmp_path, style):
    model = build_model(NetworkConfig(hidden=(4,)), (4,), 2, style=style)
    whole = with_preprocessing(model, [keras.layers.Rescaling(1 / 255), keras.layers.Flatten()], (2, 2))
    assert type(whole) is type(model)
    raw = np.arange(8, dtype="uint8").reshape(2, 2, 2)
    np.testing.assert_allclose(whole(raw), model((raw / 255).reshape(2, 4).astype("float32")), rtol=1e-6)
    assert with_preprocessing(model, [], (4,)) is model
    model.set_weights([weight + 1 for weight in model.get_weights()])
    whole.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(raw), whole(raw))


def test_subclass_reloads_where_only_kerasnn_was_imported(tmp_path):
    model = build_model(NetworkConfig(hidden=({"units": 4, "activation": "srelu"},)), (4,), 2, style="subclassed")
    x = np.ones((1, 4), "float32")
    model.save(tmp_path / "model.keras")
    program = (
        "import sys, kerasnn, keras, numpy as np\n"
        "print(keras.saving.load_model(sys.argv[1])(np.ones((1, 4), 'float32')).numpy().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.keras")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(model(x).numpy().tolist())
