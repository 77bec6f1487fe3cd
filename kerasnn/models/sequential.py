"""The layer list as a Sequential model."""

import keras


def sequential(layers: list[keras.layers.Layer], input_shape: tuple[int, ...], name: str) -> keras.Sequential:
    """The layers stacked by Keras.

    Args:
        layers: unbuilt layers in order.
        input_shape: shape of one example.
        name: the model's name.

    Returns:
        A built `keras.Sequential`.
    """
    return keras.Sequential([keras.Input(input_shape, name="input"), *layers], name=name)
