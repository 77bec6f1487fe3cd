"""Training on several replicas, in one process or several, with the results of one device."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.config.schema import short
from kerasnn.distribute import processes
from kerasnn.distribute.devices import over_processes, watching_peers
from kerasnn.distribute.replicas import Slice, alone, as_one_device, optimizers_of, replica_number, sum_of_replicas
from kerasnn.engine.batches import Batches
from kerasnn.engine.examples import Pass, Passes, ResidentExamples, Steps, StreamedExamples, each
from kerasnn.engine.steps import Blocks, logs_are_metrics, of_unknown_size, zeros_like_logs
from kerasnn.keras_private import can_convert_arrays
from kerasnn.signals import error_of


class ReplicaProgram:
    """A model's `train_step` or `test_step` in a loop, as one TensorFlow graph on all replicas of its strategy.

    Each replica takes a contiguous slice of the global batch, which may be empty. Gradients are summed over the
    replicas, weighted by the replica's fraction of the batch. The optimizer then runs on every replica as on one
    device, and clips, accumulates and averages the summed gradients. Random numbers that belong to examples, such as
    dropout masks, are slices of those of the global batch. Metrics are summed when they are read.

    Args:
        model: a built and compiled Keras model of a strategy's scope.
        step: "train_step" or "test_step".
        momentum: variable that holds the optimizer's momentum, where it changes at every update.

    Attributes:
        traces: number of times that the program was traced.

    Reference: `tf.distribute.Strategy.run`, `tf.distribute.ReplicaContext.all_reduce`.
    """

    def __init__(self, model: keras.Model, step: str, momentum: keras.Variable | None = None) -> None:
        # The model owns its programs, so a program must not own the model.
        self._model = weakref.ref(model)
        self._step = step
        self._momentum = momentum
        self.traces = 0
        # TensorFlow warns when one function is traced often; a partial is a function of its own for each model.
        self._run = tf.function(partial(self._loop), autograph=False)

    def with_momentum(self, momentum: keras.Variable) -> "ReplicaProgram":
        """The same program, which also sets the optimizer's momentum at every update."""
        model = self._model()
        assert model is not None
        return ReplicaProgram(model, self._step, momentum)

    @property
    def functions(self) -> list[Any]:
        """What TensorFlow has traced or will trace."""
        return [self._run]

    def __call__(
        self, steps: Steps, update: int = 0, rates: tf.Tensor | None = None, momenta: tf.Tensor | None = None
    ) -> Any:
        """Run steps, as `Program` does."""
        span = tf.constant([steps.row, steps.batches, steps.batch_size, update], tf.int32)
        return self._run(steps.data, steps.order, span, rates, momenta)

    def begin(self, steps: Steps, rates: tf.Tensor | None = None) -> None:
        """Nothing: it is traced when it first runs, as in plain Keras."""

    def _loop(
        self,
        data: Any,
        order: tf.Tensor | None,
        span: tf.Tensor,
        rates: tf.Tensor | None,
        momenta: tf.Tensor | None,
    ) -> Any:
        self.traces += 1
        model = self._model()
        assert model is not None
        strategy = model.distribute_strategy
        row, count, batch_size, first_update = tf.unstack(span)
        step = getattr(model, self._step)
        own_logs = not logs_are_metrics(model, self._step)

        def shared_step(batch: Any, row: tf.Tensor) -> Any:
            """One step on all replicas."""
            slices: dict[int, Slice] = {}

            def replica(data: Any, order: tf.Tensor | None, batch: Any) -> Any:
                taken = _slice(batch_size if batch is None else _size(batch))
                slices[replica_number()] = taken
                if batch is None:
                    arrays = each(lambda array: _rows(array, order, row + taken.first, taken.size), data)
                else:
                    # Batches of tf.data are on the host.
                    with tf.device("CPU:0"):
                        arrays = each(lambda array: array[taken.first : taken.first + taken.size], batch)
                logs = step(each(of_unknown_size, arrays))
                return _weighted_sum(logs, taken.share) if own_logs else {}

            with as_one_device(model, slices):
                logs = strategy.run(replica, args=(None if batch is not None else data, order, batch))
            return tf.nest.map_structure(lambda log: strategy.experimental_local_results(log)[0], logs)

        def batch() -> Any:
            if not isinstance(data, tf.data.Iterator):
                return None
            with tf.device("CPU:0"):
                return data.get_next()

        def body(done: tf.Tensor, logs: Any) -> tuple[tf.Tensor, Any]:
            if rates is not None:
                model.optimizer.learning_rate.assign(rates[first_update + done])
            if self._momentum is not None and momenta is not None:
                self._momentum.assign(momenta[first_update + done])
            return done + 1, shared_step(batch(), row + done * batch_size)

        with strategy.scope():
            empty = zeros_like_logs(lambda: shared_step(batch(), row)) if own_logs else {}
            _, logs = tf.while_loop(lambda done, _: done < count, body, (tf.constant(0), empty))
            if self._step == "train_step":
                _average(model, strategy)
            results = model.get_metrics_result()
            # Logs that are metrics have results over all replicas.
            return {name: results.get(name, log) for name, log in logs.items()} if own_logs else results


class ReplicaBlocks(Blocks):
    """Blocks on replicas; the processes agree on their length and on stopping.

    Args:
        program: runs them.
        length: steps in a block; None chooses a length by time.
        strategy: the strategy of the replicas.
        stops: whether all processes stop between blocks after a signal to one of them.
    """

    def __init__(self, program: Any, length: int | None, strategy: tf.distribute.Strategy, stops: bool = False) -> None:
        super().__init__(program, length)
        self._stops = stops
        self._over_processes = over_processes(strategy)
        self._total = tf.function(
            lambda values: strategy.experimental_local_results(strategy.run(sum_of_replicas, args=(values,)))[0],
            autograph=False,
        )
        self._replicas = strategy.num_replicas_in_sync

    def _agreed(self, seconds: float) -> float:
        if not self._over_processes:
            return seconds
        # The others would wait for ever for a process with blocks of another length, or that stopped alone.
        stop = processes.stop_signal() if self._stops else 0
        seconds, stops = self._total(tf.constant([seconds, stop], tf.float64)).numpy()
        if stops:
            raise error_of(stop) if stop else KeyboardInterrupt("another process received a signal to stop")
        return float(seconds / self._replicas)


@contextmanager
def stopping_together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Within this context all processes stop after a signal to one of them, or when one is lost.

    Raises:
        ConnectionError: another process is gone.
        KeyboardInterrupt: a process received a signal to stop.
    """
    with watching_peers(strategy), processes.signals_stop_all() if over_processes(strategy) else nullcontext():
        yield


class _ArrayPass(Pass):
    """A pass whose single batches come from the host."""

    def __next__(self) -> Any:
        examples = self.examples
        if examples.steps_left(self.step) == 0:
            raise StopIteration
        first = self.step * examples.batch_size
        self.step += 1
        rows = np.arange(first, min(first + examples.batch_size, examples.size))
        if examples.order is not None:
            rows = examples.order(examples.epoch)[rows]
        return each(lambda array: tf.gather(array, rows), examples.arrays)


class _Shared(ResidentExamples):
    """Examples that Keras iterates over directly, under any strategy."""

    def get_tf_dataset(self) -> Passes:
        return Passes(partial(_ArrayPass, self))

    def empty_steps(self) -> list[Steps]:
        return []


class SharedResidentExamples(_Shared):
    """Examples that lie as a whole on the device of every replica."""

    def __init__(self, *arrays: Any, strategy: tf.distribute.Strategy, **options: Any) -> None:
        super().__init__(*arrays, **options)
        self.data = each(partial(_on_every_device, strategy), self.data)


class SharedStreamedExamples(_Shared, StreamedExamples):
    """Examples that reach the devices in chunks of whole batches."""

    def __init__(self, *arrays: Any, strategy: tf.distribute.Strategy, **options: Any) -> None:
        super().__init__(*arrays, **options)


class SharedBatches(Batches):
    """Batches of tf.data, or of anything else that Keras has an adapter for, each shared by the replicas.

    Every process reads all batches and takes its slice of each, so the order must be the same in all of them: a dataset
    that shuffles needs a seed.

    Args:
        source: any `x` of `keras.Model.fit` except arrays.
        steps: steps in an epoch, or None.
        options: as of `Batches`.

    Raises:
        ValueError: the number of batches is unknown and no number of steps is given.
    """

    def __init__(self, source: Any, steps: int | None = None, **options: Any) -> None:
        super().__init__(source, steps=steps, **options)
        if self.num_batches is None and steps is None:
            raise ValueError(
                "data of unknown length needs steps_per_epoch (validation_steps) where replicas share the steps; "
                f"received {short(type(source).__name__)}"
            )

    def get_tf_dataset(self) -> Passes:
        return Passes(lambda: _BatchPass(iter(self.dataset), self.num_batches))


class _BatchPass:
    """One pass over batches of tf.data."""

    def __init__(self, iterator: tf.data.Iterator, batches: int | None) -> None:
        self._iterator = iterator
        self.steps_left = batches or 2**31 - 1

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.steps_left -= 1
        return next(self._iterator)

    def take(self, count: int) -> list[Steps]:
        """The next steps."""
        if self.steps_left == 0:
            raise StopIteration
        self.steps_left -= count
        return [Steps(self._iterator, None, 0, count, 0, True)]


def shared_examples(
    strategy: tf.distribute.Strategy, resident: bool, x: Any, y: Any = None, sample_weight: Any = None, **options: Any
) -> Any:
    """The examples of training or evaluation, for the replicas of a strategy.

    Args:
        strategy: the strategy of the replicas.
        resident: whether arrays are copied to every device as a whole.
        x, y, sample_weight: as in `keras.Model.fit`.
        options: as of `Examples`.
    """
    if not can_convert_arrays((x, y, sample_weight)):
        options.pop("order", None)
        return SharedBatches(x, y=y, sample_weight=sample_weight, **options)
    return (SharedResidentExamples if resident else SharedStreamedExamples)(
        x, y, sample_weight, strategy=strategy, **options
    )


def obstacle(model: keras.Model) -> str | None:
    """Why a model cannot be trained on replicas with the results of one device, or None."""
    strategy = model.distribute_strategy
    if model.run_eagerly or tf.config.functions_run_eagerly():
        return "the model runs eagerly"
    if model.jit_compile is True:
        return "jit_compile=True does not go with several replicas"
    for optimizer in optimizers_of(model):
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if inner._distribution_strategy is not strategy:
            return "the model must be compiled within the scope of the strategy that it was built in"
    for loss in keras.tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if reduction not in ("sum_over_batch_size", "mean"):
            return f"a loss must be the mean over examples to be shared by replicas; its reduction is {reduction!r}"
    return None


def check_batch_sizes(model: keras.Model, sizes: list[int]) -> None:
    """Refuse batches that leave a replica without examples, where replicas normalize by their own examples.

    Raises:
        ValueError: there are such.
    """
    replicas = model.distribute_strategy.num_replicas_in_sync
    if sizes and min(sizes) < replicas and _normalizations(model):
        raise ValueError(
            f"batch normalization per replica needs an example for each of {replicas} replicas, received a batch of "
            f"{min(sizes)}: choose another batch_size, or BatchNormalization(synchronized=True)"
        )


def predictor(model: keras.Model) -> Any:
    """A `predict_function` on replicas: takes a list of one global batch and returns its outputs in order."""
    strategy = model.distribute_strategy

    def replica(batch: Any) -> Any:
        taken = _slice(_size(batch))
        with tf.device("CPU:0"):
            arrays = each(lambda array: array[taken.first : taken.first + taken.size], batch)
        return model.predict_step(arrays)

    @tf.function(autograph=False, reduce_retracing=True)
    def predict(batch: Any) -> Any:
        outputs = strategy.run(replica, args=(batch,))
        return tf.nest.map_structure(lambda output: strategy.gather(output, axis=0), outputs)

    return lambda batches: predict(batches[0])


def _average(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Average the moving statistics of batch normalization that is not synchronized over the replicas."""
    statistics = [
        variable for layer in _normalizations(model) for variable in layer.non_trainable_variables if layer.trainable
    ]
    if not statistics:
        return

    def replica() -> None:
        means = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.MEAN, [tf.convert_to_tensor(variable.value) for variable in statistics]
        )
        with alone(strategy):
            for variable, mean in zip(statistics, means, strict=True):
                variable.assign(mean)

    strategy.run(replica)


def _normalizations(model: keras.Model) -> list[keras.layers.Layer]:
    """Layers that normalize by the examples of a single replica."""
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
    ]


def _on_every_device(strategy: tf.distribute.Strategy, array: Any) -> Any:
    """A copy of an array on every device of this process."""
    devices = iter(strategy.extended.worker_devices)

    def copy(_: Any) -> tf.Tensor:
        with tf.device(next(devices)):
            return tf.identity(array)

    return strategy.experimental_distribute_values_from_function(copy)


def _slice(batch: tf.Tensor) -> Slice:
    """This replica's slice of a batch; slices differ by at most one example."""
    context = tf.distribute.get_replica_context()
    number, count = replica_number(), context.num_replicas_in_sync
    first, end = batch * number // count, batch * (number + 1) // count
    return Slice(first, end - first, batch)


def _size(batch: Any) -> tf.Tensor:
    return tf.shape(next(leaf for leaf in keras.tree.flatten(batch) if leaf is not None))[0]


def _rows(array: tf.Tensor, order: tf.Tensor | None, first: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return array[first : first + size] if order is None else tf.gather(array, order[first : first + size])


def _weighted_sum(logs: Any, share: tf.Tensor) -> Any:
    return tf.nest.map_structure(lambda log: sum_of_replicas(tf.cast(log, tf.float32) * share), logs)
