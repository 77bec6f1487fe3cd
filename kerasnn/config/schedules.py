"""Learning-rate schedules: pure functions of the fractional epoch whose value is a factor on the base learning rate.

A schedule can be printed, compared, written to JSON and plotted before training. Because epochs may be fractional, the
same curve serves a rate that changes once an epoch and one that changes with every update.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from kerasnn.config.curve import TOLERANCE, Curve, Per, Shape, SpanningCurve, interpolate
from kerasnn.config.schema import Schema, named, short


class Constant(Curve):
    """A constant rate (after the warm-up, if there is one).

    Formula: 1

    >>> simulate(Constant(warmup=4, warmup_start=0.2), epochs=6).round(3).tolist()
    [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    """

    name: Literal["constant"] = "constant"

    def _factor(self, epoch: float) -> float:
        return 1.0


class Step(Curve):
    """Multiply the rate by gamma every step_size epochs.

    Formula: gamma ** floor(epoch / step_size)

    Reference: PyTorch's `StepLR`.

    >>> simulate(Step(step_size=2, gamma=0.5), epochs=6).tolist()
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    name: Literal["step"] = "step"
    step_size: float = Field(50.0, gt=0)
    """Epochs between two drops, above 0; 50 suits runs of a few hundred epochs."""
    gamma: float = Field(0.5, gt=0)
    """Factor at each drop, above 0; 0.5 halves the rate."""

    def _factor(self, epoch: float) -> float:
        return self.gamma ** math.floor(epoch / self.step_size + TOLERANCE)


class MultiStep(Curve):
    """Multiply the rate by gamma at each milestone.

    Formula: gamma ** (number of milestones ≤ epoch)

    Reference: PyTorch's `MultiStepLR`.

    >>> simulate(MultiStep(milestones=(1, 4), gamma=0.5), epochs=6).tolist()
    [1.0, 0.5, 0.5, 0.5, 0.25, 0.25]
    """

    name: Literal["multi_step"] = "multi_step"
    milestones: tuple[float, ...] = Field((50.0, 125.0, 160.0), min_length=1)
    """Epochs at which the rate drops, above 0 and strictly increasing; the default suits 200 epochs."""
    gamma: float = Field(0.5, gt=0)
    """Factor at each milestone, above 0; 0.5 halves the rate."""

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        if any(later <= earlier for earlier, later in zip((0.0, *self.milestones), self.milestones, strict=False)):
            raise ValueError(f"milestones must be above 0 and strictly increasing, received {short(self.milestones)}")
        return self

    def _factor(self, epoch: float) -> float:
        return self.gamma ** sum(milestone <= epoch + TOLERANCE for milestone in self.milestones)


class Exponential(Curve):
    """Multiply the rate by gamma every epoch.

    Formula: gamma ** epoch

    Reference: PyTorch's `ExponentialLR`. With a gamma above 1 and `per="update"` it is a learning-rate range test.

    >>> simulate(Exponential(gamma=0.5), epochs=4).tolist()
    [1.0, 0.5, 0.25, 0.125]
    """

    name: Literal["exponential"] = "exponential"
    gamma: float = Field(0.95, gt=0)
    """Factor per epoch, above 0; 0.95 leaves a third after 20 epochs."""

    def _factor(self, epoch: float) -> float:
        return self.gamma**epoch


class Polynomial(SpanningCurve):
    """Fall from 1 to end_factor as a power of the remaining time; power 1 is a straight line.

    Formula: end_factor + (1 - end_factor) · (1 - epoch / epochs) ** power

    Reference: PyTorch's `PolynomialLR` (total_iters is epochs).

    >>> simulate(Polynomial(power=2.0), epochs=4).tolist()
    [1.0, 0.5625, 0.25, 0.0625]
    """

    name: Literal["polynomial"] = "polynomial"
    power: float = Field(1.0, gt=0)
    """Exponent of the remaining time, above 0; 1 (default) is linear decay."""
    end_factor: float = Field(0.0, ge=0, le=1)
    """Factor at the end, in [0, 1]; 0 (default) decays all the way."""

    def _factor(self, epoch: float) -> float:
        remaining = max(1 - epoch / self._end, 0.0)
        return self.end_factor + (1 - self.end_factor) * remaining**self.power


class Cosine(SpanningCurve):
    """Fall from 1 to end_factor along half a cosine.

    Formula: end_factor + (1 - end_factor) · (1 + cos(π · epoch / epochs)) / 2

    Reference: Loshchilov and Hutter, SGDR, 2017; PyTorch's `CosineAnnealingLR` (T_max is epochs, eta_min is end_factor
    times the base rate). PyTorch's rises again after T_max, this one stays down.

    >>> simulate(Cosine(), epochs=6).round(3).tolist()
    [1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
    """

    name: Literal["cosine"] = "cosine"
    end_factor: float = Field(0.0, ge=0, le=1)
    """Factor at the end, in [0, 1]; 0 (default) decays all the way."""

    def _factor(self, epoch: float) -> float:
        return interpolate(1.0, self.end_factor, epoch / self._end, "cosine")


class CosineRestarts(Curve):
    """Repeat a fall along half a cosine; each period is longer than the one before by a multiplier.

    Formula: end_factor + (1 - end_factor) · (1 + cos(π · epochs since the restart / length of the period)) / 2

    Reference: Loshchilov and Hutter, SGDR, 2017; PyTorch's `CosineAnnealingWarmRestarts` (T_0 is period, T_mult is
    multiplier).

    >>> simulate(CosineRestarts(period=2, multiplier=2), epochs=7).round(3).tolist()
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """

    name: Literal["cosine_restarts"] = "cosine_restarts"
    period: float = Field(10.0, gt=0)
    """Epochs until the first restart, above 0; 10 is SGDR's shorter setting."""
    multiplier: float = Field(1.0, ge=1)
    """Ratio of each period's length to that of the one before, at least 1; 1 (default): equal periods."""
    end_factor: float = Field(0.0, ge=0, le=1)
    """Factor just before a restart, in [0, 1]; 0 (default) decays all the way."""

    def _factor(self, epoch: float) -> float:
        since, period = epoch, self.period
        while since >= period - TOLERANCE:
            since -= period
            period *= self.multiplier
        return interpolate(1.0, self.end_factor, since / period, "cosine")


class OneCycle(SpanningCurve):
    """Rise to the full rate, then fall far below the start, while the momentum does the opposite.

    The factor rises from 1 / start_division to 1 over the first `peak` of the run, then falls to
    1 / (start_division · end_division). With `three_phase` it falls to 1 / start_division in the time that the rise
    took, and from there to the end.

    Reference: Smith and Topin, Super-Convergence, 2018; PyTorch's `OneCycleLR`. PyTorch ends *on* the last of its
    total_steps steps while this curve spans [0, epochs], so total_steps and pct_start are epochs = total_steps - 1 and
    peak = (pct_start · total_steps - 1) / (total_steps - 1), in epochs or in updates.

    >>> simulate(OneCycle(peak=0.4, start_division=4, end_division=10, anneal="linear"), epochs=5).round(3).tolist()
    [0.25, 0.625, 1.0, 0.675, 0.35]
    """

    name: Literal["one_cycle"] = "one_cycle"
    per: Per = "update"
    """When the rate changes: once an "epoch" or with every "update" (default, as in the paper)."""
    peak: float = Field(0.3, gt=0, lt=1)
    """Fraction of the run in which the rate rises, in (0, 1); 0.3 as in PyTorch."""
    start_division: float = Field(25.0, ge=1)
    """Ratio of the full rate to the rate at the start, at least 1; 25 as in PyTorch."""
    end_division: float = Field(1e4, ge=1)
    """Ratio of the rate at the start to the rate at the end, at least 1; 10,000 as in PyTorch."""
    anneal: Literal["cosine", "linear"] = "cosine"
    """Shape of each phase: "cosine" (default, as in PyTorch) or "linear" (as in the paper)."""
    three_phase: bool = False
    """Whether a fall of the rise's length precedes the final fall, as in the paper; off as in PyTorch."""
    cycle_momentum: bool = True
    """Whether the momentum (SGD's momentum, Adam's beta_1) is cycled too, as in the paper; the optimizer must have
    one."""
    momentum_low: float = Field(0.85, ge=0, lt=1)
    """Momentum at the full rate, in [0, 1); 0.85 as in the paper."""
    momentum_high: float = Field(0.95, ge=0, lt=1)
    """Momentum at the start and at the end, in [0, 1), at least momentum_low; 0.95 as in the paper."""

    @model_validator(mode="after")
    def _phases(self) -> Self:
        if self.three_phase and self.peak >= 0.5:
            raise ValueError(f"peak must be below 0.5 with three_phase, received {self.peak:g}")
        if self.momentum_low > self.momentum_high:
            raise ValueError(
                f"momentum_low must not exceed momentum_high, received {self.momentum_low:g} and {self.momentum_high:g}"
            )
        return self

    def _factor(self, epoch: float) -> float:
        start = 1 / self.start_division
        return self._through(epoch, start, 1.0, start, start / self.end_division)

    def momentum(self, epoch: float) -> float | None:
        """From momentum_high to momentum_low and back; None with cycle_momentum off."""
        if not self.cycle_momentum:
            return None
        return self._through(epoch, self.momentum_high, self.momentum_low, self.momentum_high, self.momentum_high)

    @property
    def cycles_momentum(self) -> bool:
        """Whether the schedule changes the momentum, too."""
        return self.cycle_momentum

    def _through(self, epoch: float, start: float, peak: float, foot: float, end: float) -> float:
        """The value at an epoch, given those at the beginning, the peak, the foot (`three_phase` only) and the end."""
        rise = self.peak * self._end
        if epoch <= rise:
            return interpolate(start, peak, epoch / rise, self.anneal)
        if not self.three_phase:
            return interpolate(peak, end, (epoch - rise) / (self._end - rise), self.anneal)
        if epoch <= 2 * rise:
            return interpolate(peak, foot, epoch / rise - 1, self.anneal)
        return interpolate(foot, end, (epoch - 2 * rise) / (self._end - 2 * rise), self.anneal)


class Cyclic(Curve):
    """Rise from low to 1 and fall back, repeatedly.

    Formula: low + (1 - low) · h, with h the height in the cycle, from 0 at its ends to 1 at its peak. `mode`
    "triangular2" halves the height with each cycle (h · 0.5 ** completed cycles), "exp_range" multiplies it by gamma
    with each epoch (h · gamma ** epoch).

    Reference: Smith, Cyclical Learning Rates, 2017; PyTorch's `CyclicLR` (the base rate is its max_lr, low is
    base_lr / max_lr, up and down are step_size_up and step_size_down; its gamma is per step, this one per epoch).

    >>> simulate(Cyclic(up=2, down=2, low=0.2, per="epoch"), epochs=6).round(3).tolist()
    [0.2, 0.6, 1.0, 0.6, 0.2, 0.6]
    """

    name: Literal["cyclic"] = "cyclic"
    per: Per = "update"
    """When the rate changes: once an "epoch" or with every "update" (default, as in the paper)."""
    up: float = Field(4.0, gt=0)
    """Epochs from the lowest to the highest rate, above 0; the paper advises 2 to 10."""
    down: float | None = Field(None, gt=0)
    """Epochs from the highest to the lowest rate, above 0; empty (default): the value of up."""
    low: float = Field(0.1, ge=0, lt=1)
    """Factor at the bottom, in [0, 1); 0.1 spans the decade below the base rate."""
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    """Height of the cycles: constant, halved with each cycle, or multiplied by gamma with each epoch."""
    gamma: float = Field(0.95, gt=0, le=1)
    """Factor on the height per epoch with mode "exp_range", in (0, 1]."""

    def _factor(self, epoch: float) -> float:
        down = self.up if self.down is None else self.down
        cycles, since = divmod(epoch, self.up + down)
        height = since / self.up if since <= self.up else 1 - (since - self.up) / down
        if self.mode == "triangular2":
            height *= 0.5**cycles
        elif self.mode == "exp_range":
            height *= self.gamma**epoch
        return self.low + (1 - self.low) * height


class InverseSqrt(Curve):
    """Hold the rate, then let it fall with the inverse square root of time.

    Formula: sqrt(timescale / max(epoch, timescale))

    Reference: Vaswani et al., Attention Is All You Need, 2017, which is `timescale` equal to `warmup`.

    >>> simulate(InverseSqrt(timescale=1, per="epoch"), epochs=5).round(3).tolist()
    [1.0, 1.0, 0.707, 0.577, 0.5]
    """

    name: Literal["inverse_sqrt"] = "inverse_sqrt"
    per: Per = "update"
    """When the rate changes: once an "epoch" or with every "update" (default, as in the paper)."""
    timescale: float = Field(1.0, gt=0)
    """Epochs after which the fall begins, above 0; usually the length of the warm-up."""

    def _factor(self, epoch: float) -> float:
        return math.sqrt(self.timescale / max(epoch, self.timescale))


class WarmupStableDecay(SpanningCurve):
    """Warm up, hold the full rate, and decay at the end of the run.

    Formula: end_factor + (1 - end_factor) · r, where r is 1 - s ("linear"), (1 + cos(π s)) / 2 ("cosine") or
    1 - sqrt(s) ("1-sqrt"), with s the completed fraction of the decay.

    Reference: Hu et al., MiniCPM, 2024; Hägele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations, 2024 (which found "1-sqrt" the best).

    >>> simulate(WarmupStableDecay(warmup=2, decay=0.5, shape="linear", per="epoch"), epochs=8).round(3).tolist()
    [0.1, 0.55, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """

    name: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    per: Per = "update"
    """When the rate changes: once an "epoch" or with every "update" (default, as in the papers)."""
    decay: float = Field(0.2, gt=0, le=1)
    """Fraction of the run in which the rate decays, in (0, 1]; warm-up and decay must fit into the run. 0.2 as in the
    papers."""
    shape: Shape = "1-sqrt"
    """Shape of the decay: "linear", "cosine" or "1-sqrt" (default, the best of the three in Hägele et al.)."""
    end_factor: float = Field(0.0, ge=0, le=1)
    """Factor at the end, in [0, 1]; 0 (default) decays all the way."""

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.epochs is not None and self.warmup / self.epochs + self.decay > 1 + TOLERANCE:
            raise ValueError(
                f"warmup and decay must together fit into the run, received {self.warmup:g} of {self.epochs:g} epochs "
                f"and a fraction of {self.decay:g}"
            )
        return self

    def _factor(self, epoch: float) -> float:
        begin = (1 - self.decay) * self._end
        return interpolate(1.0, self.end_factor, (epoch - begin) / (self._end - begin), self.shape)


Schedule = Annotated[
    Annotated[
        Constant
        | Step
        | MultiStep
        | Exponential
        | Polynomial
        | Cosine
        | CosineRestarts
        | OneCycle
        | Cyclic
        | InverseSqrt
        | WarmupStableDecay,
        Field(discriminator="name"),
    ],
    BeforeValidator(named),
]
"""Any schedule, distinguished by its name; the plain string "cosine" means {"name": "cosine"}."""


class _ScheduleField(Schema):
    schedule: Schedule


def get(schedule: str | dict[str, Any] | Callable[[float], float]) -> Callable[[float], float]:
    """A schedule from its name or description.

    Args:
        schedule: `"cosine"`, `{"name": "step", "step_size": 10}`, or a function of the epoch, which is returned
            unchanged.

    Raises:
        ValueError: for an unknown name or an invalid description.
    """
    return schedule if callable(schedule) else _ScheduleField(schedule=schedule).schedule
