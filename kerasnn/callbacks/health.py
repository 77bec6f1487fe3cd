"""Whether every layer learns: dead, saturated and identical units, signals and gradients that vanish or explode."""

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import keras

from kerasnn.callbacks.layer_probe import BOUNDS, ActivationHealth, Measurement, Probe

log = logging.getLogger("kerasnn")

SICK = 0.5
"""Share of a layer's units that are dead, or of its outputs that are saturated, from which on it is told of."""
EXPLODING, EXPLODING_AT_FIRST = 20.0, 3.0
"""How many times the standard deviation of its inputs a layer's outputs must have to be told of, and to be so before
training: Glorot's, He's and LeCun's initial weights keep it below 1.5, trained ones reach 4."""
VANISHING = 1e-3
"""Share of the largest gradient below which a hidden layer's is told of."""
LARGE_UPDATE = 0.1
"""‖Δw‖ / ‖w‖ of one update from which on it is told of; 0.001 is common."""
UNSUITED = 100.0
"""Times that a signal or a gradient may grow or shrink through the hidden layers before training."""


@dataclass(frozen=True)
class Alarm:
    """What is wrong with a layer.

    Args:
        kind: "identical", "dead", "saturated", "exploding", "vanishing", "update" or "initialization".
        layer: the layer's name.
        epoch: the epoch that ended when it was told, from 1 on; 0 before training.
        since: the first epoch of an unbroken row in which it was seen.
        message: one line, with a remedy.
    """

    kind: str
    layer: str
    epoch: int
    since: int
    message: str


class Health(keras.callbacks.Callback):
    """Tell of layers that do not learn, by name and with a remedy, once each.

    After each epoch one training step on the probe is measured and undone, to the last bit. A layer is told of where in
    two measurements in a row

    - at least half of its units are dead, which is to say 0 for every example,
    - at least half of its outputs are saturated, at a bound of the activation,
    - the standard deviation of its outputs is more than 20 times that of its inputs (3 times before training),
    - the gradient with respect to its outputs is less than a thousandth of another hidden layer's, while all units
      live,
    - an update changes its weights by a tenth or more;

    and at once where all of its units have the same weights, which no training tells apart. The model's outputs are
    left out: they may saturate. Before training, the initial weights are looked at in the same way, and it is told
    whether the signal's standard deviation or the gradient's norm changes by a factor of more than 100 through the
    hidden layers, because initializer and activation do not suit each other.

    Works with any compiled Keras model's `fit`.

    Args:
        probe: a fixed batch `(x, y)` or `(x, y, sample_weight)` as `fit` would see it, or the `Probe` that other
            callbacks measure with. 256 examples do.
        every: epochs between measurements.

    Attributes:
        alarms: what has been told.

    Raises:
        ValueError: for an interval below 1.

    Reference: Glorot and Bengio, AISTATS 2010; He et al., ICCV 2015; Karpathy, "A Recipe for Training Neural Networks".
    """

    def __init__(self, probe: Probe | tuple[Any, ...], every: int = 1) -> None:
        super().__init__()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a number of epochs, at least 1; received {every!r}")
        self.probe = probe if isinstance(probe, Probe) else Probe(probe)
        self.every = every
        self.alarms: list[Alarm] = []
        # Where something is wrong at the moment: the first epoch of that.
        self._since: dict[tuple[str, str], int] = {}

    def get_state(self) -> dict[str, Any]:
        """The alarms told, and since when something has been wrong; fit for JSON."""
        since = [[kind, layer, epoch] for (kind, layer), epoch in self._since.items()]
        return {"alarms": [asdict(alarm) for alarm in self.alarms], "since": since}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` gave."""
        self.alarms = [Alarm(**alarm) for alarm in state["alarms"]]
        self._since = {(kind, layer): epoch for kind, layer, epoch in state["since"]}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Look at the initial weights, unless training has begun before or there are none yet."""
        if not self.model.built or int(self.model.optimizer.iterations.numpy()) > 0:
            return
        measured = self.probe.measure(self.model)
        findings = [*_findings(measured, before=True)]
        findings += _unsuited(measured) if not findings else []
        for finding in findings:
            self._tell(finding, epoch=0, since=0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, and tell what is new."""
        if (epoch + 1) % self.every:
            return
        findings = {(finding.kind, finding.layer): finding for finding in _findings(self.probe.measure(self.model))}
        before = self._since
        self._since = {key: before.get(key, epoch + 1) for key in findings}
        for key, finding in findings.items():
            if key in before or finding.kind == "identical":
                self._tell(finding, epoch + 1, self._since[key])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Let go of the model."""
        self.probe.forget()

    def _tell(self, finding: "_Finding", epoch: int, since: int) -> None:
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
    """What is wrong by one measurement; of causes and their consequences, the causes."""
    hidden = {name: health for name, health in measured.activations.items() if not health.is_output}
    if identical := [name for name, weights in measured.weights.items() if weights.alike]:
        # What comes out of such layers says nothing more.
        for name in identical:
            what = f"layer {name}: all units have the same weights"
            yield _Finding("identical", name, what, "use a random kernel_initializer")
        return
    local: list[_Finding] = []
    for name, health in hidden.items():
        local += _of_layer(name, health, before)
        if health.dead == 1:
            break  # No later layer sees the data.
    yield from local
    if local or before:
        return
    # Only layers of one kind: what comes before a batch norm is scaled as it likes.
    gradients = {name: each.gradient for name, each in hidden.items() if each.initializer and each.gradient >= 0}
    largest = max(gradients.values(), default=0.0)
    if largest > 0 and (share := min(gradients.values()) / largest) < VANISHING:
        least = min(gradients, key=gradients.__getitem__)
        what = f"layer {least}: gradient {share:.0e} of the largest among hidden layers"
        yield _Finding("vanishing", least, what, _deep_remedy(hidden[least]))
    for name in gradients:
        # Frozen layers have no updates.
        if name in measured.weights and (ratio := measured.weights[name].update_ratio) >= LARGE_UPDATE:
            what = f"layer {name}: one update changes the weights by {ratio:.0%}"
            yield _Finding("update", name, what, "lower the learning rate")


def _of_layer(name: str, health: ActivationHealth, before: bool) -> Iterator[_Finding]:
    """What is wrong with one layer's outputs."""
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
    # Without weights, as in a batch norm, it is the layer's purpose to change it.
    if health.initializer is not None and gain > (EXPLODING_AT_FIRST if before else EXPLODING):
        what = f"layer {name}: outputs' standard deviation {gain:.0f} times that of the inputs"
        remedy = f"use {suited} or batch_norm"
        yield _Finding("exploding", name, what, remedy if before else f"{remedy}, or lower the learning rate")


def _unsuited(measured: Measurement) -> Iterator[_Finding]:
    """Whether signals or gradients change too much on their way through the hidden layers."""
    hidden = {name: each for name, each in measured.activations.items() if each.initializer and not each.is_output}
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


def _quotient(part: float, whole: float) -> float:
    """Finite and above 0; 1 where there is nothing to compare."""
    quotient = part / whole if whole else math.nan
    return 1.0 if math.isnan(quotient) else min(max(quotient, 1e-30), 1e30)


def _suited(activation: str) -> tuple[str, ...]:
    """Initializers that keep the signal's variance through layers of an activation."""
    if activation == "selu":
        return ("lecun_normal", "lecun_uniform")
    if activation in (*BOUNDS, "linear"):
        return ("glorot_normal", "glorot_uniform")
    return ("he_normal", "he_uniform")


def _deep_remedy(health: ActivationHealth) -> str:
    suited = _suited(health.activation)
    # Sigmoids pass on at most a quarter of a gradient, whatever the weights are.
    if "sigmoid" in health.activation or health.initializer in suited:
        return "use relu with he_normal, batch_norm or fewer layers"
    return f"use {suited[0]}, batch_norm or training.lsuv"
