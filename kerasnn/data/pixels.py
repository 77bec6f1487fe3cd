"""Images that stay bytes in memory, and the layers that scale them."""

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from kerasnn.data.preparation import Preparation

if TYPE_CHECKING:
    import keras

BLOCK = 256
"""Images whose pixels are counted at a time."""


class Pixels(NamedTuple):
    """A folder's images as bytes, a quarter of their size as floats; the network's first layers scale them.

    Args:
        raw_shape: `(height, width)` or `(height, width, channels)`.
        center: the value that becomes 0, of all channels or of each.
        factor: factor on the difference from `center`, likewise.

    >>> Pixels.fit(np.array([[[0, 255]]], np.uint8), "unit").expand(np.array([[[0, 255]]], np.uint8)).tolist()
    [[[[0.0], [1.0]]]]
    """

    raw_shape: tuple[int, ...]
    center: tuple[float, ...]
    factor: tuple[float, ...]

    @classmethod
    def fit(cls, x: np.ndarray, scaling: str) -> Self:
        """Fit the scaling to a training part.

        Args:
            x: uint8 `(examples, height, width)` or `(examples, height, width, channels)`.
            scaling: as in `Preparation.fit`.
        """
        center, scale = np.zeros(1), np.full(1, 255.0 if scaling == "unit" else 1.0)
        if scaling == "standardize":
            counts = _counts(x)
            values = np.arange(256)
            center = counts @ values / counts.sum(axis=1)
            scale = np.sqrt((counts * (values - center[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1))
            scale[scale == 0] = 1.0
        return cls(x.shape[1:], tuple(center.tolist()), tuple((1 / scale).tolist()))

    @property
    def layout(self) -> "Pixels":
        """How examples are kept."""
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example as it is kept."""
        return self.raw_shape

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one scaled example: `(height, width, channels)`."""
        return self._preparation.input_shape

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Check raw examples `(examples, *raw_shape)`, and give them as they are.

        Raises:
            ValueError, TypeError: as `Preparation.checked`.
        """
        return self._preparation.checked(x)

    def expand(self, x: np.ndarray) -> np.ndarray:
        """Scaled examples, float32 `(examples, height, width, channels)`."""
        return self._preparation(x)

    def layers(self) -> "list[keras.layers.Layer]":
        """No layers: the network takes raw examples."""
        return []

    def first_layers(self) -> "list[keras.layers.Layer]":
        """The network's first layers, which have the effect of `expand`."""
        layers = self._preparation.layers()
        # Keras would number them by the models that this process has built.
        for number, layer in enumerate(layers, start=1):
            layer.name = f"pixels_{number}"
        return layers

    @property
    def _preparation(self) -> Preparation:
        one = len(self.center) == 1
        center, factor = (np.asarray(each[0] if one else each, np.float32) for each in (self.center, self.factor))
        return Preparation(self.raw_shape, center, factor, flatten=False)


def _counts(x: np.ndarray) -> np.ndarray:
    """How often each of the 256 values occurs in each channel, `(channels, 256)`."""
    channels = x.shape[3] if x.ndim == 4 else 1
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(x), BLOCK):
        values = x[start : start + BLOCK].reshape(-1, channels)
        counts += [np.bincount(values[:, channel], minlength=256) for channel in range(channels)]
    return counts
