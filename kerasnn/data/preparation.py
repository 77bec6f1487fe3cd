"""Scaling and shaping of features: once in numpy for training, again as Keras layers that travel with the model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from kerasnn.data.checks import as_numbers, check_features

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, eq=False)
class Preparation:
    """What happens to features before the network sees them: `(x - center) * factor`, then the shape.

    Both forms subtract before they multiply, in float32: folding the two into `x * a + b` would lose digits where
    values are far from 0 and close together, such as years.

    Args:
        raw_shape: shape of one example as its user has it.
        center: what is subtracted, a number or one for each entry of the last axis, float32.
        factor: what is multiplied by, of the same shape.
        flatten: whether examples become vectors; otherwise images `(height, width)` get a channel axis.
    """

    raw_shape: tuple[int, ...]
    center: np.ndarray
    factor: np.ndarray
    flatten: bool

    @classmethod
    def fit(cls, x: np.ndarray, scaling: str, flatten: bool, full_scale: float | None = None) -> Self:
        """The preparation that a training part calls for.

        Args:
            x: the training part, `(examples, …)`. A table's columns and an image's channels are scaled each by its
                own statistics, grey images `(examples, height, width)` by those of all pixels.
            scaling: `"none"`; `"unit"`: by `full_scale`, or the training part's minimum and maximum where there is
                none; `"standardize"`: by its mean and standard deviation. What is constant is only shifted to 0.
            flatten: whether examples become vectors.
            full_scale: the value that becomes 1; uint8 has 255.
        """
        if x.dtype == np.uint8:
            full_scale = 255.0
        axes = tuple(range(x.ndim)) if x.ndim == 3 else tuple(range(x.ndim - 1))
        # As float32, which is what the network sees: what differs only beyond its digits is constant.
        low, high = (np.asarray(value, np.float32).astype(np.float64) for value in (x.min(axes), x.max(axes)))
        if scaling == "none":
            center, scale = np.zeros(()), np.ones(())
        elif scaling == "standardize":
            center, scale = x.mean(axes, dtype=np.float64), x.std(axes, dtype=np.float64)
            # A constant's computed deviation is rounding noise, not always 0.
            scale = np.where(high == low, 0.0, scale)
        elif full_scale is not None:
            center, scale = np.zeros(()), np.asarray(full_scale)
        else:
            center, scale = low, high - low
        scale = np.where(scale < np.finfo(np.float32).tiny, 1.0, scale)
        return cls(x.shape[1:], np.asarray(center, np.float32), np.asarray(1 / scale, np.float32), flatten)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one prepared example: the network's input."""
        if self.flatten:
            return (int(np.prod(self.raw_shape)),)
        return (*self.raw_shape, 1) if len(self.raw_shape) == 2 else self.raw_shape

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Raw examples `(examples, *raw_shape)` as the network takes them, `(examples, *input_shape)`, float32.

        Raises:
            ValueError: another shape; empty, NaN or infinite.
            TypeError: not numbers.
        """
        x = as_numbers(x, "x")
        if x.shape[1:] != self.raw_shape:
            shape = ", ".join(["examples", *(str(size) for size in self.raw_shape)])
            raise ValueError(f"x must have the shape ({shape}); received {x.shape}")
        check_features(x)
        prepared = np.array(x, dtype=np.float32)
        prepared -= self.center
        prepared *= self.factor
        return prepared.reshape(len(x), *self.input_shape)

    def layers(self) -> "list[keras.layers.Layer]":
        """Keras layers that do the same to raw examples; none where nothing is to be done.

        float32 whatever the global precision is. They are plain `Rescaling` layers; `Normalization` would not do:
        it takes deviations below 1e-7 for 1e-7.
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
