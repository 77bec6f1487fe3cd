"""The effect of one training step on each layer, as numbers."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

SAMPLED = 65536
"""Maximum number of values of a layer in a histogram."""


class WeightHealth(NamedTuple):
    """The weights of a layer in one training step.

    Args:
        gradient: norm of the gradient, before clipping.
        weight: norm of the weights.
        update: norm of the change.
        identical: whether all units have the same incoming weights.
    """

    gradient: float
    weight: float
    update: float
    identical: bool

    @property
    def gradient_ratio(self) -> float:
        """‖gradient‖ / ‖weights‖."""
        return _ratio(self.gradient, self.weight)

    @property
    def update_ratio(self) -> float:
        """‖change‖ / ‖weights‖."""
        return _ratio(self.update, self.weight)


class ActivationHealth(NamedTuple):
    """The outputs of a layer in one training step.

    Args:
        activation: name of the activation; "linear" if there is none.
        initializer: name of the kernel's initializer, or None.
        is_output: whether the layer's outputs are outputs of the model.
        feedforward: whether its signals and gradients can be compared with those of other layers; false for recurrent
            layers and the layers within attention.
        mean: mean of all outputs.
        std: standard deviation of all outputs.
        signal: root mean square, over the units, of a unit's standard deviation over the examples.
        input_signal: the same of the layer's inputs.
        dead: fraction of the units that are 0 for every example; NaN for activations that cannot die.
        saturated: fraction of the outputs, over units and examples, near a bound of the activation; NaN if it has none.
        gradient: norm of the loss's gradient with respect to the outputs; NaN if the loss does not depend on them.
    """

    activation: str
    initializer: str | None
    is_output: bool
    feedforward: bool
    mean: float
    std: float
    signal: float
    input_signal: float
    dead: float
    saturated: float
    gradient: float


class Measurement:
    """The effect of a training step on each layer, by the layer's name.

    Args:
        weights: the trainable layers, in the order of the model's weights.
        activations: the layers with weights or an activation, in the order of their calls.
        samples: tag to tensor, for histograms.
    """

    def __init__(
        self,
        weights: dict[str, WeightHealth],
        activations: dict[str, ActivationHealth],
        samples: dict[str, tf.Tensor],
    ) -> None:
        self.weights = weights
        self.activations = activations
        self._samples = samples

    def scalars(self) -> dict[str, float]:
        """Tag to value, `<quantity>/<layer>`, without NaN."""
        values = {"gradient_norm": float(np.sqrt(sum(each.gradient**2 for each in self.weights.values())))}
        for layer, weights in self.weights.items():
            values[f"gradient_norm/{layer}"] = weights.gradient
            values[f"gradient_ratio/{layer}"] = weights.gradient_ratio
            values[f"update_ratio/{layer}"] = weights.update_ratio
        for layer, outputs in self.activations.items():
            values[f"outputs_mean/{layer}"] = outputs.mean
            values[f"outputs_std/{layer}"] = outputs.std
            for tag, value in (
                ("units_dead", outputs.dead),
                ("outputs_saturated", outputs.saturated),
                ("outputs_gradient_norm", outputs.gradient),
            ):
                if not np.isnan(value):
                    values[f"{tag}/{layer}"] = value
        return values

    def samples(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Tag and values of `activations/<layer>` and `gradients/<layer>/<variable>`, at most 65,536 values of each."""
        for tag, tensor in self._samples.items():
            values = tensor.numpy().ravel()
            yield tag, values[:: -(-len(values) // SAMPLED)] if len(values) else values


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
