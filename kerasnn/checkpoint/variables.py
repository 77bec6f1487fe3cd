"""The variables of a training: collected from the model, read into arrays, and assigned again."""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.checkpoint.state_file import DTYPES
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
_PLAIN = {type(None), bool, int, float, complex, str, bytes, np.ndarray}
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
    queue: deque[tuple[str, Any]] = deque([("model", model)])
    seen: set[int] = set()
    while queue:
        path, value = queue.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, tf.random.Generator):
            value = value.state
        if isinstance(value, keras.Variable | tf.Variable):
            underlying = raw(value)
            is_number = isinstance(value, NumberVariable)  # stands for a Python number that a callback owns
            if id(underlying) not in known and not is_number and _dtype(value) in DTYPES:
                known.add(id(underlying))
                yield path, value
        queue.extend((path + step, inner) for step, inner in _parts(value))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The items or attributes of a value that may hold variables, each with its step of a path."""
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", inner) for key, inner in value.items() if type(inner) not in _PLAIN)
    elif isinstance(value, list | tuple | deque):
        yield from ((f"[{index}]", inner) for index, inner in enumerate(value) if type(inner) not in _PLAIN)
    if isinstance(value, _SEARCHED) or _is_users(value):
        attributes = sorted(vars(value).items(), key=lambda item: item[0].startswith("_"))
        yield from ((f".{name}", inner) for name, inner in attributes if type(inner) not in _PLAIN)


def _is_users(value: Any) -> bool:
    """Whether a value is an object of a class of the user's own."""
    library = type(value).__module__.partition(".")[0]
    return library not in _LIBRARIES and hasattr(value, "__dict__") and not isinstance(value, type)


class VariableReader:
    """Reads variables into arrays, all in one graph, which takes a tenth of the time of reading them one by one."""

    def __init__(self) -> None:
        self._variables: list[Any] = []
        self._graph: tf.types.experimental.PolymorphicFunction | None = None

    def read(self, variables: Variables, strategy: tf.distribute.Strategy | None) -> Arrays:
        """The values of variables.

        Args:
            variables: the variables by group.
            strategy: the model's strategy; a variable whose replicas differ gives `(replicas, *shape)`.
        """
        every = [variable for group in variables.values() for variable in group]
        values: Iterator[np.ndarray]
        if strategy is not None:
            values = map(_value, every)
        else:
            if [id(variable) for variable in every] != [id(variable) for variable in self._variables]:
                self._variables = every
                self._graph = tf.function(lambda: [tf.identity(raw(variable)) for variable in every], autograph=False)
            assert self._graph is not None
            values = iter([np.asarray(value.numpy()) for value in self._graph()])
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


def raw(variable: Any) -> Any:
    """The TensorFlow variable behind a Keras variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


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
