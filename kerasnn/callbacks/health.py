"""Warnings for layers that do not learn: dead, saturated or identical units, vanishing or exploding signals."""

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import keras

from kerasnn.callbacks.layer_probe import Probe, updates_of
from kerasnn.callbacks.measurement import ActivationHealth, Measurement
from kerasnn.callbacks.traced_step import BOUNDS

log = logging.getLogger("kerasnn")

SICK = 0.5
"""Fraction of dead units, or of saturated outputs, at which a layer raises an alarm."""
EXPLODING, EXPLODING_AT_FIRST = 20.0, 3.0
"""Ratio of the outputs' standard deviation to the inputs' above which a layer raises an alarm, and the same before
training. Glorot's, He's and LeCun's initial weights keep it below 1.5, trained weights reach 4."""
VANISHING = 1e-3
"""Ratio to the largest gradient of a hidden layer below which a gradient raises an alarm."""
LARGE_UPDATE = 0.1
"""‖Δw‖ / ‖w‖ of one update at which a layer raises an alarm; 0.001 is common."""
UNSUITED = 100.0
"""Factor by which a signal or a gradient may change through the hidden layers before training."""


@dataclass(frozen=True)
class Alarm:
    """A fault of a layer.

    Args:
        kind: "identical", "dead", "saturated", "exploding", "vanishing", "update" or "initialization".
        layer: the layer's name.
        epoch: the epoch after which the alarm was raised, counted from 1; 0 before training.
        since: the first of the consecutive epochs with this fault.
        message: one line with a remedy.
    """

    kind: str
    layer: str
    epoch: int
    since: int
    message: str


class Health(keras.callbacks.Callback):
    """Warn of layers that do not learn, once each, with the layer's name and a remedy.

    After each epoch one training step on the probe is measured and undone, bit for bit. A layer raises an alarm if in
    two consecutive measurements

    - at least half of its units are dead, that is, 0 for every example,
    - at least half of its outputs are saturated, that is, near a bound of the activation,
    - the standard deviation of its outputs is more than 20 times that of its inputs (3 times before training),
    - the gradient with respect to its outputs is less than a thousandth of another hidden layer's, although no layer is
      dead or saturated,
    - an update changes its weights by a tenth or more;

    and at once if all of its units have the same weights, because training cannot make them differ. Output layers are
    excluded: they may saturate. The initial weights are checked in the same way, and also whether the signal's standard
    deviation or the gradient's norm changes by a factor of more than 100 through the hidden layers, because initializer
    and activation do not suit each other.

    Recurrent layers, attention and normalization are checked for dead, saturated and identical units, recurrent layers
    and attention also for large updates; signals and gradients are compared among the other layers. Layers whose
    outputs cannot be read, such as those that a layer of your own calls in a loop, are named in the log.

    Args:
        probe: a fixed batch `(x,)`, `(x, y)` or `(x, y, sample_weight)` as for `fit`, or a `Probe` that callbacks
            share. 256 examples are enough.
        every: epochs between measurements.

    Attributes:
        alarms: the alarms raised.

    Raises:
        ValueError: for an interval below 1.

    Reference: Glorot and Bengio, AISTATS 2010; He et al., ICCV 2015; Karpathy, "A Recipe for Training Neural Networks".

    >>> import numpy as np
    >>> x, y = np.random.default_rng(0).normal(size=(64, 3)), np.ones(64)
    >>> hidden = keras.layers.Dense(4, "relu", kernel_initializer="zeros", name="hidden")
    >>> model = keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> health = Health((x, y))
    >>> history = model.fit(x, y, verbose=0, callbacks=[health])
    >>> health.alarms[0].message
    'layer hidden: all units have the same weights before training; use a random kernel_initializer'
    """

    def __init__(self, probe: Probe | tuple[Any, ...], every: int = 1) -> None:
        super().__init__()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a number of epochs, at least 1; received {every!r}")
        self.probe = probe if isinstance(probe, Probe) else Probe(probe)
        self.every = every
        self.alarms: list[Alarm] = []
        self._measured = False
        # The first epoch of each present fault.
        self._since: dict[tuple[str, str], int] = {}

    def __repr__(self) -> str:
        return f"Health(every={self.every}, alarms={len(self.alarms)})"

    def get_state(self) -> dict[str, Any]:
        """The alarms, and the first epoch of each present fault, as JSON values."""
        since = [[kind, layer, epoch] for (kind, layer), epoch in self._since.items()]
        return {"alarms": [asdict(alarm) for alarm in self.alarms], "since": since}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from the result of `get_state`."""
        self.alarms = [Alarm(**alarm) for alarm in state["alarms"]]
        self._since = {(kind, layer): epoch for kind, layer, epoch in state["since"]}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        # A layer that is not built has no weights; a model that has been trained has no initial weights.
        if not all(layer.built for layer in self.model._flatten_layers(include_self=False)) or updates_of(self.model):
            return
        measured = self._measure()
        findings = [*_findings(measured, before=True)]
        findings += _unsuited(measured) if not findings else []
        for finding in findings:
            self._raise_alarm(finding, epoch=0, since=0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        findings = {(finding.kind, finding.layer): finding for finding in _findings(self._measure())}
        before = self._since
        self._since = {key: before.get(key, epoch + 1) for key in findings}
        for key, finding in findings.items():
            if key in before or finding.kind == "identical":
                self._raise_alarm(finding, epoch + 1, self._since[key])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.probe.forget()

    def _measure(self) -> Measurement:
        measured = self.probe.measure(self.model)
        if not self._measured and (unseen := [name for name in measured.weights if name not in measured.activations]):
            log.warning("Health does not see the outputs of these layers: %s", ", ".join(unseen))
        self._measured = True
        return measured

    def _raise_alarm(self, finding: "_Finding", epoch: int, since: int) -> None:
        if any((alarm.kind, alarm.layer) == (finding.kind, finding.layer) for alarm in self.alarms):
            return
        when = f"since epoch {since}" if epoch else "before training"
        message = f"{finding.what} {when}; {finding.remedy}"
        self.alarms.append(Alarm(finding.kind, finding.layer, epoch, since, message))
        log.warning(message)


class _Finding(NamedTuple):
    kind: str
    layer: str
    what: str
    remedy: str


def _findings(measured: Measurement, before: bool = False) -> Iterator[_Finding]:
    """The faults in one measurement: causes without their consequences."""
    hidden = {name: health for name, health in measured.activations.items() if not health.is_output}
    if identical := [name for name, weights in measured.weights.items() if weights.identical]:
        # The outputs of such layers carry no further information.
        for name in identical:
            what = f"layer {name}: all units have the same weights"
            yield _Finding("identical", name, what, "use a random kernel_initializer")
        return
    faults: list[_Finding] = []
    for name, health in hidden.items():
        faults += _output_faults(name, health, before)
        if health.dead == 1:
            break  # The later layers do not see the data.
    yield from faults
    if faults or before:
        return
    # Without layers such as batch norm, whose gradients are scaled differently.
    gradients = {name: each.gradient for name, each in _compared(hidden).items() if each.gradient >= 0}
    largest = max(gradients.values(), default=0.0)
    if largest > 0 and (share := min(gradients.values()) / largest) < VANISHING:
        least = min(gradients, key=gradients.__getitem__)
        what = f"layer {least}: gradient {share:.0e} of the largest among hidden layers"
        yield _Finding("vanishing", least, what, _deep_remedy(hidden[least]))
    for name, health in hidden.items():
        # Frozen layers have no updates; those of a batch norm, whose shift begins at 0, are large.
        if not health.initializer or name not in measured.weights:
            continue
        if (ratio := measured.weights[name].update_ratio) >= LARGE_UPDATE:
            what = f"layer {name}: one update changes the weights by {ratio:.0%}"
            yield _Finding("update", name, what, "lower the learning rate")


def _output_faults(name: str, health: ActivationHealth, before: bool) -> Iterator[_Finding]:
    """The faults of one layer's outputs."""
    suited = _suited(health.activation)[0]
    if health.dead >= SICK:
        remedy = (
            f"scale the inputs, use {suited} and biases of 0" if before else "lower the learning rate or use leaky_relu"
        )
        yield _Finding("dead", name, f"layer {name}: {health.dead:.0%} of units dead", remedy)
    if health.saturated >= SICK:
        remedy = f"{'scale the inputs' if before else 'lower the learning rate'}, use {suited} or batch_norm"
        yield _Finding("saturated", name, f"layer {name}: {health.saturated:.0%} of outputs saturated", remedy)
    gain = health.signal / health.input_signal if health.input_signal > 0 else 0.0
    # Layers without a kernel, such as batch norm, are meant to change the scale.
    if health.initializer and health.feedforward and gain > (EXPLODING_AT_FIRST if before else EXPLODING):
        what = f"layer {name}: outputs' standard deviation {gain:.0f} times that of the inputs"
        remedy = f"use {suited} or batch_norm"
        yield _Finding("exploding", name, what, remedy if before else f"{remedy}, or lower the learning rate")


def _unsuited(measured: Measurement) -> Iterator[_Finding]:
    """Whether signals or gradients change too much through the hidden layers."""
    hidden = {name: each for name, each in _compared(measured.activations).items() if not each.is_output}
    if len(hidden) < 2:
        return
    (first, start), *_, (last, end) = hidden.items()
    forward, backward = _quotient(end.signal, start.signal), _quotient(start.gradient, end.gradient)
    if max(forward, 1 / forward, backward, 1 / backward) > UNSUITED:
        what = (
            f"layers {first} to {last}: {start.initializer} does not suit {start.activation}: the signal's standard "
            f"deviation changes {forward:.0e}-fold forward, the gradient's norm {backward:.0e}-fold backward,"
        )
        yield _Finding("initialization", first, what, _deep_remedy(start))


def _compared(layers: dict[str, ActivationHealth]) -> dict[str, ActivationHealth]:
    """The layers whose signals and gradients are comparable."""
    return {name: each for name, each in layers.items() if each.initializer and each.feedforward}


def _quotient(part: float, whole: float) -> float:
    """The quotient, limited to finite values above 0; 1 if it is not defined."""
    quotient = part / whole if whole else math.nan
    return 1.0 if math.isnan(quotient) else min(max(quotient, 1e-30), 1e30)


def _suited(activation: str) -> tuple[str, ...]:
    """Initializers that preserve the signal's variance with an activation."""
    if activation == "selu":
        return ("lecun_normal", "lecun_uniform")
    if activation in (*BOUNDS, "linear"):
        return ("glorot_normal", "glorot_uniform")
    return ("he_normal", "he_uniform")


def _deep_remedy(health: ActivationHealth) -> str:
    suited = _suited(health.activation)
    # The derivative of a sigmoid is at most a quarter, with any weights.
    if "sigmoid" in health.activation or health.initializer in suited:
        return "use relu with he_normal, batch_norm or fewer layers"
    return f"use {suited[0]}, batch_norm or training.lsuv"
