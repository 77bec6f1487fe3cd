"""A population: models that train as one program, in which one can go on from the state of another."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnn.config.schema import short
from kerasnn.distribute.replicas import optimizers_of
from kerasnn.engine.checks import Checks
from kerasnn.fused.fitted import FittedModel, program_for
from kerasnn.fused.group import Group
from kerasnn.fused.inputs import Inputs
from kerasnn.fused.program import FusedProgram
from kerasnn.fused.sizes import capacity, group_devices
from kerasnn.fused.structure import Structure

Logs = dict[str, float]


class Population:
    """Models of one structure whose variables lie along an axis of members.

    A member takes over the variables of another one, weights, optimizer and metrics, by a gather along that axis; the
    learning rate and all other numbers that the program holds are then those of a model that is given for it. The state
    of its random numbers stays its own.

    Args:
        models: compiled Keras models, which differ in values that one program can hold.
        examples: by the name of a value, models that differ in it only; members may take on any value of it.
        arguments: `x`, `y` and further arguments of `fit_fused` that all share: `batch_size`, `validation_data`,
            `validation_split`, `shuffle`, `class_weight`, `sample_weight`, `validation_batch_size`, `checks`.
        epochs: epochs of the whole training.
        seed: seed of the orders of the examples, the same for all members.

    Raises:
        ValueError: one line, where the models cannot train as one program.

    Reference: Jaderberg et al., "Population Based Training of Neural Networks", arXiv 1711.09846.

    >>> def build(rate):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    ...     model.compile(keras.optimizers.SGD(rate), "mse")
    ...     return model
    >>> population = Population([build(0.0), build(0.125)], {}, {"x": np.ones((4, 2)), "y": np.ones(4)}, 2, seed=0)
    >>> [logs["loss"] for logs in population.train(0)], [logs["loss"] for logs in population.train(1)]
    ([1.0, 1.0], [1.0, 0.0625])
    >>> population.gather([1, 1])
    >>> [weights[0].tolist() for weights in map(population.weights, range(2))]
    [[[0.3125], [0.3125]], [[0.3125], [0.3125]]]
    """

    def __init__(
        self,
        models: Sequence[keras.Model],
        examples: Mapping[str, Sequence[keras.Model]],
        arguments: dict[str, Any],
        epochs: int,
        seed: int,
    ) -> None:
        every = [*models, *(model for each in examples.values() for model in each)]
        given = {name: value for name, value in arguments.items() if value is not None and name != "checks"}
        weights = {f"{name}s": [given.pop(name, None)] * len(every) for name in ("sample_weight", "class_weight")}
        by_class = weights["class_weights"]
        inputs = Inputs.of(given.pop("x"), given.pop("y", None), weights["sample_weights"], by_class, **given)
        if inputs is None:
            raise ValueError("a population needs examples as dense arrays of numbers")
        members = [
            self._member(number, model, inputs, epochs, seed, arguments.get("checks", "error"), by_class[0])
            for number, model in enumerate(every)
        ]
        structures = [member.structure for member in members]
        following = iter(structures[len(models) :])
        for name, each in examples.items():
            _check_value(name, [next(following) for _ in each])
        if (count := len({structure.key for structure in structures})) > 1:
            raise ValueError(f"a population needs models of one structure, received {count}")
        self._inputs = inputs
        self._group = _group(members, len(models), inputs)

    @staticmethod
    def _member(
        number: int, model: keras.Model, inputs: Inputs, epochs: int, seed: int, checks: str, class_weight: Any
    ) -> FittedModel:
        checked = Checks(model, checks)
        checked.model()
        inputs.build(number, model)
        structure = Structure(model)
        if not number:
            # The same examples fit all models of a structure.
            inputs.check(number, checked, class_weight)
        return FittedModel(number, model, structure, None, seed, epochs, inputs.train_steps)

    def __len__(self) -> int:
        return len(self._group.members)

    def train(self, epoch: int, validate: bool = True) -> list[Logs]:
        """Train an epoch, counted from 0, and evaluate; returns each member's logs."""
        logs = self._group.train(epoch)
        held_out: list[dict[str, Any]] = [{} for _ in logs]
        if self._inputs.validation_steps and validate:
            held_out = self._group.validate()
        return [
            {name: float(value) for name, value in own.items()}
            | {f"val_{name}": float(value) for name, value in other.items()}
            for own, other in zip(logs, held_out, strict=True)
        ]

    def gather(self, parents: Sequence[int]) -> None:
        """Give each member the variables of the member that `parents` names for it, `(members,)`."""
        self._group.gather(parents)

    def set_numbers(self, member: int, model: keras.Model) -> None:
        """Give a member the learning rate and the other numbers of a compiled model."""
        self._inputs.build(member, model)
        self._group.set_numbers(member, Structure(model))

    def weights(self, member: int) -> list[np.ndarray]:
        """The weights of a member, in the order of `get_weights()`."""
        return self._group.weights(member)

    def is_finite(self) -> list[bool]:
        """Whether each member's variables are all finite."""
        return self._group.is_finite()

    def state(self) -> list[np.ndarray]:
        """The variables of all members, each `(members, ...)`."""
        return [value.numpy() for value in self._group.state]

    def restore(self, state: Sequence[np.ndarray]) -> None:
        """Put back what `state` returned.

        Raises:
            ValueError: one line, where it is the state of another population.
        """
        expected = [tuple(value.shape) for value in self._group.state]
        if [tuple(value.shape) for value in state] != expected:
            received = [tuple(value.shape) for value in state]
            raise ValueError(f"the state must be this population's, {short(expected)}; received {short(received)}")
        self._group.restore(state)


class _Group(Group):
    """Members along one axis, whose rows can be exchanged.

    Args:
        fitted: the members.
        arguments: further arguments of `Group`.
    """

    def __init__(self, program: FusedProgram, fitted: Sequence[FittedModel], *arguments: Any) -> None:
        super().__init__(program, fitted, *arguments)
        self._fitted = fitted

    @property
    def state(self) -> list[tf.Tensor]:
        return self._state

    def gather(self, parents: Sequence[int]) -> None:
        kept = _own(self._fitted[0].structure)
        with tf.device(self.device):
            rows = tf.constant(parents)
            self._state = [
                value if position in kept else tf.gather(value, rows) for position, value in enumerate(self._state)
            ]

    def restore(self, state: Sequence[np.ndarray]) -> None:
        with tf.device(self.device):
            self._state = [tf.constant(value, old.dtype) for value, old in zip(state, self._state, strict=True)]

    def set_numbers(self, row: int, structure: Structure) -> None:
        own, known = structure.numbers, self.program.positions
        first = self._fitted[0].structure
        if structure.key != first.key or any(
            number.value != fixed.value
            for position, (number, fixed) in enumerate(zip(own, first.numbers, strict=True))
            if position not in known
        ):
            raise ValueError("a member's numbers must be among those that its program holds as variables")
        with tf.device(self.device):
            for at, position in enumerate(known):
                self._numbers[at] = _replaced(self._numbers[at], row, float(own[position].value))
            for position in _rates(structure):
                value = structure.variables[position].numpy()
                self._state[position] = _replaced(self._state[position], row, value)

    def weights(self, row: int) -> list[np.ndarray]:
        return [self._state[position][row].numpy() for position in self._fitted[row].weights]

    def is_finite(self) -> list[bool]:
        floating = [value for value in self._state if value.dtype.is_floating]
        finite = [tf.reduce_all(tf.math.is_finite(tf.reshape(value, (len(self.rows), -1))), 1) for value in floating]
        return tf.reduce_all(tf.stack(finite), 0).numpy().tolist()[: len(self.members)]


def _check_value(name: str, structures: Sequence[Structure]) -> None:
    """Refuse a value that no program can hold as a variable, given models that differ in it only."""
    if len({structure.key for structure in structures}) > 1:
        raise ValueError(f"a population's values must be ones that a program can hold; {name} changes the program")
    held = [
        [
            *(number.value for number in structure.numbers),
            *(structure.variables[at].numpy() for at in _rates(structure)),
        ]
        for structure in structures
    ]
    if all(each == held[0] for each in held):
        raise ValueError(f"a population's values must act after the start of training; {name} does not")


def _replaced(values: tf.Tensor, row: int, value: Any) -> tf.Tensor:
    """Values `(members, ...)` with another one in a row."""
    return tf.tensor_scatter_nd_update(values, [[row]], tf.constant(value, values.dtype)[None])


def _rates(structure: Structure) -> list[int]:
    """Positions of the optimizers' learning rates among the variables."""
    rates = [optimizer.learning_rate for optimizer in optimizers_of(structure.model)]
    return [at for at, variable in enumerate(structure.variables) if any(variable is rate for rate in rates)]


def _own(structure: Structure) -> set[int]:
    """Positions of the states of random numbers: members that shared them would draw the same dropout masks."""
    return {at for at, variable in enumerate(structure.variables) if variable.name == "seed_generator_state"}


def _group(members: Sequence[FittedModel], count: int, inputs: Inputs) -> _Group:
    """The group of the first `count` members, whose program holds the numbers in which any members differ."""
    program = program_for(members, inputs)
    device = group_devices(1)[0]
    if (most := capacity(program.model, program.variables, inputs.largest_batch, 1)) < count:
        raise ValueError(f"a population must fit into memory at once: at most {most} members, received {count}")
    with tf.device(device):
        train, validation = inputs.on_device([member.number for member in members[:count]])
    return _Group(program, members[:count], count, device, train, validation)
