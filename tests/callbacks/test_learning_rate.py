import json
import math

import keras
import numpy as np
import pytest

from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.config.monitor import Plateau
from kerasnn.config.schedules import Constant, Cosine, Exponential, MultiStep, OneCycle, Step
from kerasnn.config.simulation import simulate

UPDATES = 5


class Probe(keras.callbacks.Callback):
    """What the optimizer really did, seen in the one weight after every update."""

    def __init__(self):
        super().__init__()
        self.weights, self.configs = [], []

    def on_train_begin(self, logs=None):
        self.weights.append(float(self.model.get_weights()[0].item()))

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(float(self.model.get_weights()[0].item()))

    def on_epoch_end(self, epoch, logs=None):
        self.configs.append(json.dumps(keras.optimizers.serialize(self.model.optimizer)))

    @property
    def steps(self):
        return -np.diff(self.weights)


def slope(y_true, y_pred):
    return keras.ops.mean(y_pred)


def bowl(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_pred)) / 2


def one_weight(optimizer, loss=slope, start=0.0, **options):
    """A model of one weight w that outputs w, so that the gradient is 1 (slope) or w (bowl)."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.full((1, 1), start, np.float32)])
    model.compile(optimizer, loss, **options)
    return model


def fit(model, *callbacks, updates=UPDATES, **options):
    ones = np.ones((2 * updates, 1), np.float32)
    return model.fit(ones, ones, batch_size=2, verbose=0, shuffle=False, callbacks=list(callbacks), **options)


def sgd(learning_rate=0.5):
    return keras.optimizers.SGD(learning_rate)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "schedule",
    [
        Step(step_size=2, gamma=0.5),
        MultiStep(milestones=(1, 3), gamma=0.1),
        Cosine(warmup=1.5, per="update"),
        Exponential(gamma=0.5, per="update"),
        OneCycle(cycle_momentum=False),
    ],
    ids=lambda schedule: schedule.name,
)
def test_every_update_has_its_rate(schedule, jit_compile):
    probe = Probe()
    history = fit(one_weight(sgd(), jit_compile=jit_compile), LearningRate(schedule), probe, epochs=4)
    expected = simulate(schedule, 4, UPDATES, learning_rate=0.5)
    np.testing.assert_allclose(probe.steps, expected, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(history.history["learning_rate"], expected[UPDATES - 1 :: UPDATES], rtol=1e-6)


def test_a_name_and_a_function_are_schedules():
    history = fit(one_weight(sgd()), LearningRate("polynomial", 0.8), epochs=4)
    np.testing.assert_allclose(history.history["learning_rate"], [0.8, 0.6, 0.4, 0.2], rtol=1e-6)
    history = fit(one_weight(sgd()), LearningRate(lambda epoch: 1 / (1 + epoch)), epochs=3)
    np.testing.assert_allclose(history.history["learning_rate"], [0.5, 0.25, 0.5 / 3], rtol=1e-6)


@pytest.mark.parametrize("learning_rate", [None, 0.4])
def test_a_resumed_fit_goes_on_where_the_first_stopped(learning_rate):
    schedule = Cosine(epochs=6, warmup=2, per="update")
    whole = Probe()
    fit(one_weight(sgd(0.4)), LearningRate(schedule, learning_rate), whole, epochs=6)

    model, parts = one_weight(sgd(0.4)), [Probe(), Probe()]
    first = LearningRate(schedule, learning_rate)
    fit(model, first, parts[0], epochs=3)
    second = LearningRate(schedule, learning_rate)
    second.set_state(json.loads(json.dumps(first.get_state())))
    fit(model, second, parts[1], initial_epoch=3, epochs=6)
    assert parts[0].weights + parts[1].weights[1:] == whole.weights


def test_a_base_that_was_given_is_never_read_back():
    model = one_weight(sgd(1e-6))
    history = fit(model, LearningRate(Step(step_size=2), 0.8), initial_epoch=4, epochs=7)
    np.testing.assert_allclose(history.history["learning_rate"], [0.2, 0.2, 0.1], rtol=1e-6)
    callback = LearningRate(Step(step_size=1))
    for _ in range(2):
        history = fit(one_weight(sgd(0.5)), callback, epochs=2)
        np.testing.assert_allclose(history.history["learning_rate"], [0.5, 0.25], rtol=1e-6)
        assert callback.learning_rate == 0.5


def test_blocks_of_steps_take_the_rate_of_their_first():
    probe = Probe()
    schedule = Exponential(gamma=0.5, per="update")
    fit(one_weight(sgd(), steps_per_execution=4), LearningRate(schedule), probe, updates=10, epochs=1)
    r = simulate(schedule, 1, 10, learning_rate=0.5)
    np.testing.assert_allclose(probe.steps, [4 * r[0], 4 * r[4], 2 * r[8]], rtol=1e-5)


def test_rates_and_momenta_serve_loops_that_set_them_themselves():
    schedule = OneCycle(epochs=4, three_phase=True)
    callback = LearningRate(schedule, 0.5)
    rates, momenta = callback.rates(2, 7), callback.momenta(2, 7)
    assert rates.dtype == momenta.dtype == np.float32
    np.testing.assert_allclose(rates, simulate(schedule, 4, 7, 0.5)[14:21], rtol=1e-6)
    np.testing.assert_allclose(momenta, [schedule.momentum(2 + update / 7) for update in range(7)], rtol=1e-6)
    assert LearningRate(Constant(), 0.5).momenta(0, 7) is None
    np.testing.assert_array_equal(LearningRate(Step(step_size=1), 0.5).rates(1, 3), np.full(3, 0.25, np.float32))


def test_in_graph_stills_the_batch_hooks():
    probe, callback = Probe(), LearningRate(Exponential(gamma=0.5, per="update"))
    callback.in_graph = True
    fit(one_weight(sgd()), callback, probe, epochs=2)
    np.testing.assert_allclose(probe.steps, np.repeat([0.5, 0.25], UPDATES), rtol=1e-6)


# Momentum


def reference(kind, rates, momenta, start=1.0):
    """Keras's update rules in NumPy, with the momentum of each update."""
    w, m, v, product, path = start, 0.0, 0.0, 1.0, [start]
    for t, (rate, momentum) in enumerate(zip(rates, momenta, strict=True), 1):
        if kind == "sgd":
            m = momentum * m - rate * w
            w += m
        elif kind == "nesterov":
            g = w
            m = momentum * m - rate * g
            w += momentum * m - rate * g
        elif kind == "rmsprop":
            v = 0.9 * v + 0.1 * w * w
            m = momentum * m + rate * w / math.sqrt(v + 1e-7)
            w -= m
        else:
            g = w
            m += (g - m) * (1 - momentum)
            v += (g * g - v) * (1 - 0.999)
            if kind == "nadam":
                u, u_next = (momentum * (1 - 0.5 * 0.96**step) for step in (t, t + 1))
                product *= u
                m_hat = u_next * m / (1 - product * u_next) + (1 - u) * g / (1 - product)
                w -= rate * m_hat / (math.sqrt(v / (1 - 0.999**t)) + 1e-7)
            else:
                alpha = rate * math.sqrt(1 - 0.999**t) / (1 - momentum**t)
                w -= alpha * m / (math.sqrt(v) + 1e-7)
        path.append(w)
    return path


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.1),
    "nadam": lambda: keras.optimizers.Nadam(0.1),
}
CYCLE = OneCycle(epochs=4, momentum_low=0.5, momentum_high=0.95)


def cycle(epochs):
    times = [epoch + update / UPDATES for epoch in epochs for update in range(UPDATES)]
    return [0.1 * CYCLE(time) for time in times], [CYCLE.momentum(time) for time in times]


@pytest.mark.parametrize("mode", ["graph", "xla", "eager"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_momentum_cycle_reaches_every_update(kind, mode):
    options = {"run_eagerly": True} if mode == "eager" else {"jit_compile": mode == "xla"}
    model = one_weight(OPTIMIZERS[kind](), bowl, 1.0, **options)
    probe = Probe()
    fit(model, LearningRate(CYCLE), probe, epochs=4)
    np.testing.assert_allclose(probe.weights, reference(kind, *cycle(range(4))), rtol=2e-4, atol=1e-6)


def test_momentum_cycle_with_loss_scaling():
    optimizer = keras.optimizers.LossScaleOptimizer(OPTIMIZERS["sgd"](), initial_scale=8.0)
    probe = Probe()
    fit(one_weight(optimizer, bowl, 1.0, jit_compile=False), LearningRate(CYCLE), probe, epochs=4)
    np.testing.assert_allclose(probe.weights, reference("sgd", *cycle(range(4))), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_momentum_is_the_optimizers_own_before_and_after_a_cycle(jit_compile):
    model = one_weight(OPTIMIZERS["sgd"](), bowl, 1.0, jit_compile=jit_compile)
    probe = Probe()
    steady = {"learning_rate": 0.1}
    # A graph with the momentum baked in is there already, and another is needed afterwards.
    fit(model, LearningRate(Constant(), **steady), probe, epochs=1)
    fit(model, LearningRate(CYCLE, **steady), probe, initial_epoch=1, epochs=3)
    fit(model, LearningRate(Constant(), **steady), probe, initial_epoch=3, epochs=4)
    rates, momenta = cycle([1, 2])
    path = reference("sgd", [0.1] * 5 + rates + [0.1] * 5, [0.9] * 5 + momenta + [0.9] * 5)
    weights = [weight for i, weight in enumerate(probe.weights) if i not in (6, 17)]
    np.testing.assert_allclose(weights, path, rtol=2e-4, atol=1e-6)
    assert model.optimizer.momentum == 0.9
    assert len(model.optimizer.variables) == 3  # iterations, rate, velocity: what drives the momentum isn't saved
    assert {json.loads(config)["config"]["momentum"] for config in probe.configs} == {0.9}


def test_a_fit_that_broke_off_leaves_the_next_one_sound():
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    model = one_weight(OPTIMIZERS["adam"](), bowl, 1.0)
    probe = Probe()
    with pytest.raises(KeyboardInterrupt):
        fit(model, LearningRate(CYCLE, 0.1), probe, Stop(), epochs=4)
    probe.weights.pop()
    fit(model, LearningRate(CYCLE, 0.1), probe, initial_epoch=1, epochs=4)
    np.testing.assert_allclose(probe.weights, reference("adam", *cycle(range(4))), rtol=2e-4, atol=1e-6)


# Plateau

SERIES = [5.0, 4.0, 4.0, 4.1, 4.05, 3.0, 3.0, 2.9999, 3.1, 3.2, 3.0, 3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5]


class Told(keras.callbacks.Callback):
    """Puts a made-up metric into the logs."""

    def __init__(self, name, values):
        super().__init__()
        self.name, self.values = name, values

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]


def told_rates(callback, name, values):
    """The rates that `fit` would log, were these the metric's values."""
    callback.set_model(one_weight(sgd(0.5)))
    callback.set_params({"epochs": len(values), "steps": 1})
    callback.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        logs = {name: value}
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, logs)
        rates.append(logs["learning_rate"])
    return rates


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras's own reading of the rate
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize(
    ("sign", "mode", "name"), [(1, "auto", "val_loss"), (-1, "auto", "accuracy"), (-1, "max", "told")]
)
def test_plateau_equals_keras(sign, mode, name, cooldown):
    values = [sign * value for value in SERIES]
    options = {"patience": 2, "factor": 0.5, "cooldown": cooldown, "min_delta": 0.01}
    ours = LearningRate(plateau=Plateau(monitor=name, mode=mode, min_factor=0.1, **options))
    kerass = keras.callbacks.ReduceLROnPlateau(name, mode="min" if sign > 0 else "max", min_lr=0.05, **options)
    rates = told_rates(ours, name, values)
    np.testing.assert_allclose(rates, told_rates(kerass, name, values), rtol=1e-6)
    assert sorted(set(rates), reverse=True) == pytest.approx([0.5, 0.25, 0.125, 0.0625, 0.05])


def test_plateau_and_schedule_multiply_and_state_survives():
    plateau = Plateau(monitor="told", mode="min", factor=0.5, patience=1)
    told, schedule = Told("told", [1.0, 1.0, 1.0, 0.5, 1.0, 1.0]), Step(step_size=2, gamma=0.1)
    whole = fit(one_weight(sgd(0.8)), told, LearningRate(schedule, plateau=plateau), epochs=6).history["learning_rate"]
    np.testing.assert_allclose(whole, [0.8, 0.8, 0.04, 0.02, 0.002, 0.001], rtol=1e-6)

    first, second = (LearningRate(schedule, plateau=plateau) for _ in range(2))
    model = one_weight(sgd(0.8))
    begin = fit(model, told, first, epochs=3).history["learning_rate"]
    second.set_state(json.loads(json.dumps(first.get_state())))
    assert second.get_state() == {
        "learning_rate": pytest.approx(0.8),
        "plateau_factor": 0.25,
        "best": 1.0,
        "wait": 0,
        "cooldown": 0,
    }
    assert begin + fit(model, told, second, initial_epoch=3, epochs=6).history["learning_rate"] == whole


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_never_the_best(bad):
    callback = LearningRate(plateau=Plateau(monitor="told", mode="min", patience=2, factor=0.5))
    rates = told_rates(callback, "told", [bad, 3.0, bad, 2.0, bad, bad, 1.0])
    assert callback.monitored.best.value == 1.0
    np.testing.assert_allclose(rates, [0.5] * 6 + [0.25], rtol=1e-6)


def test_plateau_refuses_a_metric_that_is_not_logged():
    callback = LearningRate(plateau=Plateau(monitor="val_los", mode="min"))
    with pytest.raises(ValueError, match=r"monitor must be one of loss, val_loss; received 'val_los' \(did"):
        fit(one_weight(sgd()), callback, validation_split=0.5)
    with pytest.raises(ValueError, match=r"mode must be 'min' or 'max' for 'val_los'.*\(did you mean 'val_loss'"):
        fit(one_weight(sgd()), LearningRate(plateau=Plateau(monitor="val_los")), validation_split=0.5)


# Refusals


def unknown_length():
    while True:
        yield np.ones((2, 1), np.float32), np.ones((2, 1), np.float32)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_refuses_a_base_that_is_no_rate(value):
    with pytest.raises(ValueError, match="learning_rate must be a finite number above 0, received"):
        LearningRate("constant", value)


def test_refuses_an_unknown_name():
    with pytest.raises(ValueError, match=r"must be one of constant, .*received 'cosin'"):
        LearningRate("cosin")


@pytest.mark.parametrize(
    "rate", [keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9), lambda: 0.1], ids=["schedule", "function"]
)
def test_refuses_an_optimizer_with_a_schedule_of_its_own(rate):
    with pytest.raises(ValueError, match="learning_rate must be a number where LearningRate sets it"):
        fit(one_weight(sgd(rate)), LearningRate())


def test_refuses_rates_per_update_where_updates_are_not_counted():
    model = one_weight(sgd())
    with pytest.raises(ValueError, match='needs the number of updates: give fit steps_per_epoch, or per="epoch"'):
        model.fit(unknown_length(), shuffle=False, verbose=0, callbacks=[LearningRate(Cosine(per="update"))])
    probe = Probe()
    model.fit(
        unknown_length(),
        steps_per_epoch=4,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[LearningRate(Exponential(gamma=0.5, per="update")), probe],
    )
    np.testing.assert_allclose(probe.steps, simulate(Exponential(gamma=0.5, per="update"), 2, 4, 0.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "rule"), [("SGD", "was built with momentum=0"), ("RMSprop", "momentum=0"), ("Adagrad", "has none")]
)
def test_refuses_a_momentum_cycle_without_momentum(optimizer, rule):
    model = one_weight(getattr(keras.optimizers, optimizer)())
    with pytest.raises(ValueError, match=f"needs an optimizer with momentum, but {optimizer} .*{rule}.*cycle_momentum"):
        fit(model, LearningRate("one_cycle"))
    fit(model, LearningRate(OneCycle(cycle_momentum=False)))


@pytest.mark.parametrize("factor", [-0.1, math.nan, math.inf])
def test_refuses_factors_that_give_no_rate(factor):
    with pytest.raises(ValueError, match=r"schedule must give finite factors ≥ 0, received .* in epoch 0"):
        fit(one_weight(sgd()), LearningRate(lambda epoch: factor))


def test_refuses_rates_before_the_base_is_known():
    with pytest.raises(ValueError, match="rates need a base"):
        LearningRate().rates(0, 3)


def test_refuses_a_warmup_longer_than_the_run():
    with pytest.raises(ValueError, match="warmup must be shorter than the run's 2 epochs, received 2"):
        fit(one_weight(sgd()), LearningRate(Step(warmup=2)), epochs=2)
