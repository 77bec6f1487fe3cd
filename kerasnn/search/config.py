"""A search described as data: a run, a space over its dotted keys, an oracle that proposes."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from kerasnn.config.description import Description, replace_at
from kerasnn.config.monitor import Direction, Mode, better_direction
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import Schema, named, one_of, short
from kerasnn.search.space import DEFAULT_SPACE, Choice, Parameter, Range, combinations, values_with
from kerasnn.search.stopping import Stopper


class Random(Schema):
    """Values drawn independently."""

    name: Literal["random"] = "random"


class Grid(Schema):
    """Every combination in turn; a range without a step is tried at its minimum and at ten values within."""

    name: Literal["grid"] = "grid"


class Bayesian(Schema):
    """A Gaussian process over the results so far; proposes the point that it finds most promising.

    Reference: Srinivas et al., "Gaussian Process Optimization in the Bandit Setting" (ICML 2010).
    """

    name: Literal["bayesian"] = "bayesian"
    initial_points: PositiveInt | None = None
    """Random trials before the first model; null takes three for each key of the space."""
    alpha: float = Field(default=1e-4, gt=0)
    """Noise expected in the objective, as a variance."""
    beta: float = Field(default=2.6, ge=0)
    """Weight of the uncertainty against the expected objective; larger values explore more."""


class Hyperband(Schema):
    """Many short trials, of which the best continue to more epochs, up to `run.training.epochs`.

    Reference: Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization" (JMLR 2018).
    """

    name: Literal["hyperband"] = "hyperband"
    factor: int = Field(default=3, ge=2)
    """One trial in this many continues, to this many times the epochs."""


OracleConfig = Annotated[Random | Grid | Bayesian | Hyperband, Field(discriminator="name"), BeforeValidator(named)]


class ObjectiveConfig(Schema):
    """The logged value that trials are compared by."""

    name: str
    """A logged value: `val_loss`, `val_accuracy`, …; a trial's score is its best over the epochs."""
    direction: Mode = "auto"
    """Whether lower ("min") or higher ("max") is better; `auto` decides by the name."""


Objective = Annotated[ObjectiveConfig, BeforeValidator(named)]


class SearchConfig(Description):
    """A search: the same description proposes the same trials and finds the same scores, on one machine.

    >>> config = SearchConfig(space={"optimizer.learning_rate": {"choices": [0.01, 0.1]}}, oracle="grid")
    >>> config.run_with({"optimizer.learning_rate": 0.1}).optimizer.learning_rate
    0.1

    Raises:
        ValueError: one line, also where a value of the space makes no valid run.
    """

    _FOLDER: ClassVar[str] = "search folder"

    run: RunConfig = RunConfig()
    """The run that every trial changes. Its `training.epochs` limit a trial's epochs, its `training.early_stopping`
    applies to each trial, its `report` decides what is shown."""
    space: dict[str, Parameter] = DEFAULT_SPACE
    """Values by dotted key of the run: `{"choices": [[50], [50, 100]]}`, or a range
    `{"min": 0.0001, "max": 0.1, "sampling": "log", "step": null}`; either with `when`."""
    oracle: OracleConfig = Random()
    """Method that proposes trials: random, grid, bayesian or hyperband."""
    trials: PositiveInt = 128
    """Maximum number of trials; may be changed when a search is continued."""
    objective: Objective | None = None
    """Logged value to compare trials by; null takes the run's monitor (`val_loss`)."""
    seeds_per_trial: PositiveInt = 1
    """Networks of each trial, with the seeds seed, seed + 1, … of its run; its score is their mean. All trials share
    the seeds, so that they differ by their values only."""
    stopper: Stopper | None = None
    """Early stopping of trials with poor results: median or halving; null lets all finish."""
    seed: int = Field(default=0, ge=0, lt=2**31 - 1)
    """Seed of the proposals."""
    trials_at_once: PositiveInt | None = None
    """Trials proposed before the result of the first of them is known: with more, more train together; with fewer, the
    oracle learns sooner. Null takes 128, or 8 for bayesian."""

    keep_best: int = Field(default=1, ge=0)
    """Number of best trials whose models are kept in `models/`, each of its best epoch."""
    workers: PositiveInt = 1
    """Processes that train, each on its own GPU where there are several; 1 trains in the process that searches. Trials
    of one program are divided among them, so `trials_at_once` is best a multiple. May be changed when a search is
    continued. Results depend on it in their last digits, and through a stopper, which compares trials that train
    together."""
    cluster: str | None = None
    """Address of the Ray cluster whose workers train: `auto` for the one that this machine belongs to, `host:port` or
    `ray://host:port`; null starts Ray on this machine for the time of the search where there are several workers."""

    @property
    def has_workers(self) -> bool:
        """Whether other processes train the trials."""
        return self.workers > 1 or self.cluster is not None

    @property
    def objective_name(self) -> str:
        """Name of the logged value that trials are compared by."""
        return self.run.monitor if self.objective is None else self.objective.name

    @property
    def direction(self) -> Direction:
        """Whether a lower or a higher objective is better."""
        return better_direction(self.objective_name, self._mode)

    @property
    def _mode(self) -> Mode:
        return self.run.training.monitor_mode if self.objective is None else self.objective.direction

    def as_loss(self, objective: float) -> float:
        """The objective with its sign set so that less is better."""
        return -objective if self.direction == "max" else objective

    def best_epoch(self, objectives: Sequence[float]) -> tuple[float, int]:
        """The best objective and its epoch, counted from 1; the first of equal ones.

        >>> SearchConfig(objective="val_accuracy").best_epoch([0.5, 0.7, 0.7])
        (0.7, 2)
        """
        best = (max if self.direction == "max" else min)(objectives)
        return best, objectives.index(best) + 1

    @property
    def trials_per_batch(self) -> int:
        """Number of trials proposed at once."""
        return self.trials_at_once or (8 if isinstance(self.oracle, Bayesian) else 128)

    def run_with(self, values: Mapping[str, Any]) -> RunConfig:
        """The run of a trial.

        Args:
            values: value by dotted key, for the active keys.

        Raises:
            ValueError: one line, where they make no valid run.
        """
        # A key comes before those within it: network.hidden before network.hidden.0.
        changes = copy.deepcopy(dict(sorted(values.items())))
        monitored = {"training.monitor": self.objective_name, "training.monitor_mode": self._mode}
        return replace_at(self.run, monitored | changes)

    def runs_with(self, values: Mapping[str, Any]) -> Iterator[RunConfig]:
        """The run of a trial with each of its seeds.

        Args:
            values: value by dotted key, for the active keys.
        """
        run = self.run_with(values)
        for index in range(self.seeds_per_trial):
            yield replace_at(run, {"seed": run.seed + index}) if index else run

    @model_validator(mode="before")
    @classmethod
    def _without_listen(cls, described: Any) -> Any:
        """Drop a setting of kerasnn 0.1, so that its searches go on."""
        if isinstance(described, dict) and described.get("listen", "") is None:
            return {key: value for key, value in described.items() if key != "listen"}
        return described

    @model_validator(mode="after")
    def _space_is_valid(self) -> Self:
        if not self.space:
            raise ValueError("space must name at least one key of the run, received {}")
        try:
            self.run_with({})
        except ValueError as error:
            raise ValueError(str(error).replace("training.monitor", "objective.name")) from None
        if self.run.report.mlflow is not None:
            raise ValueError("run.report.mlflow has no effect on a search: train the best run with report.mlflow")
        for key, parameter in self.space.items():
            self._check_key(key)
            for parent, allowed in parameter.when.items():
                self._check_condition(f"space[{key!r}].when", parent, allowed)
        for values in combinations(self.space):
            self._check_run(values)
        for key, parameter in self.space.items():
            if isinstance(parameter, Range):
                self._check_integers(key, parameter)
        return self

    def _check_key(self, key: str) -> None:
        if key in ("training.monitor", "training.monitor_mode"):
            raise ValueError(f"space must not contain {key}, which the objective decides")
        if key.split(".")[0] in ("report", "devices"):
            raise ValueError(f"space must not contain {key}, which is the same for all trials")
        if key == "training.epochs" and isinstance(self.oracle, Hyperband):
            raise ValueError(f"space must not contain {key}, which hyperband decides")

    def _check_condition(self, rule: str, parent: str, allowed: tuple[Any, ...]) -> None:
        if parent not in self.space:
            raise ValueError(one_of(f"{rule}'s keys", parent, self.space))
        if not isinstance(self.space[parent], Choice):
            raise ValueError(f"{rule} must name keys with choices, received {parent!r}, which is a range")
        if not allowed or any(value not in self.space[parent].values for value in allowed):
            raise ValueError(f"{rule}[{parent!r}] must list choices of {parent}; received {short(list(allowed))}")

    def _check_run(self, values: Mapping[str, Any]) -> None:
        try:
            self.run_with(values)
        except ValueError as error:
            shown = ", ".join(f"{key} {short(value, 40)}" for key, value in values.items())
            raise ValueError(f"space must hold valid runs only: {error} (with {shown})") from None

    def _check_integers(self, key: str, parameter: Range) -> None:
        """Refuse a range that is written with integers for a key that takes fractions too."""
        if not parameter.is_integer or parameter.step is not None:
            return
        try:
            self.run_with(values_with(self.space, key, parameter.min + 0.5))
        except ValueError:
            return
        raise ValueError(
            f"space[{key!r}] must say whether fractions are meant: give {parameter.min}.0 and {parameter.max}.0, "
            f"or a step for integers; received min {parameter.min} and max {parameter.max}"
        )
