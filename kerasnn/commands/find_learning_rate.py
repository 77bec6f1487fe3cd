"""`kerasnn find-learning-rate`: suggest a learning rate for a run."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, import_tensorflow
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import Schema


class _Range(Schema):
    lowest: float = Field(default=1e-7, gt=0)
    """The first learning rate."""
    highest: float = Field(default=10.0, gt=0)
    """The last learning rate."""
    updates: int = Field(default=100, ge=32)
    """Updates from the first rate to the last."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest must be below highest, received {self.lowest:g} and {self.highest:g}")
        return self


class _RangeTest(RunConfig):
    range: _Range = _Range()
    """Learning rates to try."""


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line: `config`, whose `range` has the rates, and `figure`."""
    description = "Suggest a learning rate for a run: a range test over some updates, and a picture of it."
    parser = Parser("kerasnn find-learning-rate", description, _RangeTest())
    parser.add_argument(
        "--figure",
        metavar="FILE",
        help="picture of the test to write, as .png, .svg or .pdf (default: none)",
    )
    options = parser.read(arguments)
    for key in options.changes:
        if key.startswith(_WITHOUT_EFFECT):
            raise ValueError(f"--{key} has no effect on a range test, which tries rates for a few updates")
    options.config = parser.config_of(options)
    options.arguments = parser.arguments
    return options


_WITHOUT_EFFECT = (
    "optimizer.learning_rate",
    "report",
    "schedule",
    "training.early_stopping",
    "training.epochs",
    "training.monitor",
    "training.on_nan",
    "training.plateau",
    "training.rollback",
    "training.save_",
)


def run(options: argparse.Namespace) -> int:
    """Find a learning rate, print it and draw the test."""
    import_tensorflow()
    from kerasnn import figures
    from kerasnn.runs.learning_rate_finder import find_learning_rate

    test = find_learning_rate(options.config, **options.config.range.model_dump())
    print(f"suggestion  {test.suggestion:.2g} (valley); steepest {test.steepest:.2g}, minimum / 10 {test.minimum:.2g}")
    if options.figure is None:
        print("picture     none; --figure learning_rate.png draws one")
    else:
        path = Path(options.figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"picture     {figures.save(test.figure(), path)}")
    kept = shlex.join([*_of_the_run(options.arguments), "--optimizer.learning_rate", f"{test.suggestion:.2g}"])
    print(f"train       kerasnn train {kept}")
    return DONE


def _of_the_run(arguments: Sequence[str]) -> list[str]:
    """The arguments that `kerasnn train` has, too.

    >>> _of_the_run(["--config", "logs/first", "--figure=rate.png", "--range.updates", "50"])
    ['--config', 'logs/first']
    """
    kept: list[str] = []
    is_kept = True
    for argument in arguments:
        if argument.startswith("--"):
            is_kept = not argument.startswith(("--figure", "--range"))
        if is_kept:
            kept.append(argument)
    return kept
