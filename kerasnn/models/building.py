"""A network's layers as a Keras model, built in one of three ways with the same results."""

from collections.abc import Sequence

import keras

from kerasnn.config.data import AugmentConfig
from kerasnn.config.run import OUTPUT_ACTIVATION
from kerasnn.config.schema import one_of
from kerasnn.config.sections import NetworkConfig, RegularizationConfig, Style, Task
from kerasnn.data.compact import Layout
from kerasnn.data.pixels import Pixels
from kerasnn.data.table_encoder import TableEncoder
from kerasnn.data.table_features import TableFeatures
from kerasnn.models.augmentation import augmentation_layers
from kerasnn.models.layers import network_layers
from kerasnn.models.subclassed import Network
from kerasnn.models.table_model import TableModel


def build_model(
    network: NetworkConfig,
    input_shape: tuple[int, ...],
    outputs: int,
    style: Style = "sequential",
    seed: int = 0,
    *,
    task: Task = "multiclass",
    regularization: RegularizationConfig | None = None,
    layout: Layout | Pixels | None = None,
    augment: AugmentConfig | None = None,
    name: str = "network",
) -> keras.Model:
    """Build an uncompiled Keras model from the description of its network.

    The same seed gives bit-identical weights, outputs and gradients in all three styles.

    Args:
        network: the description.
        input_shape: shape of one example, `(features,)` or `(height, width, channels)`.
        outputs: units of the output layer.
        style: `sequential`, `functional` or `subclassed`.
        seed: non-negative integer, the seed of all initial weights and dropout masks.
        task: decides the output activation if the network does not name one.
        regularization: defaults of the hidden layers.
        layout: of a table's compact rows, which the first layer expands to features, or of images that the first layers
            scale; None for other data.
        augment: random changes of images during training.
        name: the model's name.

    Returns:
        A `keras.Sequential`, a functional `keras.Model` or a `Network`.

    Raises:
        ValueError: for an unknown style or task, and for convolutions over inputs that are not images.

    Reference: Keras's three model APIs.

    >>> build_model(NetworkConfig(hidden=(8,)), (4,), 3).count_params()
    67
    """
    if style not in _BUILDERS:
        raise ValueError(one_of("style", style, _BUILDERS))
    if task not in OUTPUT_ACTIVATION:
        raise ValueError(one_of("task", task, OUTPUT_ACTIVATION))
    first = [] if layout is None else layout.first_layers()
    features = input_shape if layout is None else layout.feature_shape
    if augment is not None and augment.layers:
        first += augmentation_layers(augment, features, seed)
    layers = [*first, *network_layers(network, features, outputs, task=task, regularization=regularization, seed=seed)]
    return _BUILDERS[style](layers, tuple(input_shape), name)


def with_preprocessing(
    model: keras.Model, preprocessing: Sequence[keras.layers.Layer], raw_shape: tuple[int, ...]
) -> keras.Model:
    """Put preprocessing layers in front of a model.

    Args:
        model: a model of `build_model`, for prepared examples.
        preprocessing: layers from raw to prepared examples; without any, the model itself is returned.
        raw_shape: shape of one raw example; not needed for a table.

    Returns:
        A model of the same style for raw examples, which shares the given one's layers; a `TableModel` for a table.
    """
    if not preprocessing:
        return model
    style = {keras.Sequential: "sequential", Network: "subclassed"}.get(type(model), "functional")
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer | TableFeatures)]
    if isinstance(preprocessing[0], TableEncoder):
        # A network of its own, not compiled: Keras would save a shared optimizer with it instead of with the whole.
        network = _BUILDERS[style](layers, preprocessing[0].encoding.input_shape, model.name)
        return TableModel(preprocessing[0], network, name=f"table_{model.name}")
    return _BUILDERS[style]([*preprocessing, *layers], tuple(raw_shape), model.name)


def _sequential(layers: list[keras.layers.Layer], input_shape: tuple[int, ...], name: str) -> keras.Model:
    return keras.Sequential([keras.Input(input_shape, name="input"), *layers], name=name)


def _functional(layers: list[keras.layers.Layer], input_shape: tuple[int, ...], name: str) -> keras.Model:
    inputs = outputs = keras.Input(input_shape, name="input")
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name=name)


def _subclassed(layers: list[keras.layers.Layer], input_shape: tuple[int, ...], name: str) -> keras.Model:
    return Network(layers, input_shape, name=name)


_BUILDERS = {"sequential": _sequential, "functional": _functional, "subclassed": _subclassed}
