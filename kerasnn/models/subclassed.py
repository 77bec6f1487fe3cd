"""A stack of layers as a subclass of `keras.Model`."""

from typing import Any, Self

import keras


@keras.saving.register_keras_serializable(package="kerasnn")
class Network(keras.Model):
    """A stack of layers that are called in order, built on construction so that `summary()` and `save()` work at once.

    Args:
        stack: layers in order.
        input_shape: shape of one example.

    Reference: Keras's guide to subclassing `keras.Model`.

    >>> network = Network([keras.layers.Dense(8, "relu"), keras.layers.Dense(1)], input_shape=(4,))
    >>> network.output_shape, network.count_params()
    ((None, 1), 49)
    """

    def __init__(self, stack: list[keras.layers.Layer], input_shape: tuple[int, ...], **options: Any) -> None:
        super().__init__(**options)
        self.stack = list(stack)
        self._example_shape = tuple(input_shape)
        example = outputs = keras.KerasTensor((None, *self._example_shape))
        # A layer called outside of call() remembers the shape of its output, which summary() then shows.
        for layer in self.stack:
            outputs = layer(outputs)
        self(example)
        self._output_shape = outputs.shape

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of a batch of inputs, as in functional models."""
        return (None, *self._example_shape)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of a batch of outputs, as in functional models."""
        return tuple(self._output_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The output of the last layer for a batch of inputs."""
        outputs = inputs
        for layer in self.stack:
            outputs = layer(outputs, training=training) if layer._call_has_training_arg else layer(outputs)
        return outputs

    def get_config(self) -> dict[str, Any]:
        """The serialized layers and the input shape."""
        stack = [keras.saving.serialize_keras_object(layer) for layer in self.stack]
        return {**super().get_config(), "stack": stack, "input_shape": list(self._example_shape)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """A network from the result of `get_config`."""
        stack = [keras.saving.deserialize_keras_object(layer, custom_objects) for layer in config.pop("stack")]
        return cls(stack, tuple(config.pop("input_shape")), **config)
