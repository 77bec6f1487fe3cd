"""Compiled epochs: Keras's own `fit` and `evaluate`, many steps in one XLA program over data that stays on the device."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers.data_adapters.array_data_adapter import can_convert_arrays
from keras.src.trainers.data_adapters.array_slicing import train_validation_split

from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.schema import one_of, short
from kerasnn.training.examples import Examples, PlainExamples, ResidentExamples, StreamedExamples, as_array, nbytes
from kerasnn.training.memory import device_memory
from kerasnn.training.order import epoch_order
from kerasnn.training.program import Blocks, Program

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

    Keras's own `fit` runs, with the weights, logs and callbacks that it gives for the same order of examples. Batch hooks
    are called once a block of steps, as with Keras's `steps_per_execution`: with the number of the block's first step, and
    of its last. The learning rate and momentum of a `LearningRate` callback change at every update within a block.

    Args:
        model: any compiled Keras model.
        x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, class_weight, sample_weight,
            initial_epoch, steps_per_epoch, validation_steps, validation_batch_size, validation_freq: as in
            `keras.Model.fit`.
        shuffle: whether an epoch's order of examples is `epoch_order`'s, or the arrays' own.
        seed: seed of the orders, 0 or above.
        compiled: "auto" compiles where that is possible and else logs why it isn't; "on" insists; "off" is plain Keras
            with the same order of examples.
        steps_per_block: steps between batch hooks; None takes the model's `steps_per_execution` or, where that is 1, what
            runs in about a quarter of a second.
        memory_share: share of the device's memory that the data may take, above 0 and at most 1; more is streamed.

    Returns:
        Keras's History.

    Raises:
        ValueError: an argument out of range; labels that the network has no class for; sample weights that are negative
            or no numbers; "on" where the model or its data cannot be compiled.
    """
    _check_options(model, compiled, memory_share)
    _check_counts(
        batch_size=batch_size,
        validation_batch_size=validation_batch_size,
        steps_per_epoch=steps_per_epoch,
        validation_steps=validation_steps,
        steps_per_block=steps_per_block,
    )
    if min(epochs, initial_epoch, seed) < 0:
        raise ValueError(
            f"epochs, initial_epoch and seed must be 0 or above; received {epochs}, {initial_epoch} and {seed}"
        )
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
    if not _are_arrays(x, y, sample_weight):
        _fall_back(compiled, f"x is {type(x).__name__}, not arrays")
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
    if validation_split and validation_data is None:
        (x, y, sample_weight), validation_data = train_validation_split(
            (x, y, sample_weight), validation_split=validation_split
        )
    held_out = () if validation_data is None else keras.utils.unpack_x_y_sample_weight(validation_data)
    if not _are_arrays(*held_out):
        held_out = ()
    _check_weights(sample_weight)

    count = keras.tree.flatten(x)[0].shape[0]
    arrangement: dict[str, Any] = {
        "batch_size": batch_size,
        "class_weight": class_weight,
        "steps": steps_per_epoch,
        "order": partial(epoch_order, count, seed) if shuffle else None,
    }
    train = test = None
    try:
        kind = _kind(model, compiled, [x, y, sample_weight, *held_out], memory_share)
        examples: Examples = kind(x, y, sample_weight, **arrangement)
        callback = next((each for each in _flat(callbacks) if isinstance(each, LearningRate)), None)
        train = _blocks(model, "train_step", examples, steps_per_block, rates=callback is not None)
        if held_out:
            validation = kind(*held_out, batch_size=validation_batch_size or examples.batch_size, steps=validation_steps)
            test = _blocks(model, "test_step", validation, steps_per_block)
            validation_data = (validation,)
    except NotCompilableError as reason:
        _fall_back(compiled, str(reason))
        train = test = None
        examples = PlainExamples(x, y, sample_weight, **arrangement)
    hooks = _Hooks(model, examples, callbacks, verbose, epochs, steps_per_epoch, validation_steps, train, test)
    with _replaced(model, train, test):
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
    _check_counts(batch_size=batch_size, steps=steps, steps_per_block=steps_per_block)
    options: dict[str, Any] = {"verbose": verbose, "steps": steps, "return_dict": True}
    test = None
    try:
        if not _are_arrays(x, y, sample_weight):
            raise NotCompilableError(f"x is {type(x).__name__}, not arrays")
        _check_weights(sample_weight)
        kind = _kind(model, compiled, [x, y, sample_weight], memory_share)
        examples = kind(x, y, sample_weight, batch_size=batch_size, steps=steps)
        test = _blocks(model, "test_step", examples, steps_per_block)
    except NotCompilableError as reason:
        _fall_back(compiled, str(reason))
        return model.evaluate(x, y, batch_size, sample_weight=sample_weight, callbacks=callbacks, **options)
    hooks = _Hooks(model, callbacks, verbose, epochs=1, steps=_steps(examples, steps), test=test)
    with _replaced(model, test=test):
        return model.evaluate(examples, callbacks=hooks, **options)


class NotCompilableError(ValueError):
    """Why a model or its data cannot run as compiled epochs, in one line."""


class _Hooks(keras.callbacks.CallbackList):
    """Callbacks that hear of blocks where Keras's loop counts steps."""

    def __init__(
        self,
        model: keras.Model,
        callbacks: Any,
        verbose: str | int,
        *,
        epochs: int,
        steps: int,
        add_history: bool = False,
        examples: Examples | None = None,
        validation_steps: int = 0,
        train: Blocks | None = None,
        test: Blocks | None = None,
    ) -> None:
        self._examples, self._train, self._test = examples, train, test
        self._steps = {"train": steps, "test": validation_steps or steps}
        self._learning_rate = _learning_rate(callbacks)
        super().__init__(
            _flat(callbacks),
            add_history=add_history,
            add_progbar=verbose != 0,
            model=model,
            verbose=verbose,
            epochs=epochs,
            steps=steps,
        )

    def on_train_begin(self, logs: Any = None) -> None:
        if self._train is None or self._learning_rate is None:
            super().on_train_begin(logs)
            return
        self._learning_rate.in_graph = True
        super().on_train_begin(logs)
        if self._learning_rate.momentum_variable is not None:
            self._train.program = Program(self.model, "train_step", self._learning_rate.momentum_variable)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        if self._examples is not None:
            self._examples.epoch = epoch
        if self._train is not None:
            if self._learning_rate is None:
                self._train.begin()
            else:
                rates = self._learning_rate
                self._train.begin(rates.rates(epoch, self._steps["train"]), rates.momenta(epoch, self._steps["train"]))
