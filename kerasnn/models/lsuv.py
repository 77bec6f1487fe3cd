"""Layer-sequential unit-variance (LSUV) initialization: initial weights scaled to the data."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from kerasnn.attributes import temporary_attributes

TOLERANCE = 0.01
"""Maximum difference of a layer's variance from 1."""
ATTEMPTS = 10
"""Maximum number of scalings of a layer; one is enough if its biases are 0."""


def lsuv(model: keras.Model, x: Any) -> dict[str, float]:
    """Scale the kernels of the hidden layers, in the order of calls, until their outputs have variance 1 on a batch.

    Formula: kernel ← kernel / √Var(kernel · inputs + bias), over examples and units, before the activation.

    The output layer is not scaled: the task decides the scale of its outputs. The paper starts from orthogonal weights
    (`kernel_initializer="orthogonal"`); other initializers work as well.

    Args:
        model: a built Keras model, before training.
        x: a batch of inputs as the model takes them, `(examples, …)`; a few hundred examples are enough.

    Returns:
        The variance of each layer's outputs before the scaling, by the layer's name.

    Raises:
        ValueError: one line, if a layer has the same output for all examples, so that no factor can help.

    Reference: Mishkin and Matas, "All you need is a good init", ICLR 2016.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1)])
    >>> before = lsuv(model, np.random.default_rng(0).normal(size=(256, 3)))
    >>> list(before)
    ['hidden']
    """
    layers = [layer for layer in model._flatten_layers(include_self=False) if hasattr(layer, "kernel")]
    order: list[keras.layers.Layer] = []
    _call(model, x, layers, lambda layer, call: order.append(layer))
    variances: dict[str, float] = {}
    _call(model, x, dict.fromkeys(order[:-1]), lambda layer, call: variances.update({layer.name: _scale(layer, call)}))
    return variances


def _call(
    model: keras.Model,
    x: Any,
    layers: Iterable[keras.layers.Layer],
    before_call: Callable[[keras.layers.Layer, Callable[[], Any]], Any],
) -> None:
    """Call a model; before each call of the layers, call a function with the layer and the layer's call."""

    def observed(layer: keras.layers.Layer) -> Callable[..., Any]:
        original = layer.call

        def call(*arguments: Any, **options: Any) -> Any:
            before_call(layer, lambda: original(*arguments, **options))
            return original(*arguments, **options)

        return call

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(temporary_attributes(layer, call=observed(layer)))
        model(x, training=False)


def _scale(layer: Any, call: Callable[[], Any]) -> float:
    """Scale one layer's kernel and return the variance before."""
    first = 0.0
    with temporary_attributes(layer, activation=None):
        for attempt in range(ATTEMPTS):
            variance = float(np.var(keras.ops.convert_to_numpy(call()).astype("float64")))
            if not 0 < variance < np.inf:
                raise ValueError(
                    f"lsuv needs outputs that differ from example to example, received variance {variance:g} in layer "
                    f"{layer.name!r} ({type(layer.kernel_initializer).__name__})"
                )
            first = first if attempt else variance
            if abs(variance - 1) < TOLERANCE:
                break
            layer.kernel.assign(layer.kernel / variance**0.5)
    return first
