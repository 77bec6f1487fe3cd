"""Compiled epochs: Keras's own `fit` and `evaluate`, many steps in one XLA program over data kept on the device."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.config.schema import one_of, short
from kerasnn.distribute.devices import watching_peers
from kerasnn.engine import replicated
from kerasnn.engine.block_callbacks import BlockHooks, flat
from kerasnn.engine.checks import check_arrays, check_counts, check_dataset, check_epochs, check_model
from kerasnn.engine.examples import Examples, PlainExamples, ResidentExamples, StreamedExamples, as_array, nbytes
from kerasnn.engine.memory import device_memory
from kerasnn.engine.order import epoch_order
from kerasnn.engine.steps import Blocks, Program
from kerasnn.keras_private import array_slicing, can_convert_arrays, model_supports_jit

logger = logging.getLogger("kerasnn")

Compiled = Literal["auto", "on", "off"]


def fit(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: str | int = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: dict[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: int | Sequence[int] = 1,
    *,
    seed: int = 0,
    compiled: Compiled = "auto",
    steps_per_block: int | None = None,
    memory_share: float = 0.5,
) -> keras.callbacks.History:
    """Train a compiled Keras model as `model.fit` does, several times faster where steps are short.

    Keras's own `fit` runs, with the weights, logs and callbacks that it gives for the same order of examples. Batch
    hooks are called once a block of steps, as with Keras's `steps_per_execution`: with the number of the block's first
    step, and of its last. The learning rate and momentum of a `LearningRate` callback change at every update within a
    block. A model of a `tf.distribute` strategy is trained by all its replicas, on arrays or batches of tf.data,
    with the numbers of one device.

    Args:
        model: any compiled Keras model.
        x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, class_weight, sample_weight,
            initial_epoch, steps_per_epoch, validation_steps, validation_batch_size, validation_freq: as in
            `keras.Model.fit`.
        shuffle: whether an epoch's order of examples is `epoch_order`'s, or the arrays' own.
        seed: seed of the orders, 0 or above.
        compiled: "auto" compiles where that is possible and else logs why it isn't; "on" insists; "off" is plain Keras
            with the same order of examples.
        steps_per_block: steps between batch hooks; None takes the model's `steps_per_execution` or, where that is 1,
            what runs in about a quarter of a second.
        memory_share: share of the device's memory that the data may take, above 0 and at most 1; more is streamed.

    Returns:
        Keras's History.

    Raises:
        ValueError: an argument out of range; labels that the network has no class for; sample weights that are negative
            or no numbers; "on" where the model or its data cannot be compiled.
    """
    _check_options(model, compiled, memory_share)
    check_counts(
        batch_size=batch_size,
        validation_batch_size=validation_batch_size,
        steps_per_epoch=steps_per_epoch,
        validation_steps=validation_steps,
        steps_per_block=steps_per_block,
    )
    check_epochs(epochs, initial_epoch, seed)
    if not 0 <= validation_split < 1:
        raise ValueError(f"validation_split must be at least 0 and below 1; received {validation_split!r}")
    check_model(model)
    check_dataset(x, steps_per_epoch, "steps_per_epoch")
    check_dataset(validation_data, validation_steps, "validation_steps", "validation_data")
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "epochs": epochs,
        "verbose": verbose,
        "initial_epoch": initial_epoch,
        "steps_per_epoch": steps_per_epoch,
        "validation_steps": validation_steps,
        "validation_batch_size": validation_batch_size,
        "validation_freq": validation_freq,
    }
    replicas = _replicas(model, compiled)
    arrays = _are_arrays(x, y, sample_weight)
    if not arrays and replicas == 1:
        _fall_back(compiled, f"x is of type {type(x).__name__}, and only arrays can lie on the device")
        return model.fit(
            x,
            y,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            **options,
        )
    if arrays:
        check_arrays(model, x, y, sample_weight, class_weight)
    if validation_split and validation_data is None:
        (x, y, sample_weight), validation_data = array_slicing.train_validation_split(
            (x, y, sample_weight), validation_split=validation_split
        )
    held_out: tuple[Any, ...] = ()
    if validation_data is not None:
        held_out = keras.utils.unpack_x_y_sample_weight(validation_data)
    held_out = held_out if replicas > 1 or _are_arrays(*held_out) else ()
    if _are_arrays(*held_out):
        x_held_out, y_held_out, weight_held_out = held_out
        check_arrays(model, x_held_out, y_held_out, weight_held_out, part="validation ")

    arrangement: dict[str, Any] = {
        "batch_size": batch_size,
        "class_weight": class_weight,
        "steps": steps_per_epoch,
        "order": partial(epoch_order, keras.tree.flatten(x)[0].shape[0], seed) if shuffle and arrays else None,
    }
    train = test = None
    try:
        kind = _kind(model, compiled, (x, y, sample_weight, *held_out), memory_share)
        examples: Examples = kind(x, y, sample_weight, **arrangement)
        driven = any(isinstance(callback, LearningRate) for callback in flat(callbacks))
        rates = np.zeros(_steps(examples, steps_per_epoch), np.float32) if driven else None
        train = _blocks(model, "train_step", examples, steps_per_block, rates)
        if held_out:
            size = validation_batch_size or examples.batch_size
            validation = kind(*held_out, batch_size=size, steps=validation_steps)
            test = _blocks(model, "test_step", validation, steps_per_block)
            validation_data, validation_steps = (validation,), _steps(validation, validation_steps)
    except NotCompilableError as reason:
        if replicas > 1:
            raise
        _fall_back(compiled, str(reason))
        examples, train = PlainExamples(x, y, sample_weight, **arrangement), None
    hooks = BlockHooks(
        callbacks,
        examples,
        train,
        test,
        validation_steps or 0,
        add_history=True,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=epochs,
        steps=_steps(examples, steps_per_epoch),
    )
    with _replaced(model, train, test), replicated.together(model.distribute_strategy):
        return model.fit(examples, callbacks=hooks, validation_data=validation_data, shuffle=False, **options)


def evaluate(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    sample_weight: Any = None,
    steps: int | None = None,
    callbacks: Any = None,
    *,
    compiled: Compiled = "auto",
    steps_per_block: int | None = None,
    memory_share: float = 0.5,
) -> dict[str, float]:
    """Measure a compiled Keras model as `model.evaluate` does, many steps at a time.

    Args:
        model: any compiled Keras model.
        x, y, batch_size, verbose, sample_weight, steps, callbacks: as in `keras.Model.evaluate`.
        compiled, steps_per_block, memory_share: as in `fit`.

    Returns:
        The loss and the metrics by name.

    Raises:
        ValueError: as in `fit`.
    """
    _check_options(model, compiled, memory_share)
    check_counts(batch_size=batch_size, steps=steps, steps_per_block=steps_per_block)
    check_dataset(x, steps, "steps")
    options: dict[str, Any] = {"verbose": verbose, "steps": steps, "return_dict": True}
    replicas = _replicas(model, compiled)
    arrays = _are_arrays(x, y, sample_weight)
    try:
        if not arrays and replicas == 1:
            raise NotCompilableError(f"x is of type {type(x).__name__}, and only arrays can lie on the device")
        if arrays:
            check_arrays(model, x, y, sample_weight)
        examples = _kind(model, compiled, (x, y, sample_weight), memory_share)(
            x, y, sample_weight, batch_size=batch_size, steps=steps
        )
        test = _blocks(model, "test_step", examples, steps_per_block)
    except NotCompilableError as reason:
        if replicas > 1:
            raise
        _fall_back(compiled, str(reason))
        return model.evaluate(x, y, batch_size, sample_weight=sample_weight, callbacks=callbacks, **options)
    hooks = BlockHooks(
        callbacks,
        examples,
        test=test,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=1,
        steps=_steps(examples, steps),
    )
    with _replaced(model, test=test), watching_peers(model.distribute_strategy):
        return model.evaluate(examples, callbacks=hooks, **options)


def predict(
    model: keras.Model,
    x: Any,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    steps: int | None = None,
    callbacks: Any = None,
) -> Any:
    """What a Keras model answers, as `model.predict` gives it, worked out by all replicas of the model's strategy.

    With several processes all must ask, for the same examples, and all get the whole answer.

    Args:
        model: any built Keras model.
        x, batch_size, verbose, steps, callbacks: as in `keras.Model.predict`.

    Returns:
        The outputs, arrays of shape `(examples, …)`, in the examples' order.

    Raises:
        ConnectionError: another process is gone.
    """
    strategy = model.distribute_strategy
    options: dict[str, Any] = {"verbose": verbose, "steps": steps, "callbacks": callbacks}
    if strategy.num_replicas_in_sync == 1:
        return model.predict(x, batch_size=batch_size, **options)
    examples = replicated.spread(strategy, False, x, batch_size=batch_size, steps=steps)
    kept, steps_per_execution = model.predict_function, model.steps_per_execution
    try:
        model.predict_function, model.steps_per_execution = replicated.predictor(model), 1
        with watching_peers(strategy):
            return model.predict(examples, **options)
    finally:
        model.predict_function, model.steps_per_execution = kept, steps_per_execution


class NotCompilableError(ValueError):
    """Why a model and its data cannot run as compiled epochs, in one line."""


def _fall_back(compiled: Compiled, reason: str) -> None:
    if compiled == "on":
        raise NotCompilableError(f"compiled epochs are not possible: {reason}")
    if compiled == "auto":
        logger.warning("plain Keras runs instead of compiled epochs: %s", reason)


def _replicas(model: keras.Model, compiled: Compiled) -> int:
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


def _kind(model: keras.Model, compiled: Compiled, arrays: Any, memory_share: float) -> Any:
    """How the arrays come to the device.

    Raises:
        NotCompilableError: the model or its data stand against it.
    """
    if compiled == "off":
        raise NotCompilableError("compiled is off")
    strategy = model.distribute_strategy
    spread = strategy.num_replicas_in_sync > 1
    if spread:
        arrays = [array for array in keras.tree.flatten(arrays) if hasattr(array, "dtype")]
    elif reason := _obstacle(model, arrays):
        raise NotCompilableError(reason)
    room = memory_share * device_memory()
    resident = (size := nbytes(arrays)) <= room
    if not resident:
        logger.info("the data is streamed: its %.3g MB are more than the %.3g MB set aside", size / 1e6, room / 1e6)
    if spread:
        return partial(replicated.spread, strategy, resident)
    return ResidentExamples if resident else StreamedExamples


def _obstacle(model: keras.Model, arrays: Any) -> str | None:
    """Why a model cannot be compiled, as far as that is known without trying."""
    if model.run_eagerly or tf.config.functions_run_eagerly():
        return "the model runs eagerly"
    for layer in model._flatten_layers():
        if not layer.supports_jit:
            return f"layer {layer.name!r} ({type(layer).__name__}) does not support XLA"
    if not model_supports_jit(model):
        return "XLA is off here (tf.config.experimental.enable_op_determinism switches it off)"
    for array in map(as_array, filter(_is_some, keras.tree.flatten(arrays))):
        if not isinstance(array, np.ndarray | tf.Tensor) or not (
            (dtype := tf.as_dtype(array.dtype)).is_floating or dtype.is_integer or dtype.is_bool
        ):
            return f"the data holds {short(getattr(array, 'dtype', type(array).__name__))}, not dense arrays of numbers"
    return None


def _blocks(
    model: keras.Model, step: str, examples: ResidentExamples, length: int | None, rates: np.ndarray | None = None
) -> Blocks:
    """Blocks that are compiled already.

    Raises:
        NotCompilableError: XLA cannot compile the model.
    """
    steps_per_execution = model.steps_per_execution if model.steps_per_execution > 1 else None
    if model.distribute_strategy.num_replicas_in_sync > 1:
        if step == "train_step":
            replicated.check_batch_sizes(model, getattr(examples, "batch_sizes", []))
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=examples.first_batch)
        return replicated.ReplicaBlocks(
            _program(model, step),
            length or steps_per_execution,
            model.distribute_strategy,
            stops=step == "train_step",
        )
    try:
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=examples.first_batch)
        program = _program(model, step)
        for steps in examples.no_steps():
            program(steps, rates=None if rates is None else tf.constant(rates))
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise NotCompilableError(short(f"{type(error).__name__}: {lines[0]}", 200)) from error
    return Blocks(program, length or steps_per_execution)


def _program(model: keras.Model, step: str) -> Any:
    """The model's program for a step, kept until the model is compiled anew."""
    # Past Keras's __setattr__, which would track it as a part of the model.
    kept = vars(model).setdefault("_kerasnn_programs", {})
    if kept.get("compile_config") is not model._compile_config:
        kept.clear()
        kept["compile_config"] = model._compile_config
    if step not in kept:
        replicas = model.distribute_strategy.num_replicas_in_sync
        kept[step] = replicated.ReplicaProgram(model, step) if replicas > 1 else Program(model, step)
    return kept[step]


@contextmanager
def _replaced(model: keras.Model, train: Blocks | None = None, test: Blocks | None = None) -> Iterator[None]:
    """Keras's functions for ours, while its loop runs."""
    ours = {"train_function": train, "test_function": test}
    # The model is built; Keras would begin a pass over the data to see what it is like.
    vars(model)["_maybe_symbolic_build"] = lambda **_: None
    kept = {name: getattr(model, name) for name in ours}
    steps_per_execution = model.steps_per_execution
    for name, function in ours.items():
        if function is not None:
            setattr(model, name, function)
    if train is not None or test is not None:
        # Our functions answer for single steps.
        model.steps_per_execution = 1
    try:
        yield
    finally:
        del vars(model)["_maybe_symbolic_build"]
        model.steps_per_execution = steps_per_execution
        for name, function in ours.items():
            # Unless a callback asked for new ones.
            if function is not None and getattr(model, name) is function:
                setattr(model, name, kept[name])


def _steps(examples: Examples, steps: int | None) -> int:
    """Steps in an epoch."""
    limit = keras.config.max_steps_per_epoch()
    return min(filter(None, (steps or examples.num_batches, limit)))


def _are_arrays(*arrays: Any) -> bool:
    return bool(arrays) and arrays[0] is not None and can_convert_arrays(arrays)


def _is_some(value: Any) -> bool:
    return value is not None


def _check_options(model: keras.Model, compiled: str, memory_share: float) -> None:
    if not model.compiled:
        raise ValueError("the model must be compiled first: call model.compile(optimizer, loss)")
    if compiled not in get_args(Compiled):
        raise ValueError(one_of("compiled", compiled, get_args(Compiled)))
    if not 0 < memory_share <= 1:
        raise ValueError(f"memory_share must be above 0 and at most 1; received {memory_share!r}")
