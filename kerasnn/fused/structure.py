"""The structure that models must share to train as one program, and the numbers that may differ by model."""

import hashlib
import threading
import types
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from kerasnn.attributes import KEPT

_LIBRARIES = ("keras.", "kerasnn.", "tensorflow.", "numpy.", "builtins", "collections", "functools", "ml_dtypes")
"""Packages whose functions and classes are known by their name alone; others are compared by their code."""

_IGNORED = frozenset(
    (
        # Names that Keras counts up, and what refers to them.
        *("name", "_name", "path", "_path", "_parent_path", "auto_name", "_compile_config", "_auto_config"),
        *("_trainable_variables_indices", "_obj_reference_counts_dict", "_tracker", "_nodes"),
        # What a former training left behind.
        *("train_function", "test_function", "predict_function", "history", "stop_training", "stop_evaluating"),
        *("stop_predicting", KEPT, "_kerasnn_jit_compile", "_eval_epoch_iterator", "_losses"),
        *("_loss_ids", "_losses_override", "_saved_model_inputs_spec", "_saved_model_arg_spec", "_lock"),
        *("_call_signature", "_called", "_compiled_trainable_state"),
        *("_distribute_strategy", "_distribution_strategy", "_initial_epoch", "_mesh", "_in_data_parallel"),
    )
)
_CALLS = frozenset(("_inbound_nodes", "_outbound_nodes"))
"""What symbolic calls of a model leave with it; between its layers they are its graph."""
_SEEDS = frozenset(("seed", "_initial_seed", "_init_seed", "_backend_seed"))
"""Attributes of Keras's own classes that count when a layer is made and never again."""


class Number(NamedTuple):
    """A number of a model that may be each member's own.

    Args:
        owner: the attributes, or the arguments, among which it is.
        key: its name there.
        value: the number.
        always: whether it is a variable of the program also where the members agree.
    """

    owner: dict[str, Any]
    key: str
    value: Any
    always: bool


class Parts(Protocol):
    """What a program holds of a model: `variables`, and `numbers` that may be each member's own."""

    model: keras.Model
    variables: list[keras.Variable]
    numbers: list[Number]


_OPTIMIZER = ("momentum", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm")
_OPTIMIZER_RARE = ("beta_1", "beta_2", "rho", "epsilon", "ema_momentum")
_REGULARIZER = ("l1", "l2")
_LOSS_ARGUMENTS = ("label_smoothing",)
# By class: numbers that are always variables of the program, and those that are only where members differ: as variables
# they are rounded once more.
_NUMBERS: tuple[tuple[Any, tuple[str, ...], tuple[str, ...]], ...] = (
    (keras.layers.Dropout, ("rate",), ()),
    (keras.layers.SpatialDropout1D.__mro__[1], ("rate",), ()),
    (keras.layers.GaussianNoise, (), ("stddev",)),
    (keras.layers.AlphaDropout, (), ("rate",)),
    ((keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2), _REGULARIZER, ()),
    (keras.optimizers.Optimizer, _OPTIMIZER, _OPTIMIZER_RARE),
    (
        keras.optimizers.schedules.LearningRateSchedule,
        (),
        (
            *("initial_learning_rate", "warmup_target", "alpha", "decay_steps", "warmup_steps", "decay_rate"),
            *("end_learning_rate", "power", "_t_mul", "_m_mul", "first_decay_steps"),
        ),
    ),
)
_BRANCHING = (keras.layers.GaussianNoise, keras.layers.AlphaDropout)
"""Layers that do without random numbers where their number is 0."""


class Structure:
    """What a model is, apart from the values of its variables, the numbers that may differ and the names of its parts.

    The model's objects are walked from the model on: attributes, containers, closures. Two models of equal
    `key` run the same operations on variables and numbers in the same order.

    Args:
        model: a built and compiled Keras model.

    Attributes:
        key: a digest.
        variables: every Keras variable that the model reaches, optimizers' and metrics' included, in the walk's order.
        numbers: the numbers that may be each member's own, in the walk's order.

    >>> models = [keras.Sequential([keras.Input((2,)), keras.layers.Dropout(rate)]) for rate in (0.1, 0.2)]
    >>> first, second = map(Structure, models)
    >>> first.key == second.key, [number.value for number in second.numbers]
    (True, [0.2])
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.variables: list[keras.Variable] = []
        self.numbers: list[Number] = []
        self.tokens: list[Any] = []
        # Keeps each object alive as long as its id is in use.
        self._known: dict[int, tuple[int, Any]] = {}
        self._waiting: deque[Any] = deque()
        self._names = {part.name: number for number, part in enumerate([*model._flatten_layers(), *model.metrics])}
        self._token(model)
        while self._waiting:
            self.tokens.append(self._described(self._waiting.popleft()))

    @cached_property
    def key(self) -> str:
        return hashlib.sha256(repr(self.tokens).encode()).hexdigest()

    def _token(self, value: Any, depth: int = 0) -> Any:
        """What stands for a value in the description of its owner: itself if it is simple, else its number."""
        if value is None or isinstance(value, bool | int | float | complex | bytes | types.EllipsisType):
            return repr(value)
        if isinstance(value, str):
            return f"name {self._names[value]}" if value in self._names else repr(value)
        if isinstance(value, np.ndarray | np.generic) or (type(value).__name__ == "EagerTensor"):
            array = np.asarray(value)
            return ("array", array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest())
        if isinstance(value, Mapping) and depth < 50:
            return (
                "dict",
                [(self._token(key, depth + 1), self._token(each, depth + 1)) for key, each in value.items()],
            )
        if isinstance(value, list | tuple) and depth < 50:
            return ("list", isinstance(value, tuple), [self._token(each, depth + 1) for each in value])
        if isinstance(value, set | frozenset):
            return ("set", sorted(repr(self._token(each, depth + 1)) for each in value))
        if isinstance(value, types.ModuleType | tf.DType | np.dtype | type(threading.Lock())):
            return ("module", getattr(value, "__name__", type(value).__name__))
        if isinstance(value, weakref.ReferenceType | keras.initializers.Initializer):
            # Initializers have done their part when a model is built.
            return "past"
        return self._number_of(value)

    def _number_of(self, value: Any) -> int:
        if id(value) not in self._known:
            self._known[id(value)] = (len(self._known), value)
            self._waiting.append(value)
        return self._known[id(value)][0]

    def _described(self, value: Any) -> Any:
        if isinstance(value, keras.Variable):
            self.variables.append(value)
            rest = [self._token(getattr(value, name, None)) for name in ("regularizer", "constraint", "_autocast")]
            return (
                "variable",
                tuple(value.shape),
                str(value._dtype),
                value.trainable,
                value.overwrite_with_gradient,
                rest,
            )
        if isinstance(value, keras.KerasTensor):
            history = getattr(value, "_keras_history", None)
            return ("symbol", value.shape, value.dtype, value.sparse, self._token(history and tuple(history)))
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.MethodType):
            return ("method", self._token(value.__func__), self._token(value.__self__))
        if isinstance(value, partial):
            return ("partial", self._token(value.func), self._token(value.args), self._token(value.keywords))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if not hasattr(value, "__dict__"):
            return (
                "object",
                self._token(type(value)),
                repr(value) if "__repr__" in vars(type(value)) else "",
            )
        return ("object", self._token(type(value)), self._attributes(value))

    def _function(self, function: types.FunctionType) -> Any:
        if str(function.__module__).startswith(_LIBRARIES) and function.__closure__ is None:
            return ("function", function.__module__, function.__qualname__)
        closure = [self._token(_content(cell)) for cell in function.__closure__ or ()]
        names = _names_used(function.__code__)
        used = {name: function.__globals__[name] for name in names if name in function.__globals__}
        simple = {name: each for name, each in used.items() if isinstance(each, bool | int | float | str | tuple)}
        return (
            "function",
            _code(function.__code__),
            closure,
            self._token(function.__defaults__),
            self._token(function.__kwdefaults__),
            self._token(simple),
        )

    def _class(self, kind: type) -> Any:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if kind.__module__.startswith(_LIBRARIES):
            return ("class", name)
        members = {key: each for key, each in vars(kind).items() if not key.startswith("__") or callable(each)}
        own = [
            (key, self._token(getattr(each, "fget", getattr(each, "__func__", each))))
            for key, each in members.items()
            if not isinstance(each, types.GetSetDescriptorType | types.MemberDescriptorType | type(weakref))
        ]
        return ("class", name, own, [self._token(base) for base in kind.__bases__])

    def _attributes(self, value: Any) -> Any:
        attributes = vars(value)
        always, rare = numbers_of(value)
        ignored = _IGNORED | (_SEEDS if type(value).__module__.startswith(_LIBRARIES) else set())
        if value is self.model:
            ignored |= _CALLS
        if "_fn_kwargs" in attributes:
            # A copy for the loss's config.
            ignored |= set(_LOSS_ARGUMENTS)
        described = []
        for key, each in attributes.items():
            if key in ignored or key.startswith("_self_"):
                continue
            if key in always or key in rare:
                described.append(
                    (key, self._number(attributes, key, each, key in always, isinstance(value, _BRANCHING)))
                )
            elif key == "_fn_kwargs" and isinstance(each, dict):
                described.append((key, [(name, self._argument(each, name)) for name in each]))
            else:
                described.append((key, self._token(each)))
        return described

    def _argument(self, arguments: dict[str, Any], name: str) -> Any:
        value = arguments[name]
        return self._number(arguments, name, value, True, False) if name in _LOSS_ARGUMENTS else self._token(value)

    def _number(self, owner: dict[str, Any], key: str, value: Any, always: bool, branching: bool) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            return self._token(value)
        self.numbers.append(Number(owner, key, value, always))
        return ("number", bool(value) if branching else None)


def numbers_of(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of an object's numbers that may differ by member: those always in variables, and the others."""
    for kinds, always, rare in _NUMBERS:
        if isinstance(value, kinds):
            return always, rare
    return (), ()


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _code(code: types.CodeType) -> Any:
    constants = [_code(each) if isinstance(each, types.CodeType) else repr(each) for each in code.co_consts]
    return (code.co_name, code.co_code.hex(), code.co_names, code.co_varnames, constants)


def _names_used(code: types.CodeType) -> Iterable[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names_used(each)
