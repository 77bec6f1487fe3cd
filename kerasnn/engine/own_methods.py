"""Models that override `fit` or `evaluate`: theirs runs, and Keras's, which it calls, runs in compiled blocks."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras

from kerasnn.attributes import overridden, temporary_attributes
from kerasnn.config.schema import one_of
from kerasnn.engine.compilation import fall_back
from kerasnn.keras_private import TensorFlowTrainer, original, replaced

_RUNNING = "_kerasnn_own_method"
"""Attribute of a model: the name of its own method while Keras's, which that one has called, runs."""
_CALLED = "_kerasnn_own_method_called"
"""Likewise, while its own method runs."""


def overrides(model: keras.Model, name: str) -> bool:
    """Whether a model overrides a method of `keras.Model`, which is not running yet."""
    return overridden(model, keras.Model, name) is not None and vars(model).get(_RUNNING) != name


def keras_method(model: keras.Model, name: str) -> Callable[..., Any]:
    """A model's method; Keras's where the model's own one is running and has called it."""
    if vars(model).get(_RUNNING) == name:
        return partial(original(TensorFlowTrainer, name), model)
    method: Callable[..., Any] = getattr(model, name)
    return method


def refuse_further(method: Callable[..., Any], own: Mapping[str, Any]) -> None:
    """Refuse arguments for a method of the model's own where it has none.

    Raises:
        TypeError: one line.
    """
    if own:
        names = [
            name for name, each in inspect.signature(method).parameters.items() if each.kind is not each.VAR_KEYWORD
        ]
        raise TypeError(one_of(f"an argument of {method.__name__}", next(iter(own)), names))


def through_own(method: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call a model's own method in the place of ours, which runs where that one calls Keras's.

    The model's own method gets x and y by position, and by name the other arguments of Keras's that differ from their
    defaults, and further ones.

    Args:
        method: `kerasnn.fit` or `kerasnn.evaluate`.
        given: its arguments; those that it takes by keyword only are not Keras's.

    Raises:
        NotCompilableError: `compiled` is "on", and the model's own method has not called Keras's.
        TypeError: the model's own method calls ours, which would call it again.
    """
    model, name, calls = given["model"], method.__name__, 0
    if vars(model).get(_CALLED) == name:
        raise TypeError(f"a model's own {name} must call super().{name}, it called kerasnn.{name}")
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    for key, parameter in inspect.signature(method).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            ours[key] = given[key]
        elif parameter.kind is parameter.VAR_KEYWORD:
            theirs |= given[key]
        elif key != "model" and given[key] is not parameter.default:
            theirs[key] = given[key]

    def run(self: keras.Model, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        if self is not model:
            return original(TensorFlowTrainer, name)(self, *arguments, **options)
        calls += 1
        with temporary_attributes(model, **{_RUNNING: name}):
            return method(model, *arguments, **options, **ours)

    data = [theirs.pop(key) for key in ("x", "y") if key in theirs]
    with replaced(TensorFlowTrainer, **{name: run}), temporary_attributes(model, **{_CALLED: name}):
        result = getattr(model, name)(*data, **theirs)
    if not calls:
        fall_back(ours["compiled"], f"the model's own {name} does not call that of keras.Model")
    return result
