"""The learning rate's only owner."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerasnn.config.curve import Curve
from kerasnn.config.monitor import Plateau
from kerasnn.config.schedules import get
from kerasnn.config.schema import one_of, short
from kerasnn.config.simulation import course


class _Momentum(keras.Variable):
    """A momentum that compiled graphs read anew; asked in Python whether it is on (`!= 0`, `> 0`), it says yes."""

    def __ne__(self, other: object) -> bool:
        return True

    def __gt__(self, other: object) -> bool:
        return True


class LearningRate(keras.callbacks.Callback):
    """Set the learning rate of every epoch or update.

    Formula: rate = learning_rate · schedule(epoch) · plateau factor

    Works with any compiled Keras model's `fit`, from any `initial_epoch`. One callback belongs to one run: its base
    rate and its plateau's counters last from `fit` to `fit`. The rate that the epoch ended with is
    `logs["learning_rate"]`. With `steps_per_execution=k` Keras lets the rate change only at every k-th update.

    A loop that runs many updates as one program sets `in_graph = True` before `fit`, which stills the batch hooks. It
    takes its numbers from `rates` and `momenta` and assigns them to `optimizer.learning_rate` and `momentum_variable`.
    That variable lives from `on_train_begin` to `on_train_end`, so the loop must be traced anew in each `fit`.

    Args:
        schedule: a schedule of `kerasnn.schedules`, its name or description, or any function of a fractional epoch that
            gives a factor (called once an epoch).
        learning_rate: the base rate, above 0. None reads it from the optimizer when the first `fit` begins, and never
            again; give it when resuming, for a saved optimizer holds a rate that has already decayed.
        plateau: when to lower the rate because a metric stopped improving.

    Raises:
        ValueError: when `fit` begins, for an optimizer that has a schedule of its own, for a rate per update where the
            number of updates is unknown, and for a momentum cycle where the optimizer has no momentum; when an epoch
            ends, where the plateau's metric is not in the logs.

    Reference: Keras's `LearningRateScheduler` and `ReduceLROnPlateau`.
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
        self.best: float | None = None
        self.wait = 0
        self.cooldown = 0
        self.in_graph = False
        self.momentum_variable: keras.Variable | None = None
        self.per: str = getattr(self.schedule, "per", "epoch")
        self._curve = self.schedule
        self._rates = np.empty(0, np.float32)
        self._momenta: np.ndarray | None = None

    def rates(self, epoch: int, updates: int) -> np.ndarray:
        """The learning rate of every update of an epoch, known once `fit` has begun.

        Args:
            epoch: the epoch, from 0 on.
            updates: number of updates in it.

        Returns:
            float32, shape `(updates,)`.

        Raises:
            ValueError: where the schedule gives a negative or no finite factor, and where the base is not known yet.
        """
        if self.learning_rate is None:
            raise ValueError("rates need a base: give learning_rate, or begin to fit")
        factors = course(self._curve, epoch, updates, self.per)
        if not (np.isfinite(factors) & (factors >= 0)).all():
            raise ValueError(f"schedule must give finite factors ≥ 0, received {short(factors)} in epoch {epoch}")
        return (self.learning_rate * self.plateau_factor * factors).astype(np.float32)

    def momenta(self, epoch: int, updates: int) -> np.ndarray | None:
        """The momentum of every update of an epoch, float32 of shape `(updates,)`, or None where it does not change."""
        if not self._cycles_momentum:
            return None
        return course(self._curve.momentum, epoch, updates, self.per).astype(np.float32)  # type: ignore[attr-defined]

    @property
    def _cycles_momentum(self) -> bool:
        return isinstance(self._curve, Curve) and self._curve.momentum(0.0) is not None

    def get_state(self) -> dict[str, Any]:
        """The base rate and the plateau's counters, fit for JSON."""
        return {key: getattr(self, key) for key in ("learning_rate", "plateau_factor", "best", "wait", "cooldown")}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` gave; call it before `fit`."""
        for key in self.get_state():
            setattr(self, key, state[key])

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        rate = self.model.optimizer.learning_rate
        if not isinstance(rate, keras.Variable):
            raise ValueError(
                "the optimizer's learning_rate must be a number where LearningRate sets it, received a schedule"
            )
        if self.learning_rate is None:
            self.learning_rate = float(rate.numpy())
        if isinstance(self.schedule, Curve):
            self._curve = self.schedule.over(self.params["epochs"])
        if self.per == "update" and not self.in_graph and not self.params["steps"]:
            raise ValueError('a rate per update needs the number of updates: give fit steps_per_epoch, or per="epoch"')
        if self._cycles_momentum:
            self._drive_momentum()

    def _drive_momentum(self) -> None:
        """Have the optimizer read its momentum from a variable while it applies gradients, and only then.

        Keras keeps the momentum as a Python number, which a graph bakes in. Everywhere else it stays that number, so
        that the optimizer can be saved at any time.
        """
        optimizer = self._inner_optimizer
        name = next((name for name in ("momentum", "beta_1") if hasattr(optimizer, name)), None)
        if name is None or not getattr(optimizer, name):
            rule = "has none" if name is None else f"was built with {name}=0"
            raise ValueError(
                f"a momentum cycle needs an optimizer with momentum, but {type(optimizer).__name__} {rule}: "
                "give it one, or set the schedule's cycle_momentum to false"
            )
        number = getattr(optimizer, name)
        with self.model.distribute_strategy.scope():
            variable = _Momentum(number, dtype="float32", trainable=False, name="momentum")

        def apply(grads: Any, trainable_variables: Any = None) -> None:
            attributes[name] = variable
            try:
                type(optimizer).apply(optimizer, grads, trainable_variables)
            finally:
                attributes[name] = number

        # Past __setattr__, which would track the variable as part of the optimizer's saved state.
        attributes = vars(optimizer)
        attributes["apply"] = apply
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
            # The graph reads a variable that is gone.
            self.model.train_function = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        per_batch = self.per == "update" and not self.in_graph
        updates = self.params["steps"] if per_batch else 1
        self._rates, self._momenta = self.rates(epoch, updates), self.momenta(epoch, updates)
        self._set(0)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.per == "update" and not self.in_graph:
            self._set(batch)

    def _set(self, update: int) -> None:
        self.model.optimizer.learning_rate = self._rates[update]
        if self.momentum_variable is not None and self._momenta is not None:
            self.momentum_variable.assign(self._momenta[update])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        if self.plateau is not None:
            if self.plateau.monitor not in logs:
                raise ValueError(one_of("plateau's monitor", self.plateau.monitor, logs))
            self._watch(self.plateau, float(logs[self.plateau.monitor]))
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def _watch(self, plateau: Plateau, value: float) -> None:
        if self.cooldown > 0:
            self.cooldown -= 1
            self.wait = 0
        gain = math.inf if self.best is None else self.best - value
        if plateau.direction == "max" and self.best is not None:
            gain = -gain
        # A value that is no number, or infinite, is never the best.
        if math.isfinite(value) and gain > plateau.min_delta:
            self.best = value
            self.wait = 0
        elif self.cooldown == 0:
            self.wait += 1
            if self.wait >= plateau.patience and self.plateau_factor > plateau.min_factor:
                self.plateau_factor = max(self.plateau_factor * plateau.factor, plateau.min_factor)
                self.cooldown = plateau.cooldown
                self.wait = 0
