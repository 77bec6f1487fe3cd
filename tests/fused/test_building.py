"""What makes hundreds of small models quick to build changes no number."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasnn.fused.building import common_names, set_drawn_seed


def draws():
    """Numbers of every generator that a seed sets, from operations that are prepared at their first call."""
    with_seed = tf.random.normal((2,), seed=3)
    return [*tf.random.normal((2,)), *with_seed, *keras.random.normal((2,)), *np.random.normal(size=2), random.random()]


@pytest.mark.parametrize("seeds", [(715827, 93611, 20113), (48121, 48121), (60013, 7, 60013)])
def test_a_drawn_seed_gives_the_numbers_of_keras(seeds):
    received, expected = [], []
    for seed in seeds:
        set_drawn_seed(seed)
        received.append([*draws(), *draws()])
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        expected.append([*draws(), *draws()])
    np.testing.assert_array_equal(received, expected)


def test_keras_variables_keep_their_names():
    with common_names():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
    assert model.weights[0].path.endswith("hidden/kernel")
    assert model.optimizer.variables[2].path.endswith("hidden_kernel_momentum")
    variables = [*model.variables, *model.optimizer.variables]
    assert {variable.value.name for variable in variables} == {"model/variable:0"}
    assert tf.Variable(1.0, name="mine").name == "mine:0"
