"""Optimizers by name."""

import keras

from kerasnn.config import catalog


def get(spec: object) -> keras.optimizers.Optimizer:
    """A new optimizer.

    Args:
        spec: a name or a mapping of a name and arguments, `learning_rate` among them; see `catalog.OPTIMIZERS`.

    Returns:
        A Keras optimizer.

    Raises:
        ValueError: if the spec is wrong: an argument unknown, out of range or in contradiction with another.
    """
    name, arguments = catalog.check("optimizer", catalog.OPTIMIZERS, spec)
    if name in ("momentum", "nesterov"):
        return keras.optimizers.SGD(**{"momentum": 0.9, "nesterov": name == "nesterov"} | arguments)
    return catalog.keras_class(keras.optimizers, name)(**arguments)
