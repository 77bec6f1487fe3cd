"""A search described as data: a space, an oracle that proposes, and the run whose dotted keys the space names."""

import copy
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from kerasnn.config.description import Description, replace_at
from kerasnn.config.monitor import Direction, Mode, better_direction
from kerasnn.config.run import RunConfig
from kerasnn.config.schedules import Constant
from kerasnn.config.schema import Schema, named, one_of, short
from kerasnn.search.oracle_config import (
    MULTI_OBJECTIVE,
    Bayesian,
    Cmaes,
    Gp,
    Hyperband,
    Nsga2,
    OracleConfig,
    Pbt,
    Random,
    Tpe,
)
from kerasnn.search.space import DEFAULT_SPACE, Choice, Parameter, Range, combinations, values_with
from kerasnn.search.stopping import Stopper


class ObjectiveConfig(Schema):
    """The logged value that trials are compared by."""

    name: str
    """A logged value: `val_loss`, `val_accuracy`, …; a trial's score is its best over the epochs."""
    direction: Mode = "auto"
    """Whether lower ("min") or higher ("max") is better; `auto` decides by the name."""


Objective = Annotated[ObjectiveConfig, BeforeValidator(named)]


class SearchSettings(Description):
    """What describes any search: a space, an oracle that proposes, trials and the value that they are compared by."""

    _FOLDER: ClassVar[str] = "search folder"

    space: dict[str, Parameter]
    """Values by name: `{"choices": [32, 64]}`, or a range `{"min": 0.0001, "max": 0.1, "sampling": "log"}`; either with
    `when`."""
    oracle: OracleConfig = Random()
    """Method that proposes trials: random, grid, bayesian or hyperband; tpe, gp, cmaes or nsga2 of Optuna; pbt
    (population-based training)."""
    trials: PositiveInt = 128
    """Maximum number of trials; may be changed when a search is continued."""
    objective: Objective | tuple[Objective, ...] | None = None
    """Logged value to compare trials by; null takes the run's monitor (`val_loss`). Several, `val_loss,val_accuracy`,
    are all those of the epoch in which the first is best, and no trial is the best: those that no other one beats in
    every objective are."""
    seeds_per_trial: PositiveInt = 1
    """Networks of each trial, with the seeds seed, seed + 1, … of its run; its score is their mean. All trials share
    the seeds, so that they differ by their values only."""
    stopper: Stopper | None = None
    """Early stopping of trials with poor results: median or halving; null lets all finish."""
    seed: int = Field(default=0, ge=0, lt=2**31 - 1)
    """Seed of the proposals."""
    trials_at_once: PositiveInt | None = None
    """Trials proposed before the result of the first of them is known: with more, more train together; with fewer, the
    oracle learns sooner. Null takes 128; 8 for bayesian, tpe and gp; a generation for cmaes and nsga2."""

    keep_best: int = Field(default=1, ge=0)
    """Number of best trials whose models are kept in `models/`, each of its best epoch; with several objectives, those
    of the Pareto front are kept, whatever the number above 0."""

    @property
    def objective_name(self) -> str:
        """Name of the logged value that trials are compared by: with several objectives, the first."""
        return self.objectives[0][0]

    @property
    def direction(self) -> Direction:
        """Whether a lower or a higher objective is better."""
        return self.objectives[0][1]

    @property
    def objectives(self) -> tuple[tuple[str, Direction], ...]:
        """Name of each objective, and whether lower or higher is better."""
        return tuple((each.name, better_direction(each.name, each.direction)) for each in self._objectives)

    @property
    def _objectives(self) -> tuple[ObjectiveConfig, ...]:
        match self.objective:
            case None:
                return (self._default_objective,)
            case ObjectiveConfig():
                return (self.objective,)
        return self.objective

    @property
    def _default_objective(self) -> ObjectiveConfig:
        return ObjectiveConfig(name="val_loss")

    @property
    def max_epochs(self) -> int:
        """Epochs of a trial that nothing ends before."""
        raise NotImplementedError

    def epochs_of(self, values: Mapping[str, Any]) -> int:
        """Epochs of a trial, given its value by name."""
        return self.max_epochs

    @property
    def progress_style(self) -> str:
        """Style of the progress display."""
        raise NotImplementedError

    @property
    def writes_tensorboard(self) -> bool:
        """Whether event files are written."""
        raise NotImplementedError

    @property
    def has_best_run(self) -> bool:
        """Whether one run is the best and gives its trial's score again: not with several objectives, nor of a
        population, whose members change while they train."""
        return len(self.objectives) == 1 and not isinstance(self.oracle, Pbt)

    def as_loss(self, objective: float) -> float:
        """The objective with its sign set so that less is better."""
        return -objective if self.direction == "max" else objective

    def best_epoch(self, objectives: Sequence[float]) -> tuple[float, int]:
        """The best objective and its epoch, counted from 1; the first of equal ones. Of a population the last.

        >>> SearchConfig(objective="val_accuracy").best_epoch([0.5, 0.7, 0.7])
        (0.7, 2)
        """
        if isinstance(self.oracle, Pbt):
            # What others go on from is the state at the end.
            return objectives[-1], len(objectives)
        best = (max if self.direction == "max" else min)(objectives)
        return best, objectives.index(best) + 1

    @property
    def trials_per_batch(self) -> int:
        """Number of trials proposed at once."""
        if self.trials_at_once:
            return self.trials_at_once
        match self.oracle:
            case Bayesian() | Tpe() | Gp():
                return 8
            case Cmaes(population_size=size) | Nsga2(population_size=size) | Pbt(members=size):
                return size
        return 128

    def _check_oracle(self) -> None:
        """Refuse objectives and spaces that the oracle cannot take."""
        if self.objective == ():
            raise ValueError("objective must name at least one logged value, received []")
        ranges = [key for key, each in self.space.items() if isinstance(each, Range) and not each.when]
        if isinstance(self.oracle, Cmaes) and len(ranges) < 2:
            raise ValueError(f"space must have two ranges without conditions for cmaes, received {len(ranges)}")
        if isinstance(self.oracle, Pbt):
            self._check_population(self.oracle)
        names = [name for name, _ in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError(f"objective must name different values, received {', '.join(names)}")
        if len(names) == 1:
            return
        if not isinstance(self.oracle, MULTI_OBJECTIVE):
            able = ", ".join(kind.model_fields["name"].default for kind in MULTI_OBJECTIVE)
            raise ValueError(f"oracle must be one of {able} for several objectives, received {self.oracle.name}")
        if self.stopper is not None:
            raise ValueError(f"stopper must be null with several objectives, received {self.stopper.name}")

    def _check_population(self, oracle: Pbt) -> None:
        """Refuse settings that population-based training has no use for."""
        needed = oracle.members * oracle.generations(self.max_epochs)
        if self.trials < needed:
            raise ValueError(
                f"trials must be at least {needed} for pbt ({oracle.members} members in "
                f"{oracle.generations(self.max_epochs)} intervals), received {self.trials}"
            )
        neutral = {"stopper": None, "trials_at_once": None, "seeds_per_trial": 1, "workers": 1, "cluster": None}
        for name, value in neutral.items():
            if (received := getattr(self, name, value)) != value:
                raise ValueError(f"{name} must be {json.dumps(value)} for pbt, received {short(_name(received))}")
        if conditional := [key for key, parameter in self.space.items() if parameter.when]:
            raise ValueError(f"space must have no conditions for pbt, received one for {conditional[0]}")

    def _check_condition(self, rule: str, parent: str, allowed: tuple[Any, ...]) -> None:
        if parent not in self.space:
            raise ValueError(one_of(f"{rule}'s keys", parent, self.space))
        if not isinstance(self.space[parent], Choice):
            raise ValueError(f"{rule} must name keys with choices, received {parent!r}, which is a range")
        if not allowed or any(value not in self.space[parent].values for value in allowed):
            raise ValueError(f"{rule}[{parent!r}] must list choices of {parent}; received {short(list(allowed))}")


class WorkerSettings(Description):
    """The processes that train."""

    workers: PositiveInt = 1
    """Processes that train, each on its own GPU where there are several; 1 trains in this process. Trials of one
    program are divided among them, so `trials_at_once` of a search is best a multiple. May be changed later. Results
    depend on it in their last digits, and through a stopper, which compares trials that train together."""
    cluster: str | None = None
    """Address of the Ray cluster whose workers train: `auto` for the one that this machine belongs to, `host:port` or
    `ray://host:port`; null starts Ray on this machine for the time of the search where there are several workers."""

    @property
    def has_workers(self) -> bool:
        """Whether other processes train the trials."""
        return self.workers > 1 or self.cluster is not None


class SearchConfig(WorkerSettings, SearchSettings):
    """A search: the same description proposes the same trials and finds the same scores, on one machine.

    >>> config = SearchConfig(space={"optimizer.learning_rate": {"choices": [0.01, 0.1]}}, oracle="grid")
    >>> config.run_with({"optimizer.learning_rate": 0.1}).optimizer.learning_rate
    0.1

    Raises:
        ValueError: one line, also where a value of the space makes no valid run.
    """

    run: RunConfig = RunConfig()
    """The run that every trial changes. Its `training.epochs` limit a trial's epochs, its `training.early_stopping`
    applies to each trial, its `report` decides what is shown."""
    space: dict[str, Parameter] = DEFAULT_SPACE
    """Values by dotted key of the run: `{"choices": [[50], [50, 100]]}`, or a range
    `{"min": 0.0001, "max": 0.1, "sampling": "log", "step": null}`; either with `when`."""

    @property
    def _default_objective(self) -> ObjectiveConfig:
        return ObjectiveConfig(name=self.run.monitor, direction=self.run.training.monitor_mode)

    @property
    def max_epochs(self) -> int:
        """Epochs of a trial that nothing ends before."""
        return self.run.training.epochs

    def epochs_of(self, values: Mapping[str, Any]) -> int:
        """Epochs of a trial, given its value by dotted key."""
        # A run is checked as a whole, which takes milliseconds.
        decides = any(key.partition(".")[0] == "training" for key in values)
        return self.run_with(values).training.epochs if decides else self.max_epochs

    @property
    def progress_style(self) -> str:
        """Style of the progress display."""
        return self.run.report.progress

    @property
    def writes_tensorboard(self) -> bool:
        """Whether event files are written."""
        return self.run.report.tensorboard

    def run_with(self, values: Mapping[str, Any]) -> RunConfig:
        """The run of a trial.

        Args:
            values: value by dotted key, for the active keys.

        Raises:
            ValueError: one line, where they make no valid run.
        """
        # A key comes before those within it: network.hidden before network.hidden.0.
        changes = copy.deepcopy(dict(sorted(values.items())))
        monitored = {"training.monitor": self.objective_name, "training.monitor_mode": self._objectives[0].direction}
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
        self._check_oracle()
        try:
            for name, _ in self.objectives:
                replace_at(self.run_with({}), {"training.monitor": name})
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

    def _check_population(self, oracle: Pbt) -> None:
        super()._check_population(oracle)
        # Rates and the training's end are the population's to decide.
        neutral = {"schedule": Constant(), "training.plateau": None, "training.early_stopping": None}
        for key, value in neutral.items():
            received: Any = functools.reduce(getattr, key.split("."), self.run)
            if received != value:
                expected = "constant" if value else "null"
                raise ValueError(f"run.{key} must be {expected} for pbt, received {short(_name(received))}")

    def _check_key(self, key: str) -> None:
        if key in ("training.monitor", "training.monitor_mode"):
            raise ValueError(f"space must not contain {key}, which the objective decides")
        if key.split(".")[0] in ("report", "devices"):
            raise ValueError(f"space must not contain {key}, which is the same for all trials")
        if key == "training.epochs" and isinstance(self.oracle, Hyperband | Pbt):
            raise ValueError(f"space must not contain {key}, which {self.oracle.name} decides")
        if isinstance(self.oracle, Pbt) and key.split(".")[0] not in ("optimizer", "regularization", "loss", "network"):
            raise ValueError(f"space must not contain {key}, which is the same for all members of pbt")

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


def _name(setting: Any) -> Any:
    """A setting as a user gives it: by its name, if it has one."""
    return getattr(setting, "name", setting)
