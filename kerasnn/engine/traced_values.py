"""Python values of a model that a graph of its steps holds as constants."""

from typing import Any

import keras

from kerasnn.attributes import kept_with
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

Values = dict[tuple[int, str], Any]


def traced_values(model: keras.Model) -> Values:
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
    found: Values = {}
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


class TracedValues:
    """Whether callbacks have changed what the graph of a step holds as constants.

    What the model's own calls set, as `self.training = training`, changes with every trace and counts for nothing.
    """

    def __init__(self) -> None:
        self._before: Values = {}
        self._values: Values | None = None

    def begin(self, model: keras.Model) -> None:
        """Note the values with which the trace of a step begins."""
        self._before = traced_values(model)

    def keep(self, model: keras.Model) -> None:
        """Keep the present values, with which a step has been traced."""
        before, self._before, self._values = self._before, {}, traced_values(model)
        missing = object()
        _set_by_calls(model).update(key for key, value in self._values.items() if before.get(key, missing) != value)

    def changed(self, model: keras.Model) -> bool:
        """Whether they have changed since the trace; asked once a trace."""
        values, self._values = self._values, None
        if values is None:
            return False
        own = _set_by_calls(model)
        now = traced_values(model)
        return any(key not in own and now.get(key) != values.get(key) for key in now.keys() | values.keys())


def _set_by_calls(model: keras.Model) -> set[tuple[int, str]]:
    found: set[tuple[int, str]] = kept_with(model).setdefault("set by calls", set())
    return found
