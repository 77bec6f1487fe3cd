"""How a training step is traced so that `tf.vectorized_map` can run it for many members."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras
import tensorflow as tf

from kerasnn.engine.random_numbers import same_numbers_of_members
from kerasnn.keras_private import (
    TFOptimizer,
    all_of,
    backend_random,
    base_optimizer,
    draw_seed,
    gen_nn_ops,
    get_stateless_scope,
    original,
    replaced,
    tensorflow_random,
)

_VALUE_METHODS = (
    "assign",
    "assign_add",
    "assign_sub",
    "_apply_weight_decay",
    "_backend_update_step",
    "_backend_increment_gradient_accumulators",
    "_overwrite_model_variables_with_average_value",
)

ONEDNN_AXES = 5
"""Axes that oneDNN's softmax takes at most."""


def for_members() -> AbstractContextManager[None]:
    """Within it, functions of a model are traced on values instead of variables, so that they run for many members.

    Dropout, penalties and conditions take numbers that differ by member. Optimizers and `tf.GradientTape` work on the
    values that `keras.StatelessScope` holds.
    """
    return all_of(
        same_numbers_of_members(),
        without_distribution(),
        replaced(base_optimizer.ops, cond=_cond(original(base_optimizer.ops, "cond"))),
        replaced(base_optimizer.ops, **{name: _of_dense(original(base_optimizer.ops, name)) for name in _BINARY}),
        replaced(backend_random, dropout=_dropout),
        replaced(gen_nn_ops, softmax=_softmax),
        *(replaced(kind, __call__=_penalty) for kind in _PENALTIES),
        _tapes_of_values(),
        _quiet(),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the conversion's remarks for its developers; what cannot be converted is raised too."""
    logger = logging.getLogger("tensorflow")

    def is_for_users(record: logging.LogRecord) -> bool:
        return record.module != "pfor"

    logger.addFilter(is_for_users)
    try:
        yield
    finally:
        logger.removeFilter(is_for_users)


def without_distribution() -> AbstractContextManager[Any]:
    """Optimizers without the tf.distribute methods of the TensorFlow backend: they work on values, not on variables."""
    methods = {name: vars(base_optimizer.BaseOptimizer)[name] for name in _VALUE_METHODS}
    return replaced(TFOptimizer, _var_key=_key_of, **methods)


def _key_of(optimizer: Any, variable: keras.Variable) -> Any:
    """What the optimizer, built outside of a scope, calls a variable: not its value's name."""
    return variable._value._unique_id


def _tapes_of_values() -> AbstractContextManager[None]:
    """Gradient tapes that watch the values of trainable variables, and take variables for their values."""
    tape_class = tf.GradientTape
    enter, gradient, watch = (original(tape_class, name) for name in ("__enter__", "gradient", "watch"))

    def entered(tape: Any) -> Any:
        enter(tape)
        scope = get_stateless_scope()
        if scope is not None and getattr(tape, "_watch_accessed_variables", True):
            # The values at this moment are those that the step uses; the optimizer assigns others later.
            values = list(scope.state_mapping.values())
            watch(tape, [value for value in values if value.dtype.is_floating])
            vars(tape)["_kerasnn_values"] = dict(scope.state_mapping)
        return tape

    def values_of(tape: Any, structure: Any) -> Any:
        values = vars(tape).setdefault("_kerasnn_values", {})
        scope = get_stateless_scope()

        def value(part: Any) -> Any:
            if not isinstance(part, keras.Variable) or scope is None:
                return part
            return values.setdefault(id(part), scope.get_current_value(part))

        return tf.nest.map_structure(value, structure)

    def gradient_of_values(tape: Any, target: Any, sources: Any, *arguments: Any, **options: Any) -> Any:
        return gradient(tape, target, values_of(tape, sources), *arguments, **options)

    def watch_values(tape: Any, tensor: Any) -> None:
        watch(tape, values_of(tape, tensor))

    return replaced(tape_class, __enter__=entered, gradient=gradient_of_values, watch=watch_values)


_BINARY = ("add", "subtract", "multiply", "divide", "true_divide", "maximum", "minimum", "power")


def _of_dense(operation: Any) -> Any:
    """An operation of two numbers or tensors that makes slices dense first: its result has the same values.

    Keras's own looks for the rows that two gradients have in common, whose number differs by member. Operations of one
    tensor keep slices, because Keras squares each slice of a row that occurs twice for itself.
    """

    def dense(part: Any) -> Any:
        return tf.convert_to_tensor(part) if isinstance(part, tf.IndexedSlices) else part

    return lambda left, right: operation(dense(left), dense(right))


def _cond(cond: Any) -> Any:
    """`ops.cond` for conditions that differ by member: of functions that only assign, both run and one is selected."""

    def select(condition: Any, true_function: Any, false_function: Any) -> Any:
        scope = get_stateless_scope()
        if scope is None:
            return cond(condition, true_function, false_function)
        if_true, if_false = (keras.StatelessScope(collect_losses=scope.collect_losses) for _ in range(2))
        results = []
        for inner, function in ((if_true, true_function), (if_false, false_function)):
            inner.state_mapping.update(scope.state_mapping)
            with inner:
                results.append(function())
        if any(part is not None for part in tf.nest.flatten(results)):
            # Where a value depends on it, the branch not taken must not reach the gradient: its NaN would.
            return cond(condition, true_function, false_function)
        for variable, value in if_false.state_mapping.items():
            other = if_true.state_mapping[variable]
            scope.state_mapping[variable] = value if other is value else tf.where(condition, other, value)
        return None

    return select


def _dropout(inputs: Any, rate: Any, noise_shape: Any = None, seed: Any = None) -> Any:
    """Keras's dropout for a rate that differs by member; at a rate of 0 no number is drawn."""
    state = getattr(seed, "state", None)
    before = None if state is None else state.value
    rate = tf.convert_to_tensor(rate)
    output = tf.nn.experimental.stateless_dropout(
        inputs,
        rate,
        tensorflow_random._cast_seed(draw_seed(seed)),
        noise_shape=tensorflow_random._get_concrete_noise_shape(inputs, noise_shape),
    )
    if state is not None:
        state.assign(tf.where(rate > 0, state.value, before))
    return output


def _softmax(logits: Any, name: str | None = None) -> Any:
    """TensorFlow's softmax over the last axis, of the other axes as one: the members' axis makes one more."""
    softmax, logits = original(gen_nn_ops, "softmax"), tf.convert_to_tensor(logits)
    if logits.shape.rank is None or logits.shape.rank < ONEDNN_AXES:
        return softmax(logits, name)
    shape = tf.shape(logits)
    return tf.ensure_shape(tf.reshape(softmax(tf.reshape(logits, (-1, shape[-1])), name), shape), logits.shape)


_PENALTIES = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


def _penalty(regularizer: Any, x: Any) -> Any:
    """Keras's L1 and L2 penalty."""
    weights = tf.convert_to_tensor(x)
    penalty = tf.zeros((), weights.dtype)
    if factor := getattr(regularizer, "l1", 0):
        penalty += tf.cast(tf.convert_to_tensor(factor), weights.dtype) * _sum(tf.abs(weights))
    if factor := getattr(regularizer, "l2", 0):
        penalty += tf.cast(tf.convert_to_tensor(factor), weights.dtype) * _sum(tf.square(weights))
    return penalty


def _sum(values: Any) -> Any:
    """The sum of all values, as a matrix product: on a CPU, XLA computes a plain sum one value at a time."""
    if values.shape.rank == 0:
        return values
    rows = tf.reshape(values, (-1, values.shape[-1]))
    return tf.reduce_sum(tf.linalg.matvec(rows, tf.ones(rows.shape[-1], values.dtype)))
