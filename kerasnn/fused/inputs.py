"""The examples that models train on together."""

from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from kerasnn.attributes import overridden
from kerasnn.distribute.replicas import optimizers_of
from kerasnn.engine.checks import Checks
from kerasnn.engine.compilation import is_dense
from kerasnn.engine.examples import Examples, as_array, each, leaves
from kerasnn.engine.order import epoch_order
from kerasnn.fused.model_program import Batches
from kerasnn.keras_private import array_slicing, can_convert_arrays


class Inputs:
    """Arrays of training and validation, with each model's sample weights.

    Args:
        train: the training arrays of each model; models with the same weights share one object.
        validation: the validation arrays of all models, or None.
        shuffle: whether each epoch of training has an order of its own.
    """

    def __init__(self, train: Sequence[Examples], validation: Examples | None, shuffle: bool) -> None:
        self._train, self._validation, self._shuffle = train, validation, shuffle
        self.batch_size: int = train[0].batch_size
        self.rows = train[0].size
        self.train_steps = int(train[0].num_batches)
        self.validation_batch_size: int = 0 if validation is None else validation.batch_size
        self.validation_steps = 0 if validation is None else int(validation.num_batches)

    @classmethod
    def of(
        cls,
        x: Any,
        y: Any,
        sample_weights: Sequence[Any],
        class_weights: Sequence[Any],
        validation_data: Any = None,
        *,
        validation_split: float = 0.0,
        batch_size: int | None = None,
        validation_batch_size: int | None = None,
        shuffle: bool = True,
    ) -> Self | None:
        """The arrays of the arguments of `fit_fused`; None where some are no dense arrays of numbers."""
        held_out = () if validation_data is None else keras.utils.unpack_x_y_sample_weight(validation_data)
        given = (x, y, list(sample_weights), held_out)
        if x is None or not can_convert_arrays(given):
            return None
        x, y, sample_weights, held_out = each(as_array, given)
        if not all(map(is_dense, leaves((x, y, sample_weights, held_out)))):
            return None
        if validation_split and validation_data is None:
            # All models are measured on the same examples, without weights of their own.
            (x, y, sample_weights), held = array_slicing.train_validation_split(
                (x, y, sample_weights), validation_split=validation_split
            )
            held_out = (held[0], held[1], held[2][0])
        made: dict[Any, Examples] = {}
        train = []
        for own, by_class in zip(sample_weights, class_weights, strict=True):
            key = (id(own), None if by_class is None else tuple(by_class.items()))
            if key not in made:
                made[key] = Examples(x, y, own, batch_size=batch_size, class_weight=by_class)
            train.append(made[key])
        validation = None
        if held_out:
            size = validation_batch_size or train[0].batch_size
            validation = Examples(*held_out, batch_size=size)
        return cls(train, validation, shuffle)

    def check(self, number: int, checks: Checks, class_weight: Any) -> None:
        """Refuse what a model cannot learn from, as `kerasnn.fit` does."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self._train[number].arrays)
        checks.model()
        checks.types(x, y, sample_weight)
        checks.training(x, y, sample_weight, class_weight)
        if self._validation is not None:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self._validation.arrays)
            checks.evaluation(x, y, sample_weight, part="validation ")

    def build(self, number: int, model: keras.Model) -> None:
        """Build a model and its optimizers; those that Keras builds in the model's own step, by tracing it."""
        batch = self.first_batch(number)
        has_own_step = overridden(model, keras.Model, "train_step") is not None
        try:
            model._symbolic_build(data_batch=batch)
        except Exception:
            if not has_own_step:
                raise
        if has_own_step and not all(optimizer.built for optimizer in optimizers_of(model)):
            tf.function(model.train_step, autograph=False).get_concrete_function(batch)

    def first_batch(self, number: int) -> Any:
        """A batch of a model, as `tf.TensorSpec`s."""
        return self._train[number].first_batch

    def is_weighted(self, number: int) -> bool:
        """Whether a model's examples have weights."""
        return keras.utils.unpack_x_y_sample_weight(self._train[number].arrays)[2] is not None

    def on_device(self, numbers: Sequence[int]) -> tuple["Arrays", "Arrays | None"]:
        """The arrays of some models for training and validation, on the current device."""
        first = self._train[numbers[0]].arrays
        weights = None
        if any(self._train[number] is not self._train[numbers[0]] for number in numbers):
            weights = {number: _tensors(self._train[number].arrays[2]) for number in numbers}
            first = first[:2]
        validation = self._validation and Arrays(_tensors(self._validation.arrays), None, False)
        return Arrays(_tensors(first), weights, self._shuffle), validation


class Arrays:
    """Examples on a device.

    Args:
        shared: arrays that all members share, in the structure that Keras's steps take.
        weights: sample weights by number of the model, where they differ.
        shuffle: whether each epoch has an order of its own.
    """

    def __init__(self, shared: Any, weights: dict[int, Any] | None, shuffle: bool) -> None:
        self._shared, self._weights, self._shuffle = shared, weights, shuffle
        self._rows = int(leaves(shared)[0].shape[0])

    def batches(self, numbers: Sequence[int], seeds: Sequence[int], epoch: int) -> Batches:
        """The batches of an epoch for some models, given their numbers and the seeds of their orders."""
        orders = None
        if self._shuffle:
            distinct = {seed: epoch_order(self._rows, seed, epoch) for seed in dict.fromkeys(seeds)}
            # One order for all where all have one seed: then no member needs a batch of its own.
            orders = tf.constant(
                distinct[seeds[0]] if len(distinct) == 1 else np.stack([distinct[seed] for seed in seeds])
            )
        weights = None
        if self._weights is not None:
            own = [self._weights[number] for number in numbers]
            weights = tf.nest.map_structure(lambda *parts: tf.stack(parts), *own)
        return Batches(self._shared, orders, weights)


def _tensors(structure: Any) -> Any:
    """A structure of arrays as tensors of the types that Keras converts to."""

    def tensor(array: Any) -> tf.Tensor:
        dtype = tf.as_dtype(array.dtype)
        return tf.cast(array, keras.config.floatx()) if dtype.is_floating else tf.convert_to_tensor(array)

    return each(tensor, structure)
