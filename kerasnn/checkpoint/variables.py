"""The variables of a training: collected from the model, read into arrays, and assigned again."""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.checkpoint.state_file import DTYPES
from kerasnn.components.values import ValueReader
from kerasnn.components.values import underlying as raw
from kerasnn.components.variables import NumberVariable
from kerasnn.keras_private import GLOBAL_SEED_GENERATOR, global_seed_generator, global_state

TRACKED = ("model", "optimizer", "metrics", "seeds")
"""The groups of variables that Keras tracks."""
Variables = dict[str, list[Any]]
"""Variables by group: those of `TRACKED`, and each other variable in a group that is named by the path to it."""
Arrays = dict[str, list[np.ndarray]]
"""Their values."""

_SEARCHED = (
    keras.Layer,
    keras.Optimizer,
    keras.Metric,
    keras.Loss,
    keras.Initializer,
    keras.random.SeedGenerator,
    keras.optimizers.OptimizerMap,
    tf.Module,
)
_VARIABLE, _DICT, _LIST, _OBJECT = 1, 2, 4, 8
_kinds: dict[tuple[type, type], int] = {(kind, kind): 0 for kind in (type(None), bool, int, float, str, np.ndarray)}
"""What values of the libraries' types are, as a sum: every save walks all attributes of a model."""
_LIBRARIES = {"keras", "kerasnn", "ml_dtypes", "numpy", "pandas", "scipy", "tensorflow", *sys.stdlib_module_names}


def training_variables(model: keras.Model) -> Variables:
    """Every variable that training a model may change, each once.

    These are the variables that Keras tracks, and all others that attributes of the model, its layers, optimizers,
    metrics and losses lead to, also through lists, dictionaries and objects of the user's own classes.
    """
    seed_generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    tracked = (
        model.variables,
        [] if model.optimizer is None else model.optimizer.variables,
        model.metrics_variables,
        [] if seed_generator is None else [seed_generator.state],
    )
    seen: set[int] = set()
    variables: Variables = {}
    for group, members in zip(TRACKED, tracked, strict=True):
        variables[group] = []
        for variable in members:
            if id(raw(variable)) not in seen:
                seen.add(id(raw(variable)))
                variables[group].append(variable)
    for path, variable in _untracked(model, seen):
        variables[path] = [variable]
    return variables


def _untracked(model: keras.Model, known: set[int]) -> Iterator[tuple[str, Any]]:
    """Variables that are not known yet, with their paths; the shortest paths come first."""
    # Paths are put together for the few values that are unknown variables: each value knows the one that led to it.
    queue: deque[tuple[Any, Any, Any]] = deque([(None, "model", model)])
    seen: set[int] = set()
    while queue:
        entry = queue.popleft()
        value = entry[2]
        if id(value) in seen:
            continue
        seen.add(id(value))
        kind = _kind(value)
        if kind & _VARIABLE:
            variable = value.state if isinstance(value, tf.random.Generator) else value
            is_number = isinstance(variable, NumberVariable)  # stands for a Python number that a callback owns
            if id(raw(variable)) not in known and not is_number and _dtype(variable) in DTYPES:
                known.add(id(raw(variable)))
                yield _path(entry), variable
        if kind & _DICT:
            queue.extend((entry, [key], inner) for key, inner in value.items() if _kind(inner))
        elif kind & _LIST:
            queue.extend((entry, [index], inner) for index, inner in enumerate(value) if _kind(inner))
        if kind & _OBJECT:
            attributes = [(entry, name, inner) for name, inner in vars(value).items() if _kind(inner)]
            queue.extend(each for each in attributes if not each[1].startswith("_"))
            queue.extend(each for each in attributes if each[1].startswith("_"))


def _path(entry: Any) -> str:
    """The path to a value of the walk: its steps are names of attributes, and keys or indices in lists of one."""
    before, step, _ = entry
    if before is None:
        return str(step)
    return _path(before) + (f"[{step[0]!r}]" if isinstance(step, list) else f".{step}")


def _kind(value: Any) -> int:
    """Whether a value is a variable or may hold variables, and how; 0 for all others."""
    # A proxy has the class of what it stands for.
    key = (type(value), value.__class__)
    kind = _kinds.get(key)
    if kind is None:
        kind = _VARIABLE * isinstance(value, keras.Variable | tf.Variable | tf.random.Generator)
        kind += _DICT * isinstance(value, dict) + _LIST * isinstance(value, list | tuple | deque)
        kind += _OBJECT * (isinstance(value, _SEARCHED) or _is_users(value))
        # A class of the user's own may be made anew for every model, and must be free to go with it.
        if _library(value) in _LIBRARIES:
            _kinds[key] = kind
    return kind


def _is_users(value: Any) -> bool:
    """Whether a value is an object of a class of the user's own."""
    return _library(value) not in _LIBRARIES and hasattr(value, "__dict__") and not isinstance(value, type)


def _library(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


class VariableReader:
    """Reads groups of variables into arrays."""

    def __init__(self) -> None:
        self._read = ValueReader()

    def read(self, variables: Variables, strategy: tf.distribute.Strategy | None) -> Arrays:
        """The values of variables.

        Args:
            variables: the variables by group.
            strategy: the model's strategy; a variable whose replicas differ gives `(replicas, *shape)`.
        """
        every = [variable for group in variables.values() for variable in group]
        values = iter(self._read(every)) if strategy is None else map(_value, every)
        return {name: [next(values) for _ in group] for name, group in variables.items()}


def assign(variables: Variables, arrays: Arrays, initial: bool = False) -> list[str]:
    """Give variables their saved values, group by group.

    Args:
        variables: the variables by group.
        arrays: the saved values.
        initial: whether they were saved before the first step, which creates further variables.

    Returns:
        The groups that were left out because some of their variables do not exist yet.

    Raises:
        ValueError: one line with the first variable that does not match its array; nothing is assigned then.
    """
    if arrays.get("seeds") and not variables.get("seeds"):
        variables = {**variables, "seeds": [global_seed_generator().state]}
    missing = [name for name, saved in arrays.items() if len(variables.get(name, ())) < len(saved)]
    pairs = []
    for name, group in variables.items():
        saved = arrays.get(name, [])
        if len(group) > len(saved):
            if name in arrays and not initial:
                raise mismatch(name, variables, arrays)
        elif name not in missing:
            pairs += list(zip(group, saved, strict=True))
    for variable, array in pairs:
        _check(variable, array)
    for variable, array in pairs:
        _assign(variable, array)
    return missing


def first_few(names: Sequence[str]) -> str:
    """Names in one line, of which a message shows three.

    >>> first_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def mismatch(group: str, variables: Variables, arrays: Arrays) -> ValueError:
    """The error for a state with another number of variables than the model."""
    return ValueError(
        f"the state must be of this model, received one with {len(arrays[group])} {group} variables, "
        f"the model has {len(variables.get(group, ()))}"
    )


def _check(variable: Any, array: np.ndarray) -> None:
    shape = array.shape[1:] if _is_by_replica(variable, array) else array.shape
    if not tf.TensorShape(variable.shape).is_compatible_with(shape) or _dtype(variable) != array.dtype.name:
        name = variable.path if isinstance(variable, keras.Variable) else variable.name
        raise ValueError(
            f"the state must be of this model, received {array.dtype} {array.shape} for {name}, "
            f"which is {_dtype(variable)} {tuple(variable.shape)}"
        )


def _assign(variable: Any, array: np.ndarray) -> None:
    replicas = copies(variable)
    if not _is_by_replica(variable, array):
        variable.assign(array)
    elif len(array) == len(replicas):
        for copy, value in zip(replicas, array, strict=True):
            copy.assign(value)
    else:
        variable.assign(array.sum(axis=0, dtype=array.dtype))


def _dtype(variable: Any) -> str:
    return tf.as_dtype(variable.dtype).name


def copies(variable: Any) -> Sequence[tf.Variable]:
    """A variable's copies on this process's replicas."""
    value = raw(variable)
    return tuple(value.values) if isinstance(value, tf.distribute.DistributedValues) else (value,)


def _value(variable: Any) -> np.ndarray:
    """A variable's value; each replica's where they differ, as metrics do: their sum would be rounded."""
    values = [np.asarray(copy.numpy()) for copy in copies(variable)]
    return np.stack(values) if _differs_by_replica(variable) and len(values) > 1 else values[0]


def _is_by_replica(variable: Any, array: np.ndarray) -> bool:
    return _differs_by_replica(variable) and array.ndim == len(variable.shape) + 1


def _differs_by_replica(variable: Any) -> bool:
    return variable.synchronization in ("on_read", tf.VariableSynchronization.ON_READ)
