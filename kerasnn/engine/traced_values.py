"""Python values of a model that a graph of its steps holds as constants."""

from typing import Any

import keras

from kerasnn.distribute.replicas import optimizers_of

_PARTS = (
    keras.Layer,
    keras.Optimizer,
    keras.Loss,
    keras.Metric,
    keras.Regularizer,
    keras.constraints.Constraint,
    keras.optimizers.schedules.LearningRateSchedule,
)
_OF_THE_LOOP = ("stop_training", "stop_evaluating", "steps_per_execution")


def traced_values(model: keras.Model) -> dict[tuple[int, str], Any]:
    """The numbers, switches and texts among the attributes of a model, its layers, optimizers, losses and metrics.

    Plain Keras traces a step when it first runs, so what callbacks set before is in its graph.

    Returns:
        The values by the identity of the dictionary of attributes and the attribute's name, in the walk's order.

    >>> model = keras.Sequential([keras.layers.Dropout(0.5)])
    >>> model.compile(loss="mse")
    >>> values = traced_values(model)
    >>> model.layers[0].rate = 0.2
    >>> traced_values(model) == values
    False
    """
    found: dict[tuple[int, str], Any] = {}
    seen: set[int] = set()
    waiting: list[Any] = [model, *optimizers_of(model)]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        for name, value in vars(part).items():
            if isinstance(value, bool | int | float | str):
                if name == "_trainable" or not (name.startswith("_") or name in _OF_THE_LOOP):
                    found[id(vars(part)), name] = value
                continue
            inner = list(value.values()) if isinstance(value, dict) else value
            waiting += [
                each for each in (inner if isinstance(inner, list | tuple) else [inner]) if isinstance(each, _PARTS)
            ]
    return found
