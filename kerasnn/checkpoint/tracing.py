"""What only a traced training step shows: variables that it creates, and variables that no attribute leads to."""

import inspect
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.checkpoint.state_file import logger
from kerasnn.checkpoint.variables import copies, first_few, training_variables
from kerasnn.components.values import underlying as raw
from kerasnn.components.variables import NumberVariable
from kerasnn.engine.graph import Operations
from kerasnn.engine.steps import Blocks


def create_variables(model: keras.Model, iterator: tf.data.Iterator) -> None:
    """Trace a training step without running it, so that layers and optimizers create their variables.

    Args:
        model: a compiled model.
        iterator: an iterator over its batches; none is read.

    Raises:
        ValueError: one line, if the step can't be traced.
    """
    step = model._autoconvert_optionals(model.train_step)

    def run() -> Any:
        return model.distribute_strategy.run(step, args=(iterator.get_next(),))

    try:
        tf.function(run, autograph=False).get_concrete_function()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"build the model before its state is restored: its step can't be traced ({reason})"
        ) from error


class UnsavedState:
    """Finds what a traced training step changes and a state does not hold, and logs it once."""

    def __init__(self) -> None:
        self._variables: list[tuple[tf.Variable, np.ndarray]] | None = None

    def watch(self, model: keras.Model) -> None:
        """Note the values of a model's unknown variables, once, as soon as its step has been traced."""
        functions = [] if self._variables is not None else _traced(model.train_function)
        if not functions:
            return
        groups = training_variables(model).values()
        known = {id(copy) for group in groups for variable in group for copy in copies(variable)}
        # A callback that sets the momentum owns a variable in its place.
        known |= {id(raw(value)) for value in vars(model.optimizer).values() if isinstance(value, NumberVariable)}
        unknown = {
            id(variable): variable
            for function in functions
            for variable in function.graph.variables
            if id(variable) not in known
        }
        self._variables = [(variable, variable.numpy()) for variable in unknown.values()]
        if not isinstance(model.train_function, Blocks):
            draws = filter(None, (Operations.of(function).stateful_draw() for function in functions))
            if draw := next(draws, None):
                logger.warning(
                    "a resumed run will not draw the random numbers of an uninterrupted one: the state of %s "
                    "(tf.random) can't be saved; use keras.random with a seed generator",
                    draw,
                )

    def log_changed(self) -> None:
        """Log the unknown variables that have changed since `watch`."""
        changed = [
            variable.name for variable, before in self._variables or () if not np.array_equal(variable.numpy(), before)
        ]
        if changed:
            self._variables = []
            logger.warning(
                "the training state lacks variables that training changes, so a restart resets them: %s; make them "
                "attributes of the model",
                first_few(changed),
            )


def _traced(train_function: Any) -> list[Any]:
    """The traces of Keras's train function or of blocks of steps."""
    if isinstance(train_function, Blocks):
        candidates = train_function.program.functions
    elif inspect.isfunction(train_function):
        candidates = list(inspect.getclosurevars(train_function).nonlocals.values())
    else:
        candidates = [train_function]
    return [
        trace
        for function in candidates
        if isinstance(function, tf.types.experimental.PolymorphicFunction)
        for trace in function._list_all_concrete_functions()
    ]
