"""Everything that kerasnn borrows from the private parts of Keras, TensorFlow and keras-tuner.

No other module imports `keras.src`, `tensorflow.python` or `keras_tuner.src`, or replaces a function of theirs.
`tests/test_keras_private.py` says what kerasnn needs of each name and fails when a new version changes it.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend import random as backend_random
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.tensorflow import nn as tensorflow_nn
from keras.src.backend.tensorflow import random as tensorflow_random
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.losses import loss as loss_module
from keras.src.models import Functional
from keras.src.optimizers import base_optimizer
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, draw_seed, global_seed_generator
from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils, get_data_adapter
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter, can_convert_arrays
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.trainers.trainer import model_supports_jit
from tensorflow.python import pywrap_tfe
from tensorflow.python.distribute import values as distributed_values
from tensorflow.python.framework import tensor_util
from tensorflow.python.ops import (
    gen_array_ops,
    gen_nn_ops,
    gen_resource_variable_ops,
    gen_stateless_random_ops_v2,
    random_ops_util,
)
from tensorflow.python.ops.parallel_for import pfor

__all__ = [
    "GLOBAL_SEED_GENERATOR",
    "ArrayDataAdapter",
    "DataAdapter",
    "Functional",
    "TFOptimizer",
    "TensorFlowTrainer",
    "all_of",
    "array_slicing",
    "backend_random",
    "base_optimizer",
    "can_convert_arrays",
    "compile_argument",
    "data_adapter_utils",
    "distributed_values",
    "draw_seed",
    "gen_array_ops",
    "gen_nn_ops",
    "gen_resource_variable_ops",
    "gen_stateless_random_ops_v2",
    "get_data_adapter",
    "get_stateless_scope",
    "global_seed_generator",
    "global_state",
    "loss_module",
    "memory_limit",
    "model_supports_jit",
    "original",
    "pfor",
    "pywrap_tfe",
    "random_ops_util",
    "remember_compile_arguments",
    "replaced",
    "tensor_util",
    "tensorflow_nn",
    "tensorflow_random",
    "vectorized_by",
]

_JIT_COMPILE = "_kerasnn_jit_compile"
_MISSING = object()
_lock = threading.RLock()


class _Scope:
    """Whose calls a replacement answers: those of the thread that entered it, and of the graph that it traced then.

    A strategy traces each replica in a thread of its own, within the graph that it was called from.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

    def is_current(self) -> bool:
        if threading.get_ident() == self._thread:
            return True
        graph = None if self._graph is None or tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        while graph is not None:
            if graph is self._graph:
                return True
            graph = getattr(graph, "outer_graph", None)
        return False


class _Dispatcher:
    """Stands in the place of a function while at least one thread replaces it."""

    def __init__(self, owner: Any, name: str) -> None:
        self.original = getattr(owner, name)
        self.replacements: list[tuple[_Scope, Callable[..., Any]]] = []
        self._owner, self._name = owner, name
        self._before = vars(owner).get(name, _MISSING)

        # With its signature, which libraries read to see what Keras's methods take.
        @functools.wraps(self.original)
        def dispatch(*arguments: Any, **options: Any) -> Any:
            for scope, replacement in reversed(self.replacements):
                if scope.is_current():
                    return replacement(*arguments, **options)
            return self.original(*arguments, **options)

        setattr(owner, name, dispatch)

    def remove(self) -> None:
        if self._before is _MISSING:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


_dispatchers: dict[tuple[int, str], _Dispatcher] = {}


@contextmanager
def replaced(owner: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    """Replace functions of a module, class or object for what this thread runs, and for the replicas that it traces.

    Other threads get the original functions meanwhile. The originals are put back when the last thread leaves.

    Args:
        owner: the module, class or object.
        functions: the replacements by name.
    """
    scope = _Scope()
    with _lock:
        entries = []
        for name, function in functions.items():
            key = (id(owner), name)
            if key not in _dispatchers:
                _dispatchers[key] = _Dispatcher(owner, name)
            entries.append((key, (scope, function)))
            _dispatchers[key].replacements.append(entries[-1][1])
    try:
        yield
    finally:
        with _lock:
            for key, entry in entries:
                dispatcher = _dispatchers[key]
                dispatcher.replacements.remove(entry)
                if not dispatcher.replacements:
                    dispatcher.remove()
                    del _dispatchers[key]


def original(owner: Any, name: str) -> Any:
    """A function as its library defines it, whatever replaces it at present."""
    with _lock:
        dispatcher = _dispatchers.get((id(owner), name))
        return getattr(owner, name) if dispatcher is None else dispatcher.original


_converters: dict[str, int] = {}
"""How many threads use each converter."""


@contextmanager
def vectorized_by(converters: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Have `tf.vectorized_map` convert operations that it has no converter for.

    Args:
        converters: type of operation to its converter, a function of a `pfor` operation.
    """
    registry = pfor._pfor_converter_registry
    with _lock:
        for kind, converter in converters.items():
            if not _converters.get(kind):
                pfor.RegisterPFor(kind)(converter)
            _converters[kind] = _converters.get(kind, 0) + 1
    try:
        yield
    finally:
        with _lock:
            for kind in converters:
                _converters[kind] -= 1
                if not _converters[kind]:
                    del registry[kind]


@contextmanager
def all_of(*contexts: Any) -> Iterator[None]:
    """Enter several contexts as one."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def remember_compile_arguments() -> None:
    """Have models remember the `jit_compile` that `compile` was given: Keras keeps only what it made of "auto"."""
    compile = keras.Model.compile
    signature = inspect.signature(compile)

    @functools.wraps(compile)
    def remembering(self: keras.Model, *arguments: Any, **options: Any) -> None:
        compile(self, *arguments, **options)
        bound = signature.bind(self, *arguments, **options)
        vars(self)[_JIT_COMPILE] = bound.arguments.get("jit_compile", "auto")

    trainer = next(kind for kind in keras.Model.__mro__ if "compile" in vars(kind))
    trainer.compile = remembering


def compile_argument(model: keras.Model) -> bool | str:
    """The `jit_compile` that a model was compiled with; "auto" where it was compiled before kerasnn was imported."""
    given: bool | str = vars(model).get(_JIT_COMPILE, "auto")
    return given


def memory_limit() -> int:
    """Memory in bytes that TensorFlow may use of the first GPU."""
    from tensorflow.python.client import device_lib

    devices = device_lib.list_local_devices()
    return int(next(device.memory_limit for device in devices if device.device_type == "GPU"))


def __getattr__(name: str) -> Any:
    """keras-tuner's errors and its reading of results, which are imported where they are used."""
    if name == "tuner_errors":
        from keras_tuner.src import errors as tuner_errors

        return tuner_errors
    if name == "tuner_utils":
        from keras_tuner.src.engine import tuner_utils

        return tuner_utils
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
