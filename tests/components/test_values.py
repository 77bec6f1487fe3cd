import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasnn.components import values
from kerasnn.components.values import ValueReader, value_of, values_of


def test_values_have_their_own_shapes_types_and_order(monkeypatch):
    monkeypatch.setattr(values, "SMALL", 4)
    given = [np.float32([[1, 2]]), np.int32(3), np.float32(range(6)), np.float64([4]), np.float32(5)]
    given.append(np.zeros((0, 2), "float32"))
    variables = [tf.Variable(array) for array in given]
    read = ValueReader()
    for array, value in zip(given, read(variables), strict=True):
        assert (value.dtype, value.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(value, array)
    before = read(variables)
    variables[2].assign(-given[2])
    variables[4].assign(7)
    assert read(variables)[2].tolist() == [0, -1, -2, -3, -4, -5]
    assert read(variables)[4] == 7
    assert before[4] == 5


def test_other_variables_are_read_anew():
    read = ValueReader()
    first, second = (keras.Variable(value) for value in (1.0, 2.0))
    assert read([first, second]) == [1.0, 2.0]
    assert read([second, first]) == [2.0, 1.0]
    assert read([second]) == [2.0]
    assert read([]) == []


def test_variable_of_unknown_shape_and_bfloat16():
    grown = tf.Variable([1.0], shape=[None])
    half = keras.Variable([1.5, 2.5], dtype="bfloat16")
    read = ValueReader()
    read([grown, half])
    grown.assign([1.0, 2.0])
    lengths, halves = read([grown, half])
    assert lengths.tolist() == [1.0, 2.0]
    assert (halves.dtype.name, halves.tolist()) == ("bfloat16", [1.5, 2.5])
    assert value_of(half).tolist() == [1.5, 2.5]


def test_weights_and_variables_of_a_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.Dropout(0.5, seed=1)])
    model.set_weights([np.ones((2, 1)), np.zeros(1)])
    assert [value.shape for value in values_of(model)] == [(2, 1), (1,)]
    assert [value.shape for value in values_of(model, "variables")] == [(2, 1), (1,), (2,)]
    model.add(keras.layers.Dense(3))
    assert [value.shape for value in values_of(model)] == [(2, 1), (1,), (1, 3), (3,)]


@pytest.mark.parametrize("variable", [tf.Variable(0.5), keras.Variable(0.5), tf.constant(0.5), np.float32(0.5)])
def test_value_of_a_variable(variable):
    assert (value_of(variable).dtype.name, float(value_of(variable))) == ("float32", 0.5)
