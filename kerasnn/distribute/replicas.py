"""Tracing the steps of a Keras model on several replicas so that they give the results of one device."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kerasnn.attributes import temporary_attributes
from kerasnn.keras_private import (
    TFOptimizer,
    all_of,
    distributed_values,
    gen_stateless_random_ops_v2,
    loss_module,
    original,
    replaced,
    tensor_util,
    tensorflow_nn,
)

_DRAWS = ("random_uniform", "random_uniform_full_int", "random_uniform_int", "random_normal", "truncated_normal")


class Slice(NamedTuple):
    """The slice of the global batch that a replica trains on."""

    first: tf.Tensor
    size: tf.Tensor
    batch: tf.Tensor
    """Number of examples in the global batch."""

    @property
    def share(self) -> tf.Tensor:
        """Fraction of the global batch."""
        return tf.cast(self.size, tf.float32) / tf.cast(self.batch, tf.float32)


def same_on_all(model: keras.Model, step: Callable[[], Any]) -> Any:
    """Run a step on the same data on every replica, with the result of one device.

    Args:
        model: a built and compiled Keras model.
        step: runs on each replica.

    Returns:
        The result of this process's first replica.
    """
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return strategy.run(step)
    one = tf.constant(1)
    slices = [Slice(one * 0, one, one * strategy.num_replicas_in_sync)] * strategy.num_replicas_in_sync
    with as_one_device(model, dict(enumerate(slices))):
        results = strategy.run(step)
    return tf.nest.map_structure(lambda result: strategy.experimental_local_results(result)[0], results)


@contextmanager
def as_one_device(model: keras.Model, slices: dict[int, Slice]) -> Iterator[None]:
    """Within it, replicas trace steps that treat their slices as one global batch.

    Args:
        model: a built and compiled Keras model.
        slices: the slice of each replica by number; the steps may add them while they are traced.
    """
    strategy = model.distribute_strategy

    def applying_totals(apply: Any) -> Any:
        def apply_totals(grads: Any, trainable_variables: Any = None) -> Any:
            context = tf.distribute.get_replica_context()
            share = slices[replica_number()].share
            grads = [None if grad is None else tf.convert_to_tensor(grad) for grad in grads]
            weighted = [grad * tf.cast(share, grad.dtype) for grad in grads if grad is not None]
            # Gradients of one dtype are sent together.
            totals = {
                dtype: iter(
                    context.all_reduce(tf.distribute.ReduceOp.SUM, [grad for grad in weighted if grad.dtype == dtype])
                )
                for dtype in dict.fromkeys(grad.dtype for grad in weighted)
            }
            with alone(strategy):
                return apply(
                    [None if grad is None else next(totals[grad.dtype]) for grad in grads], trainable_variables
                )

        return apply_totals

    draws = {
        name: _sliced(original(gen_stateless_random_ops_v2, name), slices)
        for name in (f"stateless_{kind}_v2" for kind in _DRAWS)
    }
    with ExitStack() as stack:
        # Keras would divide by the number of replicas, however many examples each of them has.
        scale_losses = {f"{name}_loss_for_distribution": lambda value: value for name in ("scale", "unscale")}
        stack.enter_context(replaced(loss_module, **scale_losses))
        stack.enter_context(replaced(gen_stateless_random_ops_v2, **draws))
        stack.enter_context(replaced(tensorflow_nn, _compute_moments_sync=partial(_moments, slices)))
        for optimizer in optimizers_of(model):
            stack.enter_context(temporary_attributes(optimizer, apply=applying_totals(optimizer.apply)))
        yield


def alone(strategy: tf.distribute.Strategy) -> AbstractContextManager[None]:
    """Within it, an optimizer updates its replica without the others, which make the same update."""
    loss_scale = keras.mixed_precision.LossScaleOptimizer
    return all_of(
        replaced(strategy.extended, _use_merge_call=lambda: False),
        replaced(distributed_values, apply_aggregation_replica_context=lambda value, *_: value),
        without_all_reduce(),
        replaced(loss_scale, _tf_apply=loss_scale._common_apply),
    )


def without_all_reduce() -> AbstractContextManager[None]:
    """Within it, optimizers take gradients as they are.

    On one device that changes nothing but memory: TensorFlow keeps every graph in which `all_reduce` was traced.
    """
    return replaced(TFOptimizer, _all_reduce_sum_gradients=lambda self, pairs: pairs)


def _sliced(draw: Any, slices: dict[int, Slice]) -> Any:
    """A function that draws random numbers for the global batch, if the first axis is the batch, and slices them."""

    def draw_slice(shape: Any, *arguments: Any, **options: Any) -> tf.Tensor:
        if not tf.distribute.get_replica_context():
            return draw(shape, *arguments, **options)
        shape = tf.convert_to_tensor(shape)
        known = tensor_util.constant_value_as_shape(shape)
        if not known.rank or known[0] is not None:
            return draw(shape, *arguments, **options)
        part = slices[replica_number()]
        # The axis may hold several rows per example.
        rows = shape[0] // tf.maximum(part.size, 1)
        numbers = draw(tf.concat([[part.batch * rows], shape[1:]], 0), *arguments, **options)
        return numbers[part.first * rows : (part.first + part.size) * rows]

    return draw_slice


def _moments(slices: dict[int, Slice], x: tf.Tensor, axes: list[int], keepdims: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance over the examples of all replicas. Keras subtracts squares, which loses digits."""
    share = slices[replica_number()].share
    sizes = tf.reduce_prod(tf.gather(tf.shape(x), axes))
    count = tf.cast(sum_of_replicas(sizes), x.dtype)
    mean = _shared_sum(tf.reduce_sum(x, axes, keepdims=True), share) / count
    squares = tf.math.squared_difference(x, tf.stop_gradient(mean))
    variance = _shared_sum(tf.reduce_sum(squares, axes, keepdims=True), share) / count
    return (mean, variance) if keepdims else (tf.squeeze(mean, axes), tf.squeeze(variance, axes))


def _shared_sum(value: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """The sum over replicas, with a gradient that allows for the later weighting by each replica's share."""

    @tf.custom_gradient
    def total(value: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return tf.math.divide_no_nan(
                sum_of_replicas(upstream * tf.cast(share, upstream.dtype)), tf.cast(share, upstream.dtype)
            )

        return sum_of_replicas(value), gradient

    return total(value)


def sum_of_replicas(value: tf.Tensor) -> tf.Tensor:
    """The sum over all replicas; call it within a replica."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


def optimizers_of(model: keras.Model) -> list[Any]:
    """The optimizers that are attributes of a model, each once."""
    values = [model.optimizer, *vars(model).values()]
    return list({id(value): value for value in values if isinstance(value, keras.optimizers.Optimizer)}.values())


def replica_number() -> int:
    """The number of the replica that is being traced."""
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))
