"""Ensembles: networks of one structure as one network with a leading axis of members, and means of any models."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from kerasnn.fused.structure import Structure


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
    copies = []
    for number, network in enumerate(networks):
        if not hasattr(network, "input_shape"):
            raise ValueError(f"networks must have an input_shape, number {number} ({type(network).__name__}) has none")
        # Without optimizer and loss, which do not matter for predictions.
        copies.append(type(network).from_config(network.get_config()))
        if Structure(copies[number]).key != Structure(copies[0]).key:
            raise ValueError(f"networks must have one structure; number {number} differs from number 0")
    fused = FusedNetwork(copies[0], len(networks))
    for stacked, *weights in zip(fused._stacked, *(network.weights for network in networks), strict=True):
        stacked.assign(np.stack([weight.numpy() for weight in weights]))
    return fused


@keras.saving.register_keras_serializable(package="kerasnn")
class Ensemble(keras.Model):
    """The weighted mean of the outputs of models, as a model that can be saved.

    The models may differ in everything but their inputs and the shapes of their outputs. Outputs are averaged as they
    are: probabilities as probabilities, logits as logits. Loss and metrics are those of the first model.

    Args:
        members: built Keras models, which become parts of this one.
        shares: weight of each member in the mean, at least 0; None gives all the same.
        measures: serialized loss and metrics; None takes those of the first member, if it is compiled.

    Raises:
        ValueError: no members, or shares that are no weights of them.

    Reference: `select_ensemble` finds shares.

    >>> members = [keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(factor)]) for factor in (1.0, 2.0)]
    >>> Ensemble(members, shares=[3, 1]).predict(np.ones((1, 2)), verbose=0)
    array([[1.25, 1.25]], dtype=float32)
    """

    def __init__(
        self,
        members: Sequence[keras.Model],
        shares: Sequence[float] | None = None,
        measures: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        shares = [1.0] * len(members) if shares is None else [float(share) for share in shares]
        if not members:
            raise ValueError("members must be at least one, received none")
        if len(shares) != len(members) or min(shares) < 0 or not sum(shares) > 0:
            raise ValueError(f"shares must be {len(members)} numbers of at least 0, not all 0; received {shares}")
        self.members = list(members)
        self.shares = [share / sum(shares) for share in shares]
        self.built = True
        if measures is None and members[0].compiled:
            config = members[0].get_compile_config() or {}
            measures = {name: config.get(name) for name in ("loss", "loss_weights", "metrics", "weighted_metrics")}
        self._measures = measures
        if measures is not None:
            self.compile(**keras.saving.deserialize_keras_object(measures))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The mean of the members' outputs, in their structure."""
        outputs = [member(inputs, training=training) for member in self.members]
        return keras.tree.map_structure(
            lambda *parts: sum(share * part for share, part in zip(self.shares, parts, strict=True)), *outputs
        )

    def get_config(self) -> dict[str, Any]:
        """The members, without their optimizers, their shares, and what is measured."""
        members = [keras.saving.serialize_keras_object(member) for member in self.members]
        for member in members:
            member.pop("compile_config", None)
        return {"name": self.name, "members": members, "shares": self.shares, "measures": self._measures}

    def get_compile_config(self) -> None:
        """None: `get_config` says what is measured."""

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """An ensemble from the result of `get_config`."""
        config = dict(config)
        members = [keras.saving.deserialize_keras_object(member, custom_objects) for member in config.pop("members")]
        return cls(members, **config)


def select_ensemble(
    models: Sequence[keras.Model],
    x: Any,
    y: Any,
    rounds: int = 20,
    score: Callable[[Any, Any], float] | None = None,
    batch_size: int = 256,
) -> Ensemble:
    """Select models greedily, so that the mean of their outputs is as good as possible on held-out examples.

    It begins with the best model, and adds in each round the one, perhaps again, that makes the mean best. The round
    with the best mean counts: the ensemble is never worse than the best model on these examples.

    Args:
        models: built and compiled Keras models whose outputs have one structure.
        x, y: examples that no model was trained on, as in `fit`.
        rounds: number of rounds, the first included.
        score: given `y` and the mean outputs, returns what is minimized; None takes the loss of the first model.
        batch_size: examples per batch.

    Returns:
        The selected models with their shares.

    Raises:
        ValueError: no models, no rounds, or a first model that is not compiled where no score is given.

    Reference: Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004.

    >>> models = [keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(factor)]) for factor in (0.5, 1.0, 2.0)]
    >>> models[0].compile(loss="mse")
    >>> select_ensemble(models, np.ones((4, 1)), np.full((4, 1), 1.5)).shares
    [0.5, 0.5]
    """
    if not models or rounds < 1:
        raise ValueError(f"models and rounds must be at least one, received {len(models)} and {rounds}")
    first = models[0]
    if score is None and not first.compiled:
        raise ValueError("the first model must be compiled, or score must be given")
    measure = score or (lambda y, outputs: float(first.compute_loss(y=y, y_pred=outputs, training=False)))
    outputs = [model.predict(x, batch_size=batch_size, verbose=0) for model in models]
    counts, total = [0] * len(models), None
    best, selected = np.inf, counts
    for number in range(1, rounds + 1):
        sums = outputs if total is None else [keras.tree.map_structure(np.add, total, each) for each in outputs]
        scores = [measure(y, keras.tree.map_structure(lambda part: part / number, each)) for each in sums]  # noqa: B023
        added = int(np.nanargmin(scores))
        total = sums[added]
        counts = [count + (position == added) for position, count in enumerate(counts)]
        if scores[added] < best:
            best, selected = scores[added], counts
    return Ensemble(list(itertools.compress(models, selected)), list(filter(None, selected)))
