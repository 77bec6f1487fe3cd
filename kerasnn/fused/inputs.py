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
from kerasnn.fused.program import Batches
from kerasnn.fused.streams import Stream
from kerasnn.keras_private import Functional, array_slicing, can_convert_arrays

Part = Examples | Stream
"""Training or validation examples: arrays, or the batches of a dataset."""


class Inputs:
    """Examples of training and validation, with each model's sample weights.

    Args:
        train: the training examples of each model; models with the same weights share one object.
        validation: the validation examples of each model, likewise; empty where there are none.
        shuffle: whether each epoch of training has an order of its own.
        fills_up: whether the last batch of an epoch of training is filled up.
    """

    def __init__(
        self, train: Sequence[Part], validation: Sequence[Part], shuffle: bool, fills_up: bool = False
    ) -> None:
        self._train, self._validation, self._shuffle, self._fills_up = train, validation, shuffle, fills_up
        self.batch_size: int = train[0].batch_size
        self.rows = train[0].size
        self.train_steps = int(train[0].num_batches)
        self.validation_batch_size: int = validation[0].batch_size if validation else 0

    @property
    def validation_steps(self) -> int:
        """Batches of an evaluation; 0 where there is none."""
        return int(self._validation[0].num_batches) if self._validation else 0

    @property
    def steps(self) -> int:
        """Batches of an epoch with its validation."""
        return self.train_steps + self.validation_steps

    @property
    def largest_batch(self) -> int:
        """Examples in the larger of the batches of training and validation."""
        return max(self.batch_size, self.validation_batch_size)

    @property
    def streams(self) -> list[Stream]:
        """The datasets among training and validation examples."""
        parts = [self._train[0], *self._validation[:1]]
        return [part for part in parts if isinstance(part, Stream)]

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
        """The examples of the arguments of `fit_fused`; None where some are no dense numbers.

        Raises:
            ValueError: one line, for a dataset without an end.
        """
        count = len(sample_weights)
        held_out, validation_data = validation_data, None if is_dataset(validation_data) else validation_data
        if is_dataset(x):
            if y is not None or validation_split or any(each is not None for each in (*sample_weights, *class_weights)):
                return None
            if (stream := Stream.of(x)) is None:
                return None
            train: Sequence[Part] = [stream] * count
            validation: Sequence[Part] | None = _held_out(validation_data, count, validation_batch_size)
        else:
            found = _arrays(x, y, sample_weights, class_weights, validation_data, validation_split, batch_size)
            if found is None:
                return None
            train, own_held_out = found
            size = validation_batch_size or train[0].batch_size
            validation = _distinct([(own, None) for own in own_held_out], size) if any(map(bool, own_held_out)) else []
        if is_dataset(held_out):
            streamed = Stream.of(held_out)
            validation = None if streamed is None else [streamed] * count
        return None if validation is None else cls(train, validation, shuffle)

    def check(self, number: int, checks: Checks, class_weight: Any) -> None:
        """Refuse arrays that a model cannot learn from, as `kerasnn.fit` does."""
        if isinstance(train := self._train[number], Examples):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(train.arrays)
            checks.types(x, y, sample_weight)
            checks.training(x, y, sample_weight, class_weight)
        if self._validation and isinstance(validation := self._validation[number], Examples):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation.arrays)
            checks.evaluation(x, y, sample_weight, part="validation ")

    def build(self, number: int, model: keras.Model) -> None:
        """Build a model and its optimizers; those that Keras builds in the model's own step, by tracing it."""
        batch = self.first_batch(number)
        if _build_from_symbols(model, batch):
            return
        has_own_step = overridden(model, keras.Model, "train_step") is not None
        try:
            model._symbolic_build(data_batch=batch)
        except Exception:
            if not has_own_step:
                raise
        if has_own_step and not all(optimizer.built for optimizer in optimizers_of(model)):
            tf.function(model.train_step, autograph=False).get_concrete_function(batch)

    def first_batch(self, number: int) -> Any:
        """A training batch of a model, as `tf.TensorSpec`s."""
        return self._train[number].first_batch

    def batches(self, number: int) -> tuple[Any, Any]:
        """A batch of a model's training and one of its validation, or None, as `tf.TensorSpec`s.

        Their size is None where Keras would not know it, because the last batch is smaller.
        """
        train, fills_up = self._train[number], self._fills_up
        return _batch_of(train, fills_up), _batch_of(self._validation[number]) if self._validation else None

    def weights_id(self, number: int) -> int:
        """The same number for models with the same examples and weights."""
        return id(self._train[number])

    def is_weighted(self, number: int) -> bool:
        """Whether a model's examples have weights."""
        return keras.utils.unpack_x_y_sample_weight(self._train[number].first_batch)[2] is not None

    def on_device(self, numbers: Sequence[int]) -> tuple["Arrays | Stream", "Arrays | Stream | None"]:
        """The examples of some models for training and validation, arrays on the current device."""
        filled_up = self.batch_size if self._fills_up else 1
        train = _arrays_of([(number, self._train[number]) for number in numbers], self._shuffle, filled_up)
        held_out = [(number, self._validation[number]) for number in numbers] if self._validation else []
        return train, _arrays_of(held_out, False) if held_out else None


def _batch_of(part: Part, fills_up: bool = False) -> Any:
    is_static = part.is_static if isinstance(part, Stream) else fills_up or part.size % part.batch_size == 0
    if is_static:
        return part.first_batch
    return each(lambda spec: tf.TensorSpec((None, *spec.shape[1:]), spec.dtype), part.first_batch)


def _distinct(given: Sequence[tuple[Any, Any]], batch_size: int | None) -> list[Examples]:
    """Examples of arrays and class weights, one object for the same ones."""
    made: dict[Any, Examples] = {}
    examples = []
    for arrays, by_class in given:
        key = (*map(id, leaves(arrays)), by_class and tuple(by_class.items()))
        if key not in made:
            made[key] = Examples(*arrays, batch_size=batch_size, class_weight=by_class)
        examples.append(made[key])
    return examples


def is_dataset(x: Any) -> bool:
    """Whether examples are a dataset of tf.data's."""
    return isinstance(x, tf.data.Dataset)


def _arrays(
    x: Any,
    y: Any,
    sample_weights: Sequence[Any],
    class_weights: Sequence[Any],
    validation_data: Any,
    validation_split: float,
    batch_size: int | None,
) -> tuple[list[Examples], list[Any]] | None:
    """The training examples of each model and its validation arrays; None where some are no dense numbers."""
    held_out = () if validation_data is None else keras.utils.unpack_x_y_sample_weight(validation_data)
    given = (x, y, list(sample_weights), held_out)
    if x is None or not can_convert_arrays(given):
        return None
    x, y, sample_weights, held_out = each(as_array, given)
    if not all(map(is_dense, leaves((x, y, sample_weights, held_out)))):
        return None
    own_held_out = [held_out] * len(sample_weights)
    if validation_split and validation_data is None:
        (x, y, sample_weights), (held_x, held_y, held_weights) = array_slicing.train_validation_split(
            (x, y, sample_weights), validation_split=validation_split
        )
        own_held_out = [(held_x, held_y, weights) for weights in held_weights]
    own = zip(sample_weights, class_weights, strict=True)
    return _distinct([((x, y, weights), by_class) for weights, by_class in own], batch_size), own_held_out


def _held_out(validation_data: Any, count: int, batch_size: int | None) -> list[Examples] | None:
    """Validation arrays beside a dataset; None where some are no dense numbers."""
    if validation_data is None:
        return []
    held_out = keras.utils.unpack_x_y_sample_weight(validation_data)
    if not can_convert_arrays(held_out):
        return None
    held_out = each(as_array, held_out)
    if not all(map(is_dense, leaves(held_out))):
        return None
    return _distinct([(held_out, None)], batch_size) * count


def _arrays_of(examples: Sequence[tuple[int, Part]], shuffle: bool, multiple: int = 1) -> "Arrays | Stream":
    """The examples of some models, by number; arrays on the current device."""
    first = examples[0][1]
    if isinstance(first, Stream):
        return first
    if all(each is first for _, each in examples):
        return Arrays(_tensors(first.arrays), None, shuffle, multiple)
    weights = {number: _tensors(each.arrays[2]) for number, each in examples if isinstance(each, Examples)}
    return Arrays(_tensors(first.arrays[:2]), weights, shuffle)


def _build_from_symbols(model: keras.Model, batch: Any) -> bool:
    """Build metrics, loss and optimizer from the shapes of outputs that are known already; returns whether that can be.

    Keras traces the model, its metrics and its loss to learn the shapes, which takes longer than a small model trains.
    """
    metrics, loss = model._compile_metrics, model._compile_loss
    known = type(model) in (Functional, keras.Sequential) and all(layer.built for layer in model._flatten_layers())
    if not known or loss is None:
        return False
    _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    outputs = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
    targets = each(lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name), y)
    if metrics is not None and not metrics.built:
        metrics.build(targets, outputs)
        # Some make their variables when they see the first batch.
        if not all(getattr(metric, "_built", True) for metric in metrics.metrics):
            metrics.built = False
            return False
    if not loss.built:
        loss.build(targets, outputs)
    # Not all of Keras's optimizers take it that they are built twice.
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model._post_build()
    return True


class Arrays:
    """Examples on a device.

    Args:
        shared: arrays that all members share, in the structure that Keras's steps take.
        weights: sample weights by number of the model, where they differ.
        shuffle: whether each epoch has an order of its own.
        multiple: fill up the orders to a multiple of it, where they are shuffled; 1 fills up nothing.
    """

    def __init__(self, shared: Any, weights: dict[int, Any] | None, shuffle: bool, multiple: int = 1) -> None:
        self._shared, self._weights, self._shuffle, self._multiple = shared, weights, shuffle, multiple
        self._rows = int(leaves(shared)[0].shape[0])

    def batches(self, numbers: Sequence[int], seeds: Sequence[int], epoch: int) -> Batches:
        """The batches of an epoch for some models, given their numbers and the seeds of their orders."""
        orders = None
        if self._shuffle:
            padding = (0, -self._rows % self._multiple)
            distinct = {seed: np.pad(epoch_order(self._rows, seed, epoch), padding) for seed in dict.fromkeys(seeds)}
            # One order for all where all have one seed: then no member needs a batch of its own.
            orders = tf.constant(
                distinct[seeds[0]] if len(distinct) == 1 else np.stack([distinct[seed] for seed in seeds])
            )
        weights = None
        if self._weights is not None:
            own = [self._weights[number] for number in numbers]
            weights = tf.nest.map_structure(lambda *parts: tf.stack(parts), *own)
        return Batches(self._shared, orders, weights, self._rows if self._multiple > 1 else None)


def _tensors(structure: Any) -> Any:
    """A structure of arrays as tensors of the types that Keras converts to."""

    def tensor(array: Any) -> tf.Tensor:
        dtype = tf.as_dtype(array.dtype)
        return tf.cast(array, keras.config.floatx()) if dtype.is_floating else tf.convert_to_tensor(array)

    return each(tensor, structure)
