"""Rows of a table in the compact form in which training keeps them, and the features that they stand for."""

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import keras

BITS = 8
"""Features of 0 and 1 that one number holds: whole numbers up to 256 are exact in every float type of networks."""


class Kept(NamedTuple):
    """How the features of one column are kept.

    Args:
        form: `values`: each feature as it is; `code`: the position of the one feature that is 1, or -1; `bits`: `BITS`
            features of 0 and 1 in each number.
        features: number of features.
    """

    form: Literal["values", "code", "bits"]
    features: int

    @property
    def width(self) -> int:
        """Numbers that are kept."""
        return {"values": self.features, "code": 1, "bits": -(-self.features // BITS)}[self.form]


class Layout(NamedTuple):
    """How the features of a row are kept, float32 `(rows, width)`.

    Args:
        columns: the columns in order.

    >>> layout = Layout((Kept("values", 1), Kept("code", 3), Kept("bits", 4)))
    >>> layout.width, layout.features
    (3, 8)
    >>> layout.expand(np.array([[0.5, 2, 5]], np.float32)).tolist()
    [[0.5, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]]
    """

    columns: tuple[Kept, ...]

    @property
    def width(self) -> int:
        """Numbers of a row that are kept."""
        return sum(column.width for column in self.columns)

    @property
    def features(self) -> int:
        """Features of a row."""
        return sum(column.features for column in self.columns)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row as it is kept."""
        return (self.width,)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of the features of one row."""
        return (self.features,)

    def first_layers(self) -> "list[keras.layers.Layer]":
        """The network's first layers, which have the effect of `expand`."""
        from kerasnn.data.table_features import TableFeatures

        return [TableFeatures(self.columns)]

    def sources(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each feature comes from, arrays `(features,)`.

        Returns:
            The position of the number that holds it; the code for which it is 1, or -1 if it has none; the value of its
            bit, or 0 if it is none.
        """
        positions, codes, bits = [], [], []
        first = 0
        for column in self.columns:
            numbers = np.arange(column.features)
            none = np.full(column.features, -1)
            positions.append(first + {"values": numbers, "code": 0 * numbers, "bits": numbers // BITS}[column.form])
            codes.append(numbers if column.form == "code" else none)
            bits.append(2 ** (numbers % BITS) if column.form == "bits" else 0 * numbers)
            first += column.width
        return (
            np.concatenate(positions).astype(np.int32),
            np.concatenate(codes).astype(np.float32),
            np.concatenate(bits).astype(np.float32),
        )

    def expand(self, rows: np.ndarray) -> np.ndarray:
        """The features of compact rows, float32 `(rows, features)`."""
        positions, codes, bits = self.sources()
        kept = rows[:, positions]
        features = np.where(codes >= 0, kept == codes, kept)
        if bits.any():
            features = np.where(bits > 0, np.floor(kept / np.maximum(bits, 1)) % 2, features)
        return features.astype(np.float32)


def pack(features: np.ndarray) -> np.ndarray:
    """Features of 0 and 1, `BITS` in each number: float32 `(rows, width)`."""
    return np.packbits(features.astype(bool), axis=1, bitorder="little").astype(np.float32)
