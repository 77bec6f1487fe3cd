"""The layer list as a functional model."""

import keras


def functional(layers: list[keras.layers.Layer], input_shape: tuple[int, ...], name: str) -> keras.Model:
    """The layers folded over a symbolic input.

    Args:
        layers: unbuilt layers in order.
        input_shape: shape of one example.
        name: the model's name.

    Returns:
        A built functional `keras.Model`.
    """
    inputs = outputs = keras.Input(input_shape, name="input")
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name=name)
