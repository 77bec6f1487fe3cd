"""Initializers by name, each with a seed of its own."""

import operator

import keras

from kerasnn.config import catalog

_SEEDLESS = {"zeros", "ones", "constant", "identity"}


def get(spec: object, seed: int | None = None) -> keras.initializers.Initializer:
    """A new initializer.

    It is new on every call because two layers that share one instance start with the same weights where their shapes
    are the same, whether or not it has a seed.

    `standard_uniform` is U(-1/sqrt(d), 1/sqrt(d)) with d the number of inputs, Keras's variance scaling with scale 1/3.
    It is what PyTorch's `Linear` starts from (Kaiming-uniform with a = sqrt(5)). Keras's `glorot_normal` and
    `he_normal` draw from normals cut at two standard deviations and stretched to the stated one.

    Args:
        spec: a name or a mapping of a name and arguments; see `kerasnn.config.catalog.INITIALIZERS`.
        seed: seed of the numbers drawn; None draws one. The constant initializers have none.

    Returns:
        A Keras initializer.

    Raises:
        ValueError: if the spec is wrong.

    Reference: Glorot and Bengio, AISTATS 2010; He et al., ICCV 2015; `keras.initializers`.
    """
    name, arguments = catalog.check("initializer", catalog.INITIALIZERS, spec)
    if name not in _SEEDLESS:
        arguments["seed"] = None if seed is None else operator.index(seed)
    if name == "standard_uniform":
        return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", **arguments)
    return catalog.keras_class(keras.initializers, name)(**arguments)
