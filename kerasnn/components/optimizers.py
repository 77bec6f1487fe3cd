"""Optimizers by name."""

import keras

from kerasnn.config import catalog


def get(spec: object) -> keras.optimizers.Optimizer:
    """A new optimizer.

    Args:
        spec: a name or a mapping of a name and arguments, including `learning_rate`; see `catalog.OPTIMIZERS`.

    Raises:
        ValueError: if the spec is wrong: an argument is unknown, out of range or contradicts another.
    """
    name, arguments = catalog.check("optimizer", catalog.OPTIMIZERS, spec)
    if name in ("momentum", "nesterov"):
        return keras.optimizers.SGD(**{"momentum": 0.9, "nesterov": name == "nesterov"} | arguments)
    return catalog.keras_class(keras.optimizers, name)(**arguments)
