import math

import keras
import numpy as np
import pytest

from kerasnn.components import initializers
from kerasnn.config import catalog

RANDOM = [name for name in catalog.INITIALIZERS if name not in ("zeros", "ones", "constant", "identity")]
SHAPE = (300, 500)  # fan_in 300, fan_out 500


def draw(spec, seed=7, shape=SHAPE):
    return np.asarray(initializers.get(spec, seed)(shape))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("random_uniform", keras.initializers.RandomUniform),
        ("uniform", keras.initializers.RandomUniform),
        ("random_normal", keras.initializers.RandomNormal),
        ("normal", keras.initializers.RandomNormal),
        ("truncated_normal", keras.initializers.TruncatedNormal),
        ("glorot_uniform", keras.initializers.GlorotUniform),
        ("xavier_uniform", keras.initializers.GlorotUniform),
        ("glorot_normal", keras.initializers.GlorotNormal),
        ("xavier_normal", keras.initializers.GlorotNormal),
        ("he_uniform", keras.initializers.HeUniform),
        ("kaiming_uniform", keras.initializers.HeUniform),
        ("he_normal", keras.initializers.HeNormal),
        ("kaiming_normal", keras.initializers.HeNormal),
        ("lecun_uniform", keras.initializers.LecunUniform),
        ("lecun_normal", keras.initializers.LecunNormal),
        ("variance_scaling", keras.initializers.VarianceScaling),
        ("orthogonal", keras.initializers.Orthogonal),
    ],
)
def test_bits_are_keras_own(name, expected):
    np.testing.assert_array_equal(draw(name, shape=(5, 3)), np.asarray(expected(seed=7)((5, 3))))


@pytest.mark.parametrize(
    ("spec", "stddev"),
    [
        ("glorot_normal", math.sqrt(2 / 800)),
        ("he_normal", math.sqrt(2 / 300)),
        ("lecun_normal", math.sqrt(1 / 300)),
        ({"name": "normal", "mean": 1.0, "stddev": 0.3}, 0.3),
    ],
)
def test_stddev(spec, stddev):
    assert draw(spec).std() == pytest.approx(stddev, rel=0.01)


@pytest.mark.parametrize(
    ("spec", "limit"),
    [
        ("glorot_uniform", math.sqrt(6 / 800)),
        ("he_uniform", math.sqrt(6 / 300)),
        ("lecun_uniform", math.sqrt(3 / 300)),
        ("standard_uniform", 1 / math.sqrt(300)),
        ({"name": "uniform", "minval": -2, "maxval": 2}, 2.0),
    ],
)
def test_limit(spec, limit):
    values = draw(spec)
    assert np.abs(values).max() == pytest.approx(limit, rel=1e-4)
    assert np.abs(values).max() <= limit * (1 + 1e-6)
    assert values.std() == pytest.approx(limit / math.sqrt(3), rel=0.01)


def test_standard_uniform_counts_the_inputs_of_a_convolution():
    # A 3×3 window over 12 channels has 108 inputs.
    assert np.abs(draw("standard_uniform", shape=(3, 3, 12, 50))).max() == pytest.approx(1 / math.sqrt(108), rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("zeros", [[0, 0], [0, 0]]),
        ("ones", [[1, 1], [1, 1]]),
        ({"name": "constant", "value": 0.25}, [[0.25, 0.25], [0.25, 0.25]]),
        ({"name": "identity", "gain": 2}, [[2, 0], [0, 2]]),
    ],
)
def test_constants(spec, expected):
    np.testing.assert_array_equal(draw(spec, shape=(2, 2)), expected)


@pytest.mark.parametrize("name", RANDOM)
def test_seed_decides(name):
    np.testing.assert_array_equal(draw(name, 1, (4, 4)), draw(name, 1, (4, 4)))
    assert not np.array_equal(draw(name, 1, (4, 4)), draw(name, 2, (4, 4)))
    assert not np.array_equal(draw(name, None, (4, 4)), draw(name, None, (4, 4)))


@pytest.mark.parametrize("name", catalog.INITIALIZERS)
def test_always_a_new_instance_that_keras_can_save(name):
    one = initializers.get(name, 3)
    assert one is not initializers.get(name, 3)
    again = keras.initializers.deserialize(keras.initializers.serialize(one))
    np.testing.assert_array_equal(np.asarray(again((3, 3))), np.asarray(one((3, 3))))


def test_numpy_seeds():
    seed = np.random.SeedSequence([1, 2]).generate_state(1)[0]
    np.testing.assert_array_equal(draw("he_normal", seed, (2, 2)), draw("he_normal", int(seed), (2, 2)))
    assert np.isfinite(draw("he_normal", np.uint32(2**32 - 1), (2, 2))).all()
    with pytest.raises(TypeError):
        initializers.get("he_normal", 1.5)


def test_refuses_what_the_catalog_refuses():
    with pytest.raises(ValueError, match=r"^initializer must be one of zeros, .*; received 'he'"):
        initializers.get("he")
    with pytest.raises(ValueError, match="stddev must be a finite number > 0"):
        initializers.get({"name": "normal", "stddev": -1})
