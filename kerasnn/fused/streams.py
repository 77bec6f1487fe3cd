"""Batches of tf.data for models that train together: read once an epoch, and moved in blocks."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from kerasnn.engine.chunks import LONGEST
from kerasnn.engine.examples import CHUNK_BYTES
from kerasnn.fused.program import Batches


class Stream:
    """The batches of a dataset, the same for all models of a group.

    The first pass over the dataset begins here, because its batch size may not be known before.

    Args:
        dataset: batches of dense tensors.
        first: its first batch.
        rest: the iterator over the others.

    Attributes:
        batch_size: examples in a batch.
        num_batches: batches in a pass.
        first_batch: a batch, as `tf.TensorSpec`s.
        is_static: whether the dataset promises that all batches are of one size.
    """

    def __init__(self, dataset: tf.data.Dataset, first: Any, rest: Iterator[Any]) -> None:
        self._dataset, self._first, self._rest = dataset, first, rest
        shapes = {tuple(spec.shape[:1]) for spec in keras.tree.flatten(dataset.element_spec)}
        self.is_static = None not in {size for shape in shapes for size in shape}
        self.batch_size = int(keras.tree.flatten(first)[0].shape[0])
        self.num_batches = int(dataset.cardinality())
        self.first_batch = keras.tree.lists_to_tuples(
            keras.tree.map_structure(lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), first)
        )
        size = sum(leaf.dtype.size * int(np.prod(leaf.shape)) for leaf in keras.tree.flatten(first))
        longest = max(1, min(LONGEST, CHUNK_BYTES // max(1, size)))
        # Blocks of one length, so that few programs are compiled.
        self._length = -(-self.num_batches // -(-self.num_batches // longest))

    @classmethod
    def of(cls, dataset: tf.data.Dataset) -> Self | None:
        """The stream of a dataset; None where its elements are no batches of dense numbers, or of unknown number.

        At the end of a dataset of unknown length, plain Keras runs what does not depend on the batch of one more step:
        it draws random numbers and counts an update.

        Raises:
            ValueError: one line, for a dataset without an end.
        """
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("a dataset must end for models that train together, received one that repeats for ever")
        if dataset.cardinality() < 1:
            return None
        specs = keras.tree.flatten(dataset.element_spec)
        if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank and _is_number(spec.dtype) for spec in specs):
            return None
        rest = iter(dataset)
        first = next(rest, None)
        sizes = {leaf.shape[0] for leaf in keras.tree.flatten(first)}
        return cls(dataset, first, rest) if first is not None and len(sizes) == 1 and 0 not in sizes else None

    @property
    def size(self) -> int:
        """Examples in a pass, approximately."""
        return self.num_batches * self.batch_size

    def blocks(self, numbers: Sequence[int], seeds: Sequence[int], epoch: int) -> Iterator[tuple[Batches, int]]:
        """Consecutive batches of a pass and how many they are: whole ones, then perhaps a shorter one."""
        if self._first is None:
            # At an epoch's end Keras begins a pass that it does not use; a shuffled dataset has another order in each.
            iter(self._dataset)
        batches = iter(self._dataset) if self._first is None else itertools.chain([self._first], self._rest)
        self._first, self._rest = None, iter(())
        waiting: list[Any] = []
        for batch in batches:
            size = int(keras.tree.flatten(batch)[0].shape[0])
            if size > self.batch_size:
                raise ValueError(
                    f"a dataset's first batch must be its largest for models that train together, received "
                    f"{self.batch_size} and {size} examples"
                )
            waiting.append(batch)
            if size < self.batch_size or len(waiting) == self._length:
                yield _joined(waiting), len(waiting)
                waiting = []
        if waiting:
            yield _joined(waiting), len(waiting)


def _is_number(dtype: tf.DType) -> bool:
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool)


def _joined(batches: Sequence[Any]) -> Batches:
    parts = keras.tree.map_structure(lambda *leaves: tf.concat(leaves, 0) if len(leaves) > 1 else leaves[0], *batches)
    return Batches(keras.tree.lists_to_tuples(parts), None, None)
