"""Random numbers that are the same under XLA as without it."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from kerasnn.keras_private import (
    all_of,
    gen_stateless_random_ops_v2,
    original,
    pfor,
    random_ops_util,
    replaced,
    vectorized_by,
)

_PHILOX = tf.random.Algorithm.PHILOX.value
_LAYOUT = {tf.float32: (tf.uint32, 23, 127), tf.float16: (tf.uint16, 10, 15), tf.bfloat16: (tf.uint16, 7, 127)}
"""By type: the unsigned type of the same size, the mantissa's bits, and the exponent's bias."""


def same_numbers() -> AbstractContextManager[None]:
    """While this context traces, random operations give under XLA what TensorFlow's kernels give for the same seeds.

    By default XLA uses another algorithm than the kernels, and turns the same random bits into other floats. Here
    uniform and normal numbers are computed from Philox's bits as the kernels do, so that dropout and noise are the same
    in a compiled epoch as in plain Keras.

    Reference: TensorFlow's `core/lib/random/random_distributions.h`: `Uint32ToFloat`, `BoxMullerFloat`.
    """
    ops = gen_stateless_random_ops_v2
    return all_of(
        replaced(random_ops_util, get_key_counter_alg=_philox(original(random_ops_util, "get_key_counter_alg"))),
        replaced(
            ops,
            stateless_random_uniform_v2=_uniform(original(ops, "stateless_random_uniform_v2")),
            stateless_random_normal_v2=_normal(original(ops, "stateless_random_normal_v2")),
        ),
    )


def same_numbers_of_members() -> AbstractContextManager[None]:
    """As `same_numbers`, for functions that `tf.vectorized_map` runs for many members.

    `tf.vectorized_map` has no converter for random operations and would loop over the members, which takes ten times as
    long as Philox in vectorized arithmetic.
    """
    return all_of(
        same_numbers(),
        vectorized_by({"StatelessRandomUniformFullIntV2": _bits_of_members, "Bitcast": _bitcast_of_members}),
    )


def _philox(make: Any) -> Any:
    ours, number_of = (tf.random.Algorithm.AUTO_SELECT.value, _PHILOX), random_ops_util.convert_alg_to_int
    return lambda seed, alg: (
        (*_key_counter(seed), _PHILOX) if alg is None or number_of(alg) in ours else make(seed, alg)
    )


def _key_counter(seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The key `(1,)` and counter `(2,)` that TensorFlow derives from a seed, in a tenth of its operations.

    Reference: TensorFlow's `random_ops_util._philox_scramble_seed`, which defines the constant.
    """
    scrambled = _bits([2, 2], tf.constant([0x02461E293EC8F720], tf.uint64), tf.cast(seed, tf.uint64), _PHILOX)
    words = tf.bitcast(scrambled, tf.uint64)
    return words[:1], words * tf.constant([0, 1], tf.uint64)


def _uniform(draw: Any) -> Any:
    def uniform(shape: Any, key: Any, counter: Any, alg: Any, dtype: Any = tf.float32, name: str | None = None) -> Any:
        dtype = tf.as_dtype(dtype)
        if alg != _PHILOX or dtype not in _LAYOUT:
            return draw(shape, key, counter, alg, dtype, name)
        return _floats(_bits(shape, key, counter, alg), dtype)

    return uniform


def _normal(draw: Any) -> Any:
    def normal(shape: Any, key: Any, counter: Any, alg: Any, dtype: Any = tf.float32, name: str | None = None) -> Any:
        dtype = tf.as_dtype(dtype)
        if alg != _PHILOX or dtype not in _LAYOUT:
            return draw(shape, key, counter, alg, dtype, name)
        # The Box–Muller transform makes numbers in pairs.
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
    """Floats in [0, 1) whose mantissa is taken from the lowest bits."""
    size, mantissa, bias = _LAYOUT[dtype]
    one = tf.constant(bias << mantissa, size)
    low = tf.bitwise.bitwise_and(tf.cast(bits, size), tf.constant((1 << mantissa) - 1, size))
    return tf.bitcast(tf.bitwise.bitwise_or(low, one), dtype) - tf.constant(1, dtype)


def _bits_of_members(operation: Any) -> Any:
    """Philox's 32-bit numbers, four for each counter value, for keys `(members, 1)` and counters `(members, 2)`."""
    shape = operation.unstacked_input(0)
    keys, counters = (value if stacked else value[tf.newaxis] for value, stacked, _ in map(operation.input, (1, 2)))
    flat = _philox_numbers(keys, counters, tf.reduce_prod(shape))
    return pfor.wrap(tf.reshape(flat, tf.concat([tf.shape(flat)[:1], shape], 0)), True)


@tf.function(
    input_signature=[
        tf.TensorSpec((None, 1), tf.uint64),
        tf.TensorSpec((None, 2), tf.uint64),
        tf.TensorSpec((), tf.int32),
    ],
    autograph=False,
)
def _philox_numbers(keys: tf.Tensor, counters: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """`count` numbers for each key, `(keys, count)`; a separate function, so that it is traced once for all draws."""
    blocks = tf.cast(tf.range((count + 3) // 4), tf.uint64)
    first = _halves(counters[:, :1] + blocks)
    second = [tf.zeros_like(first[0]) + half for half in _halves(counters[:, 1:])]
    # Word by word, and transposed at the end: XLA computes contiguous pieces four times as fast.
    words = _philox_rounds(tf.stack([*first, *second]), _halves(keys))
    numbers = tf.transpose(words, (1, 2, 0))
    return tf.reshape(numbers, [tf.shape(words)[1], -1])[:, :count]


def _bitcast_of_members(operation: Any) -> Any:
    return pfor.wrap(tf.bitcast(operation.stacked_input(0), operation.get_attr("type")), True)


def _philox_rounds(counter: tf.Tensor, key: Sequence[tf.Tensor]) -> tf.Tensor:
    """Ten rounds of Philox 4x32 on the four words of a counter, `(4, ...)`, with the two words of a key, all uint32.

    Reference: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
    """
    xor = tf.bitwise.bitwise_xor

    def two_rounds(done: tf.Tensor, words: tf.Tensor) -> Any:
        first, second, third, fourth = tf.unstack(words)
        for number in (done, done + 1):
            steps = (0x9E3779B9, 0xBB67AE85)
            keys = [word + number * tf.constant(step, tf.uint32) for word, step in zip(key, steps, strict=True)]
            low_0, high_0 = _halves(tf.cast(first, tf.uint64) * tf.constant(0xD2511F53, tf.uint64))
            low_1, high_1 = _halves(tf.cast(third, tf.uint64) * tf.constant(0xCD9E8D57, tf.uint64))
            first, second = xor(xor(high_1, second), keys[0]), low_1
            third, fourth = xor(xor(high_0, fourth), keys[1]), low_0
        return done + 2, tf.stack([first, second, third, fourth])

    # A loop: unrolled, XLA would compile and compute all ten rounds separately for each of the four words.
    return tf.while_loop(lambda done, _: done < 10, two_rounds, (tf.constant(0, tf.uint32), counter))[1]


def _halves(wide: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The low and the high 32 bits."""
    return tf.cast(wide, tf.uint32), tf.cast(tf.bitwise.right_shift(wide, tf.constant(32, tf.uint64)), tf.uint32)
