"""The learning-rate range test: what it measures, what it suggests, what it leaves behind."""

import keras
import numpy as np
import pytest

from kerasnn import figures
from kerasnn.config.run import RunConfig
from kerasnn.runs.learning_rate_finder import _suggestions, _valley, find_learning_rate

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 1))).astype("float32")


def network(optimizer=None, inside=()):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "tanh"), *inside, keras.layers.Dense(1)])
    model.compile(optimizer or keras.optimizers.SGD(0.01), "mse", metrics=["mae"])
    return model


def bits(model):
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [keras.ops.convert_to_numpy(variable).tobytes() for variable in variables]


def test_losses_are_those_of_each_batch_at_each_rate():
    test = find_learning_rate(network(), (X, Y), lowest=1e-4, highest=1.0, updates=32, batch_size=32)
    model = network()
    rates = np.float32(1e-4 * 1e4 ** (np.arange(32) / 31))
    from kerasnn.engine.order import epoch_order

    expected = []
    for update, rate in enumerate(rates[: len(test.losses)]):
        model.optimizer.learning_rate = rate
        rows = epoch_order(96, 0, update // 3)[update % 3 * 32 :][:32]
        expected.append(model.train_on_batch(X[rows], Y[rows], return_dict=True)["loss"])
        model.reset_metrics()
    np.testing.assert_allclose(test.losses, expected, rtol=1e-4)
    np.testing.assert_allclose(test.learning_rates, rates[: len(test.losses)], rtol=1e-6)


@pytest.mark.parametrize("compiled", ["on", "off"])
def test_a_model_is_left_as_it_was(compiled):
    inside = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=3)]
    model = network(keras.optimizers.Adam(0.01), inside)
    model.fit(X, Y, verbose=0)
    history, before = model.history, bits(model)
    test = find_learning_rate(model, (X, Y), updates=40, compiled=compiled)
    assert bits(model) == before
    assert model.history is history
    assert not model.stop_training
    assert 1e-7 < test.suggestion < 10


def test_an_untrained_model_trains_as_if_never_tested():
    weights = []
    for tested in (False, True):
        model = network(keras.optimizers.Adam(0.01), [keras.layers.Dropout(0.5, seed=3)])
        if tested:
            find_learning_rate(model, (X, Y), updates=40)
        model.fit(X, Y, epochs=2, shuffle=False, verbose=0)
        weights.append(bits(model))
    assert weights[0] == weights[1]


def test_a_config_is_tested_with_its_own_data():
    config = RunConfig(network={"hidden": [16]}, training={"batch_size": 128})
    test = find_learning_rate(config, updates=60)
    assert 1e-4 < test.suggestion < 0.3
    assert figures.to_png(test.figure()).startswith(b"\x89PNG")


def test_the_test_ends_where_the_loss_diverges():
    test = find_learning_rate(network(), (X, Y), highest=1e6, updates=64)
    assert len(test.losses) < 64
    assert np.isfinite(test.losses).all()


def test_suggestions_on_a_known_curve():
    rates = 10.0 ** np.linspace(-7, 1, 81)
    # Flat up to 1e-4, falling to 1e-1, rising again; steepest at 1e-2.
    decades = np.log10(rates)
    smoothed = np.interp(decades, [-7, -4, -2.5, -1.5, -1, 1], [2, 2, 1.6, 0.6, 0.5, 5])
    test = _suggestions(rates, smoothed, smoothed)
    assert np.log10(test.valley) == pytest.approx(-2.5, abs=0.15)
    assert -2.5 <= np.log10(test.steepest) <= -1.5
    assert np.log10(test.minimum) == pytest.approx(-2)


@pytest.mark.parametrize(("losses", "index"), [([5, 4, 3, 2, 1], 2), ([1, 5, 4, 6, 3, 2, 9], 3), ([1, 2, 3], 0)])
def test_valley_is_the_middle_of_the_longest_fall(losses, index):
    assert _valley(np.array(losses, float)) == index


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"lowest": 1.0, "highest": 0.1}, "lowest and highest must be rates above 0 in this order"),
        ({"updates": 3}, "updates must be at least 32, received 3"),
        ({"lowest": 1e6, "highest": 1e9}, "the loss must not diverge within 16 updates"),
    ],
)
def test_what_makes_no_sense_is_refused(options, line):
    with pytest.raises(ValueError, match=line):
        find_learning_rate(network(), (X, Y), **options)
    with pytest.raises(ValueError, match=r"data must be \(x, y\) or \(x, y, sample_weight\) for a model"):
        find_learning_rate(network(), X)
