"""How many models train together: the sizes of groups, which follow from the work and never from a clock."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from kerasnn.engine.memory import device_memory

MEMORY_SHARE = 0.25
"""Fraction of the device's memory for the weights, optimizer variables and activations of all members together."""
MEMBERS_PER_CORE = 16
"""Number of members that keeps a CPU core busy; with fewer, the time goes into starting operations."""
COMPILE_COST = {"CPU": 1e11, "GPU": 1e13}
"""Multiplications and additions that take about as long as compiling a program, by kind of device. The sizes of groups
follow from this number and never from a clock, because the last digits of results may depend on them."""
MAX_PADDING = 0.5
"""Maximum padding overhead, as a fraction of the compile cost."""
XLA_SECONDS, XLA_SAVES, XLA_SAVES_A_MEMBER = 2.0, 3e-4, 1.1e-4
"""On a CPU: seconds that XLA compiles longer than TensorFlow traces, and that it saves in a step, for all and for each
member. Measured with dense networks on two cores: 1 member trains 5 epochs of 44 steps in 2.9 s with XLA and in 1.0 s
without, 64 members train 20 epochs in 5.8 and 9.9 s."""
LOOPS_TOGETHER, LOOPS_ALONE, LOOPS_COMPILED, LOOPS_STEP = 9.0, 0.6, 2.5, 0.002
"""On a CPU, of models with recurrent layers, whose loop within the epoch's loop takes long to trace: seconds until they
train together, until one trains alone by `kerasnn.fit` without XLA and with it, and that its step takes without XLA.
Measured with an LSTM of 24 time steps on two cores: 4 members train 440 steps in 6.0 s alone and in 8.5 s together,
8 members 220 steps in 7.2 and 6.9 s, 16 members in 13.8 and 7.1 s."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that groups may have: few, because the program is compiled for each.

    Args:
        operations: multiplications and additions of a member's epoch.
        epochs: epochs of the training.
        compile_cost: multiplications and additions that take about as long as compiling.
        capacity: number of members that fit into memory.
        max_members: upper bound of the size to which a group is padded.

    >>> Sizes(operations=1, epochs=10, compile_cost=100, capacity=100, max_members=92).padded(17)
    20
    """

    operations: float
    epochs: int
    compile_cost: float
    capacity: int
    max_members: int

    def padded(self, members: int) -> int:
        """The size of a group: the members padded to a multiple of a power of two, as far as that costs little."""
        step = 1
        while (
            step < 2 * MEMBERS_PER_CORE and 2 * step * self.operations * self.epochs <= MAX_PADDING * self.compile_cost
        ):
            step *= 2
        return min(math.ceil(members / step) * step, max(members, self.max_members), self.capacity)

    def after_departures(self, size: int, members: int, epochs_left: int) -> int:
        """The size with which a group continues when only some members are left."""
        smaller = self.padded(members)
        return smaller if (size - smaller) * self.operations * epochs_left > self.compile_cost else size


def group_devices(members: int, names: Sequence[str] | None = None) -> list[str]:
    """A device for each of the groups that train at the same time.

    Args:
        members: number of models.
        names: the devices; None takes every GPU, or else the CPU.
    """
    names = names or [each.name.removeprefix("/device:") for each in tf.config.list_logical_devices("GPU")] or ["CPU:0"]
    if list(names) != ["CPU:0"]:
        return list(names[:members])
    # Cores stay idle between the operations of a single group, and so they do with one group per core. Powers of two
    # give few different sizes.
    at_once = max(1, min(2 * (os.cpu_count() or 1), members // MEMBERS_PER_CORE))
    return ["CPU:0"] * 2 ** int(math.log2(at_once))


def xla_pays(members: int, steps: float) -> bool:
    """Whether XLA saves more time than it takes to compile; it follows from the call alone, so that it repeats.

    Args:
        members: number of models.
        steps: steps of training and validation in all epochs.
    """
    saved = steps * (XLA_SAVES + XLA_SAVES_A_MEMBER * members)
    return saved > XLA_SECONDS or bool(tf.config.list_logical_devices("GPU"))


def has_loops(model: keras.Model) -> bool:
    """Whether a model on a CPU has recurrent layers that run as loops."""
    if tf.config.list_logical_devices("GPU"):
        return False
    return any(isinstance(layer, keras.layers.RNN) and not layer.unroll for layer in model._flatten_layers())


def loops_pay(members: int, steps: int) -> bool:
    """Whether models with loops train faster together than one by one; as `xla_pays`.

    >>> loops_pay(4, steps=60), loops_pay(8, steps=600), loops_pay(16, steps=60)
    (False, True, True)
    """
    alone = min(LOOPS_ALONE + steps * LOOPS_STEP, LOOPS_COMPILED)
    return members * alone > LOOPS_TOGETHER


def operations(model: keras.Model) -> float:
    """Multiplications and additions of one member's update, per example, approximately."""
    total = 0.0
    for layer in model._flatten_layers():
        kernel = vars(layer).get("_kernel", vars(layer).get("kernel"))
        positions = math.prod(_output_shape(layer)[:-1])
        # The forward pass, and the gradients of the inputs and of the kernel.
        total += 0 if kernel is None else 6.0 * math.prod(kernel.shape) * positions
    return total


def capacity(model: keras.Model, variables: Sequence[keras.Variable], batch_size: int, at_once: int) -> int:
    """Number of members per group with which all groups that train on a device at the same time fit into its memory."""
    size = sum(math.prod(variable.shape) * tf.as_dtype(variable.dtype).size for variable in variables)
    size += 4 * batch_size * sum(math.prod(_output_shape(layer)) for layer in model._flatten_layers())
    return max(1, int(MEMORY_SHARE * device_memory() / (max(size, 1) * at_once)))


def _output_shape(layer: keras.layers.Layer) -> tuple[int, ...]:
    """The shape of a layer's output for an example; empty where it is not one tensor of known shape."""
    try:
        shape = layer.output.shape[1:]
    except (AttributeError, ValueError):
        return ()
    return tuple(shape) if None not in shape else ()
