"""Batches that a thread reads and that are moved in chunks: of tf.data, `PyDataset`, generators and loaders."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.engine.batches import Batches, BatchProgram
from kerasnn.engine.examples import CHUNK_BYTES, Passes, Steps
from kerasnn.engine.steps import Blocks
from kerasnn.keras_private import can_convert_arrays, data_adapter_utils, original, replaced

LONGEST = 64
"""Batches in a chunk at most."""
SECONDS = 0.02
"""A chunk that has taken longer to read is passed on, so that slow data is seen batch by batch and read while the model
trains."""
AHEAD = 2
"""Chunks that are read ahead at most."""
SIZES = 4
"""Batch sizes that the program is compiled for; batches of further sizes run one at a time."""


class ChunkedBatches(Batches):
    """Batches that a thread reads, and that are moved in chunks.

    Args:
        x: a `PyDataset`, generator, loader or dataset of tf.data.
        options: as of `Batches`.

    Attributes:
        size: examples in a batch; None where batches are not moved in chunks but one by one.
        in_chunks: whether they are.
    """

    uneven = True
    """Whether Keras does not know the batch size when it traces."""
    read_by_graphs = False
    """Whether a TensorFlow graph reads them as fast itself, so that chunks pay under XLA alone."""

    def __init__(self, x: Any, **options: Any) -> None:
        super().__init__(x, **options)
        self._specs: list[Any] = keras.tree.flatten(self.dataset.element_spec)
        self.size = self._common_size() if all(map(_is_dense, self._specs)) else None
        if self.size is not None:
            row_bytes = sum(int(np.prod(spec.shape[1:])) * spec.dtype.size for spec in self._specs)
            longest = min(LONGEST, CHUNK_BYTES // max(1, row_bytes * self.size), self.num_batches or LONGEST)
            self._rows = max(1, longest) * self.size
        self.in_chunks = False

    def _common_size(self) -> int | None:
        """Examples in a batch, or None."""
        raise NotImplementedError

    @property
    def reads_ahead(self) -> bool:
        """Whether a thread of ours reads them."""
        return True

    def batches(self) -> Iterator[list[np.ndarray]]:
        """The arrays of each batch of one pass."""
        raise NotImplementedError

    def suit(self, length: int | None, alone: bool) -> bool:
        """Whether they are moved in chunks for blocks of a length, with `alone` as of `blocks_of`."""
        # Longer blocks of a fixed length may end within a chunk.
        return self.size is not None and length in (None, 1)

    def get_tf_dataset(self) -> Any:
        return Passes(partial(ChunkPass, self)) if self.in_chunks else self.dataset

    def empty_steps(self) -> list[Steps]:
        """Zero steps of the common size, to compile a program for."""
        assert self.size is not None
        data = [tf.zeros((self._rows, *spec.shape[1:]), spec.dtype) for spec in self._specs]
        return [Steps(self._packed(data), None, 0, 0, self.size, self.uneven)]

    def _packed(self, arrays: list[Any]) -> Any:
        return keras.tree.pack_sequence_as(self.dataset.element_spec, arrays)

    def chunks(self) -> Iterator[tuple[Any, int, int]]:
        """Chunks of one pass: arrays with the batches one after the other, the number of batches and their size."""
        # Now: a dataset that shuffles takes another order with each pass that is begun, and Keras begins two an epoch.
        return self._chunks_of(self.batches())

    def _chunks_of(self, batches: Iterator[list[np.ndarray]]) -> Iterator[tuple[Any, int, int]]:
        while True:
            number = 0
            # Nothing is read ahead of an epoch's end: callbacks may change between epochs what a batch is.
            read = self._read(islice(batches, self.steps))
            for count, size, *arrays in _read_ahead(read) if self.reads_ahead else read:
                # The device's scope must end before `yield`: whoever takes the chunk would train within it.
                with tf.device("CPU:0"):
                    tensors = list(map(tf.convert_to_tensor, arrays))
                number += count
                yield self._packed(tensors), count, size
            if self.steps is None or number < self.steps:
                return

    def _read(self, batches: Iterator[list[np.ndarray]]) -> Iterator[tuple[Any, ...]]:
        """Batches of one size in arrays of fixed length, and each batch whose arrays differ in length by itself; what
        was read before an error comes before it."""
        arrays: list[np.ndarray] = []
        count = size = 0
        start = 0.0
        error: Exception | None = None
        while True:
            if count == 0:
                start = time.monotonic()
            try:
                leaves = next(batches, [])
            except Exception as raised:
                leaves, error = [], raised
            lengths = set(map(len, leaves))
            if count and (lengths != {size} or (count + 1) * size > len(arrays[0])):
                yield (count, size, *arrays)
                count = 0
            if error is not None:
                raise error
            if not leaves:
                return
            if len(lengths) > 1:
                # As a `map` after `batch` may give: such batches can't lie one after the other in arrays.
                yield (1, max(lengths), *leaves)
                continue
            if count == 0:
                size = len(leaves[0])
                arrays = [np.zeros((max(self._rows, size), *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
            for array, leaf in zip(arrays, leaves, strict=True):
                array[count * size : (count + 1) * size] = leaf
            count += 1
            if time.monotonic() - start > SECONDS:
                yield (count, size, *arrays)
                count = 0


class PythonBatches(ChunkedBatches):
    """Batches of Python's, which Keras would pass to tf.data one at a time.

    Args:
        x: a `PyDataset`, generator or loader.
        options: as of `Batches`.
    """

    def __init__(self, x: Any, **options: Any) -> None:
        with _first_batches() as self._first:
            super().__init__(x, **options)
        self._first = []

    @property
    def reads_ahead(self) -> bool:
        # Workers of a PyDataset read ahead themselves, and rest between epochs.
        return not getattr(self._adapter, "enqueuer", None)

    def _common_size(self) -> int | None:
        sizes = {np.shape(leaf)[:1] for batch in self._first for leaf in keras.tree.flatten(batch)}
        return int(sizes.pop()[0]) or None if len(sizes) == 1 else None

    def batches(self) -> Iterator[list[np.ndarray]]:
        # When the first one is asked for: to begin may call the user's code.
        yield from map(self._leaves, self._adapter.get_numpy_iterator())

    def _leaves(self, batch: Any) -> list[np.ndarray]:
        leaves = keras.tree.flatten(batch)
        arrays = [np.asarray(leaf, spec.dtype.as_numpy_dtype) for leaf, spec in zip(leaves, self._specs, strict=True)]
        for array, spec in zip(arrays, self._specs, strict=True):
            if not spec.shape.is_compatible_with(array.shape):
                raise TypeError(f"batches must have the shape {spec.shape}; received {array.shape}")
        return arrays


class DatasetBatches(ChunkedBatches):
    """Batches of tf.data, which reads some of them ahead itself.

    Args:
        x: a `tf.data.Dataset`.
        options: as of `Batches`.
    """

    read_by_graphs = True

    def _common_size(self) -> int | None:
        sizes = {spec.shape[0] for spec in self._specs}
        if len(sizes) > 1:
            return None
        (size,) = sizes
        self.uneven = size is None
        if size is not None:
            return size or None
        known = _batch_sizes(self.dataset)
        return known.pop() if len(known) == 1 else None

    def suit(self, length: int | None, alone: bool) -> bool:
        # Few steps are not worth XLA. What acts at every batch may change what the next one is.
        return super().suit(length, alone) and length is None and not alone

    def batches(self) -> Iterator[list[np.ndarray]]:
        return self._arrays(iter(self.dataset))

    def _arrays(self, iterator: Any) -> Iterator[list[np.ndarray]]:
        outputs = {"output_types": [spec.dtype for spec in self._specs]}
        outputs |= {"output_shapes": [spec.shape for spec in self._specs]}
        while True:
            try:
                # `next(iterator)` takes four times as long.
                tensors = tf.raw_ops.IteratorGetNext(iterator=iterator._iterator_resource, **outputs)
            except tf.errors.OutOfRangeError:
                return
            yield list(map(np.asarray, tensors))


def _batch_sizes(dataset: Any) -> set[int]:
    """Examples in a batch, as the last operation that makes batches was told; of every dataset that it is put together
    from."""
    if size := tf.get_static_value(getattr(dataset, "_batch_size", None)):
        return {int(size)}
    return set().union(*map(_batch_sizes, dataset._inputs()))


def _is_dense(spec: Any) -> bool:
    """Whether batches hold arrays of numbers, of one shape but for the number of examples."""
    return (
        isinstance(spec, tf.TensorSpec)
        and (spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool)
        and spec.dtype != tf.bfloat16
        and bool(spec.shape.rank)
        and spec.shape[1:].is_fully_defined()
    )


def _read_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The items of an iterator, which a thread reads ahead."""
    found: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()
    places, stopped = threading.Semaphore(AHEAD), threading.Event()

    def read() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                found.put((item, None))
                places.acquire()
                if stopped.is_set():
                    return
        except BaseException as raised:
            error = raised
        found.put((None, error))

    thread = threading.Thread(target=read, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = found.get()
            if error is not None:
                raise error
            if item is None:
                return
            places.release()
            yield item
    finally:
        # Whoever reads the same data next must not meet the thread there.
        stopped.set()
        places.release()
        thread.join()


@contextmanager
def _first_batches() -> Iterator[list[Any]]:
    """The batches from which Keras's adapters learn the shapes."""
    found: list[Any] = []
    get_tensor_spec = original(data_adapter_utils, "get_tensor_spec")

    def remembering(batches: Any) -> Any:
        found.extend(batches)
        return get_tensor_spec(batches)

    with replaced(data_adapter_utils, get_tensor_spec=remembering):
        yield found


def batches_of(x: Any, y: Any = None, sample_weight: Any = None, **options: Any) -> Batches:
    """Any data that Keras has an adapter for, in chunks where that is possible.

    Args:
        x, y, sample_weight: as in `keras.Model.fit`.
        options: as of `Batches`.
    """
    if y is not None or can_convert_arrays((x, y, sample_weight)):
        return Batches(x, y, sample_weight, **options)
    kind = DatasetBatches if isinstance(x, tf.data.Dataset) else PythonBatches
    return kind(x, y=y, sample_weight=sample_weight, **options)


class ChunkPass:
    """One pass over chunks of batches."""

    def __init__(self, batches: ChunkedBatches) -> None:
        self.batches = batches
        self._chunks = batches.chunks()
        self._data: Any = None
        self._row = self._left = self._size = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """One batch, for a Keras train function in place of the blocks."""
        (steps,) = self.take(1)
        return keras.tree.map_structure(lambda array: array[steps.row : steps.row + steps.batch_size], steps.data)

    @property
    def steps_left(self) -> int:
        """How many steps can be taken at once; 0 at the end of the data."""
        if self._left == 0:
            self._row = 0
            self._data, self._left, self._size = next(self._chunks, (None, 0, 0))
        return self._left

    def take(self, count: int) -> list[Steps]:
        """The next steps, at most `steps_left`.

        Raises:
            StopIteration: the pass is over.
        """
        if self.steps_left == 0:
            raise StopIteration
        steps = Steps(self._data, None, self._row, count, self._size, self.batches.uneven)
        self._row += count * self._size
        self._left -= count
        return [steps]


class ChunkBlocks(Blocks):
    """Blocks of steps on chunks of batches.

    Args:
        program: runs them.
        batch_program: runs steps one at a time where many batch sizes would each be compiled.
        length: as of `Blocks`.
    """

    def __init__(self, program: Any, batch_program: BatchProgram, length: int | None = None) -> None:
        super().__init__(program, length)
        self._one_by_one = batch_program
        self._sizes: set[int] = set()

    def set_momentum(self, momentum: keras.Variable) -> None:
        super().set_momentum(momentum)
        self._one_by_one = self._one_by_one.with_momentum(momentum)

    def __call__(self, iterator: Any) -> Any:
        """Keras's `train_function`.

        Raises:
            StopIteration: the data has ended.
        """
        if self.left == 0 and iterator.steps_left == 0:
            self._one_by_one.end(iter(iterator.batches.dataset.take(0)))
        return super().__call__(iterator)

    def _run(self, steps: Steps, step: int) -> Any:
        even = len({array.shape[0] for array in keras.tree.flatten(steps.data)}) == 1
        if even and len(self._sizes) < SIZES:
            self._sizes.add(steps.batch_size)
        if even and steps.batch_size in self._sizes:
            return super()._run(steps, step)
        return self._one_by_one.run_each(steps, step, self._rates, self._momenta)
