"""What a run says of itself: its plan before it starts, and where its numbers come from afterwards."""

import math
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn import __version__
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data


def plan(
    config: RunConfig, data: Data, network: keras.Model, learning_rate: LearningRate, device: str, folder: Path
) -> str:
    """What a run is about to do: parameters, examples, iterations, the learning rate's course, device, folder.

    Args:
        config: the run.
        data: its prepared data.
        network: the built model.
        learning_rate: the callback that sets the rate.
        device: what it runs on.
        folder: the run folder.

    Returns:
        A few lines of text.
    """
    settings = config.training
    iterations = math.ceil(len(data.x_train) / settings.batch_size)
    parts = {"training": data.x_train, "validation": data.x_validation, "test": data.x_test}
    examples = ", ".join(f"{len(x):,} {name}" for name, x in parts.items() if x is not None)
    return "\n".join(
        [
            f"network     {_shape(network)}, {config.style}, {network.count_params():,} parameters",
            f"examples    {config.data.name}: {examples}",
            f"iterations  {iterations:,} an epoch of batch size {settings.batch_size:,}, "
            f"{iterations * settings.epochs:,} in {settings.epochs:,} epochs",
            f"optimizer   {config.optimizer.name}, learning rate {_course(config, learning_rate)}",
            f"device      {device}",
            f"run folder  {folder}",
        ]
    )


def _shape(network: keras.Model) -> str:
    widths = [math.prod(network.input_shape[1:])]
    widths += [layer.units if hasattr(layer, "units") else layer.filters for layer in _weighted(network)]
    return "-".join(str(width) for width in widths)


def _weighted(network: keras.Model) -> list[Any]:
    return [layer for layer in network._flatten_layers() if hasattr(layer, "units") or hasattr(layer, "filters")]


def _course(config: RunConfig, learning_rate: LearningRate) -> str:
    epochs, schedule = config.training.epochs, config.schedule.over(config.training.epochs)
    base = learning_rate.learning_rate or 0.0
    # The last epoch's start for a rate per epoch; just before the end for one per update.
    last = epochs - 1 if schedule.per == "epoch" else epochs - 1e-3
    factors = [schedule(epoch) for epoch in np.linspace(0, last, 5)]
    plateau = "" if config.training.plateau is None else ", lowered on plateaus"
    if max(factors) - min(factors) < 1e-12:
        return f"{base * factors[0]:.3g}, {schedule.name}{plateau}"
    course = " → ".join(f"{base * factor:.3g}" for factor in factors)
    return f"{course}, {schedule.name}{plateau}"


def provenance() -> dict[str, Any]:
    """Where a result comes from: versions, the git commit of the working folder if it is one, the command.

    Returns:
        A dictionary fit for JSON.
    """
    packages = ("tensorflow", "keras", "numpy")
    return {
        "versions": {
            "kerasnn": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "git_commit": _git_commit(),
        "command": list(sys.argv),
    }


def _git_commit() -> str | None:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
