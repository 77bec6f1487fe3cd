"""Many steps of a Keras model as one program."""

import copy
import math
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.attributes import overridden
from kerasnn.components.random_state import random_state, set_random_state
from kerasnn.distribute.replicas import without_all_reduce
from kerasnn.engine.bounds import FINE, Bounds, in_one_line
from kerasnn.engine.examples import Pass, Steps, each
from kerasnn.engine.graph import Operations
from kerasnn.engine.random_numbers import same_numbers
from kerasnn.engine.traced_values import TracedValues
from kerasnn.timings import phase

BLOCK_SECONDS = 0.25
"""Target duration of a block whose length is chosen by time."""
FIRST_BLOCK = 8
"""Steps in the first block, whose duration sets the length of the others."""


class NotCompilableError(ValueError):
    """Why a model and its data cannot run as compiled epochs, in one line."""


class Program:
    """A model's `train_step` or `test_step` in a loop, compiled as a whole.

    Under XLA the model's and the optimizer's variables are values of the loop, written back at its end. XLA compiles
    once for each batch size and shape of the data; how many steps run, and from where, are inputs. Where the traced
    operations are slower under XLA, or would draw other random numbers, the loop is one TensorFlow graph instead.

    Args:
        model: a compiled Keras model.
        step: "train_step" or "test_step".
        jit_compile: True for XLA, False for a TensorFlow graph, "auto" for what suits the operations.

    Attributes:
        traces: number of times that the program was traced.
        xla: whether XLA compiles it.
    """

    def __init__(self, model: keras.Model, step: str, jit_compile: bool | str = "auto") -> None:
        # The model owns its programs, so a program must not own the model.
        self._model = weakref.ref(model)
        self._step = step
        self._momentum: keras.Variable | None = None
        self._bounds = Bounds()
        self._jit_compile = jit_compile
        self._inspected: frozenset[bool] = frozenset()
        self._constants = TracedValues()
        self.traces = 0
        self._use(xla=jit_compile is not False)

    def _use(self, xla: bool) -> None:
        self.xla = xla
        self._runs: dict[tuple[int | None, bool], Any] = {}
        self._found: dict[Any, Any] = {}

    def _leave_xla(self, drawn: dict[str, Any]) -> None:
        """Trace anew, with the same random numbers of Python and NumPy."""
        self._use(xla=False)
        set_random_state(drawn)

    def with_momentum(self, momentum: keras.Variable) -> "Program":
        """The same program, which also sets the optimizer's momentum at every update.

        Args:
            momentum: the variable that the optimizer reads its momentum from.
        """
        program = copy.copy(self)
        program._momentum, program._constants = momentum, TracedValues()
        program._use(self.xla)
        return program

    def prepare(self, steps: Steps, rates: tf.Tensor | None = None) -> None:
        """Trace and compile the program for steps like these, and decide for or against XLA.

        Args:
            steps: zero steps of a batch size.
            rates: as in the call.

        Raises:
            NotCompilableError: the step can't be run in a loop with the numbers of plain Keras.
        """
        # Some layers choose what they do by Python's random numbers while they are traced.
        drawn, traces = random_state(), self.traces
        self._found.clear()
        if steps.uneven not in self._inspected:
            self._inspect(self._traced(steps, rates), drawn, steps.uneven)
        try:
            self._compile(steps, rates)
        except Exception:
            if self._jit_compile is True or not self.xla:
                raise
            # What XLA can't compile TensorFlow may.
            self._leave_xla(drawn)
            self._compile(steps, rates)
        if self.traces > traces:
            self._constants.keep(self._model())

    def begin(self, steps: Steps, rates: tf.Tensor | None = None) -> None:
        """Trace anew where callbacks have changed since `prepare` what was traced.

        Args:
            steps: the first steps.
            rates: as in the call.

        Raises:
            NotCompilableError: as from `prepare`.
        """
        if self._constants.changed(self._model()):
            self._use(xla=self._jit_compile is not False)
            self._inspected = frozenset()
            self.prepare(steps._replace(batches=0), rates)
            self._constants = TracedValues()

    def _traced(self, steps: Steps, rates: tf.Tensor | None) -> Any:
        with phase("trace"):
            return self._run(steps).get_concrete_function(*self._arguments(steps, 0, rates, None))

    def _compile(self, steps: Steps, rates: tf.Tensor | None) -> None:
        self._traced(steps, rates)
        with phase("compile"):
            self(steps, rates=rates)

    def _inspect(self, function: Any, drawn: dict[str, Any], uneven: bool) -> None:
        """Decide for or against XLA by the operations of the traced loop."""
        operations = Operations.of(function)
        if reason := operations.against_loops():
            raise NotCompilableError(reason)
        if self.xla and self._jit_compile == "auto" and operations.against_xla(self._bounds.largest_table, uneven):
            self._leave_xla(drawn)
        self._inspected |= {uneven}

    def __call__(
        self, steps: Steps, update: int = 0, rates: tf.Tensor | None = None, momenta: tf.Tensor | None = None
    ) -> Any:
        """Run steps.

        Args:
            steps: the steps.
            update: index of the first step in `rates` and `momenta`.
            rates: learning rate of every step, `(updates,)`; None leaves it to the optimizer.
            momenta: momentum of every step, `(updates,)`, or None.

        Returns:
            The logs after the last step, tensors.

        Raises:
            InvalidArgumentError: a step looked up an index out of range; steps after it were not run.
        """
        arguments = self._arguments(steps, update, rates, momenta)
        with in_one_line():
            logs, (failed, index) = self._function(steps, arguments)(*arguments)
        if self.xla and (check := int(failed)):
            raise self._bounds.error(check, int(index))
        return logs

    @property
    def functions(self) -> list[Any]:
        """What TensorFlow has traced or will trace."""
        return list(self._runs.values())

    def _function(self, steps: Steps, arguments: tuple[Any, ...]) -> Any:
        """The loop as traced for arguments of these types; to find it takes TensorFlow as long as ten small steps."""
        types = [leaf if leaf is None else (leaf.shape, leaf.dtype) for leaf in tf.nest.flatten(arguments)]
        key = (*self._batch(steps), *types)
        if key not in self._found:
            self._found[key] = self._run(steps).get_concrete_function(*arguments)
        return self._found[key]

    def _batch(self, steps: Steps) -> tuple[int | None, bool]:
        """What is known of a batch when the loop is traced: its size, and whether the model's step knows it.

        XLA compiles for each size. TensorFlow's graph is one for all, where the step does not know it.
        """
        return None if steps.uneven and not self.xla else steps.batch_size, steps.uneven

    def _run(self, steps: Steps) -> Any:
        """The loop for a batch size: TensorFlow warns where one function is traced for many."""
        key = self._batch(steps)
        if key not in self._runs:
            self._runs[key] = tf.function(partial(self._loop, *key), jit_compile=self.xla, autograph=False)
        return self._runs[key]

    def _arguments(self, steps: Steps, update: int, rates: Any, momenta: Any) -> tuple[Any, ...]:
        span = tf.constant([steps.row, steps.batches, update, steps.batch_size], tf.int32)
        return steps.data, steps.order, span, rates, momenta

    def _loop(
        self,
        known_size: int | None,
        uneven: bool,
        data: Any,
        order: tf.Tensor | None,
        span: tf.Tensor,
        rates: tf.Tensor | None,
        momenta: tf.Tensor | None,
    ) -> Any:
        self.traces += 1
        model = self._model()
        assert model is not None
        self._constants.begin(model)
        first_row, count, first_update, size = tf.unstack(span)
        batch_size = size if known_size is None else known_size
        strategy = model._distribute_strategy
        step = getattr(model, self._step)
        step = on_one_device(step) if strategy is None else partial(_on_its_replica, strategy, step)

        def batch(row: tf.Tensor) -> Any:
            if order is None:
                arrays = each(lambda array: _rows(array, row, batch_size), data)
            else:
                rows = _rows(order, row, batch_size)
                arrays = each(lambda array: tf.gather(array, rows), data)
            # Keras weights some means by the batch size if it is known when tracing.
            return each(of_unknown_size, arrays) if uneven else arrays

        # Logs are needed after the last step only. Metrics' results are computed there, from the metrics' variables.
        deferred = logs_are_metrics(model, self._step)
        # Layers that are not built yet are built here, with Keras's own random numbers for their weights.
        empty = {} if deferred and is_built(model) else zeros_like_logs(lambda: step(batch(tf.constant(0))))

        def body(row: tf.Tensor, update: tf.Tensor, logs: Any, failure: Any) -> tuple[Any, ...]:
            if rates is not None:
                model.optimizer.learning_rate.assign(rates[update])
            if self._momentum is not None and momenta is not None:
                self._momentum.assign(momenta[update])
            examples = batch(row)
            with self._bounds.checked() if self.xla else nullcontext():
                results = step(examples)
            if self.xla:
                failure = self._bounds.failure()
            return row + batch_size, update + 1, logs if deferred else results, failure

        # The position is a loop variable: as a constant, XLA would compile again for every position.
        end = first_row + count * batch_size
        fine = (tf.constant(FINE[0]), tf.constant(FINE[1], tf.int64))
        begin = (first_row, first_update, {} if deferred else empty, fine)
        # Plain Keras under XLA has XLA's random numbers.
        with same_numbers() if self.xla and not model.jit_compile else nullcontext():
            _, _, logs, failure = tf.while_loop(
                lambda row, _, __, failure: tf.logical_and(row < end, failure[0] == 0), body, begin
            )
        return model.get_metrics_result() if deferred else logs, failure


class Blocks:
    """A train or test function for Keras's loop: the first call of a block runs all its steps, the other calls return.

    Args:
        program: runs the steps.
        length: steps in a block; None chooses a length by time.
        by_execution: whether the length is the model's `steps_per_execution`.

    Attributes:
        left: calls that remain for the current block.
    """

    def __init__(self, program: Any, length: int | None = None, by_execution: bool = False) -> None:
        self.program: Any = program
        self.length = length
        self.by_execution = by_execution
        self.left = 0
        self._step = 0
        self._limit: Callable[[], int] = lambda: 1
        self._momentum: keras.Variable | None = None
        self._logs: Any = {}
        self._step_seconds: float | None = None
        self._rates: tf.Tensor | None = None
        self._momenta: tf.Tensor | None = None

    def begin(self, rates: np.ndarray | None = None, momenta: np.ndarray | None = None) -> None:
        """Begin an epoch, with `rates` and `momenta` as in `Program`."""
        self.left = 0
        self._rates = None if rates is None else tf.constant(rates)
        self._momenta = None if momenta is None else tf.constant(momenta)

    def set_momentum(self, momentum: keras.Variable) -> None:
        """Name the variable that the optimizer reads its momentum from, for `begin` to be given momenta."""
        if momentum is not self._momentum:
            self._momentum = momentum
            self.program = self.program.with_momentum(momentum)

    def open(self, step: int, limit: Callable[[], int]) -> None:
        """Let the next block begin.

        Args:
            step: number of its first step in the epoch.
            limit: gives the largest number of steps in it, once all callbacks have heard of the first one.
        """
        self._step = step
        self._limit = limit

    def last_step(self, step: int) -> int:
        """The number that callbacks get at a block's end: its last step's.

        Keras counts a block of `steps_per_execution` steps as whole, also where the data ends before it does.
        """
        return self._step + self.length - 1 if self.by_execution and self.length else step

    def __call__(self, iterator: Pass) -> Any:
        """Keras's `train_function`.

        Returns:
            The logs after the block's last step, numbers.
        """
        if self.left == 0:
            limit = min(self._limit(), iterator.steps_left)
            count = min(limit, self.length or self._paced(limit))
            start = time.perf_counter()
            step = self._step
            for steps in iterator.take(count):
                logs = self._run(steps, step)
                step += steps.batches
            # Reading the logs waits for the block.
            self._logs = keras.tree.map_structure(lambda log: log.numpy(), logs)
            self._step_seconds = self._agreed((time.perf_counter() - start) / count)
            self.left = count
        self.left -= 1
        return self._logs

    def _run(self, steps: Steps, step: int) -> Any:
        self.program.begin(steps, self._rates)
        return self.program(steps, step, self._rates, self._momenta)

    def _agreed(self, seconds: float) -> float:
        """Seconds for a step, on which the length of blocks is based."""
        return seconds

    def _paced(self, steps: int) -> int:
        """A length that divides the steps evenly into blocks of about `BLOCK_SECONDS`."""
        if self._step_seconds is None:
            return FIRST_BLOCK
        blocks = math.ceil(steps * self._step_seconds / BLOCK_SECONDS)
        return math.ceil(steps / max(1, blocks))


def on_one_device(step: Any) -> Any:
    """A model's step whose optimizers sum no gradients over replicas."""

    def alone(data: Any) -> Any:
        with without_all_reduce():
            return step(data)

    return alone


def _on_its_replica(strategy: tf.distribute.Strategy, step: Any, data: Any) -> Any:
    with strategy.scope():
        return strategy.run(step, args=(data,))


def is_built(model: keras.Model) -> bool:
    """Whether every layer has its weights."""
    return all(layer.built for layer in model._flatten_layers())


def _rows(array: tf.Tensor, first: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    rest = array.shape[1:]
    return tf.slice(array, [first] + [0] * len(rest), [count, *rest])


def of_unknown_size(array: tf.Tensor) -> tf.Tensor:
    """A batch whose size is unknown when tracing."""
    return tf.raw_ops.PlaceholderWithDefault(input=array, shape=[None, *array.shape[1:]])


def logs_are_metrics(model: keras.Model, step: str) -> bool:
    """Whether a step's logs are the results of the model's metrics, as in Keras's own steps."""
    return overridden(model, keras.Model, step, "compute_metrics", "get_metrics_result") is None


def zeros_like_logs(step: Callable[[], Any]) -> Any:
    """Initial logs of a loop: zeros in the structure of the step's logs."""
    outputs = tf.function(step, autograph=False).get_concrete_function()
    return tf.nest.map_structure(lambda log: tf.zeros(log.shape, log.dtype), outputs.structured_outputs)
