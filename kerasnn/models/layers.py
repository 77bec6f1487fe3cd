"""The order, names, initializers and seeds of a network's layers."""

from typing import Any, NamedTuple

import keras
import numpy as np

from kerasnn.components import activations, initializers
from kerasnn.config import catalog
from kerasnn.config.run import OUTPUT_ACTIVATION
from kerasnn.config.sections import ConvLayer, DenseLayer, NetworkConfig, RegularizationConfig, Task


def network_layers(
    network: NetworkConfig,
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    task: Task = "multiclass",
    regularization: RegularizationConfig | None = None,
    seed: int = 0,
) -> list[keras.layers.Layer]:
    """New layers of a network, in order: each hidden layer, its batch norm, activation, pooling, dropout; the output.

    Every initializer and every dropout has a separate seed from `SeedSequence([seed, position])`, so that layers of
    equal shape differ, and so do the same layers with neighbouring seeds.

    Args:
        network: the description of the network.
        input_shape: shape of one example, `(features,)` or `(height, width, channels)`.
        outputs: units of the output layer.
        task: decides the output activation if the network does not name one.
        regularization: defaults of the hidden layers.
        seed: non-negative integer, from which the seeds of all layers are derived.

    Returns:
        Unbuilt Keras layers.

    Raises:
        ValueError: for convolutions over inputs that are not images.

    >>> [layer.name for layer in network_layers(NetworkConfig(hidden=(8, {"units": 4, "dropout": 0.5})), (3,), 2)]
    ['dense_1', 'dense_2', 'dropout_2', 'output']
    """
    if outputs < 1:
        raise ValueError(f"outputs must be a positive number of units, received {outputs}")
    regularization = regularization or RegularizationConfig()
    rank = len(input_shape) - 1
    layers: list[keras.layers.Layer] = []
    for position, layer in enumerate(network.hidden, start=1):
        if isinstance(layer, ConvLayer):
            if rank not in (1, 2, 3):
                raise ValueError(
                    f"a convolutional layer needs input of shape (height, width, channels), received {input_shape}"
                )
        elif rank > 0:
            layers.append(keras.layers.Flatten(name="flatten"))
            rank = 0
        layers += _hidden(layer, position, network, regularization, seed, rank)
    if rank > 0:
        layers.append(keras.layers.Flatten(name="flatten"))
    layers += _output(network, outputs, task, regularization, seed)
    return layers


class Start(NamedTuple):
    """The initializers of a layer, and the seeds of its activation and its dropout."""

    kernel: keras.initializers.Initializer
    bias: keras.initializers.Initializer
    activation_seed: int
    dropout_seed: int


def network_starts(network: NetworkConfig, seed: int = 0) -> list[Start]:
    """Initializers and seeds of each hidden layer, then of the output, without building the layers.

    Args:
        network: the description of the network.
        seed: the seed given to `network_layers`.
    """
    return [_start(network, position, seed) for position in [*range(1, len(network.hidden) + 1), 0]]


def _start(network: NetworkConfig, position: int, seed: int) -> Start:
    # The output has position 0, so that a further hidden layer does not change the seeds of the other layers.
    seeds = [int(state) for state in np.random.SeedSequence([seed, position]).generate_state(4) >> 1]
    kernel, bias = network.output_kernel_initializer, network.bias_initializer
    if position:
        layer = network.hidden[position - 1]
        kernel = network.kernel_initializer if layer.kernel_initializer is None else layer.kernel_initializer
        bias = bias if layer.bias_initializer is None else layer.bias_initializer
    return Start(initializers.get(kernel, seed=seeds[0]), initializers.get(bias, seed=seeds[1]), *seeds[2:])


def _hidden(
    layer: DenseLayer | ConvLayer,
    position: int,
    network: NetworkConfig,
    regularization: RegularizationConfig,
    seed: int,
    rank: int,
) -> list[keras.layers.Layer]:
    def option(key: str, default: Any) -> Any:
        value = getattr(layer, key)
        return default if value is None else value

    start = _start(network, position, seed)
    activation = option("activation", network.activation)
    batch_norm = option("batch_norm", regularization.batch_norm)
    merged = not batch_norm and not activations.is_layer(activation)
    options = {
        "activation": activations.get(activation) if merged else None,
        "use_bias": layer.use_bias,
        "kernel_initializer": start.kernel,
        "bias_initializer": start.bias,
        "kernel_regularizer": _penalty(option("l1", regularization.l1), option("l2", regularization.l2)),
    }
    layers: list[keras.layers.Layer] = []
    if isinstance(layer, ConvLayer):
        filters = activations.units_before(activation, layer.filters)
        options |= {"strides": layer.strides, "padding": layer.padding, "name": f"conv_{position}"}
        layers.append(getattr(keras.layers, f"Conv{rank}D")(filters, layer.kernel_size, **options))
    else:
        units = activations.units_before(activation, layer.units)
        layers.append(keras.layers.Dense(units, name=f"dense_{position}", **options))
    if batch_norm:
        layers.append(keras.layers.BatchNormalization(name=f"batch_norm_{position}"))
    if not merged:
        layers.append(activations.layer(activation, seed=start.activation_seed, name=f"activation_{position}"))
    if isinstance(layer, ConvLayer) and layer.pool > 1:
        layers.append(getattr(keras.layers, f"MaxPool{rank}D")(layer.pool, name=f"pool_{position}"))
    if rate := option("dropout", regularization.dropout):
        dropout = _dropout(regularization.dropout_kind, rank)
        layers.append(dropout(rate, seed=start.dropout_seed, name=f"dropout_{position}"))
    return layers


def _dropout(kind: str, rank: int) -> type[keras.layers.Layer]:
    if kind == "spatial_dropout":
        # Dense layers have no channels.
        kind = f"spatial_dropout{rank}d" if rank else "dropout"
    return catalog.keras_class(keras.layers, kind)


def _output(
    network: NetworkConfig, outputs: int, task: Task, regularization: RegularizationConfig, seed: int
) -> list[keras.layers.Layer]:
    start = _start(network, 0, seed)
    activation = network.output_activation or OUTPUT_ACTIVATION[task]
    separate = activations.is_layer(activation)
    # In half precision a softmax loses small probabilities.
    dtype = "float32" if keras.mixed_precision.dtype_policy().compute_dtype != "float32" else None
    dense = keras.layers.Dense(
        activations.units_before(activation, outputs),
        activation=None if separate else activations.get(activation),
        kernel_initializer=start.kernel,
        bias_initializer=start.bias,
        kernel_regularizer=_penalty(regularization.output_l1, regularization.output_l2),
        dtype=dtype,
        name="output",
    )
    if not separate:
        return [dense]
    return [dense, activations.layer(activation, seed=start.activation_seed, name="output_activation")]


def _penalty(l1: float, l2: float) -> keras.regularizers.Regularizer | None:
    return keras.regularizers.L1L2(l1=l1, l2=l2) if l1 or l2 else None
