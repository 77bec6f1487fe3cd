"""Steps of a Keras model on several replicas, with the numbers of one device: what tracing them needs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import keras
import tensorflow as tf

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
    """A replica's part of a global batch."""

    first: tf.Tensor
    size: tf.Tensor
    batch: tf.Tensor
    """Examples in the global batch."""

    @property
    def share(self) -> tf.Tensor:
        return tf.cast(self.size, tf.float32) / tf.cast(self.batch, tf.float32)


def same_on_all(model: keras.Model, step: Callable[[], Any]) -> Any:
    """Run a step on the same data on every replica, as one device would.

    Args:
        model: a built and compiled Keras model.
        step: runs on each replica.

    Returns:
        What the first of this process's replicas gives.
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
    """Steps that are traced here take their slices for parts of one batch."""
    strategy = model.distribute_strategy

    def reducing(apply: Any) -> Any:
        def reduced(grads: Any, trainable_variables: Any = None) -> Any:
            context = tf.distribute.get_replica_context()
            share = slices[replica_number()].share
            grads = [None if grad is None else tf.convert_to_tensor(grad) for grad in grads]
            some = [grad * tf.cast(share, grad.dtype) for grad in grads if grad is not None]
            # Those of one type are sent together.
            totals = {
                kind: iter(
                    context.all_reduce(tf.distribute.ReduceOp.SUM, [grad for grad in some if grad.dtype == kind])
                )
                for kind in dict.fromkeys(grad.dtype for grad in some)
            }
            with alone(strategy):
                return apply(
                    [None if grad is None else next(totals[grad.dtype]) for grad in grads], trainable_variables
                )

        return reduced

    draws = {
        name: _drawing(original(gen_stateless_random_ops_v2, name), slices)
        for name in (f"stateless_{kind}_v2" for kind in _DRAWS)
    }
    with ExitStack() as stack:
        # Keras would divide by the number of replicas, whatever examples they have.
        scale_losses = {f"{name}_loss_for_distribution": lambda value: value for name in ("scale", "unscale")}
        stack.enter_context(replaced(loss_module, **scale_losses))
        stack.enter_context(replaced(gen_stateless_random_ops_v2, **draws))
        stack.enter_context(replaced(tensorflow_nn, _compute_moments_sync=partial(_moments, slices)))
        for optimizer in optimizers_of(model):
            # Past __setattr__, which would track the function as part of the optimizer's state.
            attributes = vars(optimizer)
            before = attributes.get("apply")
            attributes["apply"] = reducing(optimizer.apply)
            stack.callback(
                attributes.update if before is not None else attributes.pop,
                *(({"apply": before},) if before is not None else ("apply",)),
            )
        yield


def alone(strategy: tf.distribute.Strategy) -> AbstractContextManager[None]:
    """What an optimizer does here it does on its replica alone; all do the same."""
    scaled = keras.mixed_precision.LossScaleOptimizer
    return all_of(
        replaced(strategy.extended, _use_merge_call=lambda: False),
        replaced(distributed_values, apply_aggregation_replica_context=lambda value, *_: value),
        replaced(TFOptimizer, _all_reduce_sum_gradients=lambda self, pairs: pairs),
        replaced(scaled, _tf_apply=scaled._common_apply),
    )


def _drawing(draw: Any, slices: dict[int, Slice]) -> Any:
    """Random numbers whose first axis is the batch's, as a slice of the global batch's."""

    def sliced(shape: Any, *arguments: Any, **options: Any) -> tf.Tensor:
        if not tf.distribute.get_replica_context():
            return draw(shape, *arguments, **options)
        shape = tf.convert_to_tensor(shape)
        known = tensor_util.constant_value_as_shape(shape)
        if not known.rank or known[0] is not None:
            return draw(shape, *arguments, **options)
        taken = slices[replica_number()]
        # An axis may be examples times something.
        times = shape[0] // tf.maximum(taken.size, 1)
        numbers = draw(tf.concat([[taken.batch * times], shape[1:]], 0), *arguments, **options)
        return numbers[taken.first * times : (taken.first + taken.size) * times]

    return sliced


def _moments(slices: dict[int, Slice], x: tf.Tensor, axes: list[int], keepdims: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance over all replicas' examples; Keras's difference of mean squares would lose digits."""
    share = slices[replica_number()].share
    sizes = tf.reduce_prod(tf.gather(tf.shape(x), axes))
    count = tf.cast(sum_of_replicas(sizes), x.dtype)
    mean = _shared_sum(tf.reduce_sum(x, axes, keepdims=True), share) / count
    squares = tf.math.squared_difference(x, tf.stop_gradient(mean))
    variance = _shared_sum(tf.reduce_sum(squares, axes, keepdims=True), share) / count
    return (mean, variance) if keepdims else (tf.squeeze(mean, axes), tf.squeeze(variance, axes))


def _shared_sum(value: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """A sum over replicas through which gradients flow as weighted as they will be: each by its replica's share."""

    @tf.custom_gradient
    def total(value: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return tf.math.divide_no_nan(
                sum_of_replicas(upstream * tf.cast(share, upstream.dtype)), tf.cast(share, upstream.dtype)
            )

        return sum_of_replicas(value), gradient

    return total(value)


def sum_of_replicas(value: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


def optimizers_of(model: keras.Model) -> list[Any]:
    found = [model.optimizer, *vars(model).values()]
    return list({id(each): each for each in found if isinstance(each, keras.optimizers.Optimizer)}.values())


def replica_number() -> int:
    """The number of the replica that is traced."""
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))
