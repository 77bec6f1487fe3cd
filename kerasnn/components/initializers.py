"""Initializers by name, each with a separate seed."""

import operator

import keras

from kerasnn.config import catalog

_SEEDLESS = {"zeros", "ones", "constant", "identity"}


def get(spec: object, seed: int | None = None) -> keras.initializers.Initializer:
    """A new initializer: layers of equal shape that share one get equal weights, with or without a seed.

    `standard_uniform` is U(-1/sqrt(d), 1/sqrt(d)) with d the number of inputs, as in PyTorch's `Linear`
    (Kaiming-uniform with a = sqrt(5)). Keras's `glorot_normal` and `he_normal` draw from normal distributions that are
    truncated at two standard deviations and rescaled to the nominal standard deviation.

    Args:
        spec: a name or a mapping of a name and arguments; see `kerasnn.config.catalog.INITIALIZERS`.
        seed: seed of the random numbers; None draws a seed. Constant initializers ignore it.

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
