"""One function for every study: of the runs of a config, or of a function's arguments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import keras

from kerasnn.data.loading import Data
from kerasnn.study.config import StudyConfig
from kerasnn.study.model_study import study_models
from kerasnn.study.run_study import StudyResult
from kerasnn.study.run_study import study as study_runs


@overload
def study(
    what: StudyConfig | None = None, study_dir: str | Path | None = None, data: Data | None = None
) -> StudyResult: ...


@overload
def study(what: Callable[..., keras.Model], x: Any, y: Any = None, **options: Any) -> StudyResult: ...


def study(what: Any = None, *arguments: Any, **options: Any) -> StudyResult:
    """Train every combination of some factors' levels with the same seeds, and compare them.

    `study(config, study_dir)` varies the dotted keys of a run; `study(build, x, y, factors={"units": [32, 64]})` the
    arguments of a function that returns a compiled model. Both leave the same folder and go on after a kill.

    Args:
        what: the config, or the function. None is the default study on the digits.
        arguments, options: further ones of `run_study.study` for a config, of `study_models` for a function.

    Returns:
        Every combination with its score and its comparison.

    Raises:
        TypeError: for an unknown argument.
        ValueError: one line, for a folder in use or of another study, and where every combination failed.
    """
    if what is None or isinstance(what, StudyConfig):
        return study_runs(what, *arguments, **options)
    if callable(what):
        return study_models(what, *arguments, **options)
    raise TypeError(f"study takes a StudyConfig, or a function that builds a model, received {type(what).__name__}")
