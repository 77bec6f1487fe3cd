"""Keras's early stopping as a config describes it."""

import keras

from kerasnn.config.monitor import more_is_better
from kerasnn.config.run import RunConfig


def early_stopping(config: RunConfig) -> keras.callbacks.EarlyStopping:
    """The callback that a config with `training.early_stopping` describes."""
    described = config.training.early_stopping
    assert described is not None
    mode = described.mode
    if mode == "auto":
        mode = "max" if more_is_better(described.monitor) else "min"
    return keras.callbacks.EarlyStopping(**{**described.model_dump(), "mode": mode})
