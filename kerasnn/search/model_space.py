"""The space of a function that builds a model of keras-tuner's hyperparameters, found by calling it."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras_tuner
from keras_tuner.engine import hyperparameters as kinds

from kerasnn.search.space import Choice, Parameter, Range, active_values, canonical_json, ordered, values_with

logger = logging.getLogger("kerasnn")

Build = Callable[[keras_tuner.HyperParameters], Any]
"""A function that builds a model of hyperparameters."""


def find_space(build: Build) -> dict[str, Parameter]:
    """Every hyperparameter that a function asks for, found by calling it with different values.

    It is called with its defaults first, then with each choice and each end of each range, until it asks for nothing
    new: so what it asks for in a loop or under a condition is found too.

    >>> def build(hp):
    ...     return [hp.Int(f"units_{layer}", 4, 8) for layer in range(hp.Int("layers", 1, 2))]
    >>> list(find_space(build))
    ['layers', 'units_0', 'units_1']

    Raises:
        ValueError: one line, for a hyperparameter that is declared in two ways, or in one that is not known here.
    """
    space: dict[str, Parameter] = {}
    tried: set[str] = set()
    _call(build, {}, space)
    while new := [values for values in _probes(space) if canonical_json(values) not in tried]:
        for values in new:
            tried.add(canonical_json(values))
            try:
                _call(build, values, space)
            except _SpaceError:
                raise
            except Exception as error:
                # A trial with these values fails with the same error.
                logger.warning("build fails with %s: %s", values, error)
    return space


def hyperparameters_of(values: Mapping[str, Any]) -> keras_tuner.HyperParameters:
    """keras-tuner's hyperparameters with these values."""
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.values.update(values)
    return hyperparameters


def space_of(hyperparameters: keras_tuner.HyperParameters) -> dict[str, Parameter]:
    """The space that keras-tuner's hyperparameters declare, for display: of two declarations of a name, the first."""
    space: dict[str, Parameter] = {}
    for declared in hyperparameters.space:
        if declared.name not in space and not declared.name.startswith("tuner/"):
            space[declared.name] = _parameter(declared, strict=False)
    return space


def explore(hypermodel: Any, oracle: Any) -> None:
    """Find what models ask for in loops and under conditions, which keras-tuner learns of trial by trial.

    Args:
        hypermodel: keras-tuner's `HyperModel`, or None.
        oracle: keras-tuner's oracle, to whose space it is added.
    """
    if hypermodel is None or not (oracle.tune_new_entries and oracle.allow_new_entries):
        return

    def build(hyperparameters: keras_tuner.HyperParameters) -> None:
        hypermodel.build(hyperparameters)
        oracle.update_space(hyperparameters)

    try:
        find_space(build)
    except _SpaceError as error:
        logger.warning("trials of the first batch may leave hyperparameters at their defaults: %s", error)


class _SpaceError(ValueError):
    """What cannot be declared, in one line."""


def _call(build: Build, values: Mapping[str, Any], space: dict[str, Parameter]) -> None:
    hyperparameters = hyperparameters_of(values)
    build(hyperparameters)
    _add(hyperparameters, space)


def _probes(space: Mapping[str, Parameter]) -> Iterator[dict[str, Any]]:
    """Values with which the function may ask for more: few calls, in which each value appears."""
    extremes = {key: parameter.extremes for key, parameter in ordered(space).items()}
    for at in range(max(map(len, extremes.values()), default=0)):
        yield active_values(space, {key: values[min(at, len(values) - 1)] for key, values in extremes.items()})
    for key, parameter in space.items():
        if parameter.when:
            for value in parameter.extremes:
                yield values_with(space, key, value)


def _add(hyperparameters: keras_tuner.HyperParameters, space: dict[str, Parameter]) -> None:
    """Add what keras-tuner's hyperparameters declare to a space."""
    for declared in hyperparameters.space:
        when = {each.name: tuple(each.values) for each in declared.conditions}
        for parent in when:
            _make_choice(space, parent)
        parameter = _parameter(declared).model_copy(update={"when": when})
        before = space.get(declared.name)
        space[declared.name] = parameter if before is None else _merged(declared.name, before, parameter)


def _parameter(declared: Any, strict: bool = True) -> Parameter:
    name = declared.name
    if isinstance(declared, kinds.Fixed):
        return Choice(choices=(declared.value,))
    if isinstance(declared, kinds.Boolean):
        return Choice(choices=(False, True))
    if isinstance(declared, kinds.Choice):
        return Choice(choices=tuple(dict.fromkeys(declared.values)))
    if not isinstance(declared, kinds.Int | kinds.Float):
        raise _SpaceError(
            f"hyperparameter {name!r} must be a Choice, Int, Float, Boolean or Fixed, received {declared}"
        )
    sampling = declared.sampling or "linear"
    if sampling == "reverse_log" and not strict:
        sampling = "linear"
    if sampling == "reverse_log":
        raise _SpaceError(f"sampling must be 'linear' or 'log', received 'reverse_log' for hyperparameter {name!r}")
    number = int if isinstance(declared, kinds.Int) else float
    low, high = number(declared.min_value), number(declared.max_value)
    # A step of 1 between integers is every integer.
    step = None if declared.step is None or (number is int and declared.step == 1) else number(declared.step)
    smallest_step = low * step if step and sampling == "log" else low + (step or 0)
    if low == high or smallest_step > high:
        return Choice(choices=(low,))
    return Range(min=low, max=high, step=step, sampling=sampling)


def _make_choice(space: dict[str, Parameter], name: str) -> None:
    """Make a choice of a range that a condition names."""
    parameter = space[name]
    if isinstance(parameter, Range):
        values = parameter.values or (
            tuple(range(int(parameter.min), int(parameter.max) + 1)) if parameter.is_integer else ()
        )
        if not values:
            raise _SpaceError(
                f"a condition must name a choice or whole numbers, received {name!r}, which are fractions"
            )
        space[name] = Choice(choices=values, when=parameter.when)


def _merged(name: str, before: Parameter, after: Parameter) -> Parameter:
    """A hyperparameter that is declared under one condition and under another."""
    when, other = before.when, after.when
    first, second = (each.model_copy(update={"when": {}}) for each in (before, after))
    if isinstance(before, Choice) and isinstance(after, Range):
        # A condition names it: see _make_choice.
        second = first
    if first != second:
        raise _SpaceError(
            f"hyperparameter {name!r} must have the same values wherever build asks for it, received {first!r} and "
            f"{second!r}; give it two names"
        )
    if when == other:
        return before
    if when.keys() == other.keys() and len(when) == 1:
        [parent] = when
        allowed = {parent: tuple(dict.fromkeys([*when[parent], *other[parent]]))}
        return before.model_copy(update={"when": allowed})
    # Several conditions of which one holds: searched always, unused where none does.
    return first
