"""The study of the arguments of a user's function that returns a compiled model."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kerasnn.config.schema import one_of
from kerasnn.files import dated_path
from kerasnn.search.model_search import model_subject, plain_arguments
from kerasnn.search.run_search import search_subject
from kerasnn.study.config import ModelStudyConfig
from kerasnn.study.run_study import StudyResult, conduct


def study_models(
    build: Callable[..., keras.Model],
    x: Any,
    y: Any = None,
    *,
    factors: Mapping[str, Sequence[Any]],
    baseline: Mapping[str, Any] | None = None,
    seeds: int = 12,
    objective: Any = "val_accuracy",
    epochs: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    study_dir: str | Path | None = None,
    seed: int = 0,
    workers: int = 1,
    cluster: str | None = None,
    progress: str = "auto",
    tensorboard: bool = True,
    **fit: Any,
) -> StudyResult:
    """Train the models of every combination of a function's arguments with the same seeds, and compare them.

    Models of one structure train together by `kerasnn.fit_fused`. The folder holds what a config's study leaves in its
    folder; a study that ended at any moment continues when it is called again with the same folder.

    Args:
        build: a function of the factors that returns a compiled model.
        x, y: the training examples, as in `fit`.
        factors: levels by name of an argument: `{"activation": ["relu", "tanh"]}`, of any type that JSON can hold.
        baseline, seeds, objective: as in `StudyConfig`. The seeds are seed, seed + 1, …; each decides the initial
            weights and the order of examples.
        epochs: epochs of each training.
        callbacks: Keras callbacks; each training gets copies.
        study_dir: a folder that is new, empty or a study's; None makes `logs/<time>-study-<function>`.
        seed: the first of the seeds.
        workers, cluster: as in `kerasnn.search.search`.
        progress, tensorboard: as in `ReportConfig`.
        fit: further arguments of `fit`, as in `kerasnn.search.search`.

    Returns:
        Every combination with its score and its comparison.

    Raises:
        TypeError: for an unknown argument.
        ValueError: one line, for factors that are no arguments of the function, for a folder in use or of another
            study, and where every combination failed.

    >>> import tempfile
    >>> import numpy as np
    >>> def build(rate):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(rate), "mse")
    ...     return model
    >>> found = study_models(build, np.ones((4, 2)), np.ones(4), factors={"rate": [0.0, 0.1]}, seeds=2, epochs=2,
    ...     objective="loss", study_dir=tempfile.mkdtemp(), progress="silent")
    >>> [cell.levels for cell in found.cells]
    [{'rate': 0.1}, {'rate': 0.0}]
    """
    name = getattr(build, "__name__", type(build).__name__)
    arguments = inspect.signature(build).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in arguments.values()):
        for factor in factors:
            if factor not in arguments:
                raise ValueError(one_of(f"factors of {name}", factor, arguments))
    config = ModelStudyConfig(
        build=name,
        factors={key: tuple(levels) for key, levels in factors.items()},
        baseline=baseline,
        seeds=seeds,
        objective=objective,
        epochs=epochs,
        fit=plain_arguments(fit),
        seed=seed,
        workers=workers,
        cluster=cluster,
        progress=progress,
        tensorboard=tensorboard,
    )
    subject = model_subject(config.search, lambda values: build(**values), x, y, callbacks, fit)
    return conduct(
        config, study_dir or dated_path("study", name), lambda search_dir: search_subject(subject, search_dir)
    )
