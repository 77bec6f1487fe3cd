"""The examples of training or validation on their way to Keras's loop."""

from typing import Any

import keras

from kerasnn.engine.batches import Batches
from kerasnn.engine.chunks import ChunkedBatches, batches_of
from kerasnn.engine.compilation import is_dense
from kerasnn.engine.examples import Order, PlainExamples, as_array, leaves
from kerasnn.keras_private import can_convert_arrays


class Source:
    """Examples as they were given: arrays, or what is read in batches.

    Args:
        given: x, y and sample weights.
        replicas: number of replicas; where there are several, they share what was given.
        order: the order of an epoch of arrays.
        shuffle: whether what is read may be shuffled between epochs.
        arrangement: batch size, steps and class weights.

    Attributes:
        batches: what is read in batches; None for arrays, and for what replicas share.
    """

    def __init__(
        self,
        given: tuple[Any, ...],
        replicas: int,
        *,
        order: Order | None = None,
        shuffle: bool = False,
        **arrangement: Any,
    ) -> None:
        self._given, self._arrangement = given, arrangement
        self.batches: Batches | None = None
        if not are_dense(*given) and replicas == 1:
            self.batches = batches_of(*given, shuffle=shuffle, **arrangement)
        elif order is not None:
            self._arrangement["order"] = order

    @property
    def resident(self) -> tuple[Any, ...]:
        """What may lie on the device as a whole."""
        return () if self.batches else self._given

    def examples(self, kind: Any, batch_size: int | None = None) -> Any:
        """The examples, given what `examples_kind` returns and the batch size where none was given."""
        arrangement = self._arrangement
        if batch_size is not None and arrangement["batch_size"] is None:
            arrangement = {**arrangement, "batch_size": batch_size}
        return self.batches or kind(*self._given, **arrangement)

    def read_singly(self) -> None:
        """Read batches one by one from now on, as Keras's own steps take them."""
        if isinstance(self.batches, ChunkedBatches):
            self.batches.in_chunks = False

    def for_plain_keras(self) -> Any:
        """The examples for Keras's own steps; batches that have been begun go on."""
        self.read_singly()
        return self.batches or PlainExamples(*self._given, **self._arrangement)


def as_arrays(x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, ...]:
    """Data frames and other libraries' arrays as dense arrays, where Keras takes all of them for arrays."""
    given = (x, y, sample_weight)
    if x is None or not can_convert_arrays(given):
        return given
    return tuple(keras.tree.map_structure(lambda leaf: None if leaf is None else as_array(leaf), given))


def are_dense(*structures: Any) -> bool:
    """Whether there are examples, all of them dense arrays of numbers."""
    arrays = leaves(structures)
    return bool(arrays) and structures[0] is not None and all(map(is_dense, arrays))
