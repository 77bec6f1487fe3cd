"""Keras's early stopping from its configuration."""

import keras

from kerasnn.config.monitor import better_direction
from kerasnn.config.sections import EarlyStoppingConfig


def early_stopping(config: EarlyStoppingConfig) -> keras.callbacks.EarlyStopping:
    """Keras's callback with the options of `training.early_stopping`.

    Raises:
        ValueError: one line, if the mode is "auto" and the better direction of the monitored value is unknown.

    >>> early_stopping(EarlyStoppingConfig(monitor="val_accuracy", patience=3)).mode
    'max'
    """
    mode = better_direction(config.monitor, config.mode)
    return keras.callbacks.EarlyStopping(**{**config.model_dump(), "mode": mode})
