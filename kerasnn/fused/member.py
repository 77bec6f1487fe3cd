"""A run that trains together with others: its logs, its callbacks and its state."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import keras
import numpy as np

from kerasnn.callbacks.divergence import is_finite
from kerasnn.callbacks.early_stopping import early_stopping
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.components import optimizers
from kerasnn.config.monitor import BestValue, Mode, better_direction
from kerasnn.config.run import RunConfig
from kerasnn.config.sections import OptimizerConfig
from kerasnn.data.loading import Data
from kerasnn.fused.group import Trainee
from kerasnn.fused.run_structure import shapes_of
from kerasnn.fused.template import Template
from kerasnn.models.from_config import build_network

Logs = dict[str, float]
Status = Literal["running", "finished", "stopped", "diverged"]


@dataclass(eq=False)
class MemberState:
    """The state from which a member resumes as if it had never stopped.

    Args:
        epoch: epochs completed.
        variables: weights, seeds, variables of the optimizer and of metrics.
        weights: the weights of the best epoch ("best"), and those that early stopping keeps ("early_stopping").
        counters: the history and the counters of the callbacks, as JSON values.
    """

    epoch: int
    variables: list[np.ndarray] = field(repr=False)
    weights: dict[str, list[np.ndarray]] = field(repr=False)
    counters: dict[str, Any] = field(repr=False)


class Member(Trainee):
    """A run that trains together with others.

    Args:
        number: its position among the runs.
        config: the run.
        template: what stands for all runs.
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
        self,
        number: int,
        config: RunConfig,
        template: Template,
        data: Data,
        state: MemberState | None = None,
        direction: Mode = "auto",
    ) -> None:
        steps = math.ceil(len(data.x_train) / config.training.batch_size)
        super().__init__(number, config.seed, steps, template.numbers_of(config))
        self.config = config
        self.history: dict[str, list[float]] = {}
        self.weights: list[np.ndarray] = []
        self.best_weights: list[np.ndarray] | None = None
        self.best_epoch: int | None = None
        self.state: MemberState | None = state
        self._template, self._shapes = template, shapes_of(data)
        self._has_diverged = False
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

    @property
    def status(self) -> Status:
        """Whether and how it has ended."""
        if self._has_diverged:
            return "diverged"
        if self.running:
            return "running"
        return "finished" if self.stops or self.epochs == self.config.training.epochs else "stopped"

    @property
    def stops(self) -> bool:
        """Whether it ends here: a callback has asked for it, or it has diverged."""
        return self._has_diverged or self._model.stop_training

    def model(self) -> keras.Model:
        """A plain Keras model with the final weights; it takes prepared examples."""
        model = build_network(self.config, self._shapes)
        model.set_weights(self.weights)
        return model

    @property
    def _callbacks(self) -> list[keras.callbacks.Callback]:
        return [self._learning_rate, *([] if self._early_stopping is None else [self._early_stopping])]

    def values(self) -> list[np.ndarray]:
        """The values of its variables before the first step."""
        return self._template.initial_values(self.config) if self.state is None else self.state.variables

    def values_by_update(self, epoch: int) -> tuple[np.ndarray, ...]:
        """The learning rate at every update of an epoch, and the momentum if it changes, each `(updates,)`."""
        rates = self._learning_rate.rates(epoch, self.steps)
        self._model.optimizer.learning_rate = rates[-1]
        momenta = self._learning_rate.momenta(epoch, self.steps)
        return (rates,) if momenta is None else (rates, momenta)

    def named(self, logs: Mapping[str, Any], of: keras.Model) -> Logs:
        """Logs as numbers."""
        return {name: float(value) for name, value in logs.items()}

    def end_epoch(self, epoch: int, values: Callable[[Sequence[int]], list[np.ndarray]]) -> None:
        """Record an epoch, and decide whether to continue; the learning rate is added to the logs."""
        weights = values(self._template.weights)
        if not all(map(math.isfinite, self.logs.values())) or not all(map(is_finite, weights)):
            self._has_diverged, self.state = True, None
            return
        self.weights = weights
        for callback in self._callbacks:
            callback.on_epoch_end(epoch, self.logs)
        for name, value in self.logs.items():
            self.history.setdefault(name, []).append(value)
        if self._best.update(self.logs[self._monitor]):
            self.best_epoch, self.best_weights = epoch, self.weights

    def end(self, values: list[np.ndarray]) -> None:
        """Keep the state, then end training as Keras's `fit` does.

        Args:
            values: the values of the template's variables.
        """
        if self._has_diverged:
            return
        stopping = self._early_stopping
        counters = {} if stopping is None else {name: getattr(stopping, name) for name in _EARLY_STOPPING}
        kept = {"best": self.best_weights, "early_stopping": getattr(stopping, "best_weights", None)}
        self.state = MemberState(
            self.epochs,
            [value.copy() for value in values],
            {name: weights for name, weights in kept.items() if weights is not None},
            {
                "history": {name: list(values) for name, values in self.history.items()},
                "best": [self._best.value, self.best_epoch],
                "learning_rate": self._learning_rate.get_state(),
                "early_stopping": counters,
            },
        )
        pairs = zip(self.weights, self._template.averages, strict=True)
        self.weights = [weight if average is None else self.state.variables[average] for weight, average in pairs]
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
