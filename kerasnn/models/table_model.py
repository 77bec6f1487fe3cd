"""A network behind the encoding of a table: a model that takes raw rows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import keras
import numpy as np
import tensorflow as tf

from kerasnn.data.table_encoder import TableEncoder

if TYPE_CHECKING:
    import pandas as pd


@keras.saving.register_keras_serializable(package="kerasnn")
class TableModel(keras.Model):
    """A network that takes a table's raw rows, and predicts in the target's own units.

    `predict` and `evaluate` take a data frame or a dictionary of columns, in any order, with missing values, numbers as
    text, dates; `call` takes what `TableEncoder` takes.

    Args:
        encoder: the encoding.
        network: the network for encoded rows.

    >>> from kerasnn.data.encoding import TableEncoding
    >>> age = {"name": "age", "kind": "number", "fill": 40.0, "factor": 0.01, "indicator": True}
    >>> network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> model = TableModel(TableEncoder({"columns": [age]}), network)
    >>> model.predict({"age": [20, None], "name": ["Ann", "Bob"]}, verbose=0).round(2).tolist()
    [[0.2], [1.4]]
    """

    def __init__(self, encoder: TableEncoder, network: keras.Model, **options: Any) -> None:
        super().__init__(**options)
        self.encoder, self.network = encoder, network
        self.built = True

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of a batch of outputs."""
        return tuple(self.network.output_shape)

    def build(self, input_shape: Any = None) -> None:
        """Nothing: the network is built."""

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """The network's outputs for a batch of raw rows, in the target's own units."""
        outputs = self.network(self.encoder(inputs), training=training)
        encoding = self.encoder.encoding
        if not encoding.target_scale:
            return outputs
        return outputs * tf.constant(encoding.target_scale) + tf.constant(encoding.target_center)

    def inputs_of(self, table: "pd.DataFrame | Mapping[str, Any]", source: str = "x") -> dict[str, np.ndarray]:
        """The model's inputs from a table.

        Args:
            table: a data frame, or arrays by column name; other columns are ignored.
            source: the table's name in an error message.

        Raises:
            ValueError: one line, for a missing column and for values of another kind.
        """
        return self.encoder.tensors(self.encoder.encoding.raw(table, source))

    def predict(self, x: Any, *arguments: Any, **options: Any) -> Any:
        """As Keras's `predict`, for a data frame or a dictionary of columns."""
        return super().predict(self._converted(x), *arguments, **options)

    def evaluate(self, x: Any = None, *arguments: Any, **options: Any) -> Any:
        """As Keras's `evaluate`, for a data frame or a dictionary of columns."""
        return super().evaluate(self._converted(x), *arguments, **options)

    def _converted(self, x: Any) -> Any:
        is_table = isinstance(x, Mapping) or hasattr(x, "columns")
        return self.inputs_of(x) if is_table else x

    def get_config(self) -> dict[str, Any]:
        """The encoder and the network."""
        parts = {"encoder": self.encoder, "network": self.network}
        described = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
        return {**super().get_config(), **described}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """A model from the result of `get_config`."""
        parts = {name: keras.saving.deserialize_keras_object(config.pop(name)) for name in ("encoder", "network")}
        return cls(**parts, **config)
