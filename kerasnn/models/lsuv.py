"""Layer-sequential unit-variance initialization: initial weights that suit the data."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import keras
import numpy as np

TOLERANCE = 0.01
"""How far from 1 a variance may stay."""
ATTEMPTS = 10
"""How often a layer is scaled at most; once is enough where its biases are 0."""


def lsuv(model: keras.Model, x: Any) -> dict[str, float]:
    """Scale hidden layers' kernels, one layer after the other, until their outputs have variance 1 on a batch.

    Formula: kernel ← kernel / √Var(kernel · inputs + bias), over examples and units and before the activation.

    The output layer keeps its weights: its outputs are the task's. The paper starts from orthogonal weights
    (`kernel_initializer="orthogonal"`); others do as well. Nothing is random here, so equal weights stay equal.

    Args:
        model: a built Keras model, before training.
        x: a batch of inputs as the model takes them, `(examples, …)`; some hundred do.

    Returns:
        The variance of each layer's outputs as it was, by the layer's name.

    Raises:
        ValueError: where a layer gives the same output for every example, so that no factor would help.

    Reference: Mishkin and Matas, "All you need is a good init", ICLR 2016.
    """
    layers = [layer for layer in model._flatten_layers(include_self=False) if hasattr(layer, "kernel")]
    before: dict[str, float] = {}
    order: list[keras.layers.Layer] = []

    def called(layer: keras.layers.Layer, scale: bool) -> Callable[..., Any]:
        call = layer.call

        def observed(*arguments: Any, **options: Any) -> Any:
            order.append(layer)
            if scale:
                before[layer.name] = _scale(layer, lambda: call(*arguments, **options))
            return call(*arguments, **options)

        return observed

    def run(hidden: list[keras.layers.Layer]) -> None:
        # Past __setattr__, which would track the functions as part of the layers' state.
        calls = {layer: called(layer, layer in hidden) for layer in layers}
        for layer, call in calls.items():
            vars(layer)["call"] = call
        try:
            model(x, training=False)
        finally:
            for layer in layers:
                del vars(layer)["call"]

    run([])
    run(order[:-1])
    return before


def _scale(layer: Any, call: Callable[[], Any]) -> float:
    """Scale one layer's kernel; the variance as it was."""
    first = 0.0
    with mock.patch.dict(vars(layer), {"activation": None}):
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
