"""One run among those that train together: its logs, its callbacks, its state."""

import functools
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import keras
import numpy as np

from kerasnn.callbacks.early_stopping import early_stopping
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.components import optimizers
from kerasnn.config.monitor import better_direction
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import OptimizerConfig
from kerasnn.data.loading import Data
from kerasnn.fused.structure import shapes_of
from kerasnn.models.from_config import build_network

Logs = dict[str, float]
Direction = Literal["auto", "min", "max"]
Status = Literal["running", "finished", "stopped", "diverged"]


@dataclass(eq=False)
class MemberState:
    """All that a member needs to go on later as if it had never stopped.

    Args:
        epoch: epochs done.
        variables: weights, seeds and optimizer variables by name.
        weights: weights that are kept: of the best epoch, of early stopping's best.
        counters: history, learning rate's and early stopping's counters; fit for JSON.
    """

    epoch: int
    variables: dict[str, np.ndarray] = field(repr=False)
    weights: dict[str, list[np.ndarray]] = field(repr=False)
    counters: dict[str, Any] = field(repr=False)


class Member:
    """One run among those that train together, and what came of it.

    Attributes:
        config: the run.
        status: "finished", "stopped" (by `on_epoch`) or "diverged" (no more finite).
        history: each logged value by epoch; a diverged epoch is not in it.
        weights: the final weights in the order of `get_weights()`; a diverged member's are the last finite ones.
        best_weights: those of the best epoch, or None before there is one.
        best_epoch: the best epoch, from 0 on, by `training.monitor`; or None.
        state: what `train_fused(initial=...)` continues from; None for a diverged member.
    """

    def __init__(
        self, config: RunConfig, data: Data, state: MemberState | None = None, direction: Direction = "auto"
    ) -> None:
        self.config = config
        self.status: Status = "running"
        self.history: dict[str, list[float]] = {}
        self.weights: list[np.ndarray] = []
        self.best_weights: list[np.ndarray] | None = None
        self.best_epoch: int | None = None
        self.state: MemberState | None = state
        self._best = math.inf
        self._shapes = shapes_of(data)
        self._updates = math.ceil(len(data.x_train) / config.training.batch_size)
        settings = config.training
        validated = data.x_validation is not None
        config.check_monitors(validation=validated)
        self._monitor = config.monitored(validation=validated)
        self._sign = -1.0 if better_direction(self._monitor, direction) == "max" else 1.0
        rate = config.optimizer.learning_rate
        if rate is None:
            rate = _default_learning_rate(config.optimizer.name)
        self._learning_rate = LearningRate(config.schedule.over(settings.epochs), rate, settings.plateau)
        self._early_stopping = early_stopping(settings.early_stopping) if settings.early_stopping is not None else None
        # What Keras's callbacks ask of a model.
        self._model = SimpleNamespace(
            stop_training=False,
            get_weights=lambda: self.weights,
            set_weights=lambda weights: setattr(self, "weights", weights),
            optimizer=SimpleNamespace(learning_rate=None),
        )
        for callback in self._callbacks:
            callback.set_model(self._model)
        if self._early_stopping is not None:
            self._early_stopping.on_train_begin()
        if state is not None:
            self._restore(state)

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.history.get("loss", ()))

    def model(self) -> keras.Model:
        """A plain Keras model with the final weights; it takes prepared examples."""
        model = build_network(self.config, self._shapes)
        model.set_weights(self.weights)
        return model

    @property
    def _callbacks(self) -> list[keras.callbacks.Callback]:
        return [self._learning_rate, *([] if self._early_stopping is None else [self._early_stopping])]

    def courses(self, epoch: int) -> dict[str, np.ndarray]:
        """What changes with every update of an epoch, each `(updates,)`."""
        rates = self._learning_rate.rates(epoch, self._updates)
        self._model.optimizer.learning_rate = rates[-1]
        momenta = self._learning_rate.momenta(epoch, self._updates)
        return {"learning_rate": rates} if momenta is None else {"learning_rate": rates, "cycled": momenta}

    def end_epoch(self, epoch: int, logs: Logs, weights: list[np.ndarray], is_finite: bool) -> None:
        """Take an epoch's logs, to which the learning rate is added, and weights; decide whether to go on."""
        if not is_finite or not all(map(math.isfinite, logs.values())):
            self.status, self.state = "diverged", None
            return
        self.weights = [weight.copy() for weight in weights]
        for callback in self._callbacks:
            callback.on_epoch_end(epoch, logs)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        value = self._sign * logs[self._monitor]
        if value < self._best:
            self._best, self.best_epoch, self.best_weights = value, epoch, self.weights
        if self._model.stop_training or epoch + 1 == self.config.training.epochs:
            self.status = "finished"

    def end(self, variables: dict[str, np.ndarray], averages: list[np.ndarray | None]) -> None:
        """Keep the state to go on from; then do what Keras's `fit` does at its end."""
        if self.status == "diverged":
            return
        stopping = self._early_stopping
        counted = {} if stopping is None else {key: getattr(stopping, key) for key in _STOPPING}
        kept = {"best": self.best_weights, "early_stopping": getattr(stopping, "best_weights", None)}
        self.state = MemberState(
            self.epochs,
            variables,
            {name: weights for name, weights in kept.items() if weights is not None},
            {
                "history": {name: list(values) for name, values in self.history.items()},
                "best": [self._best if math.isfinite(self._best) else None, self.best_epoch],
                "learning_rate": self._learning_rate.get_state(),
                "early_stopping": counted,
            },
        )
        pairs = zip(self.weights, averages, strict=True)
        self.weights = [weight if average is None else average for weight, average in pairs]
        if stopping is not None:
            stopping.on_train_end()

    def _restore(self, state: MemberState) -> None:
        counters = state.counters
        self.history = {name: list(values) for name, values in counters["history"].items()}
        best, self.best_epoch = counters["best"]
        self._best = math.inf if best is None else best
        self.best_weights = state.weights.get("best")
        self._learning_rate.set_state(counters["learning_rate"])
        if self._early_stopping is not None:
            for key, value in counters["early_stopping"].items():
                setattr(self._early_stopping, key, value)
            self._early_stopping.best_weights = state.weights.get("early_stopping")


_STOPPING = ("wait", "best", "best_epoch", "stopped_epoch")


@functools.cache
def _default_learning_rate(optimizer: str) -> float:
    return float(optimizers.get(OptimizerConfig(name=optimizer).spec).learning_rate.numpy())
