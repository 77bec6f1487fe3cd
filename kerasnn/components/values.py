"""The values of many variables, read at once."""

import operator
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from kerasnn.attributes import kept_with

SMALL = 2**14
"""Entries up to which a variable is read together with others in one array."""
_TOGETHER = (tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.int32, tf.int64, tf.uint32, tf.uint64, tf.bool)


class ValueReader:
    """Reads variables in one graph, the small ones of a type as one array: a tenth of the time of one after the other.

    The graph is made anew where other variables are asked for.
    """

    def __init__(self) -> None:
        self._variables: list[Any] = []
        self._run: Any = None
        self._parts: list[list[tuple[int, slice, tuple[int, ...]]]] = []
        """For each array that the graph gives: the position of each variable in it, its entries and its shape."""
        self._alone: list[int] = []
        """Positions of the variables that the graph gives after those arrays."""

    def __call__(self, variables: Sequence[Any]) -> list[np.ndarray]:
        """The values of variables.

        Args:
            variables: Keras's or TensorFlow's variables.

        Returns:
            Arrays of their own, in the variables' order.
        """
        if len(variables) != len(self._variables) or any(map(operator.is_not, variables, self._variables)):
            self._trace(list(variables))
        if self._run is None:
            return [np.array(underlying(variable).numpy()) for variable in variables]
        tensors = [np.asarray(tensor.numpy()) for tensor in self._run()]
        values: list[Any] = [None] * len(variables)
        for array, parts in zip(tensors, self._parts, strict=False):
            for position, entries, shape in parts:
                values[position] = array[entries].reshape(shape)
        for position, array in zip(self._alone, tensors[len(self._parts) :], strict=True):
            values[position] = array
        return values

    def _trace(self, variables: list[Any]) -> None:
        self._variables, self._run, self._parts, self._alone = variables, None, [], []
        raw = [underlying(variable) for variable in variables]
        if any(isinstance(variable, tf.distribute.DistributedValues) for variable in raw):
            return
        by_dtype: dict[tf.DType, list[int]] = {}
        for position, variable in enumerate(raw):
            dtype = variable.dtype.base_dtype
            small = variable.shape.is_fully_defined() and variable.shape.num_elements() <= SMALL
            together = small and dtype in _TOGETHER
            (by_dtype.setdefault(dtype, []) if together else self._alone).append(position)
        for positions in by_dtype.values():
            ends = np.cumsum([raw[position].shape.num_elements() for position in positions]).tolist()
            entries = map(slice, [0, *ends], ends)
            shapes = [tuple(raw[position].shape) for position in positions]
            self._parts.append(list(zip(positions, entries, shapes, strict=True)))

        def read() -> list[tf.Tensor]:
            joined = [[tf.reshape(raw[position], [-1]) for position in positions] for positions in by_dtype.values()]
            return [tf.concat(parts, 0) for parts in joined] + [tf.identity(raw[position]) for position in self._alone]

        self._run = tf.function(read, autograph=False).get_concrete_function()


def values_of(model: keras.Model, kind: Literal["weights", "variables"] = "weights") -> list[np.ndarray]:
    """The values of a model's weights or variables, by a reader that the model keeps for the next time.

    Args:
        model: any Keras model.
        kind: the name of Keras's list of them.
    """
    reader: ValueReader = kept_with(model).setdefault(f"read {kind}", ValueReader())
    return reader(getattr(model, kind))


def underlying(variable: Any) -> Any:
    """The TensorFlow variable behind a Keras variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def value_of(variable: Any) -> np.ndarray:
    """The value of one variable, in a fifth of the time of `numpy()`; of anything else, what Keras converts it to.

    Args:
        variable: Keras's or TensorFlow's variable.

    >>> value_of(keras.Variable([0.5, 1.5])).tolist()
    [0.5, 1.5]
    """
    raw = underlying(variable)
    if not isinstance(raw, tf.Variable) or isinstance(raw, tf.distribute.DistributedValues):
        return np.asarray(keras.ops.convert_to_numpy(variable))
    return np.asarray(tf.raw_ops.ReadVariableOp(resource=raw.handle, dtype=raw.dtype).numpy())
