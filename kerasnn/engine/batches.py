"""Batches that are not known before training: tf.data, `PyDataset`, generators, loaders; many steps as one program."""

import operator
import weakref
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kerasnn.engine.bounds import in_one_line
from kerasnn.engine.examples import Steps, each
from kerasnn.engine.graph import Operations
from kerasnn.engine.steps import (
    BLOCK_SECONDS,
    Blocks,
    NotCompilableError,
    is_built,
    logs_are_metrics,
    on_one_device,
    zeros_like_logs,
)
from kerasnn.engine.traced_values import TracedValues
from kerasnn.keras_private import DataAdapter, can_convert_arrays, get_data_adapter
from kerasnn.timings import phase

ENDLESS = 2**31 - 1
"""Steps of data whose end is not known."""


class Batches(DataAdapter):
    """Any data that Keras has an adapter for, read through Keras's own tf.data dataset.

    Args:
        x, y, sample_weight, batch_size, shuffle, class_weight: as in `keras.Model.fit`.
        steps: steps in an epoch, or None.

    Raises:
        ValueError: Keras has no adapter for them, in Keras's words; or one line: y is a list where x is an array.

    Attributes:
        source: x.
        dataset: the batches.
        steps: steps in an epoch, or None.
        epoch: the current epoch; the training loop sets it.
    """

    def __init__(
        self, x: Any, y: Any = None, sample_weight: Any = None, *, steps: int | None = None, **options: Any
    ) -> None:
        if can_convert_arrays((x,)):
            for name, structure in (("y", y), ("sample_weight", sample_weight)):
                if structure is not None and not can_convert_arrays((structure,)):
                    raise ValueError(f"{name} must be of arrays as x is; received {type(structure).__name__}")
        self._adapter = get_data_adapter(x, y=y, sample_weight=sample_weight, steps_per_epoch=steps, **options)
        self.source, self.steps = x, steps
        # Once: a dataset that shuffles draws its seed when it is made.
        self.dataset = self._adapter.get_tf_dataset()
        self.epoch = 0

    def get_tf_dataset(self) -> Any:
        return self.dataset

    @property
    def num_batches(self) -> int | None:
        """Batches in a pass; None where it has no end, or none that is known."""
        batches: int | None = self._adapter.num_batches
        return batches

    @property
    def batch_size(self) -> int | None:
        size: int | None = self._adapter.batch_size
        return size

    @property
    def first_batch(self) -> Any:
        """Something of a batch's structure, shapes and dtypes, to build a model from."""
        return self.dataset.element_spec

    def on_epoch_begin(self) -> None:
        self._adapter.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._adapter.on_epoch_end()


class BatchProgram:
    """A model's `train_step` or `test_step` in a loop that takes its batches from a tf.data iterator, as one graph.

    A batch is read when its step begins, as in plain Keras, and none is read ahead.

    Args:
        model: a compiled Keras model.
        step: "train_step" or "test_step".

    Attributes:
        traces: number of times that the program was traced.
    """

    def __init__(self, model: keras.Model, step: str) -> None:
        # The model owns its programs, so a program must not own the model.
        self._model = weakref.ref(model)
        self._step = step
        self._momentum: keras.Variable | None = None
        self._constants = TracedValues()
        self.traces = 0
        self._run = tf.function(partial(self._loop), autograph=False)
        self._run_one = tf.function(partial(self._one_step), autograph=False)
        self._run_batch = tf.function(partial(self._step_on), autograph=False, reduce_retracing=True)

    def with_momentum(self, momentum: keras.Variable) -> "BatchProgram":
        """The same program, which also sets the optimizer's momentum at every update."""
        model = self._model()
        assert model is not None
        program = type(self)(model, self._step)
        program._momentum = momentum
        return program

    @property
    def functions(self) -> list[Any]:
        """What TensorFlow has traced or will trace."""
        return [self._run]

    def prepare(self, batches: Batches, rates: tf.Tensor | None = None) -> None:
        """Trace the program for batches like these.

        Raises:
            NotCompilableError: the step can't be run in a loop with the numbers of plain Keras.
        """
        spec = tf.data.IteratorSpec(batches.dataset.element_spec)
        arguments = (spec, tf.TensorSpec(2, tf.int32), tf.TensorSpec((), tf.float64))
        traces = self.traces
        with phase("trace"):
            operations = Operations.of(self._run.get_concrete_function(*arguments, rates, None))
        if reason := operations.against_loops():
            raise NotCompilableError(reason)
        if self.traces > traces:
            self._constants.keep(self._model())

    def begin(self) -> None:
        """Trace anew where callbacks have changed since `prepare` what was traced."""
        if self._constants.changed(self._model()):
            self._run = tf.function(partial(self._loop), autograph=False)

    def __call__(
        self, iterator: Any, count: int, seconds: float, update: int, rates: tf.Tensor | None, momenta: tf.Tensor | None
    ) -> tuple[Any, int]:
        """Run steps.

        Args:
            iterator: a tf.data iterator over batches.
            count: the largest number of steps.
            seconds: no step begins later than this; at least one is run.
            update: index of the first step in `rates` and `momenta`.
            rates, momenta: learning rate and momentum of every step, `(updates,)`, or None.

        Returns:
            The logs after the last step, tensors, and the number of steps, which is 0 at the end of the data.
        """
        span, limit = tf.constant([count, update], tf.int32), tf.constant(seconds, tf.float64)
        with in_one_line():
            logs, steps = self._run(iterator, span, limit, rates, momenta)
        return logs, int(steps)

    def end(self, iterator: Any) -> None:
        """Run the step that plain Keras begins when the data has ended unforeseen.

        It has no batch, but advances seeds and the optimizer's count of updates all the same. Where a batch has a
        static size, Keras's metrics would count its examples, too.

        Raises:
            OutOfRangeError: always.
        """
        model = self._model()
        assert model is not None
        counts = [variable for metric in model.metrics for variable in metric.variables]
        values = [variable.numpy() for variable in counts]
        try:
            self._run_one(iterator)
        finally:
            for variable, value in zip(counts, values, strict=True):
                variable.assign(value)

    def run_each(self, steps: Steps, update: int, rates: tf.Tensor | None, momenta: tf.Tensor | None) -> Any:
        """Run steps on batches of any size, one at a time.

        Args:
            steps: the steps, whose data is in order.
            update, rates, momenta: as in the call.

        Returns:
            The logs after the last step, tensors.
        """
        model: Any = self._model()
        logs = None
        for number in range(steps.batches):
            first = steps.row + number * steps.batch_size
            if rates is not None:
                model.optimizer.learning_rate.assign(rates[update + number])
            if self._momentum is not None and momenta is not None:
                self._momentum.assign(momenta[update + number])
            rows = slice(first, first + steps.batch_size)
            with in_one_line():
                logs = self._run_batch(each(operator.itemgetter(rows), steps.data))
        return logs

    def _one_step(self, iterator: Any) -> Any:
        return self._step_on(iterator.get_next())

    def _step_on(self, batch: Any) -> Any:
        return self._model_step(self._model())(batch)

    def _model_step(self, model: Any) -> Any:
        step = model._autoconvert_optionals(getattr(model, self._step))
        if model._distribute_strategy is None:
            step = on_one_device(step)
        if not model.jit_compile:
            return step
        return tf.function(step, jit_compile=True, autograph=False, reduce_retracing=True)

    def _loop(self, iterator: Any, span: tf.Tensor, seconds: tf.Tensor, rates: Any, momenta: Any) -> Any:
        self.traces += 1
        model = self._model()
        assert model is not None
        self._constants.begin(model)
        count, first_update = tf.unstack(span)
        step = self._model_step(model)
        # Logs are needed after the last step only. Metrics' results are computed there, from the metrics' variables.
        deferred = logs_are_metrics(model, self._step)
        # Layers that are not built yet are built here, outside of the loop.
        empty = {} if deferred and is_built(model) else zeros_like_logs(lambda: step(iterator.get_next()))
        end = tf.timestamp() + seconds

        def body(number: tf.Tensor, _: tf.Tensor, logs: Any) -> tuple[Any, ...]:
            if rates is not None:
                model.optimizer.learning_rate.assign(rates[first_update + number])
            if self._momentum is not None and momenta is not None:
                self._momentum.assign(momenta[first_update + number])
            batch = iterator.get_next_as_optional()

            def run() -> tuple[Any, ...]:
                results = step(batch.get_value())
                with tf.control_dependencies(tf.nest.flatten(results)):
                    ended = tf.timestamp() > end
                return number + 1, ended, logs if deferred else results

            return tf.cond(batch.has_value(), run, lambda: (number, tf.constant(True), logs))

        number, _, logs = tf.while_loop(
            lambda number, ended, _: tf.logical_and(number < count, tf.logical_not(ended)),
            body,
            (tf.constant(0), tf.constant(False), {} if deferred else empty),
        )
        return model.get_metrics_result() if deferred else logs, number


class BatchBlocks(Blocks):
    """Blocks of steps on batches that a tf.data iterator gives; they end by time, by number, or with the data."""

    program: Any

    def __call__(self, iterator: Any) -> Any:
        """Keras's `train_function`.

        Returns:
            The logs after the block's last step, numbers.

        Raises:
            StopIteration: the data has ended.
        """
        if self.left == 0:
            self.program.begin()
            limit = self._limit()
            count = min(limit, self.length or limit)
            seconds = BLOCK_SECONDS if self.length is None else float("inf")
            logs, steps = self.program(iterator, count, seconds, self._step, self._rates, self._momenta)
            if steps == 0:
                if not self.by_execution:
                    self.program.end(iterator)
                raise StopIteration
            # Keras counts a block of `steps_per_execution` steps as whole.
            self.left = count if self.by_execution else steps
            self._logs = keras.tree.map_structure(lambda log: log.numpy(), logs)
        self.left -= 1
        return self._logs
