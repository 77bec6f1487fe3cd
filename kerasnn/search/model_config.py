"""A search over what a function builds, described as data."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from kerasnn.config.description import Description, parse_json
from kerasnn.files import inside
from kerasnn.search.config import SearchConfig, SearchSettings, WorkerSettings


class ModelSearchConfig(WorkerSettings, SearchSettings):
    """A search over the models that a function builds; its space was found by calling the function.

    >>> config = ModelSearchConfig(build="build", space={"units": {"choices": [4, 8]}}, oracle="grid", epochs=5)
    >>> config.max_epochs, config.objective_name, config.trials_per_batch
    (5, 'val_loss', 128)

    Raises:
        ValueError: one line.
    """

    build: str
    """Name of the function."""
    epochs: PositiveInt = 1
    """Epochs of a trial that nothing ends before."""
    fit: dict[str, Any] = Field(default={})
    """Further arguments of `fit` that JSON can hold: batch size, validation split and the like."""
    progress: Literal["auto", "bar", "lines", "silent"] = "auto"
    """Progress display: a live `bar`, or `lines`, one per group of trials; `auto`: a bar on a terminal, else lines."""
    tensorboard: bool = True
    """Whether TensorBoard event files are written."""

    @property
    def max_epochs(self) -> int:
        """Epochs of a trial that nothing ends before."""
        return self.epochs

    @property
    def progress_style(self) -> str:
        """Style of the progress display."""
        return self.progress

    @property
    def writes_tensorboard(self) -> bool:
        """Whether event files are written."""
        return self.tensorboard

    @model_validator(mode="after")
    def _space_is_valid(self) -> Self:
        if not self.space:
            raise ValueError(f"{self.build} must ask for at least one hyperparameter, received none")
        try:
            self._check_oracle()
        except ValueError as error:
            raise ValueError(str(error).replace("mode must", "objective.direction must", 1)) from None
        for name, parameter in self.space.items():
            for parent, allowed in parameter.when.items():
                self._check_condition(f"space[{name!r}].when", parent, allowed)
        return self


def load_search(folder: Path) -> SearchSettings:
    """The description of a search from its folder: of runs, or of the models that a function builds.

    Raises:
        FileNotFoundError: one line, where there is none.
        ValueError: one line, where the file is damaged.
    """
    path = inside(folder, "config.json")
    is_of_models = path.is_file() and "build" in parse_json(path.read_text(encoding="utf-8"))
    kind: type[Description] = ModelSearchConfig if is_of_models else SearchConfig
    loaded = kind.load(folder)
    assert isinstance(loaded, SearchSettings)
    return loaded
