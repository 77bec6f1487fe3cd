"""Features of a table's compact rows, as a Keras layer."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.data.compact import Kept, Layout


@keras.saving.register_keras_serializable(package="kerasnn")
class TableFeatures(keras.layers.Layer):
    """Expands compact rows of a table to features: one of 0 and 1 for each category and word.

    Training keeps a table in a tenth of the memory that its features would take, and expands each batch.

    Args:
        columns: how each column is kept, the form and the number of features of each, as in `Layout`.

    Call arguments:
        inputs: compact rows, float32 `(batch, width)`.

    Returns:
        Features, float32 `(batch, features)`.

    >>> TableFeatures([("values", 1), ("code", 3)])(np.array([[0.5, 2], [1.5, -1]])).numpy().tolist()
    [[0.5, 0.0, 0.0, 1.0], [1.5, 0.0, 0.0, 0.0]]
    """

    def __init__(self, columns: Sequence[Sequence[Any]], **options: Any) -> None:
        super().__init__(**{"dtype": "float32", "name": "features", **options})
        self.layout = Layout(tuple(Kept(form, features) for form, features in columns))
        self._positions, self._codes, self._bits = self.layout.sources()
        # TensorFlow turns a division by a constant into a product with an approximate reciprocal.
        self._factors = 1 / np.maximum(self._bits, 1)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The features of a batch of rows."""
        kept = tf.gather(inputs, self._positions, axis=1)
        is_code = tf.cast(tf.equal(kept, self._codes), kept.dtype)
        features = tf.where(self._codes >= 0, is_code, kept)
        if self._bits.any():
            bit = tf.math.floormod(tf.floor(kept * self._factors), 2)
            features = tf.where(self._bits > 0, bit, features)
        return features

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the features of a batch."""
        return (input_shape[0], self.layout.features)

    def get_config(self) -> dict[str, Any]:
        """The layout."""
        return {**super().get_config(), "columns": [list(column) for column in self.layout.columns]}
