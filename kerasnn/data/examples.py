"""Examples in three parts, prepared for a network, and their fingerprint."""

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasnn.data.compact import Layout
from kerasnn.data.encoding import TableEncoding
from kerasnn.data.pixels import Pixels
from kerasnn.data.preparation import Preparation

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, eq=False)
class Data:
    """Examples in three parts, prepared for a network.

    Args:
        x_train, x_validation, x_test: examples as the run's network takes them, float32 `(examples, *input_shape)`: the
            features, for a table in the compact form that `features` expands, for a folder of images their bytes; None
            for a part without examples.
        y_train, y_validation, y_test: targets. Multiclass: int32 `(examples,)`, or float32 `(examples, classes)` if
            one-hot. Binary: float32 `(examples,)`. Multilabel and regression: float32 `(examples, outputs)`.
        task: binary, multiclass, multilabel or regression.
        outputs: number of output units: 1 for binary, else the number of classes, labels or values.
        class_names: names of the classes (binary: of 0 and 1) or labels, or None.
        preparation: the preparation of the features, fitted to the training part.
        about: what was found in a table or folder, as lines of text.
    """

    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_validation: np.ndarray | None = field(repr=False)
    y_validation: np.ndarray | None = field(repr=False)
    x_test: np.ndarray | None = field(repr=False)
    y_test: np.ndarray | None = field(repr=False)
    task: str
    outputs: int
    class_names: tuple[str, ...] | None
    preparation: Preparation | TableEncoding | Pixels = field(repr=False)
    about: str = field(default="", repr=False)

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """Shape of one raw example."""
        return self.preparation.raw_shape

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one prepared example."""
        return self.preparation.input_shape if self.layout is None else self.layout.input_shape

    @property
    def layout(self) -> Layout | Pixels | None:
        """How a table or a folder's images are kept; None for other data, which is kept as features."""
        return None if isinstance(self.preparation, Preparation) else self.preparation.layout

    @property
    def streamed(self) -> bool:
        """Whether the examples lie in a file, from which they are read while training."""
        return isinstance(self.x_train, np.memmap)

    def features(self, x: np.ndarray) -> np.ndarray:
        """The features of prepared examples, float32 `(examples, ...)`, for models other than the run's network."""
        return x if self.layout is None else self.layout.expand(x)

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """`(height, width)` or `(height, width, channels)` if raw examples are images, else None."""
        grey = len(self.raw_shape) == 2
        coloured = len(self.raw_shape) == 3 and self.raw_shape[2] in (1, 3, 4)
        return self.raw_shape if grey or coloured else None

    def prepare(self, x: Any) -> np.ndarray:
        """Prepare raw examples: float32 of shape `(examples, *input_shape)`.

        Args:
            x: raw examples `(examples, *raw_shape)`; a data frame where the data is a table.

        Raises:
            ValueError: one line: another shape, no examples, NaN or infinity.
            TypeError: one line, if the examples are not numbers.
        """
        if isinstance(self.preparation, TableEncoding):
            return self.preparation.compact(self.preparation.raw(x, "x"))
        return self.preparation(x)

    def preprocessing(self) -> "list[keras.layers.Layer]":
        """New Keras layers with the effect of `prepare`, for a model that takes raw examples."""
        return self.preparation.layers()


def fingerprint(data: Data, some: int | None = None) -> str:
    """A digest of the training and validation examples, their shapes and dtypes.

    Args:
        data: the data.
        some: approximate number of bytes to read of each larger array, at equal intervals; None reads all.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in ("x_train", "y_train", "x_validation", "y_validation"):
        array = getattr(data, part)
        if array is not None:
            stride = 1 if some is None else max(1, math.ceil(array.nbytes / some))
            digest.update(str((array.dtype.name, array.shape)).encode() + array[::stride].tobytes())
    return digest.hexdigest()
