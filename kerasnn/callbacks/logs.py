"""Values that callbacks read from the logs and from the optimizer."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kerasnn.data.checks import as_floats
from kerasnn.distribute.replicas import optimizers_of


def flat_logs(logs: Mapping[str, Any] | None) -> dict[str, float | str]:
    """The logs as numbers and text. A vector, such as `F1Score(average=None)`, has one number per entry.

    >>> flat_logs({"loss": np.float32(0.5), "f1_score": np.array([0.25, 0.75]), "phase": "warm-up"})
    {'loss': 0.5, 'f1_score_0': 0.25, 'f1_score_1': 0.75, 'phase': 'warm-up'}
    """
    flat: dict[str, float | str] = {}
    for name, value in (logs or {}).items():
        numbers = None if isinstance(value, str | bytes) else as_floats(np.asarray(value))
        if numbers is None:
            flat[name] = str(value)
        elif numbers.ndim == 0:
            flat[name] = float(numbers)
        else:
            flat |= {f"{name}_{position}": float(number) for position, number in enumerate(numbers.ravel())}
    return flat


def numbers_of(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """The numbers in `flat_logs`."""
    return {name: value for name, value in flat_logs(logs).items() if not isinstance(value, str)}


def learning_rate_of(model: keras.Model) -> float | None:
    """The present learning rate of a model; None if it has several optimizers (GAN, `MultiOptimizer`) or none."""
    optimizers = optimizers_of(model)
    rate = getattr(optimizers[0], "learning_rate", None) if len(optimizers) == 1 else None
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))
