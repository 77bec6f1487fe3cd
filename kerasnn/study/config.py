"""A study described as data: factors with their levels, a baseline, and what is trained."""

import math
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from kerasnn.config.description import Description, parse_json
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import one_of, short
from kerasnn.config.sections import DataConfig, DenseLayer, NetworkConfig, TrainingConfig
from kerasnn.files import inside
from kerasnn.search.config import Objective, ObjectiveConfig, SearchConfig, SearchSettings, WorkerSettings
from kerasnn.search.model_config import ModelSearchConfig
from kerasnn.search.oracle_config import Grid
from kerasnn.search.space import Choice, canonical_json

FACTORS: dict[str, tuple[Any, ...]] = {
    "network.activation": ("relu", "tanh"),
    "network.kernel_initializer": ("glorot_normal", "he_normal", "orthogonal", "standard_uniform", "random_normal"),
}
# Deep enough to distinguish initializers; half of the digits are held out, so that small differences of accuracy show.
RUN = RunConfig(
    network=NetworkConfig(hidden=(DenseLayer(units=32),) * 20),
    data=DataConfig(scaling="standardize", validation_share=0.4),
    training=TrainingConfig(epochs=12, batch_size=64),
)


class StudySettings(Description):
    """What describes any study: factors with their levels, a baseline, seeds, and the value to compare by."""

    _FOLDER: ClassVar[str] = "study folder"

    factors: dict[str, tuple[Any, ...]]
    """Levels by name. All combinations are trained."""
    baseline: dict[str, Any] | None = None
    """By factor, the level that its other levels are compared with, all other factors being equal; null takes the first
    level of the last factor. With every factor named, all combinations are compared with that one."""
    seeds: int = Field(default=12, ge=2)
    """Networks of each combination, with the seeds seed, seed + 1, … of the run; the same for all, so that they can be
    compared seed by seed."""
    objective: Objective | None = ObjectiveConfig(name="val_accuracy")
    """Logged value to compare by, the best over the epochs; null takes the run's monitor (`val_loss`)."""

    @model_validator(mode="after")
    def _is_valid(self) -> Self:
        for key, levels in self.factors.items():
            if len({canonical_json(level) for level in levels}) < max(len(levels), 2):
                raise ValueError(
                    f"factors[{key!r}] must have two levels or more, all different, received {short(list(levels))}"
                )
        for key, level in (self.baseline or {}).items():
            if key not in self.factors:
                raise ValueError(one_of("baseline's keys", key, self.factors))
            if canonical_json(level) not in [canonical_json(each) for each in self.factors[key]]:
                raise ValueError(
                    f"baseline[{key!r}] must be a level of that factor, {short(list(self.factors[key]))}; "
                    f"received {short(level)}"
                )
        try:
            self.search  # noqa: B018 — its checks apply to a study too
        except ValueError as error:
            raise ValueError(str(error).replace("space", "factors", 1)) from None
        return self

    @property
    def reference(self) -> dict[str, Any]:
        """By factor, the level that others are compared with."""
        if self.baseline is not None:
            return self.baseline
        key = list(self.factors)[-1]
        return {key: self.factors[key][0]}

    @property
    def cells(self) -> int:
        """Number of combinations of levels."""
        return math.prod(map(len, self.factors.values()))

    @property
    def search(self) -> SearchSettings:
        """The grid search that trains the study."""
        raise NotImplementedError

    @property
    def first_seed(self) -> int:
        """The first of the seeds."""
        raise NotImplementedError

    @property
    def writes_tensorboard(self) -> bool:
        """Whether event files are written."""
        raise NotImplementedError

    @property
    def _grid(self) -> dict[str, Any]:
        """Settings of the search."""
        space = {key: Choice(choices=levels) for key, levels in self.factors.items()}
        shared: dict[str, Any] = {"oracle": Grid(), "trials": self.cells, "trials_at_once": self.cells}
        return {**shared, "space": space, "seeds_per_trial": self.seeds, "objective": self.objective}


class StudyConfig(WorkerSettings, StudySettings):
    """A study: every combination of its factors' levels, trained with the same seeds.

    >>> config = StudyConfig(factors={"network.activation": ["relu", "tanh", "gelu"], "seed": [1, 2]})
    >>> config.cells, config.reference
    (6, {'seed': 1})

    Raises:
        ValueError: one line, also where a combination makes no valid run.
    """

    run: RunConfig = RUN
    """The run that every combination changes; by default 20 layers of 32 units on the digits."""
    factors: dict[str, tuple[Any, ...]] = FACTORS
    """Levels by dotted key of the run: `{"network.activation": ["relu", "tanh"]}`. All combinations are trained."""

    @property
    def first_seed(self) -> int:
        """The first of the seeds."""
        return self.run.seed

    @property
    def writes_tensorboard(self) -> bool:
        """Whether event files are written."""
        return self.run.report.tensorboard

    @property
    def search(self) -> SearchConfig:
        """The grid search that trains the study."""
        # TensorBoard shows none of more than 40 runs at first: a study writes one for each combination, not each seed.
        quiet = self.run.report.model_copy(update={"tensorboard": False})
        run = self.run.model_copy(update={"report": quiet})
        return SearchConfig(run=run, workers=self.workers, cluster=self.cluster, **self._grid)


class ModelStudyConfig(WorkerSettings, StudySettings):
    """A study of a function's arguments, which returns a compiled model.

    >>> config = ModelStudyConfig(build="build", factors={"units": [4, 8]}, seeds=3)
    >>> config.cells, config.search.trials
    (2, 2)

    Raises:
        ValueError: one line.
    """

    build: str
    """Name of the function."""
    epochs: PositiveInt = 1
    """Epochs of each training."""
    fit: dict[str, Any] = Field(default={})
    """Further arguments of `fit` that JSON can hold."""
    seed: int = Field(default=0, ge=0, lt=2**31 - 1)
    """The first of the seeds."""
    progress: Literal["auto", "bar", "lines", "silent"] = "auto"
    """Progress display, as of a search."""
    tensorboard: bool = True
    """Whether TensorBoard event files are written."""

    @property
    def first_seed(self) -> int:
        """The first of the seeds."""
        return self.seed

    @property
    def writes_tensorboard(self) -> bool:
        """Whether event files are written."""
        return self.tensorboard

    @property
    def search(self) -> ModelSearchConfig:
        """The grid search that trains the study."""
        shared = self.model_dump(include={"build", "epochs", "fit", "seed", "progress", "workers", "cluster"})
        return ModelSearchConfig(tensorboard=False, keep_best=0, **shared, **self._grid)


def load_study(folder: Path) -> StudySettings:
    """The description of a study from its folder: of runs, or of a function's arguments.

    Raises:
        FileNotFoundError: one line, where there is none.
        ValueError: one line, where the file is damaged.
    """
    path = inside(folder, "config.json")
    is_of_models = path.is_file() and "build" in parse_json(path.read_text(encoding="utf-8"))
    kind: type[Description] = ModelStudyConfig if is_of_models else StudyConfig
    loaded = kind.load(folder)
    assert isinstance(loaded, StudySettings)
    return loaded
