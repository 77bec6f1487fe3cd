"""Arrays of examples for Keras's training loop: resident on the device, streamed, or as batches for plain Keras."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kerasnn.keras_private import ArrayDataAdapter, array_slicing

CHUNK_BYTES = 16 * 2**20
"""Size in bytes of a chunk of streamed data, approximately."""

Order = Callable[[int], np.ndarray]
"""A function of the epoch that returns its order of rows, shape `(examples,)`."""


class Steps(NamedTuple):
    """Consecutive steps of one batch size, which a program runs at once."""

    data: Any
    """x, or (x, y) or (x, y, sample_weight): tensors of shape `(examples, …)`."""
    order: tf.Tensor | None
    """Rows of `data` in the order of the epoch; None if they are in order already."""
    row: int
    """Position in the order at which the first batch begins."""
    batches: int
    """Number of batches."""
    batch_size: int
    """Examples in each batch."""
    uneven: bool
    """Whether the epoch also has batches of another size, so that Keras would not know this size when tracing."""


class Examples(ArrayDataAdapter):
    """Arrays as a data adapter of Keras's `fit` and `evaluate`.

    Args:
        x, y, sample_weight: as in `keras.Model.fit`, arrays with the examples along the first axis.
        batch_size: examples a step; None is Keras's default.
        order: order of an epoch; None keeps the order of the arrays.
        class_weight: as in `keras.Model.fit`.
        steps: steps in an epoch, from which the batch size follows where none is given.

    Attributes:
        epoch: the current epoch; the training loop sets it.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int | None = None,
        order: Order | None = None,
        class_weight: dict[int, float] | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__(x, y, sample_weight, batch_size=batch_size, steps=steps, class_weight=class_weight)
        self.order = order
        self.epoch = 0
        self.size: int = self._num_samples
        self.arrays = keras.tree.lists_to_tuples(each(as_array, self._inputs))

    @property
    def first_batch(self) -> Any:
        """A batch's structure, shapes and types, to build a model from."""
        size = min(self.batch_size, self.size)
        return each(lambda array: tf.TensorSpec((size, *array.shape[1:]), _dtype(array)), self.arrays)

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes of an epoch: the full one, and that of a shorter last batch."""
        whole = [self.batch_size] if self.size >= self.batch_size else []
        return whole + ([self.partial_batch_size] if self.has_partial_batch else [])


class PlainExamples(Examples):
    """Examples for plain Keras, as a tf.data dataset of batches."""

    def get_tf_dataset(self) -> tf.data.Dataset:
        """The batches of an epoch; as Keras's own dataset except for the order."""

        @tf.autograph.experimental.do_not_convert
        def batches(_: tf.Tensor) -> tf.data.Dataset:
            order = tf.ensure_shape(tf.numpy_function(self._order, [], tf.int64), (self.size,))
            whole = self.size - self.size % self.batch_size
            dataset = tf.data.Dataset.from_tensor_slices(tf.reshape(order[:whole], (-1, self.batch_size)))
            return (
                dataset.concatenate(tf.data.Dataset.from_tensors(order[whole:])) if self.has_partial_batch else dataset
            )

        @tf.autograph.experimental.do_not_convert
        def load(rows: tf.Tensor, arrays: Any) -> Any:
            return keras.tree.traverse(lambda part: _take(part, rows), arrays)

        rows = tf.data.Dataset.range(1).flat_map(batches)
        arrays = tf.data.Dataset.from_tensors(each(_whole, self.arrays)).repeat()
        dataset = tf.data.Dataset.zip(rows, arrays).map(load, num_parallel_calls=tf.data.AUTOTUNE)
        return dataset.prefetch(tf.data.AUTOTUNE)

    def _order(self) -> np.ndarray:
        rows = np.arange(self.size) if self.order is None else self.order(self.epoch)
        return rows.astype(np.int64)


class ResidentExamples(Examples):
    """Examples that lie on the device as a whole; Keras's loop iterates over a `Pass`."""

    def __init__(self, *arrays: Any, **options: Any) -> None:
        super().__init__(*arrays, **options)
        self.data = each(tf.identity, each(_whole, self.arrays))

    def get_tf_dataset(self) -> "Passes":
        """Not a dataset: Keras iterates over anything that is distributed already."""
        return Passes(partial(Pass, self))

    def empty_steps(self) -> list[Steps]:
        """Zero steps in each shape that steps come in, to compile a program for."""
        order = None if self.order is None else tf.identity(self.order(0))
        return [Steps(self.data, order, 0, 0, size, self.has_partial_batch) for size in self.batch_sizes]

    def steps_left(self, step: int) -> int:
        """How many steps can be taken at once after the first `step` steps of a pass."""
        return int(self.num_batches) - step

    def load(self, state: "Pass") -> tuple[Any, tf.Tensor | None, int]:
        """Data, order and the row at which the next step of a pass begins."""
        if state.order is None and self.order is not None:
            state.order = tf.identity(self.order(self.epoch))
        return self.data, state.order, state.step * self.batch_size


class StreamedExamples(ResidentExamples):
    """Examples that reach the device in chunks of whole batches, which tf.data reads ahead."""

    def __init__(self, *arrays: Any, **options: Any) -> None:
        Examples.__init__(self, *arrays, **options)
        batch_bytes = nbytes(self.arrays) / self.size * self.batch_size
        self.chunk_steps = min(max(1, int(CHUNK_BYTES / batch_bytes)), self.num_batches)

    def empty_steps(self) -> list[Steps]:
        rows = self.chunk_steps * self.batch_size
        data = each(lambda array: tf.zeros((rows, *array.shape[1:]), _dtype(array)), self.arrays)
        return [Steps(data, None, 0, 0, size, self.has_partial_batch) for size in self.batch_sizes]

    def steps_left(self, step: int) -> int:
        return min(super().steps_left(step), self.chunk_steps - step % self.chunk_steps)

    def load(self, state: "Pass") -> tuple[Any, None, int]:
        chunk, step = divmod(state.step, self.chunk_steps)
        if state.chunk is None:
            state.chunks = iter(self._chunks(chunk))
        if state.chunk is None or step == 0:
            state.chunk = next(state.chunks)
        return state.chunk, None, step * self.batch_size

    def _chunks(self, first: int) -> tf.data.Dataset:
        """Chunks of one size, from number `first` on; the last one is padded with its last row."""
        rows = self.chunk_steps * self.batch_size
        parts = leaves(self.arrays)
        order = None if self.order is None else self.order(self.epoch)

        def read(chunk: np.ndarray) -> list[np.ndarray]:
            positions = np.minimum(np.arange(chunk * rows, (chunk + 1) * rows), self.size - 1)
            taken = positions if order is None else order[positions]
            return [np.take(leaf, taken, axis=0).astype(_dtype(leaf).as_numpy_dtype, copy=False) for leaf in parts]

        @tf.autograph.experimental.do_not_convert
        def load(chunk: tf.Tensor) -> Any:
            read_arrays = iter(tf.numpy_function(read, [chunk], [_dtype(leaf) for leaf in parts]))
            return each(lambda leaf: tf.ensure_shape(next(read_arrays), (rows, *leaf.shape[1:])), self.arrays)

        return tf.data.Dataset.range(first, -(-self.num_batches // self.chunk_steps)).map(load).prefetch(2)


class Passes(tf.distribute.DistributedDataset):
    """What Keras takes for data that a strategy's replicas share already.

    Args:
        begin: begins a pass.
    """

    def __init__(self, begin: Callable[[], Iterator[Any]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[Any]:
        return self._begin()

    @property
    def element_spec(self) -> Any:
        """Not known before a pass begins."""
        raise NotImplementedError


class Pass:
    """One pass over the examples, in blocks of steps."""

    def __init__(self, examples: ResidentExamples) -> None:
        self.examples = examples
        self.step = 0
        # Set by `take`, because Keras begins passes that it doesn't use.
        self.order: tf.Tensor | None = None
        self.chunks: Iterator[Any] = iter(())
        self.chunk: Any = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """One batch, for a Keras train function that a callback has put in place of the blocks."""
        (steps,) = self.take(1)
        rows = tf.range(steps.row, steps.row + steps.batch_size)
        rows = rows if steps.order is None else tf.gather(steps.order, rows)
        return each(lambda array: tf.gather(array, rows), steps.data)

    @property
    def steps_left(self) -> int:
        """How many steps can be taken at once."""
        return self.examples.steps_left(self.step)

    def skip(self, count: int) -> None:
        """Skip steps of a pass that has not begun."""
        self.step = count

    def take(self, count: int) -> list[Steps]:
        """The next steps: those of whole batches, then that of a shorter last one.

        Args:
            count: number of steps, at most `steps_left`.

        Raises:
            StopIteration: the pass is over.
        """
        if self.steps_left == 0:
            raise StopIteration
        data, order, row = self.examples.load(self)
        size: int = self.examples.batch_size
        uneven = self.examples.has_partial_batch
        whole = min(self.step + count, self.examples.size // size) - self.step
        taken = [Steps(data, order, row, whole, size, uneven)] if whole else []
        if whole < count:
            taken.append(Steps(data, order, row + whole * size, 1, self.examples.partial_batch_size, uneven))
        self.step += count
        return taken


def as_array(array: Any) -> Any:
    """A NumPy array or a tensor; sparse arrays stay sparse, which only plain Keras trains on."""
    if isinstance(array, np.ndarray | tf.Tensor):
        return array
    return array_slicing.convert_to_sliceable(array, target_backend="tensorflow")


def nbytes(structure: Any) -> int:
    """Size in bytes of a structure of arrays on the device."""
    return sum(int(np.prod(array.shape)) * _dtype(array).size for array in leaves(structure))


def _dtype(array: Any) -> tf.DType:
    """The type that Keras converts to: floats become its default float type."""
    dtype = tf.as_dtype(array.dtype)
    return tf.as_dtype(keras.config.floatx()) if dtype.is_floating else dtype


def _whole(array: Any) -> Any:
    return array_slicing.convert_to_sliceable(array, target_backend="tensorflow") if hasattr(array, "dtype") else array


def _take(part: Any, rows: tf.Tensor) -> Any:
    if isinstance(part, array_slicing.TensorflowSparseWrapper):
        return array_slicing.slice_tensorflow_sparse_wrapper(part, rows)
    if isinstance(part, list | tuple | dict):
        return None
    return tf.gather(part, rows, axis=0) if tf.is_tensor(part) else part


def each(function: Callable[[Any], Any], structure: Any) -> Any:
    """Apply a function to every array of a structure; None stays None."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else function(leaf), structure)


def leaves(structure: Any) -> list[Any]:
    """The arrays of a structure, without None."""
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
