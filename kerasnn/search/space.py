"""The space of a search: the values that each dotted key of a run may take."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from kerasnn.config.schema import Schema, short

MAX_COMBINATIONS = 256
"""Combinations of extreme values that are checked before anything trains."""


def canonical_json(value: Any) -> str:
    """The value as JSON on one line; equal values give equal text.

    >>> canonical_json({"name": "relu", "alpha": 0.1})
    '{"alpha": 0.1, "name": "relu"}'

    Raises:
        ValueError: one line, for a value that JSON cannot hold.
    """
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"choices must be values that JSON can hold, received {short(value)}") from None


class _Parameter(Schema):
    when: dict[str, tuple[Any, ...]] = Field(default={})
    """Condition: other keys of the space, each a choice, with the values under which this key is searched. Where the
    condition does not hold, the key keeps the run's value. `{"optimizer.name": ["sgd", "rmsprop"]}`."""


class Choice(_Parameter):
    """One of a list of values.

    >>> Choice(choices=("relu", "tanh")).values
    ('relu', 'tanh')
    """

    choices: tuple[Any, ...] = Field(min_length=1)
    """The values, of any JSON type; a grid starts with the first."""

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        if len({canonical_json(choice) for choice in choices}) < len(choices):
            raise ValueError(f"choices must differ from each other, received {short(list(choices))}")
        return choices

    @property
    def values(self) -> tuple[Any, ...]:
        """Every possible value."""
        return self.choices

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that a check of the space tries."""
        return self.choices


class Range(_Parameter):
    """A number from an interval that includes both ends; an integer where both ends are written without a fraction.

    >>> Range(min=1, max=100, step=10, sampling="log").values
    (1, 10, 100)
    """

    min: int | float
    """Smallest value."""
    max: int | float
    """Largest value."""
    step: int | float | None = None
    """Distance between neighbouring values, or their ratio (> 1) with log sampling; null allows every value."""
    sampling: Literal["linear", "log"] = "linear"
    """`log` makes 0.001 to 0.01 as likely as 0.01 to 0.1; needs min > 0."""

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        if not self.min < self.max:
            raise ValueError(f"max must be above min, received min {self.min} and max {self.max}")
        if self.sampling == "log" and self.min <= 0:
            raise ValueError(f"min must be above 0 for log sampling, received {self.min}")
        if self.step is None:
            return self
        if self.step <= (1 if self.sampling == "log" else 0):
            rule = "above 1 for log sampling" if self.sampling == "log" else "above 0"
            raise ValueError(f"step must be {rule}, received {self.step}")
        if self.is_integer and not isinstance(self.step, int):
            raise ValueError(f"step must be an integer between integers, received {self.step}")
        if len(self.values) < 2:
            raise ValueError(f"step must fit between min and max, received {self.step}")
        return self

    @property
    def is_integer(self) -> bool:
        """Whether every value is an integer."""
        return isinstance(self.min, int) and isinstance(self.max, int)

    @property
    def values(self) -> tuple[Any, ...]:
        """Every possible value; empty without a step."""
        if self.step is None:
            return ()
        # The tolerance and the rounding: 0.5 / 0.1 falls short of 5, and 3 · 0.1 is 0.30000000000000004.
        if self.sampling == "log":
            count = math.floor(math.log(self.max / self.min, self.step) + 1e-9) + 1
            values = [self.min * self.step**index for index in range(count)]
        else:
            count = math.floor((self.max - self.min) / self.step + 1e-9) + 1
            values = [self.min + self.step * index for index in range(count)]
        return tuple(values if self.is_integer else [float(f"{value:.12g}") for value in values])

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that a check of the space tries."""
        return (self.min, self.max)


def _kind(value: Any) -> str:
    return "choice" if isinstance(value, Choice) or (isinstance(value, Mapping) and "choices" in value) else "range"


Parameter = Annotated[Annotated[Choice, Tag("choice")] | Annotated[Range, Tag("range")], Discriminator(_kind)]
Space = Mapping[str, Choice | Range]

DEFAULT_SPACE: dict[str, Parameter] = {
    "optimizer.learning_rate": Range(min=1e-4, max=1e-1, sampling="log"),
    "regularization.dropout": Range(min=0.0, max=0.5),
    "regularization.l2": Range(min=1e-6, max=1e-2, sampling="log"),
    "network.kernel_initializer": Choice(choices=("he_normal", "glorot_uniform", "lecun_normal")),
    "network.activation": Choice(choices=("relu", "tanh", "gelu")),
    "network.hidden": Choice(choices=([50], [100], [50, 100])),
}


def ordered(space: Space) -> dict[str, Choice | Range]:
    """The space with every key after the keys of its condition.

    Raises:
        ValueError: one line, where conditions form a circle.
    """
    waiting, done = dict(space), dict[str, Choice | Range]()
    while waiting:
        ready = [key for key, parameter in waiting.items() if done.keys() >= parameter.when.keys()]
        if not ready:
            raise ValueError(f"space must have no circle of conditions, received one among {', '.join(waiting)}")
        done |= {key: waiting.pop(key) for key in ready}
    return done


def active_values(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the keys whose conditions hold.

    Args:
        space: the space.
        values: a value for each of its keys.
    """
    active: dict[str, Any] = {}
    for key, parameter in ordered(space).items():
        if all(parent in active and active[parent] in allowed for parent, allowed in parameter.when.items()):
            active[key] = values[key]
    return active


def values_with(space: Space, key: str, value: Any) -> dict[str, Any]:
    """Active values in which `key` has the value given, and every other key its first one where the condition of `key`
    allows that."""

    def condition(key: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for parent, allowed in space[key].when.items():
            values |= {**condition(parent), parent: allowed[0]}
        return values

    first = {other: parameter.extremes[0] for other, parameter in space.items()}
    return active_values(space, {**first, **condition(key), key: value})


def one_at_a_time(space: Space) -> Iterator[dict[str, Any]]:
    """Active values in which each key in turn takes each of its choices, or its minimum and its maximum."""
    for key, parameter in ordered(space).items():
        for value in parameter.extremes:
            yield values_with(space, key, value)


def combinations(space: Space) -> Iterator[dict[str, Any]]:
    """Each extreme value alone; then all combinations of extreme values, or a fixed sample where they are many."""
    extremes = {key: parameter.extremes for key, parameter in ordered(space).items()}
    every: Iterator[tuple[Any, ...]] = itertools.product(*extremes.values())
    if math.prod(map(len, extremes.values())) > MAX_COMBINATIONS:
        draw = random.Random(0)
        every = (tuple(map(draw.choice, extremes.values())) for _ in range(MAX_COMBINATIONS))
    chosen = (active_values(space, dict(zip(extremes, combination, strict=True))) for combination in every)
    seen: set[str] = set()
    # One key at a time first: an error then says which key is at fault.
    for values in itertools.chain(one_at_a_time(space), chosen):
        if (text := canonical_json(values)) not in seen:
            seen.add(text)
            yield values
