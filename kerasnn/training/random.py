"""Random numbers within XLA as outside of it."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import tensorflow as tf
from tensorflow.python.ops import gen_stateless_random_ops_v2, random_ops_util

_LAYOUT = {tf.float32: (tf.uint32, 23, 127), tf.float16: (tf.uint16, 10, 15), tf.bfloat16: (tf.uint16, 7, 127)}
"""Bits of that size, of the mantissa, and the exponent's bias."""


@contextmanager
def same_numbers() -> Iterator[None]:
    """What is traced here draws, under XLA, the numbers that TensorFlow's own kernels draw from the same seeds.

    XLA takes another algorithm than the kernels unless told which, and makes other floats of the same bits. So that
    dropout and noise drop and add the same in a compiled epoch, uniform and normal numbers are made of Philox's bits.

    Reference: TensorFlow's `core/lib/random/random_distributions.h`: `Uint32ToFloat`, `BoxMullerFloat`.
    """
    with ExitStack() as stack:
        for module, name, make in (
            (random_ops_util, "get_key_counter_alg", _philox),
            (gen_stateless_random_ops_v2, "stateless_random_uniform_v2", _uniform),
            (gen_stateless_random_ops_v2, "stateless_random_normal_v2", _normal),
        ):
            stack.enter_context(mock.patch.object(module, name, make(getattr(module, name))))
        yield


def _philox(original: Any) -> Any:
    auto = (None, "auto_select", tf.random.Algorithm.AUTO_SELECT, tf.random.Algorithm.AUTO_SELECT.value)
    return lambda seed, alg: original(seed, tf.random.Algorithm.PHILOX if alg in auto else alg)


def _uniform(original: Any) -> Any:
    def uniform(shape: Any, key: Any, counter: Any, alg: Any, dtype: Any = tf.float32, name: str | None = None) -> Any:
        dtype = tf.as_dtype(dtype)
        if alg != tf.random.Algorithm.PHILOX.value or dtype not in _LAYOUT:
            return original(shape, key, counter, alg, dtype, name)
        return _floats(_bits(shape, key, counter, alg), dtype)

    return uniform


def _normal(original: Any) -> Any:
    def normal(shape: Any, key: Any, counter: Any, alg: Any, dtype: Any = tf.float32, name: str | None = None) -> Any:
        dtype = tf.as_dtype(dtype)
        if alg != tf.random.Algorithm.PHILOX.value or dtype not in _LAYOUT:
            return original(shape, key, counter, alg, dtype, name)
        # Numbers are made in pairs, by Box and Muller.
        count = tf.reduce_prod(shape)
        bits = tf.reshape(_bits([2 * ((count + 1) // 2)], key, counter, alg), (-1, 2))
        uniform = _floats(bits, tf.float32)
        radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(uniform[:, 0], 1e-7)))
        angle = 2 * math.pi * uniform[:, 1]
        pairs = tf.stack([tf.sin(angle) * radius, tf.cos(angle) * radius], axis=1)
        return tf.cast(tf.reshape(tf.reshape(pairs, (-1,))[:count], shape), dtype)

    return normal


def _bits(shape: Any, key: Any, counter: Any, alg: Any) -> tf.Tensor:
    return gen_stateless_random_ops_v2.stateless_random_uniform_full_int_v2(shape, key, counter, alg, tf.uint32)


def _floats(bits: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Floats in [0, 1) whose mantissa is the bits' lowest part."""
    size, mantissa, bias = _LAYOUT[dtype]
    one = tf.constant(bias << mantissa, size)
    low = tf.bitwise.bitwise_and(tf.cast(bits, size), tf.constant((1 << mantissa) - 1, size))
    return tf.bitcast(tf.bitwise.bitwise_or(low, one), dtype) - tf.constant(1, dtype)
