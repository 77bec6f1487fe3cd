"""The program that trains and evaluates models of one structure, each as it would train alone."""

import functools
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import keras
import tensorflow as tf

from kerasnn.components.random_state import random_state
from kerasnn.components.variables import NumberVariable
from kerasnn.engine.bounds import Bounds
from kerasnn.engine.examples import each
from kerasnn.engine.graph import Operations
from kerasnn.engine.steps import logs_are_metrics, of_unknown_size
from kerasnn.fused.structure import Parts
from kerasnn.fused.tracing import for_members
from kerasnn.keras_private import compile_argument


class NotFusableError(ValueError):
    """Why models cannot be trained as one program, in one line."""

    @classmethod
    def of(cls, error: Exception) -> Self:
        """What another error says, with its type."""
        if isinstance(error, cls):
            return error
        # TensorFlow writes where it happened first, and what at the end.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        return cls(f"{type(error).__name__}: {lines[-1 if lines[0] == 'in user code:' else 0][:200]}")


class Batches(NamedTuple):
    """Examples in batches.

    Args:
        shared: arrays that all members share, `(examples, …)`, in the structure that Keras's steps take.
        orders: the rows in the order of the epoch, `(examples,)` if all members share it, else `(members, examples)`;
            None takes them in order.
        weights: sample weights of each member, `(members, examples, …)`, or None.
        filled_from: position in the order from which it only fills up the last batch; the step then gets 1 for each
            example and 0 for each that fills up, `(batch,)`, as the last part of its batch. None fills up nothing.
    """

    shared: Any
    orders: Any
    weights: Any
    filled_from: int | None = None


class FusedProgram:
    """A model's own `train_step` and `test_step`, run for all members at once over the batches of an epoch.

    Args:
        structure: of the model that stands for all members.
        positions: which of its numbers are the members' own.
        batch: structure, shapes and types of a training batch, as `tf.TensorSpec`s; the size is None where Keras would
            not know it when it traces the step, because batches differ in size.
        batch_size: examples in a batch.
        validation_batch: a validation batch likewise; None where there is none.
        validation_batch_size: examples in a batch of validation.
        by_update: positions of the values that are given for every update, among the structure's variables, followed
            by the members' own numbers.
        xla: whether XLA may compile it where the model leaves that open.

    Attributes:
        positions: as given.
        by_update: as given.
        xla: whether XLA compiles it.
        epochs: by the step's name, "train_step" or "test_step", an epoch of training or an evaluation.
        parts: likewise, a part of one that `reset` has begun.
        reset: begins an epoch or an evaluation that runs in parts.

    Raises:
        NotFusableError: the model's step uses state that is not the model's.
    """

    def __init__(
        self,
        structure: Parts,
        positions: Sequence[int],
        batch: Any,
        batch_size: int,
        validation_batch: Any,
        validation_batch_size: int,
        by_update: Sequence[int] = (),
        xla: bool = True,
    ) -> None:
        self.model = structure.model
        self.positions = positions
        self.variables = structure.variables
        self._batch_sizes = {"train_step": batch_size, "test_step": validation_batch_size}
        self._numbers = [
            (number, NumberVariable(float(number.value), dtype="float32", trainable=False, name="number"))
            for number in map(structure.numbers.__getitem__, positions)
        ]
        self._mapped = [*self.variables, *(variable for _, variable in self._numbers)]
        self.by_update = by_update
        self._specs = [tf.TensorSpec(variable.shape, variable.dtype) for variable in self._mapped]
        batches = {"train_step": batch, "test_step": validation_batch}
        self._steps = {name: self._inspected(name, specs) for name, specs in batches.items() if specs is not None}
        self._reset_metrics = self._over_read(self.model.reset_metrics)
        self._metrics = self._over_read(lambda: _tensors(self.model.get_metrics_result()))
        obstacle = any(
            step.operations.against_xla(step.bounds.largest_table, step.size_varies) for step in self._steps.values()
        )
        asked = compile_argument(self.model)
        self._use(xla=(xla and not obstacle) if asked == "auto" else bool(asked))

    def _use(self, xla: bool) -> None:
        self.xla = xla
        # Partials, because TensorFlow warns of retracing the same function; these are traced for each size.
        self.epochs, self.parts = (
            {
                name: tf.function(functools.partial(self._epoch, name, resets=resets), jit_compile=xla, autograph=False)
                for name in self._steps
            }
            for resets in (True, False)
        )
        self.reset = tf.function(functools.partial(self._reset), autograph=False)

    def without_xla(self) -> None:
        """Run as TensorFlow graphs from now on."""
        self._use(xla=False)

    def _scope(self, values: Sequence[Any]) -> keras.StatelessScope:
        """A scope in which the model's variables have these values."""
        return keras.StatelessScope(list(zip(self._mapped, values, strict=True)), collect_losses=True)

    @contextmanager
    def _as_members(self) -> Iterator[None]:
        """The model with variables in the place of its members' own numbers, traced for members."""
        for number, variable in self._numbers:
            number.owner[number.key] = variable
        try:
            with for_members():
                yield
        finally:
            for number, _ in self._numbers:
                number.owner[number.key] = number.value

    def _inspected(self, name: str, batch: Any) -> "Step":
        """Trace a step for one member, to see what it reads, assigns and returns."""
        method = getattr(self.model, name)
        bounds, size_varies = Bounds(), any(spec.shape[0] is None for spec in tf.nest.flatten(batch))

        def step(data: Any) -> Any:
            data = each(of_unknown_size, data) if size_varies else data
            with bounds.checked():
                return _tensors(method(data)), bounds.failure()

        run, drawn = self._stateless(step), pickle.dumps(random_state())
        function = self._traced(run, batch)
        if drawn != pickle.dumps(random_state()):
            raise NotFusableError(f"{name} draws random numbers of Python's or NumPy's while it is traced")
        if any(tensor.dtype == tf.resource for tensor in function.captured_inputs):
            raise NotFusableError(f"{name} reads a variable that is not a Keras variable of the model's own")
        operations = Operations.of(function)
        if draw := operations.stateful_draw():
            raise NotFusableError(f"{draw} (tf.random) draws other numbers in each graph; use keras.random")
        if operations.write_summaries:
            raise NotFusableError(f"{name} writes tf.summary values")
        (logs, _), assigned = function.structured_outputs
        logs = tf.nest.map_structure(lambda log: tf.TensorSpec(log.shape, log.dtype), logs)
        deferred = logs_are_metrics(self.model, name) or getattr(method, "returns_metrics", False)
        return Step(name, run, list(assigned), logs, operations, bounds, size_varies, deferred)

    def _stateless(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the model as one of the values, too; it also returns what is assigned, by position."""

        def run(values: Sequence[Any], *arguments: Any) -> tuple[Any, dict[int, Any]]:
            with self._scope(values) as scope:
                before = dict(scope.state_mapping)
                results = function(*arguments)
            if not scope.state_mapping.keys() <= before.keys():
                raise NotFusableError("a step assigns a variable that is not the model's own")
            after = [scope.state_mapping[id(variable)] for variable in self.variables]
            return {} if results is None else results, {
                position: value
                for position, (variable, value) in enumerate(zip(self.variables, after, strict=True))
                if value is not before[id(variable)]
            }

        return run

    def _traced(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A function of one member's values and numbers, and of further arguments, as a graph."""
        with self._as_members():
            try:
                return tf.function(function, autograph=False).get_concrete_function(self._specs, *arguments)
            except Exception as error:
                raise NotFusableError.of(error) from error

    def _reset(self, state: list[Any], numbers: list[Any]) -> Any:
        """The values with metrics that have seen nothing."""
        with self._as_members():
            return self._reset_metrics(state, numbers)[0]

    def _epoch(
        self,
        name: str,
        state: list[Any],
        numbers: list[Any],
        batches: Batches,
        by_update: Sequence[Any] = (),
        *,
        resets: bool,
    ) -> Any:
        """Run a step on all batches.

        Args:
            name: "train_step" or "test_step".
            state: values of `variables`, each `(members, …)`.
            numbers: the members' own numbers, each `(members,)`.
            batches: the examples.
            by_update: values that are given for every update, each `(members, updates)`.
            resets: whether metrics begin anew.

        Returns:
            The new values, the logs, each `(members, …)`, and for each member the first index out of range.
        """
        step, members = self._steps[name], state[0].shape[0]
        orders = batches.orders
        rows = tf.nest.flatten(batches.shared)[0].shape[0] if orders is None else orders.shape[-1]
        with self._as_members():
            state = self._reset_metrics(state, numbers)[0] if resets else list(state)
            logs = tf.nest.map_structure(
                lambda log: tf.zeros((members, *log.shape), log.dtype), {} if step.deferred else step.logs
            )
            failure = tuple(tf.zeros(members, tf.as_dtype(type_)) for type_ in (tf.int32, tf.int64))
            moving = [state[position] for position in step.assigned]
            run = functools.partial(self._run, step, [*state, *numbers], batches, by_update)
            size = self._batch_sizes[name]
            full = rows - rows % size
            carried = (moving, logs, failure)
            if full:
                _, carried = tf.while_loop(
                    lambda row, _: row < full,
                    lambda row, carried: (row + size, run(row, size, carried)),
                    (tf.constant(0), carried),
                )
            if full < rows:
                carried = run(tf.constant(full), rows - full, carried)
            moving, logs, failure = carried
            for position, value in zip(step.assigned, moving, strict=True):
                state[position] = value
            for position, values in zip(self.by_update, by_update, strict=False):
                if position < len(state):
                    # As in `fit`, the optimizer keeps the last update's.
                    state[position] = values[:, -1]
            results = self._metrics(state, numbers)[1]
            if step.deferred or results.keys() == logs.keys():
                logs = results
        return state, logs, failure

    def _run(
        self,
        step: "Step",
        values: list[Any],
        batches: Batches,
        by_update: Sequence[Any],
        row: Any,
        size: int,
        carried: Any,
    ) -> Any:
        """One batch from `row` on."""
        moving, _, failed = carried
        values, count = list(values), len(self.variables)
        for position, value in zip(step.assigned, moving, strict=True):
            values[position] = value
        for position, each_update in zip(self.by_update, by_update, strict=False):
            values[position] = each_update[:, row // self._batch_sizes[step.name]]
        shared, own = _batch(batches, row, size)
        is_example = None
        if batches.filled_from is not None:
            is_example = tf.cast(row + tf.range(size) < batches.filled_from, tf.float32)

        def member_step(values: Sequence[Any], *mine: Any) -> Any:
            data, *weights = mine if shared is None else (shared, *mine)
            if more := [*weights, *([] if is_example is None else [is_example])]:
                data = (*data, *more)
            return step.run(values, data)

        values, (logs, failure) = self._over(member_step)(values[:count], values[count:], own)
        failed = tuple(tf.where(failed[0] > 0, old, new) for old, new in zip(failed, failure, strict=True))
        return [values[position] for position in step.assigned], {} if step.deferred else logs, failed

    def _over_read(self, function: Callable[[], Any]) -> Callable[..., Any]:
        """A function of the model for all members; of their state and numbers only what it reads is gathered."""
        run = self._stateless(function)
        inputs = self._traced(run).inputs
        # At least one, from which TensorFlow learns the number of members.
        return self._over(run, [at for at in range(len(self._mapped)) if inputs[at].consumers()] or [0])

    def _over(self, function: Callable[..., Any], read: Sequence[int] | None = None) -> Callable[..., Any]:
        """A function as `_stateless` makes them, for all members: of their state, numbers and further arguments."""
        every = range(len(self._mapped)) if read is None else read

        def run(state: Sequence[Any], numbers: Sequence[Any], own: Any = ()) -> Any:
            def run_member(member: Any) -> Any:
                mine, arguments = member
                known = dict(zip(every, mine, strict=True))
                values = [
                    known[position] if position in known else tf.zeros(spec.shape, spec.dtype)
                    for position, spec in enumerate(self._specs)
                ]
                return function(values, *arguments)

            values = [*state, *numbers]
            members = [values[position] for position in every], own
            results, assigned = tf.vectorized_map(run_member, members, warn=False)
            return [assigned.get(position, value) for position, value in enumerate(state)], results

        return run

    def error(self, name: str, failure: Any) -> Exception | None:
        """The error of an index out of range that an epoch of a step returned, or None."""
        for check, index in zip(*(part.numpy() for part in failure), strict=True):
            if check:
                return self._steps[name].bounds.error(int(check), int(index))
        return None


class Step(NamedTuple):
    """A step of one member, and what tracing showed of it.

    Args:
        name: "train_step" or "test_step".
        run: of the values and a batch; returns the logs and the first index out of range, and what is assigned.
        assigned: positions of the variables that it assigns.
        logs: what it returns, as `tf.TensorSpec`s.
        operations: its operations.
        bounds: its checks of indices.
        size_varies: whether the batch size was unknown when it was traced.
        deferred: whether its logs are the metrics' results, which are computed after the last batch only.
    """

    name: str
    run: Callable[..., Any]
    assigned: list[int]
    logs: Any
    operations: Operations
    bounds: Bounds
    size_varies: bool
    deferred: bool


def _tensors(logs: Any) -> Any:
    return tf.nest.map_structure(tf.convert_to_tensor, logs)


def _batch(batches: Batches, row: Any, size: int) -> tuple[Any, Any]:
    """A batch that all members share, or None, and what each member has of its own."""
    orders, shared = batches.orders, batches.shared
    if orders is None:
        batch = each(lambda array: tf.slice(array, [row, *[0] * (array.ndim - 1)], [size, *array.shape[1:]]), shared)
        if batches.weights is None:
            return batch, ()
        return batch, (each(lambda array: array[:, row : row + size], batches.weights),)
    if orders.shape.rank == 1:
        rows = tf.slice(orders, [row], [size])
        batch = each(lambda array: tf.gather(array, rows), shared)
        if batches.weights is None:
            return batch, ()
        return batch, (each(lambda array: tf.gather(array, rows, axis=1), batches.weights),)
    rows = tf.slice(orders, [0, row], [orders.shape[0], size])
    batch = each(lambda array: tf.gather(array, rows), shared)
    if batches.weights is None:
        return None, (batch,)
    return None, (batch, each(lambda array: tf.gather(array, rows, batch_dims=1), batches.weights))
