"""Whether a model and its data run as compiled blocks of steps, and the blocks that run them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from kerasnn.attributes import kept_with, overridden, temporary_attributes
from kerasnn.config.schema import one_of, short
from kerasnn.engine import replicated
from kerasnn.engine.batches import BatchBlocks, Batches, BatchProgram
from kerasnn.engine.chunks import ChunkBlocks, ChunkedBatches
from kerasnn.engine.examples import Examples, ResidentExamples, StreamedExamples, leaves, nbytes
from kerasnn.engine.memory import device_memory
from kerasnn.engine.steps import Blocks, NotCompilableError, Program
from kerasnn.keras_private import compile_argument, model_supports_jit

logger = logging.getLogger("kerasnn")

Compiled = Literal["auto", "on", "off"]
FEW = 2000
"""Steps that XLA speeds up by about as much as its compilation takes on a CPU. Measured with training on two cores,
with validation and a shorter last batch, which are compiled on their own: 1,100 for a GRU, 1,400 for a small
transformer, 2,200 for wide dense layers, 5,000 and 8,000 for small dense networks. Half as many where neither is
there."""
_LOOPS = {"train": ("make_train_function", "_make_function"), "test": ("make_test_function", "_make_function")}
"""Methods that make the functions of Keras's training or evaluation loop."""


def check_options(model: keras.Model, compiled: str, memory_share: float) -> None:
    """Refuse a model that is not compiled, and options out of range.

    Raises:
        ValueError: one line.
    """
    if not model.compiled:
        raise ValueError("the model must be compiled first: call model.compile(optimizer, loss)")
    if compiled not in get_args(Compiled):
        raise ValueError(one_of("compiled", compiled, get_args(Compiled)))
    if not 0 < memory_share <= 1:
        raise ValueError(f"memory_share must be above 0 and at most 1; received {memory_share!r}")


def replica_count(model: keras.Model, compiled: Compiled) -> int:
    """How many replicas the model trains on.

    Raises:
        ValueError: several would not give the numbers of one device.
    """
    replicas: int = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1:
        if compiled == "off":
            raise ValueError(f"compiled must be on or auto for {replicas} replicas, received 'off'")
        if reason := replicated.obstacle(model):
            raise ValueError(f"training on {replicas} replicas is not possible: {reason}")
    return replicas


def fall_back(compiled: Compiled, reason: str) -> None:
    """Say why plain Keras runs, or refuse it.

    Raises:
        NotCompilableError: where `compiled` is "on".
    """
    if compiled == "on":
        raise NotCompilableError(f"compiled epochs are not possible: {reason}")
    if compiled == "auto":
        logger.warning("plain Keras runs instead of compiled epochs: %s", reason)


def own_loop(model: keras.Model, phase: Literal["train", "test"]) -> str | None:
    """The method by which a model makes its own function of steps instead of Keras's, or None."""
    return overridden(model, keras.Model, *_LOOPS[phase])


def obstacle(model: keras.Model, arrays: Any) -> str | None:
    """Why a model cannot be compiled for arrays, as far as that is known without trying."""
    if not model_supports_jit(model) and all(layer.supports_jit for layer in model._flatten_layers()):
        return "XLA is off here (tf.config.experimental.enable_op_determinism switches it off)"
    for array in keras.tree.flatten(arrays):
        if array is not None and not is_dense(array):
            return f"the data holds {short(getattr(array, 'dtype', type(array).__name__))}, not dense arrays of numbers"
    return None


def is_dense(array: Any) -> bool:
    """Whether something is a dense array of numbers."""
    if not isinstance(array, np.ndarray | tf.Tensor):
        return False
    dtype = tf.as_dtype(array.dtype)
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool)


def examples_kind(model: keras.Model, compiled: Compiled, arrays: Any, memory_share: float) -> Any:
    """How examples reach the device: as a whole, or streamed.

    Returns:
        A class of `Examples`, or a function that makes one.

    Raises:
        NotCompilableError: the model or its data cannot be compiled.
    """
    if compiled == "off":
        raise NotCompilableError("compiled is off")
    if model.run_eagerly or tf.config.functions_run_eagerly():
        raise NotCompilableError("the model runs eagerly")
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync > 1:
        arrays = [array for array in keras.tree.flatten(arrays) if hasattr(array, "dtype")]
    elif leaves(arrays) and (reason := obstacle(model, arrays)):
        raise NotCompilableError(reason)
    limit = memory_share * device_memory()
    resident = (size := nbytes(arrays)) <= limit
    if not resident:
        logger.info("the data is streamed: its %.3g MB are more than the %.3g MB set aside", size / 1e6, limit / 1e6)
    if strategy.num_replicas_in_sync > 1:
        return partial(replicated.shared_examples, strategy, resident)
    return ResidentExamples if resident else StreamedExamples


def blocks_of(
    model: keras.Model,
    step: str,
    examples: ResidentExamples,
    length: int | None,
    rates: np.ndarray | None = None,
    *,
    steps: float | None = None,
) -> Blocks:
    """Compiled blocks of a model's steps.

    Args:
        model: a compiled Keras model.
        step: "train_step" or "test_step".
        examples: the examples that the steps run on.
        length: steps in a block; None takes the model's `steps_per_execution` if above 1, else a length by time.
        rates: learning rate of every step, where a callback sets them.
        steps: training steps of the whole call that they belong to, `math.inf` if that is unknown: a few are not worth
            XLA's compilation. None: they evaluate on their own, and the model's evaluations are counted together.

    Raises:
        NotCompilableError: the model cannot be compiled.
    """
    by_execution = length is None and model.steps_per_execution > 1
    length = model.steps_per_execution if by_execution else length
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync > 1:
        if step == "train_step":
            replicated.check_batch_sizes(model, getattr(examples, "batch_sizes", []))
        with strategy.scope():
            model._symbolic_build(data_batch=examples.first_batch)
        program = _program(model, step, replicated.ReplicaProgram)
        return replicated.ReplicaBlocks(program, length, strategy, stops=step == "train_step")
    rates = None if rates is None else tf.constant(rates)
    try:
        if isinstance(examples, Batches):
            if model._distribute_strategy is not None:
                raise NotCompilableError(f"x is {type(examples.source).__name__} under a strategy of one replica")
            return _batch_blocks(model, step, examples, length, by_execution, rates, steps)
        _build(model, examples)
        program = _array_program(model, step, _jit_compile(model, examples, steps))
        for empty in examples.empty_steps():
            program.prepare(empty, rates)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        name = "" if isinstance(error, NotCompilableError) else f"{type(error).__name__}: "
        raise NotCompilableError(short(f"{name}{lines[0]}", 200)) from error
    return Blocks(program, length, by_execution)


def _batch_blocks(
    model: keras.Model,
    step: str,
    batches: Batches,
    length: int | None,
    by_execution: bool,
    rates: tf.Tensor | None,
    steps: float | None,
) -> Blocks:
    batch_program = _program(model, step, BatchProgram, "on batches")
    if isinstance(batches, ChunkedBatches) and batches.suit(length, steps is None) and obstacle(model, ()) is None:
        jit_compile = _jit_compile(model, batches, steps)
        if jit_compile is not False or not batches.read_by_graphs:
            program = _array_program(model, step, jit_compile)
            for empty in batches.empty_steps():
                program.prepare(empty, rates)
            batches.in_chunks = True
            return ChunkBlocks(program, batch_program, length)
    batch_program.prepare(batches, rates)
    return BatchBlocks(batch_program, length, by_execution)


def _build(model: keras.Model, examples: Examples) -> None:
    """Build a model that has a `call`; one without is built when its step is traced, as in plain Keras."""
    try:
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=examples.first_batch)
    except Exception:
        if type(model).train_step is keras.Model.train_step:
            raise


def _program(model: keras.Model, step: str, kind: Callable[[keras.Model, str], Any], *further: str) -> Any:
    """The model's program of a kind for a step."""
    kept = _programs(model)
    name = " ".join((step, *further))
    if name not in kept:
        kept[name] = kind(model, step)
    return kept[name]


def _programs(model: keras.Model) -> dict[str, Any]:
    """The model's programs by name, kept as long as Keras would keep its own functions."""
    kept = kept_with(model)
    theirs = {"train_step": model.train_function, "test_step": model.test_function}
    # Compiling anew, or make_train_function(force=True), asks for a new trace.
    if kept.get("compile_config") is not model._compile_config or kept["functions"] != theirs:
        kept.clear()
        kept.update(compile_config=model._compile_config, functions=theirs)
    return kept


def _array_program(model: keras.Model, step: str, jit_compile: bool | str) -> Program:
    further = ["without XLA"] if jit_compile is False else []
    return _program(model, step, partial(Program, jit_compile=jit_compile), *further)


def _jit_compile(model: keras.Model, examples: Any, steps: float | None) -> bool | str:
    """Whether XLA compiles steps on arrays: False where there are few of them; `steps` as of `blocks_of`."""
    jit_compile: bool | str = compile_argument(model)
    if jit_compile == "auto" and model.jit_compile:
        # Plain Keras would compile it with XLA.
        return True
    return False if jit_compile == "auto" and _few(model, examples, steps) else jit_compile


def _few(model: keras.Model, examples: Any, steps: float | None) -> bool:
    """Whether steps are too few for XLA. For a training the call decides, so one that goes on takes the same program.

    On other devices than a CPU it is XLA's program that notices indices out of range.
    """
    if steps is None:
        kept = _programs(model)
        kept["evaluated"] = steps = kept.get("evaluated", 0) + (examples.num_batches or 0)
    return steps <= FEW and not tf.config.list_logical_devices("GPU")


@contextmanager
def running(model: keras.Model, train: Blocks | None = None, test: Blocks | None = None) -> Iterator[None]:
    """Run Keras's loop with blocks in place of its train and test functions."""
    ours = {"train_function": train, "test_function": test}
    kept = {name: getattr(model, name) for name in ours}
    steps_per_execution = model.steps_per_execution
    for name, function in ours.items():
        if function is not None:
            setattr(model, name, function)
    if train is not None or test is not None:
        # Blocks count single steps.
        model.steps_per_execution = 1
    try:
        # The model is built; Keras would begin a pass over the data to learn its shapes.
        with temporary_attributes(model, _maybe_symbolic_build=lambda **_: None):
            yield
    finally:
        model.steps_per_execution = steps_per_execution
        for name, function in ours.items():
            # Unless a callback asked for new ones.
            if function is not None and getattr(model, name) is function:
                setattr(model, name, kept[name])
