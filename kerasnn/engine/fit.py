"""Keras's own `fit`, `evaluate` and `predict`, many steps in one program over data kept on the device."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.attributes import overridden, temporary_attributes
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.distribute.devices import watching_peers
from kerasnn.engine import replicated
from kerasnn.engine.batches import Batches
from kerasnn.engine.block_callbacks import BlockCallbacks, BlockDriver, acts_by_batch, flat
from kerasnn.engine.checks import Checks, check_counts, check_dataset, check_fit_options
from kerasnn.engine.compilation import (
    Compiled,
    blocks_of,
    check_options,
    examples_kind,
    fall_back,
    logger,
    own_loop,
    replica_count,
    running,
)
from kerasnn.engine.examples import Order, leaves
from kerasnn.engine.order import draw_seed, epoch_order
from kerasnn.engine.own_methods import keras_method, overrides, refuse_further, through_own
from kerasnn.engine.source import Source, are_dense, as_arrays
from kerasnn.engine.steps import Blocks, NotCompilableError
from kerasnn.keras_private import array_slicing
from kerasnn.timings import phase


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
    seed: int | None = None,
    compiled: Compiled = "auto",
    steps_per_block: int | None = None,
    memory_share: float = 0.5,
    checks: str = "error",
    **own: Any,
) -> keras.callbacks.History:
    """Train a compiled Keras model as `model.fit` does, several times faster where steps are short.

    Keras's own `fit` runs, with the weights, logs and callbacks that it gives for the same order of examples. Arrays
    lie on the device; a thread reads batches of tf.data, `PyDataset`, generators and loaders ahead, though not beyond
    an epoch's end. Batch methods of Keras's own callbacks and of kerasnn's are called once a block of steps, as with
    Keras's `steps_per_execution`: with the number of the block's first step, and of its last. Where another callback
    defines a batch method, a block is one step, unless `steps_per_block` or the model's `steps_per_execution` is set.
    The learning rate and momentum of a `LearningRate` callback change at every update within a block. A model of a
    `tf.distribute` strategy is trained by all its replicas, on arrays or batches of tf.data, with the numbers of one
    device.

    Args:
        model: any compiled Keras model.
        x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data: as in `keras.Model.fit`.
        class_weight, sample_weight, initial_epoch, steps_per_epoch: likewise.
        validation_steps, validation_batch_size, validation_freq: likewise.
        shuffle: whether an epoch's order of examples is `epoch_order`'s, or the arrays' own.
        seed: seed of the orders, 0 or above. None draws one from NumPy's global generator, so that every call has
            orders of its own, which `keras.utils.set_random_seed` repeats.
        compiled: "auto" compiles where that is possible and else logs why it isn't; "on" insists; "off" is plain Keras,
            with the order of examples of `seed` where one is given.
        steps_per_block: steps between batch methods; None takes the model's `steps_per_execution` or, where that is 1,
            what runs in about a quarter of a second.
        memory_share: fraction of the device's memory that the data may take, above 0 and at most 1; more is streamed.
        checks: "error" refuses data that a model cannot learn from, "warn" logs it, "off" leaves it to Keras.
        own: further arguments of a `fit` of the model's own.

    Returns:
        Keras's History.

    Raises:
        TypeError: an argument that neither Keras's `fit` nor one of the model's own takes.
        ValueError: an argument out of range; data that cannot be learned from; "on" where the model or its data cannot
            be compiled.
        InvalidArgumentError: an index out of range, as an id beyond an embedding's rows.

    Reference: `keras.Model.fit`.

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    >>> model.compile(keras.optimizers.SGD(0.5), "mse")
    >>> history = fit(model, np.zeros((8, 2)), np.ones(8), batch_size=8, epochs=2, verbose=0)
    >>> history.history["loss"]
    [1.0, 0.0]
    """
    check_options(model, compiled, memory_share)
    if overrides(model, "fit"):
        return through_own(fit, locals())
    refuse_further(fit, own)
    options: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs, "verbose": verbose}
    options |= {"initial_epoch": initial_epoch, "steps_per_epoch": steps_per_epoch, "validation_freq": validation_freq}
    options |= {"validation_steps": validation_steps, "validation_batch_size": validation_batch_size}
    check_fit_options(options, validation_split, seed, steps_per_block)
    checked = Checks(model, checks)
    checked.model()
    if validation_data is None and not validation_split:
        checked.monitors(callbacks)
    check_dataset(x, steps_per_epoch, "steps_per_epoch")
    check_dataset(validation_data, validation_steps, "validation_steps", "validation_data")
    replicas = replica_count(model, compiled)
    given = (x, y, sample_weight)
    arrays = _dense(given, checked)
    off = "compiled is off" if compiled == "off" and seed is None else None
    if reason := off or _reason_for_plain_keras(model, given, replicas, "train", steps_per_epoch):
        fall_back(compiled, reason)
        options |= {"validation_split": validation_split, "validation_data": validation_data, "shuffle": shuffle}
        options |= {"class_weight": class_weight, "sample_weight": sample_weight, "callbacks": callbacks}
        return keras_method(model, "fit")(x, y, **options)
    if arrays:
        checked.training(arrays[0], arrays[1], arrays[2], class_weight)
    if validation_split and validation_data is None:
        split = array_slicing.train_validation_split(arrays or given, validation_split=validation_split)
        arrays, validation_data = split
    order = _order(arrays, callbacks, seed) if shuffle and are_dense(*arrays) else None
    sizes: dict[str, Any] = {"batch_size": batch_size, "class_weight": class_weight, "steps": steps_per_epoch}
    source = Source(arrays or given, replicas, order=order, shuffle=shuffle, **sizes)
    held_out = _held_out(model, validation_data, replicas, checked, options)
    validation = held_out and held_out.batches
    if validation:
        validation_data = (validation,)
    owner = next((callback for callback in flat(callbacks) if isinstance(callback, LearningRate)), None)
    lengths = {phase: partial(_block_length, model, callbacks, phase, steps_per_block) for phase in ("train", "test")}
    train = test = None
    try:
        resident = (*source.resident, *(held_out.resident if held_out else ()))
        kind = examples_kind(model, compiled, resident, memory_share)
        examples = source.examples(kind)
        count = _steps(examples, steps_per_epoch)
        rates = np.zeros(count, np.float32) if owner is not None and count else None
        # Never what is left of them, so that a training that goes on runs the same program.
        total = epochs * count if count else math.inf
        train = blocks_of(model, "train_step", examples, lengths["train"](), rates, steps=total)
        if held_out:
            validation = held_out.examples(kind, examples.batch_size)
            test = blocks_of(model, "test_step", validation, lengths["test"](), steps=total)
            validation_data = (validation,)
    except NotCompilableError as obstacle:
        if replicas > 1:
            raise
        fall_back(compiled, str(obstacle))
        train = test = None
        examples = source.for_plain_keras()
        if held_out:
            held_out.read_singly()
    validation_steps = None if validation is None else _steps(validation, validation_steps)
    if test is not None and not isinstance(validation, Batches):
        options["validation_steps"] = validation_steps
    driver = BlockDriver(examples, train, test, owner, _steps(examples, steps_per_epoch), validation_steps)
    hooks = _block_callbacks(callbacks, driver, model, verbose, epochs=epochs)
    with running(model, train, test), replicated.stopping_together(model.distribute_strategy), phase("epochs"):
        run = keras_method(model, "fit")
        return run(examples, callbacks=hooks, validation_data=validation_data, shuffle=False, **options)


def evaluate(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    sample_weight: Any = None,
    steps: int | None = None,
    callbacks: Any = None,
    return_dict: bool = False,
    *,
    compiled: Compiled = "auto",
    steps_per_block: int | None = None,
    memory_share: float = 0.5,
    checks: str = "error",
    **own: Any,
) -> Any:
    """Measure a compiled Keras model as `model.evaluate` does, many steps at a time.

    Args:
        model: any compiled Keras model.
        x, y, batch_size, verbose, sample_weight, steps, callbacks, return_dict: as in `keras.Model.evaluate`.
        compiled, steps_per_block, memory_share, checks: as in `fit`.
        own: further arguments of an `evaluate` of the model's own.

    Returns:
        As `keras.Model.evaluate`: the loss, or a list of the loss and the metrics, or with `return_dict` both by name.

    Raises:
        TypeError, ValueError, InvalidArgumentError: as in `fit`.

    Reference: `keras.Model.evaluate`.

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    >>> model.compile(keras.optimizers.SGD(0.5), "mse")
    >>> evaluate(model, np.zeros((8, 2)), np.ones(8), verbose=0)
    1.0
    """
    check_options(model, compiled, memory_share)
    if overrides(model, "evaluate"):
        return through_own(evaluate, locals())
    refuse_further(evaluate, own)
    check_counts(batch_size=batch_size, steps=steps, steps_per_block=steps_per_block)
    check_dataset(x, steps, "steps")
    options: dict[str, Any] = {"verbose": verbose, "steps": steps, "return_dict": return_dict}
    replicas = replica_count(model, compiled)
    given = (x, y, sample_weight)
    x, y, sample_weight = arrays = as_arrays(*given)
    checked = Checks(model, checks)
    checked.types(*arrays)
    batches = None
    try:
        if reason := _reason_for_plain_keras(model, given, replicas, "test"):
            raise NotCompilableError(reason)
        if are_dense(*arrays):
            checked.evaluation(x, y, sample_weight)
        elif replicas == 1:
            arrays = given
        source = Source(arrays, replicas, batch_size=batch_size, steps=steps)
        batches = source.batches
        examples = source.examples(examples_kind(model, compiled, source.resident, memory_share))
        length = _block_length(model, callbacks, "test", steps_per_block)
        test = blocks_of(model, "test_step", examples, length)
    except NotCompilableError as reason:
        if replicas > 1:
            raise
        fall_back(compiled, str(reason))
        x, y, sample_weight = given if batches is None else (batches, None, None)
        run = keras_method(model, "evaluate")
        return run(x, y, batch_size, sample_weight=sample_weight, callbacks=callbacks, **options)
    count = _steps(examples, steps)
    driver = BlockDriver(examples, None, test, None, count, count)
    hooks = _block_callbacks(callbacks, driver, model, verbose)
    with running(model, test=test), watching_peers(model.distribute_strategy):
        return keras_method(model, "evaluate")(examples, callbacks=hooks, **options)


def predict(
    model: keras.Model,
    x: Any,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    steps: int | None = None,
    callbacks: Any = None,
) -> Any:
    """Predict as `model.predict` does, on all replicas of the model's strategy.

    With several processes all must call it, with the same examples, and all get the outputs of all examples.

    Args:
        model: any built Keras model.
        x, batch_size, verbose, steps, callbacks: as in `keras.Model.predict`.

    Returns:
        The outputs, arrays of shape `(examples, …)`, in the examples' order.

    Raises:
        ConnectionError: another process is gone.

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> predict(model, np.array([[1.0, 2.0]]), verbose=0)
    array([[3.]], dtype=float32)
    """
    strategy = model.distribute_strategy
    options: dict[str, Any] = {"verbose": verbose, "steps": steps, "callbacks": callbacks}
    if strategy.num_replicas_in_sync == 1:
        return model.predict(x, batch_size=batch_size, **options)
    examples = replicated.shared_examples(strategy, False, x, batch_size=batch_size, steps=steps)
    with (
        temporary_attributes(model, predict_function=replicated.predictor(model), steps_per_execution=1),
        watching_peers(strategy),
    ):
        return model.predict(examples, **options)


def _reason_for_plain_keras(
    model: keras.Model, given: Any, replicas: int, phase: Any, steps: int | None = None
) -> str | None:
    """Why plain Keras gets the call as it is, or None."""
    if steps and replicas == 1 and steps % model.steps_per_execution:
        # Keras's epochs then have more steps than asked for, and later ones fewer.
        return "steps_per_epoch is not a multiple of the model's steps_per_execution"
    if isinstance(given[0], tf.distribute.DistributedDataset):
        return "x is distributed already"
    if method := own_loop(model, phase):
        return f"the model overrides {method}"
    return None if leaves((given[0],)) else "x is None"


def _held_out(
    model: keras.Model, validation_data: Any, replicas: int, checked: Checks, options: dict[str, Any]
) -> Source | None:
    """Validation data that runs in blocks; None where Keras's own steps evaluate."""
    if validation_data is None or own_loop(model, "test") or overridden(model, keras.Model, "evaluate"):
        return None
    given = keras.utils.unpack_x_y_sample_weight(validation_data)
    arrays = as_arrays(*given)
    if are_dense(*arrays):
        x, y, sample_weight = given = arrays
        checked.evaluation(x, y, sample_weight, part="validation ")
    size = options["validation_batch_size"] or options["batch_size"]
    return Source(given, replicas, batch_size=size, steps=options["validation_steps"])


def _block_callbacks(
    callbacks: Any, driver: BlockDriver, model: keras.Model, verbose: Any, epochs: int | None = None
) -> BlockCallbacks:
    """The callbacks of Keras's loop; without `epochs` it evaluates."""
    return BlockCallbacks(
        callbacks,
        driver,
        add_history=epochs is not None,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        steps=driver.steps,
        epochs=1 if epochs is None else epochs,
    )


def _dense(given: tuple[Any, ...], checked: Checks) -> tuple[Any, ...]:
    """x, y and sample weights as dense arrays; empty where they are not."""
    arrays = as_arrays(*given)
    checked.types(*arrays)
    return arrays if are_dense(*arrays) else ()


def _order(arrays: tuple[Any, ...], callbacks: Any, seed: int | None) -> Order:
    """The orders of arrays' examples."""
    return partial(epoch_order, leaves(arrays[0])[0].shape[0], _order_seed(callbacks, seed))


def _order_seed(callbacks: Any, seed: int | None) -> int:
    """The seed of the orders; a callback that saves the training's state keeps it for a run that goes on."""
    keeper = next((callback for callback in flat(callbacks) if hasattr(callback, "shuffle_seed")), None)
    if seed is None:
        seed = getattr(keeper, "shuffle_seed", None)
    if seed is None:
        seed = draw_seed()
    if keeper is not None:
        keeper.shuffle_seed = seed
    return seed


def _block_length(model: keras.Model, callbacks: Any, phase: Any, steps_per_block: int | None) -> int | None:
    """Steps in a block: those asked for, else 1 where a callback must see every batch."""
    if steps_per_block is not None or model.steps_per_execution > 1:
        return steps_per_block
    callback = acts_by_batch(callbacks, phase)
    if callback is None:
        return None
    logger.warning("blocks are single steps: %s acts at every batch", type(callback).__name__)
    return 1


def _steps(examples: Any, steps: int | None) -> int | None:
    """Steps in an epoch; None where that is not known."""
    limit = keras.config.max_steps_per_epoch()
    return min(filter(None, (steps or examples.num_batches, limit)), default=None)


__all__ = ["Blocks", "Compiled", "NotCompilableError", "evaluate", "fit", "predict"]
