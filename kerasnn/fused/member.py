"""A member of a fused network: its logs, its callbacks and its state."""

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
from kerasnn.config.monitor import BestValue, Mode, better_direction
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import OptimizerConfig
from kerasnn.data.loading import Data
from kerasnn.fused.run_structure import shapes_of
from kerasnn.models.from_config import build_network

Logs = dict[str, float]
Status = Literal["running", "finished", "stopped", "diverged"]


@dataclass(eq=False)
class MemberState:
    """The state from which a member resumes as if it had never stopped.

    Args:
        epoch: epochs completed.
        variables: weights, seeds and optimizer variables by name.
        weights: the weights of the best epoch ("best"), and those that early stopping keeps ("early_stopping").
        counters: the history and the counters of the callbacks, as JSON values.
    """

    epoch: int
    variables: dict[str, np.ndarray] = field(repr=False)
    weights: dict[str, list[np.ndarray]] = field(repr=False)
    counters: dict[str, Any] = field(repr=False)


class Member:
    """A run that trains together with others.

    Args:
        config: the run.
        data: prepared data.
        state: the state to resume from.
        direction: the better direction of `training.monitor`; "auto" decides by its name.

    Attributes:
        status: "running", "finished", "stopped" (by `on_epoch`) or "diverged" (a value became NaN or infinite).
        history: each logged value by epoch, without a diverged epoch.
        weights: the final weights in the order of `get_weights()`; of a diverged member, the last finite ones.
        best_weights: the weights of the best epoch; None before there is one.
        best_epoch: the best epoch by `training.monitor`, counted from 0; None before there is one.
        state: the state for `train_fused(initial=...)`; None for a diverged member.
    """

    def __init__(
        self, config: RunConfig, data: Data, state: MemberState | None = None, direction: Mode = "auto"
    ) -> None:
        self.config = config
        self.status: Status = "running"
        self.history: dict[str, list[float]] = {}
        self.weights: list[np.ndarray] = []
        self.best_weights: list[np.ndarray] | None = None
        self.best_epoch: int | None = None
        self.state: MemberState | None = state
        self._shapes = shapes_of(data)
        self._updates = math.ceil(len(data.x_train) / config.training.batch_size)
        settings = config.training
        has_validation = data.x_validation is not None
        config.check_monitors(validation=has_validation)
        self._monitor = config.monitored(validation=has_validation)
        mode = settings.monitor_mode if direction == "auto" else direction
        self._best = BestValue(better_direction(self._monitor, mode))
        rate = config.optimizer.learning_rate
        if rate is None:
            rate = _default_learning_rate(config.optimizer.name)
        self._learning_rate = LearningRate(config.schedule.over(settings.epochs), rate, settings.plateau)
        self._early_stopping = early_stopping(settings.early_stopping) if settings.early_stopping is not None else None
        # The part of a model that Keras's callbacks use.
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
        """Epochs completed."""
        return len(self.history.get("loss", ()))

    def model(self) -> keras.Model:
        """A plain Keras model with the final weights; it takes prepared examples."""
        model = build_network(self.config, self._shapes)
        model.set_weights(self.weights)
        return model

    @property
    def _callbacks(self) -> list[keras.callbacks.Callback]:
        return [self._learning_rate, *([] if self._early_stopping is None else [self._early_stopping])]

    def values_by_update(self, epoch: int) -> dict[str, np.ndarray]:
        """The learning rate at every update of an epoch, and the momentum if it changes, each `(updates,)`."""
        rates = self._learning_rate.rates(epoch, self._updates)
        self._model.optimizer.learning_rate = rates[-1]
        momenta = self._learning_rate.momenta(epoch, self._updates)
        return {"learning_rate": rates} if momenta is None else {"learning_rate": rates, "momentum_by_update": momenta}

    def end_epoch(self, epoch: int, logs: Logs, weights: list[np.ndarray], is_finite: bool) -> None:
        """Record an epoch, and decide whether to continue.

        Args:
            epoch: the epoch, counted from 0.
            logs: its logged values; the learning rate is added to them.
            weights: the weights at its end.
            is_finite: whether all weights are finite.
        """
        if not is_finite or not all(map(math.isfinite, logs.values())):
            self.status, self.state = "diverged", None
            return
        self.weights = [weight.copy() for weight in weights]
        for callback in self._callbacks:
            callback.on_epoch_end(epoch, logs)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        if self._best.update(logs[self._monitor]):
            self.best_epoch, self.best_weights = epoch, self.weights
        if self._model.stop_training or epoch + 1 == self.config.training.epochs:
            self.status = "finished"

    def end(self, variables: dict[str, np.ndarray], averages: list[np.ndarray | None]) -> None:
        """Keep the state, then end training as Keras's `fit` does.

        Args:
            variables: the values of the program's variables by name.
            averages: for each weight its moving average, or None.
        """
        if self.status == "diverged":
            return
        stopping = self._early_stopping
        counters = {} if stopping is None else {name: getattr(stopping, name) for name in _EARLY_STOPPING}
        kept = {"best": self.best_weights, "early_stopping": getattr(stopping, "best_weights", None)}
        self.state = MemberState(
            self.epochs,
            variables,
            {name: weights for name, weights in kept.items() if weights is not None},
            {
                "history": {name: list(values) for name, values in self.history.items()},
                "best": [self._best.value, self.best_epoch],
                "learning_rate": self._learning_rate.get_state(),
                "early_stopping": counters,
            },
        )
        pairs = zip(self.weights, averages, strict=True)
        self.weights = [weight if average is None else average for weight, average in pairs]
        if stopping is not None:
            stopping.on_train_end()

    def _restore(self, state: MemberState) -> None:
        counters = state.counters
        self.history = {name: list(values) for name, values in counters["history"].items()}
        self._best.value, self.best_epoch = counters["best"]
        self.best_weights = state.weights.get("best")
        self._learning_rate.set_state(counters["learning_rate"])
        if self._early_stopping is not None:
            for name, value in counters["early_stopping"].items():
                setattr(self._early_stopping, name, value)
            self._early_stopping.best_weights = state.weights.get("early_stopping")


_EARLY_STOPPING = ("wait", "best", "best_epoch", "stopped_epoch")


@functools.cache
def _default_learning_rate(optimizer: str) -> float:
    return float(optimizers.get(OptimizerConfig(name=optimizer).spec).learning_rate.numpy())
