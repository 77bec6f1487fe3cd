"""Models that override `fit` or `evaluate`: theirs runs, and Keras's, which it calls, runs in compiled blocks."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras

from kerasnn.attributes import overridden, temporary_attributes
from kerasnn.engine.compilation import Compiled, fall_back
from kerasnn.keras_private import TensorFlowTrainer, original, replaced

_RUNNING = "_kerasnn_own_method"


def overrides(model: keras.Model, name: str) -> bool:
    """Whether a model overrides a method of `keras.Model`, which is not running yet."""
    return overridden(model, keras.Model, name) is not None and vars(model).get(_RUNNING) != name


def keras_method(model: keras.Model, name: str) -> Callable[..., Any]:
    """A model's method; Keras's where the model's own one is running and has called it."""
    if vars(model).get(_RUNNING) == name:
        return partial(original(TensorFlowTrainer, name), model)
    method: Callable[..., Any] = getattr(model, name)
    return method


def through_own(
    model: keras.Model,
    name: str,
    compiled_method: Callable[..., Any],
    arguments: Mapping[str, Any],
    defaults: Mapping[str, Any],
    compiled: Compiled,
) -> Any:
    """Call a model's own method, with ours in the place of the one of Keras that it calls.

    Args:
        model: the model.
        name: name of the method.
        compiled_method: ours, which takes the model and the arguments of Keras's.
        arguments: what the model's own method is called with, x and y by position, the others by name; it need not
            take those that are as in `defaults`.
        defaults: defaults of Keras's arguments.
        compiled: as of `kerasnn.fit`.

    Raises:
        NotCompilableError: `compiled` is "on", and the model's own method has not called Keras's.
    """
    calls = 0

    def run(self: keras.Model, *given: Any, **options: Any) -> Any:
        nonlocal calls
        if self is not model:
            return original(TensorFlowTrainer, name)(self, *given, **options)
        calls += 1
        with temporary_attributes(model, **{_RUNNING: name}):
            return compiled_method(model, *given, **options)

    given = {key: value for key, value in arguments.items() if value is not defaults[key]}
    data = [given.pop(key) for key in ("x", "y") if key in given]
    with replaced(TensorFlowTrainer, **{name: run}):
        result = getattr(model, name)(*data, **given)
    if not calls:
        fall_back(compiled, f"the model's own {name} does not call that of keras.Model")
    return result
