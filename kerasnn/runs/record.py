"""A run's plan, printed before it starts, and its provenance, recorded in `result.json`."""

import math
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn import __version__
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.config.monitor import better_direction
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data
from kerasnn.data.table_features import TableFeatures


def plan(
    config: RunConfig,
    data: Data,
    network: keras.Model,
    learning_rate: LearningRate,
    device: str,
    folder: Path,
    chosen: Sequence[str] = (),
) -> str:
    """Describe a run before it starts: network, examples, iterations, learning rate, device, folder, choices.

    Args:
        config: the run.
        data: its prepared data.
        network: the built model.
        learning_rate: the callback that sets the rate.
        device: the devices of the run.
        folder: the run folder.
        chosen: what was chosen for the data, and why.

    Returns:
        Lines of text.
    """
    settings = config.training
    iterations = math.ceil(len(data.x_train) / settings.batch_size)
    parts = {"training": data.x_train, "validation": data.x_validation, "test": data.x_test}
    examples = ", ".join(f"{len(x):,} {name}" for name, x in parts.items() if x is not None)
    updates = iterations * settings.epochs
    heads = ["chosen      ", *[" " * 12] * len(chosen)]
    return "\n".join(
        [
            f"network     {_shape(network)}, {config.style}, {network.count_params():,} parameters",
            f"examples    {config.data.name}: {examples}",
            f"iterations  {iterations:,} an epoch of batch size {settings.batch_size:,}, "
            f"{updates:,} in {settings.epochs:,} epochs",
            f"optimizer   {config.optimizer.name}, learning rate {_rates(config, learning_rate)}",
            f"device      {device}",
            *(f"{head}{line}" for head, line in zip(heads, chosen, strict=False)),
            f"run folder  {folder}",
        ]
    )


def early_end(config: RunConfig, history: Mapping[str, Sequence[float]]) -> str:
    """A line about a training that early stopping ended; empty for one of all epochs."""
    settings, epochs = config.training.early_stopping, len(history.get("loss", ()))
    if settings is None or epochs >= config.training.epochs or settings.monitor not in history:
        return ""
    values = np.asarray(history[settings.monitor])
    best = int(values.argmin() if better_direction(settings.monitor, settings.mode) == "min" else values.argmax()) + 1
    kept = ", whose weights the model has" if settings.restore_best_weights else ""
    return f"ended       after {epochs} of {config.training.epochs} epochs: {settings.monitor} was best in {best}{kept}"


def _shape(network: keras.Model) -> str:
    widths = [math.prod(network.input_shape[1:])]
    for layer in network._flatten_layers():
        if isinstance(layer, TableFeatures):
            widths = [layer.layout.features]
        widths += [getattr(layer, name) for name in ("units", "filters") if hasattr(layer, name)][:1]
    return "-".join(map(str, widths))


def _rates(config: RunConfig, learning_rate: LearningRate) -> str:
    """The learning rate at five points of the training."""
    epochs, schedule = config.training.epochs, config.schedule.over(config.training.epochs)
    base = learning_rate.learning_rate or 0.0
    # The last point is the start of the last epoch for a rate per epoch, just before the end for one per update.
    last = epochs - 1 if schedule.per == "epoch" else epochs - 1e-3
    factors = [schedule(epoch) for epoch in np.linspace(0, last, 5)]
    plateau = "" if config.training.plateau is None else ", lowered on plateaus"
    if max(factors) - min(factors) < 1e-12:
        return f"{base * factors[0]:.3g}, {schedule.name}{plateau}"
    rates = " → ".join(f"{base * factor:.3g}" for factor in factors)
    return f"{rates}, {schedule.name}{plateau}"


def provenance() -> dict[str, Any]:
    """The time, the versions, the working folder, its git commit (None outside of a repository) and the command."""
    packages = ("tensorflow", "keras", "numpy")
    return {
        "versions": {
            "kerasnn": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "working_folder": str(Path.cwd()),
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
