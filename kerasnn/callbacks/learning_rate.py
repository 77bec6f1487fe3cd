"""The callback that sets the learning rate: schedule, warm-up and plateau."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerasnn.attributes import temporary_attributes
from kerasnn.callbacks.monitored_value import MonitoredValue
from kerasnn.components.values import value_of
from kerasnn.components.variables import NumberVariable
from kerasnn.config.curve import Curve, values_by_update
from kerasnn.config.monitor import Plateau
from kerasnn.config.schedules import get
from kerasnn.config.schema import short


class LearningRate(keras.callbacks.Callback):
    """Set the learning rate of every epoch or update.

    Formula: rate = learning_rate · schedule(epoch) · plateau factor

    It works with `fit` of any compiled Keras model, from any `initial_epoch`. Use one callback per run: its base rate
    and its plateau's counters last from one `fit` to the next. The rate at the end of the epoch is
    `logs["learning_rate"]`. With `steps_per_execution=k` Keras changes the rate at every k-th update only.

    A loop that runs many updates as one program sets `in_graph = True` before `fit`, which disables the batch hooks. It
    reads `rates` and `momenta` and assigns them to `optimizer.learning_rate` and `momentum_variable`. That variable
    exists from `on_train_begin` to `on_train_end`, so the loop must be traced again in each `fit`.

    Args:
        schedule: a schedule of `kerasnn.schedules`, its name or description, or a function of the fractional epoch that
            returns a factor (called once per epoch).
        learning_rate: the base rate, above 0. None reads it from the optimizer once, when the first `fit` begins. Give
            it when resuming, because a saved optimizer holds a rate that has already decayed.
        plateau: when to lower the rate because a metric stopped improving.

    Raises:
        ValueError: when `fit` begins, for a model with several optimizers, for an optimizer with a schedule or several
            rates, for a rate per update if the number of updates is unknown, for a momentum cycle if the optimizer has
            no momentum, and if the better direction of the plateau's metric is unknown; when an epoch ends, if that
            metric is not in the logs.

    Reference: Keras's `LearningRateScheduler` and `ReduceLROnPlateau`.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.5), "mse")
    >>> rate = LearningRate({"name": "step", "step_size": 1, "gamma": 0.5})
    >>> model.fit(np.ones((8, 2)), np.ones(8), epochs=3, verbose=0, callbacks=[rate]).history["learning_rate"]
    [0.5, 0.25, 0.125]
    """

    def __init__(
        self,
        schedule: str | dict[str, Any] | Callable[[float], float] = "constant",
        learning_rate: float | None = None,
        plateau: Plateau | None = None,
    ) -> None:
        super().__init__()
        if learning_rate is not None and not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be a finite number above 0, received {learning_rate!r}")
        self.schedule = get(schedule)
        self.learning_rate = learning_rate
        self.plateau = plateau
        self.plateau_factor = 1.0
        self.monitored = None if plateau is None else MonitoredValue(plateau.monitor, plateau.mode, plateau.min_delta)
        self.wait = 0
        self.cooldown = 0
        self.in_graph = False
        self.momentum_variable: keras.Variable | None = None
        self.per: str = getattr(self.schedule, "per", "epoch")
        self._curve = self.schedule
        self._rates = np.empty(0, np.float32)
        self._momenta: np.ndarray | None = None

    def __repr__(self) -> str:
        plateau = "" if self.plateau is None else f", plateau={self.plateau!r}"
        return f"LearningRate({self.schedule!r}, learning_rate={self.learning_rate}{plateau})"

    def rates(self, epoch: int, updates: int) -> np.ndarray:
        """The learning rate of every update of an epoch.

        Args:
            epoch: the epoch, counted from 0.
            updates: number of updates in the epoch.

        Returns:
            float32, shape `(updates,)`.

        Raises:
            ValueError: if the schedule returns a negative, infinite or NaN factor, and if the base rate is not known
                before `fit` begins.
        """
        if self.learning_rate is None:
            raise ValueError("rates need a base: give learning_rate, or begin to fit")
        factors = values_by_update(self._curve, epoch, updates, self.per)
        if not (np.isfinite(factors) & (factors >= 0)).all():
            raise ValueError(f"schedule must give finite factors ≥ 0, received {short(factors)} in epoch {epoch}")
        return (self.learning_rate * self.plateau_factor * factors).astype(np.float32)

    def momenta(self, epoch: int, updates: int) -> np.ndarray | None:
        """The momentum of every update of an epoch, float32, shape `(updates,)`; None if it does not change."""
        if not self.cycles_momentum:
            return None
        momentum = self._curve.momentum  # type: ignore[attr-defined]
        return values_by_update(momentum, epoch, updates, self.per).astype(np.float32)

    @property
    def cycles_momentum(self) -> bool:
        """Whether the schedule changes the momentum, too."""
        return isinstance(self.schedule, Curve) and self.schedule.cycles_momentum

    def get_state(self) -> dict[str, Any]:
        """The base rate and the plateau's counters, as JSON values."""
        counters = {key: getattr(self, key) for key in ("learning_rate", "plateau_factor", "wait", "cooldown")}
        return {**counters, "best": self.monitored and self.monitored.best.value}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from the result of `get_state`; call it before `fit`."""
        self.learning_rate, self.plateau_factor = state["learning_rate"], state["plateau_factor"]
        self.wait, self.cooldown = state["wait"], state["cooldown"]
        if self.monitored is not None:
            self.monitored.best.value = state["best"]

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        rate = getattr(self.model.optimizer, "learning_rate", None)
        if not isinstance(rate, keras.Variable):
            received = "a schedule" if rate is not None else f"several in {type(self.model.optimizer).__name__}"
            raise ValueError(
                f"the optimizer's learning_rate must be a number where LearningRate sets it, received {received}"
            )
        optimizers = {name: each for name, each in vars(self.model).items() if isinstance(each, keras.Optimizer)}
        if others := [name for name, each in optimizers.items() if each is not self.model.optimizer]:
            raise ValueError(
                "LearningRate needs a model with one optimizer, model.optimizer, received one that also has "
                f"{', '.join(others)}"
            )
        if self.monitored is not None:
            self.monitored.begin(self.model)
        if self.learning_rate is None:
            self.learning_rate = float(rate.numpy())
        if isinstance(self.schedule, Curve):
            self._curve = self.schedule.over(self.params["epochs"])
        if self.per == "update" and not self.in_graph and not self.params["steps"]:
            raise ValueError('a rate per update needs the number of updates: give fit steps_per_epoch, or per="epoch"')
        if self.cycles_momentum:
            self._drive_momentum()

    def _drive_momentum(self) -> None:
        """Make the optimizer read its momentum from a variable while it applies gradients, and only then.

        Keras keeps the momentum as a Python number, which a graph bakes in as a constant. Outside of `apply` it stays
        that number, so that the optimizer can be saved at any time.
        """
        optimizer = self._inner_optimizer
        name = next((name for name in ("momentum", "beta_1") if hasattr(optimizer, name)), None)
        if name is None or not getattr(optimizer, name):
            rule = "has none" if name is None else f"was built with {name}=0"
            raise ValueError(
                f"a momentum cycle needs an optimizer with momentum, but {type(optimizer).__name__} {rule}: "
                "give it one, or set the schedule's cycle_momentum to false"
            )
        with self.model.distribute_strategy.scope():
            variable = NumberVariable(getattr(optimizer, name), dtype="float32", trainable=False, name="momentum")

        def apply(grads: Any, trainable_variables: Any = None) -> None:
            with temporary_attributes(optimizer, **{name: variable}):
                type(optimizer).apply(optimizer, grads, trainable_variables)

        # Past __setattr__, which would track the function as part of the optimizer's saved state.
        vars(optimizer)["apply"] = apply
        self.momentum_variable = variable
        if not self.in_graph:
            self.model.make_train_function(force=True)

    @property
    def _inner_optimizer(self) -> Any:
        return getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.momentum_variable is not None:
            del vars(self._inner_optimizer)["apply"]
            self.momentum_variable = None
            # Its graph reads the deleted variable.
            self.model.train_function = None
        if self.monitored is not None:
            self.monitored.end()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        per_batch = self.per == "update" and not self.in_graph
        updates = self.params["steps"] if per_batch else 1
        self._rates, self._momenta = self.rates(epoch, updates), self.momenta(epoch, updates)
        self._set(0)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.per == "update" and not self.in_graph:
            self._set(batch)

    def _set(self, update: int) -> None:
        rate, present = self._rates[update], value_of(self.model.optimizer.learning_rate)
        if present != present.dtype.type(rate):
            self.model.optimizer.learning_rate = rate
        if self.momentum_variable is not None and self._momenta is not None:
            self.momentum_variable.assign(self._momenta[update])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        if self.plateau is not None and self.monitored is not None:
            value = self.monitored.value(logs, epoch)
            if value is not None:
                self._update_plateau(self.plateau, self.monitored.best.update(value))
        logs["learning_rate"] = float(value_of(self.model.optimizer.learning_rate))

    def _update_plateau(self, plateau: Plateau, is_best: bool) -> None:
        if self.cooldown > 0:
            self.cooldown -= 1
            self.wait = 0
        if is_best:
            self.wait = 0
        elif self.cooldown == 0:
            self.wait += 1
            if self.wait >= plateau.patience and self.plateau_factor > plateau.min_factor:
                self.plateau_factor = max(self.plateau_factor * plateau.factor, plateau.min_factor)
                self.cooldown = plateau.cooldown
                self.wait = 0
