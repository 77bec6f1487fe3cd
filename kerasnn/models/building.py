"""One described network, built three ways: the same numbers from each."""

from collections.abc import Sequence

import keras

from kerasnn.config.schema import one_of
from kerasnn.config.sections import NetworkConfig, RegularizationConfig, Style, Task
from kerasnn.models.functional import functional
from kerasnn.models.layers import network_layers, network_starts
from kerasnn.models.sequential import sequential
from kerasnn.models.subclassed import Network, subclassed

__all__ = ["Network", "build_model", "network_layers", "network_starts", "with_preprocessing"]

_BUILDERS = {"sequential": sequential, "functional": functional, "subclassed": subclassed}


def build_model(
    network: NetworkConfig,
    input_shape: tuple[int, ...],
    outputs: int,
    style: Style = "sequential",
    seed: int = 0,
    *,
    task: Task = "multiclass",
    regularization: RegularizationConfig | None = None,
    name: str = "network",
) -> keras.Model:
    """A plain, built, uncompiled Keras model of a described network.

    The same seed gives bit-identical weights, outputs and gradients in all three styles.

    Args:
        network: the described network.
        input_shape: shape of one example, `(features,)` or `(height, width, channels)`.
        outputs: units of the output layer.
        style: `sequential`, `functional` or `subclassed`.
        seed: non-negative integer from which all initial weights and dropout masks come.
        task: decides the output activation where the network names none.
        regularization: what hidden layers get unless they say otherwise.
        name: the model's name.

    Returns:
        A `keras.Sequential`, a functional `keras.Model` or a `Network`.

    Raises:
        ValueError: for an unknown style, or convolutions over an input that is no image.

    Reference: Keras's three model APIs.
    """
    if style not in _BUILDERS:
        raise ValueError(one_of("style", style, _BUILDERS))
    layers = network_layers(network, input_shape, outputs, task=task, regularization=regularization, seed=seed)
    return _BUILDERS[style](layers, tuple(input_shape), name)


def with_preprocessing(
    model: keras.Model, preprocessing: Sequence[keras.layers.Layer], raw_shape: tuple[int, ...]
) -> keras.Model:
    """The same network behind the layers that prepare raw examples: a model of the same style that shares its layers.

    Args:
        model: a model that `build_model` made, on prepared examples.
        preprocessing: layers from raw to prepared examples; with none the model itself is returned.
        raw_shape: shape of one raw example.

    Returns:
        A model that predicts from data as its user has it.
    """
    if not preprocessing:
        return model
    style = {keras.Sequential: "sequential", Network: "subclassed"}.get(type(model), "functional")
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return _BUILDERS[style]([*preprocessing, *layers], tuple(raw_shape), model.name)
