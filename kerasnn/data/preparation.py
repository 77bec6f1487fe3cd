"""Scaling and reshaping of features: in numpy for training, and as Keras layers that are saved with the model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from kerasnn.data.checks import as_numbers, check_features

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, eq=False)
class Preparation:
    """Scaling and reshaping of features: `(x - center) * factor`, then the shape.

    Both forms subtract before they multiply, in float32: one operation `x * a + b` would lose digits of values that are
    far from 0 and close together, such as years.

    Args:
        raw_shape: shape of one raw example.
        center: float32, a number or one for each entry of the last axis.
        factor: float32, of the same shape.
        flatten: whether examples become vectors; otherwise images `(height, width)` get a channel axis.

    >>> preparation = Preparation.fit(np.array([[1.0, 10.0], [3.0, 20.0]]), "unit", flatten=True)
    >>> preparation(np.array([[2.0, 20.0]])).tolist()
    [[0.5, 1.0]]
    """

    raw_shape: tuple[int, ...]
    center: np.ndarray
    factor: np.ndarray
    flatten: bool

    @classmethod
    def fit(cls, x: np.ndarray, scaling: str, flatten: bool, full_scale: float | None = None) -> Self:
        """Fit the preparation to a training part.

        Args:
            x: the training part, `(examples, …)`. Each column of a table and each channel of an image is scaled by its
                statistics, grey images `(examples, height, width)` by the statistics of all pixels.
            scaling: `"none"`; `"unit"`: by `full_scale`, or by minimum and maximum; `"standardize"`: by mean and
                standard deviation. Constant features are only shifted to 0.
            flatten: whether examples become vectors.
            full_scale: the value that becomes 1; 255 for uint8.
        """
        if x.dtype == np.uint8:
            full_scale = 255.0
        axes = tuple(range(x.ndim)) if x.ndim == 3 else tuple(range(x.ndim - 1))
        # As float32, the network's precision: features that differ only beyond its digits are constant.
        low, high = (np.asarray(value, np.float32).astype(np.float64) for value in (x.min(axes), x.max(axes)))
        if scaling == "none":
            center, scale = np.zeros(()), np.ones(())
        elif scaling == "standardize":
            center, scale = x.mean(axes, dtype=np.float64), x.std(axes, dtype=np.float64)
            # The computed deviation of a constant may be rounding noise instead of 0.
            scale = np.where(high == low, 0.0, scale)
        elif full_scale is not None:
            center, scale = np.zeros(()), np.asarray(full_scale)
        else:
            center, scale = low, high - low
        scale = np.where(scale < np.finfo(np.float32).tiny, 1.0, scale)
        return cls(x.shape[1:], np.asarray(center, np.float32), np.asarray(1 / scale, np.float32), flatten)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one prepared example."""
        if self.flatten:
            return (int(np.prod(self.raw_shape)),)
        return (*self.raw_shape, 1) if len(self.raw_shape) == 2 else self.raw_shape

    def checked(self, x: np.ndarray) -> np.ndarray:
        """Raw examples `(examples, *raw_shape)` as an array of numbers.

        Raises:
            ValueError: one line: another shape, no examples, NaN or infinity.
            TypeError: one line, if the examples are not numbers.
        """
        x = as_numbers(x, "x")
        if x.shape[1:] != self.raw_shape:
            shape = ", ".join(["examples", *(str(size) for size in self.raw_shape)])
            raise ValueError(f"x must have the shape ({shape}); received {x.shape}")
        check_features(x)
        return x

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Prepare raw examples `(examples, *raw_shape)`: float32 of shape `(examples, *input_shape)`.

        Raises:
            ValueError, TypeError: as `checked`.
        """
        x = self.checked(x)
        prepared = np.array(x, dtype=np.float32)
        prepared -= self.center
        prepared *= self.factor
        return prepared.reshape(len(x), *self.input_shape)

    def layers(self) -> "list[keras.layers.Layer]":
        """Keras layers with the same effect on raw examples, in float32; an empty list if there is no effect.

        They are `Rescaling` layers, because `Normalization` replaces deviations below 1e-7 by 1e-7.
        """
        import keras

        layers: list[keras.layers.Layer] = []
        if self.center.any():
            layers.append(keras.layers.Rescaling(1.0, offset=(-self.center).tolist(), dtype="float32"))
        if (self.factor != 1).any():
            layers.append(keras.layers.Rescaling(self.factor.tolist(), dtype="float32"))
        if len(self.raw_shape) > 1 and self.flatten:
            layers.append(keras.layers.Flatten(dtype="float32"))
        elif self.input_shape != self.raw_shape:
            layers.append(keras.layers.Reshape(self.input_shape, dtype="float32"))
        return layers
