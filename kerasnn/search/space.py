"""A search described as data: a run, a space over its dotted keys, and who proposes."""

import copy
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, PositiveInt, Tag, field_validator, model_validator

from kerasnn.config.description import Description, replace_at
from kerasnn.config.monitor import better_direction
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import Schema, named, one_of, short

COMBINATIONS = 256
"""Combinations of extreme values that are checked before anything trains."""


def as_text(value: Any) -> str:
    """A value as JSON on one line, equal for equal values.

    Raises:
        ValueError: one line, for what JSON can't hold.
    """
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"choices must be values that JSON can hold, received {short(value)}") from None


class _Parameter(Schema):
    when: dict[str, tuple[Any, ...]] = Field(default={})
    """Other keys of the space, each a choice, with the values under which this key is searched; otherwise it keeps the
    run's value. `{"optimizer.name": ["sgd", "rmsprop"]}`."""


class Choice(_Parameter):
    """One of some values."""

    choices: tuple[Any, ...] = Field(min_length=1)
    """The values, of any kind that JSON has; the grid starts with the first."""

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        texts = [as_text(choice) for choice in choices]
        if len(set(texts)) < len(texts):
            raise ValueError(f"choices must differ from each other, received {short(list(choices))}")
        return choices

    @property
    def values(self) -> tuple[Any, ...]:
        """Every value that it can take."""
        return self.choices

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that a check of the space has to try."""
        return self.choices


class Range(_Parameter):
    """A number between two others, both included: a whole number where both are written without a fraction."""

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
        if self.step is not None and self.step <= (1 if self.sampling == "log" else 0):
            rule = "above 1 for log sampling" if self.sampling == "log" else "above 0"
            raise ValueError(f"step must be {rule}, received {self.step}")
        if self.step is not None and self.whole and not isinstance(self.step, int):
            raise ValueError(f"step must be a whole number between whole numbers, received {self.step}")
        if self.step is not None and len(self.values) < 2:
            raise ValueError(f"step must fit between min and max, received {self.step}")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.min, int) and isinstance(self.max, int)

    @property
    def values(self) -> tuple[Any, ...]:
        """Every value that it can take; none where there is no step."""
        if self.step is None:
            return ()
        # The sum is rounded: 0.5 / 0.1 is one short of 5 steps otherwise, and 3 · 0.1 is 0.30000000000000004.
        if self.sampling == "log":
            count = math.floor(math.log(self.max / self.min, self.step) + 1e-9) + 1
            found = [self.min * self.step**index for index in range(count)]
        else:
            count = math.floor((self.max - self.min) / self.step + 1e-9) + 1
            found = [self.min + self.step * index for index in range(count)]
        return tuple(found if self.whole else [float(f"{value:.12g}") for value in found])

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that a check of the space has to try."""
        return (self.min, self.max)


def _kind(value: Any) -> str:
    return "choice" if isinstance(value, Choice) or (isinstance(value, Mapping) and "choices" in value) else "range"


Parameter = Annotated[Annotated[Choice, Tag("choice")] | Annotated[Range, Tag("range")], Discriminator(_kind)]


class Random(Schema):
    """Values drawn independently."""

    name: Literal["random"] = "random"


class Grid(Schema):
    """Every combination in turn; a range without a step gives its minimum and ten values within."""

    name: Literal["grid"] = "grid"


class Bayesian(Schema):
    """A Gaussian process over the results so far, and the point that it finds most promising.

    Reference: Srinivas et al., "Gaussian Process Optimization in the Bandit Setting" (ICML 2010).
    """

    name: Literal["bayesian"] = "bayesian"
    initial_points: PositiveInt | None = None
    """Random trials before the first model; null takes three for each key of the space."""
    alpha: float = Field(default=1e-4, gt=0)
    """Noise expected in the objective, as a variance."""
    beta: float = Field(default=2.6, ge=0)
    """Weight of what is unknown against what is known to be good; more explores more."""


class Hyperband(Schema):
    """Many short trials, of which the best go on to more epochs, up to `run.training.epochs`.

    Reference: Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization" (JMLR 2018).
    """

    name: Literal["hyperband"] = "hyperband"
    factor: int = Field(default=3, ge=2)
    """One trial in this many goes on, with this many times the epochs."""


Oracle = Annotated[Random | Grid | Bayesian | Hyperband, Field(discriminator="name"), BeforeValidator(named)]


class Median(Schema):
    """Stops a trial whose best value so far is worse than the median of all trials' best values by the same epoch.

    Reference: Golovin et al., "Google Vizier" (KDD 2017), with running trials counted too.
    """

    name: Literal["median"] = "median"
    min_epochs: PositiveInt = 3
    """Epochs before a trial may be stopped."""
    min_trials: int = Field(default=4, ge=2)
    """Trials that must have been seen before one may be stopped."""


class Halving(Schema):
    """Successive halving: after min_epochs, min_epochs · factor, … epochs one trial in `factor` goes on.

    Reference: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020).
    """

    name: Literal["halving"] = "halving"
    min_epochs: PositiveInt = 2
    """Epochs before the first choice."""
    factor: int = Field(default=3, ge=2)
    """One trial in this many goes on."""


Stopper = Annotated[Median | Halving, Field(discriminator="name"), BeforeValidator(named)]


class ObjectiveConfig(Schema):
    """What makes a trial better than another."""

    name: str
    """A logged value: `val_loss`, `val_accuracy`, …; a trial's score is its best over the epochs."""
    direction: Literal["auto", "min", "max"] = "auto"
    """Whether less or more is better; `auto` reads it off the name."""


Objective = Annotated[ObjectiveConfig, BeforeValidator(named)]

SPACE: dict[str, Parameter] = {
    "optimizer.learning_rate": Range(min=1e-4, max=1e-1, sampling="log"),
    "regularization.dropout": Range(min=0.0, max=0.5),
    "regularization.l2": Range(min=1e-6, max=1e-2, sampling="log"),
    "network.kernel_initializer": Choice(choices=("he_normal", "glorot_uniform", "lecun_normal")),
    "network.activation": Choice(choices=("relu", "tanh", "gelu")),
    "network.hidden": Choice(choices=([50], [100], [50, 100])),
}


class SearchConfig(Description):
    """A search, whole: the same description proposes the same trials and finds the same scores, on one machine.

    Raises:
        ValueError: one line, also for a space that holds a run which is not valid.
    """

    _FOLDER: ClassVar[str] = "search folder"

    run: RunConfig = RunConfig()
    """The run that every trial changes; its `training.epochs` are a trial's most, its `training.early_stopping` applies
    to each trial, its `report` says what is shown."""
    space: dict[str, Parameter] = SPACE
    """Dotted key of the run to what may stand there: `{"choices": [[50], [50, 100]]}`, or a range
    `{"min": 0.0001, "max": 0.1, "sampling": "log", "step": null}`; either with `when`."""
    oracle: Oracle = Random()
    """Who proposes: random, grid, bayesian or hyperband."""
    trials: PositiveInt = 128
    """Trials at most; may be changed when a search is continued."""
    objective: Objective | None = None
    """Logged value to compare trials by; null takes the run's monitor (`val_loss`)."""
    seeds_per_trial: PositiveInt = 1
    """Networks of each trial, with the seeds seed, seed + 1, … of its run; its score is their mean. All trials share
    the seeds, so that they differ by their values only."""
    stopper: Stopper | None = None
    """What ends hopeless trials early: median or halving; null lets all finish."""
    seed: int = Field(default=0, ge=0, lt=2**31 - 1)
    """Seed of the proposals."""
    trials_at_once: PositiveInt | None = None
    """Trials proposed before the first of them is reported; more fuse better, fewer inform the oracle sooner. Null
    takes 128, or 8 for bayesian."""

    keep_best: int = Field(default=1, ge=0)
    """Trials whose models are kept in `models/`, each of its best epoch."""
    workers: PositiveInt = 1
    """Processes that train, each on a GPU of its own where there are several; 1 trains in the process that searches.
    Trials of one program are divided among them, so that `trials_at_once` is best a multiple. It may be changed when a
    search is continued. Results depend on it in their last digits, and through a stopper, which compares those that
    train together."""
    listen: str | None = None
    """Address `host:port` at which other machines' workers join (`--join`), to be given on trusted networks only; null
    listens to this machine only."""

    @property
    def is_chief(self) -> bool:
        """Whether trials are trained by other processes."""
        return self.workers > 1 or self.listen is not None

    @property
    def objective_name(self) -> str:
        """The logged value that trials are compared by."""
        return self.run.monitor if self.objective is None else self.objective.name

    @property
    def direction(self) -> Literal["min", "max"]:
        """Whether less or more of it is better."""
        return better_direction(self.objective_name, "auto" if self.objective is None else self.objective.direction)

    @property
    def batch(self) -> int:
        """Trials proposed at once."""
        return self.trials_at_once or (8 if isinstance(self.oracle, Bayesian) else 128)

    def run_with(self, values: Mapping[str, Any]) -> RunConfig:
        """The run of a trial.

        Args:
            values: dotted key to value, for the keys that are active.

        Raises:
            ValueError: one line, where they make no valid run.
        """
        # A key before what lies within it: network.hidden before network.hidden.0.
        changes = copy.deepcopy(dict(sorted(values.items())))
        return replace_at(self.run, {"training.monitor": self.objective_name, **changes})

    def active(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of a value for each key of the space, those whose conditions hold."""
        found: dict[str, Any] = {}
        for key, parameter in self.ordered_space():
            if all(parent in found and found[parent] in allowed for parent, allowed in parameter.when.items()):
                found[key] = values[key]
        return found

    def ordered_space(self) -> Iterator[tuple[str, Choice | Range]]:
        """The space with every key after those that it depends on.

        Raises:
            ValueError: one line, for keys that depend on each other in a circle.
        """
        waiting, done = dict(self.space), set[str]()
        while waiting:
            ready = [key for key, parameter in waiting.items() if done.issuperset(parameter.when)]
            if not ready:
                raise ValueError(f"space must have no circle of conditions, received one among {', '.join(waiting)}")
            for key in ready:
                yield key, waiting.pop(key)
                done.add(key)

    @field_validator("listen")
    @classmethod
    def _is_address(cls, listen: str | None) -> str | None:
        host, _, port = (listen or "localhost:0").rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"listen must be host:port, like 192.168.0.2:7000, received {short(listen)}")
        return listen

    @model_validator(mode="after")
    def _space_is_valid(self) -> Self:
        if not self.space:
            raise ValueError("space must name at least one key of the run, received {}")
        try:
            self.run_with({})
        except ValueError as error:
            raise ValueError(str(error).replace("training.monitor", "objective.name")) from None
        for key, parameter in self.space.items():
            _check_key(key, self)
            for parent, allowed in parameter.when.items():
                _check_condition(f"space[{key!r}].when", parent, allowed, self.space)
        for values in self._combinations():
            self._check(values)
        for key, parameter in self.space.items():
            self._check_whole(key, parameter)
        return self

    def one_at_a_time(self) -> Iterator[dict[str, Any]]:
        """Values in which each key in turn takes each of its choices, or its least and its greatest."""
        for key, parameter in self.ordered_space():
            for value in parameter.extremes:
                yield self._with(key, value)

    def _combinations(self) -> Iterator[dict[str, Any]]:
        """Values to try: all combinations of extremes, or each extreme alone and a fixed sample of combinations."""
        extremes = {key: parameter.extremes for key, parameter in self.ordered_space()}
        seen: set[str] = set()

        def fresh(active: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if (text := as_text(active)) not in seen:
                seen.add(text)
                yield active

        # One key at a time first: its error says which.
        for values in self.one_at_a_time():
            yield from fresh(values)
        if math.prod(map(len, extremes.values())) <= COMBINATIONS:
            for combination in itertools.product(*extremes.values()):
                yield from fresh(self.active(dict(zip(extremes, combination, strict=True))))
        else:
            draw = random.Random(0)
            for _ in range(COMBINATIONS):
                yield from fresh(self.active({key: draw.choice(values) for key, values in extremes.items()}))

    def _with(self, key: str, value: Any) -> dict[str, Any]:
        """Values in which a key is active and has the given one; others have their first."""
        first = {other: parameter.extremes[0] for other, parameter in self.space.items()}
        return self.active({**first, **self._parents(key), key: value})

    def _parents(self, key: str) -> dict[str, Any]:
        """Values under which a key is active."""
        found: dict[str, Any] = {}
        for parent, allowed in self.space[key].when.items():
            found |= {**self._parents(parent), parent: allowed[0]}
        return found

    def _check(self, values: Mapping[str, Any]) -> None:
        try:
            self.run_with(values)
        except ValueError as error:
            shown = ", ".join(f"{key} {short(value, 40)}" for key, value in values.items())
            raise ValueError(f"space must hold valid runs only: {error} (with {shown})") from None

    def _check_whole(self, key: str, parameter: Choice | Range) -> None:
        if not isinstance(parameter, Range) or not parameter.whole or parameter.step is not None:
            return
        try:
            self.run_with(self._with(key, parameter.min + 0.5))
        except ValueError:
            return
        raise ValueError(
            f"space[{key!r}] must say whether fractions are meant: give {parameter.min}.0 and {parameter.max}.0, "
            f"or a step for whole numbers; received min {parameter.min} and max {parameter.max}"
        )


def _check_key(key: str, config: SearchConfig) -> None:
    if key == "training.monitor":
        raise ValueError(f"space must leave {key} alone, which the objective decides")
    if key.split(".")[0] in ("report", "devices"):
        raise ValueError(f"space must leave {key} alone, which is the same for all trials")
    if key == "training.epochs" and isinstance(config.oracle, Hyperband):
        raise ValueError(f"space must leave {key} alone, which hyperband decides")


def _check_condition(place: str, parent: str, allowed: tuple[Any, ...], space: Mapping[str, Choice | Range]) -> None:
    if parent not in space:
        raise ValueError(one_of(f"{place}'s keys", parent, space))
    choices = space[parent].values
    if not isinstance(space[parent], Choice):
        raise ValueError(f"{place} must name keys with choices, received {parent!r}, which is a range")
    if not allowed or any(value not in choices for value in allowed):
        raise ValueError(f"{place}[{parent!r}] must list choices of {parent}; received {short(list(allowed))}")
