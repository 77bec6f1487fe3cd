"""One training of a trial of keras-tuner's."""

import math
from collections.abc import Mapping
from typing import Any

import keras

from kerasnn.fused.fitted import BestWeights


class Execution:
    """One training of a trial.

    Args:
        tuner: the tuner.
        trial: keras-tuner's trial.
        index: number of the trial's trainings before it.
        options: arguments of `fit`.

    Attributes:
        result: a History, or the error that ended it.
    """

    def __init__(self, tuner: Any, trial: Any, index: int, options: Mapping[str, Any]) -> None:
        self._tuner, self._trial, self._index, self._options = tuner, trial, index, options
        self.seed = tuner.oracle.seed + index
        self.result: Any = None
        self.build()

    def build(self) -> None:
        """Build the model anew, from its seed."""
        keras.utils.set_random_seed(self._tuner.seed_of(self._trial, self._index))
        self.model = self._tuner.build(self._trial)
        self.best, self.best_value = BestWeights(self._is_better), math.nan
        callbacks = self._tuner._deepcopy_callbacks(list(self._options.get("callbacks") or ()))
        self._tuner._configure_tensorboard_dir(callbacks, self._trial, self._index)
        self.callbacks = [*callbacks, self.best]

    def _is_better(self, logs: dict[str, Any]) -> bool:
        objective = self._tuner.oracle.objective
        if not objective.has_value(logs):
            return True
        value = objective.get_value(logs)
        if math.isnan(self.best_value) or objective.better_than(value, self.best_value):
            self.best_value = value
            return True
        return False
