"""Batches that Python makes, by `PyDataset`, generators and loaders: read in a thread, and moved in chunks."""

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
    """Batches of Python's, which Keras would pass to tf.data one at a time.

    Args:
        x: a `PyDataset`, generator or loader.
        reads: batches of a pass that are needed; None reads ahead by up to three chunks.
        options: as of `Batches`.

    Attributes:
        size: examples in a batch; None where batches are not dense arrays of one shape, which only Keras's own dataset
            can hold.
    """

    def __init__(self, x: Any, *, reads: int | None = None, **options: Any) -> None:
        with _first_batches() as found:
            super().__init__(x, **options)
        self._reads = reads
        self._specs: list[Any] = keras.tree.flatten(self.dataset.element_spec)
        self.size = self._common_size(found)
        if self.size is not None:
            row_bytes = sum(int(np.prod(spec.shape[1:])) * spec.dtype.size for spec in self._specs)
            longest = min(LONGEST, CHUNK_BYTES // max(1, row_bytes * self.size), self.num_batches or LONGEST)
            self._rows = max(1, longest) * self.size
        self.in_chunks = False

    def _common_size(self, batches: list[Any]) -> int | None:
        dense = all(
            isinstance(spec, tf.TensorSpec)
            and (spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool)
            and spec.dtype != tf.bfloat16
            and spec.shape[1:].is_fully_defined()
            for spec in self._specs
        )
        sizes = {np.shape(leaf)[:1] for batch in batches for leaf in keras.tree.flatten(batch)} if dense else set()
        return int(sizes.pop()[0]) or None if len(sizes) == 1 else None

    def get_tf_dataset(self) -> Any:
        return Passes(partial(ChunkPass, self)) if self.in_chunks else self.dataset

    def empty_steps(self) -> list[Steps]:
        """Zero steps of the common size, to compile a program for."""
        assert self.size is not None
        data = [tf.zeros((self._rows, *spec.shape[1:]), spec.dtype) for spec in self._specs]
        return [Steps(self._packed(data), None, 0, 0, self.size, True)]

    def chunks(self) -> Iterator[tuple[Any, int, int]]:
        """Chunks of one pass: arrays with the batches one after the other, the number of batches and their size."""
        read = self._read()
        # Workers of a PyDataset read ahead themselves, and rest between epochs.
        if not getattr(self._adapter, "enqueuer", None):
            # Not tf.data's generators, whose start takes longer than a short pass.
            read = _read_ahead(read)
        for count, size, *arrays in read:
            # The device's scope must end before `yield`: whoever takes the chunk would train within it.
            with tf.device("CPU:0"):
                tensors = list(map(tf.convert_to_tensor, arrays))
            yield self._packed(tensors), count, size

    def _packed(self, arrays: list[Any]) -> Any:
        return keras.tree.pack_sequence_as(self.dataset.element_spec, arrays)

    def _read(self) -> Iterator[tuple[Any, ...]]:
        """Batches of one size in arrays of fixed length; what was read before an error comes before it."""
        batches = islice(self._adapter.get_numpy_iterator(), self._reads)
        arrays: list[np.ndarray] = []
        count = size = 0
        start = 0.0
        error: Exception | None = None
        while True:
            if count == 0:
                start = time.monotonic()
            try:
                batch = next(batches, None)
            except Exception as raised:
                batch, error = None, raised
            leaves = [] if batch is None else self._leaves(batch)
            if count and (not leaves or len(leaves[0]) != size or (count + 1) * size > len(arrays[0])):
                yield (count, size, *arrays)
                count = 0
            if error is not None:
                raise error
            if not leaves:
                return
            if count == 0:
                size = len(leaves[0])
                arrays = [np.zeros((max(self._rows, size), *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
            for array, leaf in zip(arrays, leaves, strict=True):
                array[count * size : (count + 1) * size] = leaf
            count += 1
            if time.monotonic() - start > SECONDS:
                yield (count, size, *arrays)
                count = 0

    def _leaves(self, batch: Any) -> list[np.ndarray]:
        leaves = keras.tree.flatten(batch)
        arrays = [np.asarray(leaf, spec.dtype.as_numpy_dtype) for leaf, spec in zip(leaves, self._specs, strict=True)]
        for array, spec in zip(arrays, self._specs, strict=True):
            if not spec.shape.is_compatible_with(array.shape) or len(array) != len(arrays[0]):
                raise TypeError(f"batches must have the shape {spec.shape}; received {array.shape}")
        return arrays


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


def batches_of(
    x: Any, y: Any = None, sample_weight: Any = None, *, reads: int | None = None, **options: Any
) -> Batches:
    """Any data that Keras has an adapter for; what Python makes comes in chunks where that is possible.

    Args:
        x, y, sample_weight: as in `keras.Model.fit`.
        reads: as of `ChunkedBatches`.
        options: as of `Batches`.
    """
    if y is not None or isinstance(x, tf.data.Dataset) or can_convert_arrays((x, y, sample_weight)):
        return Batches(x, y, sample_weight, **options)
    return ChunkedBatches(x, y=y, sample_weight=sample_weight, reads=reads, **options)


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
        steps = Steps(self._data, None, self._row, count, self._size, True)
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
        if len(self._sizes) < SIZES:
            self._sizes.add(steps.batch_size)
        if steps.batch_size in self._sizes:
            return super()._run(steps, step)
        return self._one_by_one.run_each(steps, step, self._rates, self._momenta)
