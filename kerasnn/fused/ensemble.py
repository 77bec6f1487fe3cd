"""Networks of one structure as one network, whose weights have a leading axis of members."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf


def over_members(function: Callable[..., Any], variables: Sequence[keras.Variable]) -> Callable[..., Any]:
    """Run a function of one network's variables for all members at once.

    The function is written for a single network: a variable that it reads has the member's value, and the values that
    it assigns are returned. TensorFlow gives its operations a leading axis: a matrix product
    `(batch, inputs) x (inputs, outputs)` becomes `(members, batch, inputs) x (members, inputs, outputs)`.

    Args:
        function: a function of tensors that TensorFlow can trace.
        variables: the variables that it reads and assigns.

    Returns:
        A function of the variables' values, each `(members, *shape)`, and of the arguments, each `(members, ...)`. It
        returns the results and the new values, all with the leading axis.

    Reference: `tf.vectorized_map`, `keras.StatelessScope`; Wang et al., "Horizontally Fused Training Arrays", MLSys
        2021.

    >>> weight = keras.Variable(0.0)
    >>> outputs, _ = over_members(lambda x: weight * x, [weight])([tf.constant([2.0, 3.0])], tf.constant([5.0, 7.0]))
    >>> outputs.numpy().tolist()
    [10.0, 21.0]
    """

    def run_member(stacked: Any) -> Any:
        values, arguments = stacked
        with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
            results = function(*arguments)
        return results, [scope.get_current_value(variable) for variable in variables]

    def run_members(values: Sequence[Any], *arguments: Any) -> Any:
        return tf.vectorized_map(run_member, (list(values), arguments), warn=False)

    return run_members


@keras.saving.register_keras_serializable(package="kerasnn")
class FusedNetwork(keras.Model):
    """Networks of one structure that predict together; `build_fused` makes one.

    The input `(batch, ...)` is the same for every member, the output is `(batch, members, ...)`.

    Args:
        network: a built network of the members' structure.
        members: number of members.
    """

    def __init__(self, network: keras.Model, members: int, **options: Any) -> None:
        super().__init__(**options)
        # Past Keras's __setattr__, which would count this network's weights as the model's.
        object.__setattr__(self, "_network", network)
        self._stacked = [
            self.add_weight(
                shape=(members, *weight.shape),
                initializer="zeros",
                dtype=weight.dtype,
                trainable=weight.trainable,
                name=f"weight_{position}",
            )
            for position, weight in enumerate(network.weights)
        ]
        self.members = members
        self(keras.KerasTensor((None, *network.input_shape[1:])))

    def call(self, inputs: Any) -> Any:
        """The outputs of all members, `(batch, members, ...)`."""
        predict = over_members(lambda: self._network(inputs, training=False), self._network.weights)
        outputs, _ = predict([weight.value for weight in self._stacked])
        return tf.experimental.numpy.swapaxes(outputs, 0, 1)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """`(batch, members, ...)`."""
        return (input_shape[0], self.members, *self._network.output_shape[1:])

    def predict_mean(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """Predict with the ensemble: the mean of the members' outputs.

        Args:
            x: prepared examples, `(examples, ...)`.
            batch_size: examples per batch.

        Returns:
            An array `(examples, outputs)`.
        """
        return self.predict(x, batch_size=batch_size, verbose=0).mean(axis=1)

    def split(self) -> list[keras.Model]:
        """The members as plain Keras models, in order."""
        stacked = [weight.numpy() for weight in self._stacked]
        models = [type(self._network).from_config(self._network.get_config()) for _ in range(self.members)]
        for member, model in enumerate(models):
            for weight, values in zip(model.weights, stacked, strict=True):
                weight.assign(values[member])
        return models

    def get_config(self) -> dict[str, Any]:
        """The network and the number of members."""
        network = keras.saving.serialize_keras_object(self._network)
        return {**super().get_config(), "network": network, "members": self.members}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """A fused network from the result of `get_config`."""
        network = keras.saving.deserialize_keras_object(config.pop("network"), custom_objects)
        return cls(network, **config)


def build_fused(networks: Sequence[keras.Model]) -> FusedNetwork:
    """Fuse networks of one structure into one Keras model, for the predictions of an ensemble in one call.

    Args:
        networks: built Keras models that differ in their weights only; they stay unchanged.

    Returns:
        A model from `(batch, ...)` to `(batch, members, ...)`. Its `split()` returns plain Keras models, its
        `predict_mean(x)` the prediction of the ensemble.

    Raises:
        ValueError: no networks, or networks that differ in more than their weights.

    >>> networks = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(5)]
    >>> build_fused(networks).predict(np.ones((2, 4)), verbose=0).shape
    (2, 5, 3)
    """
    if not networks:
        raise ValueError("networks must be at least one, received none")
    shapes = [[tuple(weight.shape) for weight in network.weights] for network in networks]
    kinds = [[type(layer) for layer in network._flatten_layers()] for network in networks]
    for number, network in enumerate(networks):
        if not hasattr(network, "input_shape"):
            raise ValueError(f"networks must have an input_shape, number {number} ({type(network).__name__}) has none")
        if (shapes[number], kinds[number], network.input_shape) != (shapes[0], kinds[0], networks[0].input_shape):
            raise ValueError(f"networks must have one structure; number {number} differs from number 0")
    first = networks[0]
    fused = FusedNetwork(type(first).from_config(first.get_config()), len(networks))
    for stacked, *weights in zip(fused._stacked, *(network.weights for network in networks), strict=True):
        stacked.assign(np.stack([weight.numpy() for weight in weights]))
    return fused
