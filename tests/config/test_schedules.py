import doctest
import json
import math
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from kerasnn.config import schedules
from kerasnn.config.curve import Curve, values_by_update
from kerasnn.config.monitor import Plateau
from kerasnn.config.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    WarmupStableDecay,
    get,
)
from kerasnn.config.schema import Schema
from kerasnn.config.simulation import simulate

TORCH = json.loads((Path(__file__).parents[1] / "reference" / "torch_schedules.json").read_text())
ALL = (
    Constant,
    Step,
    MultiStep,
    Exponential,
    Polynomial,
    Cosine,
    CosineRestarts,
    OneCycle,
    Cyclic,
    InverseSqrt,
    WarmupStableDecay,
)


def one_cycle(anneal: str, three_phase: bool, unit: int, per: str) -> OneCycle:
    # PyTorch ends on its last step, ours on the end of the run.
    return OneCycle(epochs=199 / unit, peak=(0.3 * 200 - 1) / 199, anneal=anneal, three_phase=three_phase, per=per)


def ours(unit: int, per: str) -> dict[str, Curve]:
    """The schedules of torch_schedules.json where `unit` PyTorch steps are one epoch."""
    cyclic = {"up": 20 / unit, "down": 30 / unit, "low": 0.1, "per": per}
    return {
        "step": Step(step_size=50 / unit, gamma=0.5, per=per),
        "step_7": Step(step_size=7 / unit, gamma=0.9, per=per),
        "multi_step": MultiStep(milestones=(50 / unit, 125 / unit, 160 / unit), gamma=0.5, per=per),
        "exponential": Exponential(gamma=0.98**unit, per=per),
        "cosine": Cosine(per=per),
        "cosine_floor": Cosine(end_factor=0.01, per=per),
        "restarts": CosineRestarts(period=30 / unit, per=per),
        "restarts_doubling": CosineRestarts(period=10 / unit, multiplier=2, end_factor=0.02, per=per),
        "linear": Polynomial(per=per),
        "polynomial": Polynomial(power=2.5, epochs=150 / unit, per=per),
        "warm_step": Step(step_size=50 / unit, gamma=0.5, warmup=20 / unit, warmup_start=0.1, per=per),
        "one_cycle_cos_2": one_cycle("cosine", False, unit, per),
        "one_cycle_cos_3": one_cycle("cosine", True, unit, per),
        "one_cycle_linear_2": one_cycle("linear", False, unit, per),
        "one_cycle_linear_3": one_cycle("linear", True, unit, per),
        "cyclic_triangular": Cyclic(**cyclic),
        "cyclic_triangular2": Cyclic(mode="triangular2", **cyclic),
        "cyclic_exp_range": Cyclic(mode="exp_range", gamma=0.99**unit, **cyclic),
    }


NAMES = sorted(set(TORCH) - {"_about"})


def test_every_torch_sequence_is_compared():
    assert sorted(ours(1, "epoch")) == NAMES


@pytest.mark.parametrize(("per", "unit"), [("epoch", 1), ("update", 10), ("update", 1)])
@pytest.mark.parametrize("name", NAMES)
def test_rates_equal_pytorchs(name, per, unit):
    rates = simulate(ours(unit, per)[name], epochs=200 // unit, updates_per_epoch=unit, learning_rate=0.1)
    np.testing.assert_allclose(rates, TORCH[name]["rates"], rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize(("per", "unit"), [("epoch", 1), ("update", 10)])
@pytest.mark.parametrize("name", [name for name in NAMES if "momenta" in TORCH[name]])
def test_momenta_equal_pytorchs(name, per, unit):
    momentum = ours(unit, per)[name].momentum
    momenta = np.concatenate([values_by_update(momentum, epoch, unit, per) for epoch in range(200 // unit)])
    np.testing.assert_allclose(momenta, TORCH[name]["momenta"], rtol=1e-6)


@pytest.mark.parametrize("schedule", ALL)
def test_docstring_ends_with_its_sequence(schedule):
    (test,) = doctest.DocTestFinder(recurse=False).find(schedule, globs={**vars(schedules), "simulate": simulate})
    (example,) = test.examples
    assert example.source.startswith("simulate(")
    assert schedule.__doc__.rstrip().endswith(example.want.strip())
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("schedule", ALL)
def test_every_field_is_described(schedule):
    fields = schedule.model_fields
    assert [name for name in fields if name != "name" and not fields[name].description] == []


@pytest.mark.parametrize("schedule", ALL)
def test_name_alone_and_json_give_the_schedule(schedule):
    name = schedule.model_fields["name"].default
    adapter = TypeAdapter(Schedule)
    assert get(name) == schedule()
    assert adapter.validate_python(name) == schedule()
    assert adapter.validate_json(schedule(warmup=0.5).model_dump_json()) == schedule(warmup=0.5)


def test_a_schedule_inside_a_description():
    class Run(Schema):
        schedule: Schedule = Constant()

    assert Run(schedule="cosine").schedule == Cosine()
    assert Run(schedule={"name": "step", "step_size": 3}).schedule == Step(step_size=3)


def test_warmup_multiplies_any_schedule():
    plain, warm = simulate(Cosine(), 8), simulate(Cosine(warmup=4, warmup_start=0.2), 8)
    np.testing.assert_allclose(warm / plain, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1], rtol=1e-12)


def test_per_update_reads_between_epochs_and_per_epoch_does_not():
    np.testing.assert_allclose(simulate(Exponential(gamma=0.25), 2, 2), [1, 1, 0.25, 0.25])
    np.testing.assert_allclose(simulate(Exponential(gamma=0.25, per="update"), 2, 2), [1, 0.5, 0.25, 0.125])


def test_default_per_is_update_only_for_curves_defined_by_updates():
    updates = {schedule for schedule in ALL if schedule().per == "update"}
    assert updates == {OneCycle, Cyclic, InverseSqrt, WarmupStableDecay}


def test_steps_fall_on_time_where_division_is_inexact():
    # 0.3 / 0.1 is 2.9999999999999996.
    assert Step(step_size=0.1, gamma=0.5)(0.3) == 0.125
    assert MultiStep(milestones=(0.3,), gamma=0.5)(0.1 * 3 - 1e-12) == 0.5
    assert CosineRestarts(period=0.1)(0.3) == pytest.approx(1)
    assert Cyclic(up=0.05, down=0.05, low=0.5)(0.3) == pytest.approx(0.5)


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt"])
def test_decay_shapes_after_the_stable_phase(shape):
    schedule = WarmupStableDecay(epochs=10, decay=0.4, shape=shape, end_factor=0.1)
    left = {"linear": 0.75, "cosine": (1 + math.cos(math.pi / 4)) / 2, "1-sqrt": 0.5}[shape]
    assert [schedule(epoch) for epoch in (0, 6, 10, 12)] == pytest.approx([1, 1, 0.1, 0.1])
    assert schedule(7) == pytest.approx(0.1 + 0.9 * left)


def test_inverse_sqrt_is_the_transformers():
    schedule = InverseSqrt(timescale=4, warmup=4, warmup_start=1e-9)
    noam = [min(t**-0.5, t * 4**-1.5) / 4**-0.5 for t in range(1, 20)]
    np.testing.assert_allclose([schedule(t) for t in range(1, 20)], noam, rtol=1e-8)


@pytest.mark.parametrize("schedule", [Polynomial, Cosine, OneCycle, WarmupStableDecay])
def test_a_curve_over_the_run_gets_its_length_from_the_run(schedule):
    with pytest.raises(ValueError, match=f"{schedule().name!r} spans the run: give it epochs"):
        schedule()(1)
    assert schedule().over(20) == schedule(epochs=20)
    assert schedule(epochs=5).over(20) == schedule(epochs=5)
    end = schedule(epochs=5)(5)
    assert schedule(epochs=5)(50) == end < 0.1


def test_only_one_cycle_has_a_momentum():
    for schedule in ALL:
        momentum = schedule().over(10).momentum(3)
        assert momentum == (pytest.approx(0.85) if schedule is OneCycle else None)
    assert OneCycle(cycle_momentum=False, epochs=10).momentum(3) is None


def test_simulate_takes_names_and_functions():
    np.testing.assert_allclose(simulate("polynomial", 4, learning_rate=2), [2, 1.5, 1, 0.5])
    np.testing.assert_allclose(simulate(lambda epoch: 1 / (1 + epoch), 3), [1, 1 / 2, 1 / 3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get("cosin"), "must be one of constant, .* received 'cosin' \\(did you mean 'cosine'"),
        (lambda: get({"name": "step", "stepsize": 3}), "received 'stepsize' \\(did you mean 'step_size'"),
        (lambda: get(3), "received 3"),
        (lambda: Step(step_size=0), "step_size must be greater than 0, received 0"),
        (lambda: Step(gamma=0), "gamma must be greater than 0"),
        (lambda: Exponential(gamma=math.nan), "gamma must be"),
        (lambda: MultiStep(milestones=(50, 40)), "strictly increasing, received \\(50.0, 40.0\\)"),
        (lambda: MultiStep(milestones=(0, 40)), "milestones must be above 0"),
        (lambda: MultiStep(milestones=()), "milestones must"),
        (lambda: Constant(warmup=-1), "warmup must be greater than or equal to 0"),
        (lambda: Constant(warmup_start=0), "warmup_start must be greater than 0"),
        (lambda: Constant(per="step"), "per must be one of epoch, update; received 'step'"),
        (lambda: Cosine(warmup=5, epochs=5), "warmup must be shorter than epochs, received 5 and 5"),
        (lambda: Cosine(warmup=5).over(5), "warmup must be shorter than epochs, received 5 and 5"),
        (lambda: Step(warmup=5).over(5), "warmup must be shorter than the run's 5 epochs, received 5"),
        (lambda: Cosine(epochs=0), "epochs must be greater than 0"),
        (lambda: CosineRestarts(multiplier=0.5), "multiplier must be greater than or equal to 1"),
        (lambda: OneCycle(peak=1), "peak must be less than 1"),
        (lambda: OneCycle(peak=0.5, three_phase=True), "peak must be below 0.5 with three_phase"),
        (lambda: OneCycle(momentum_low=0.9, momentum_high=0.8), "momentum_low must not exceed momentum_high"),
        (lambda: WarmupStableDecay(warmup=5, decay=0.6, epochs=10), "warmup and decay must together fit"),
        (lambda: WarmupStableDecay(warmup=5, decay=0.6).over(10), "warmup and decay must together fit"),
        (lambda: Step()(-1), "epoch must be at least 0, received -1"),
        (lambda: Plateau(factor=1), "factor must be less than 1"),
        (lambda: Plateau(mode="up"), "mode must be one of auto, min, max; received 'up'"),
    ],
)
def test_refusals_are_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
