import time

import pytest

from kerasnn import timings
from kerasnn.timings import PHASES, Timings, phase, timed


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    return Clock


def test_each_second_is_counted_once(clock):
    taken = Timings()
    clock.now += 1
    with taken.phase("epochs"):
        clock.now += 2
        with taken.phase("reports"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    counted = {"other": 17.0, "epochs": 10.0, "reports": 4.0}
    assert taken.seconds() == {**dict.fromkeys(PHASES, 0.0), **counted, "total": 31.0}
    assert str(taken).startswith("31.0: import 0.0, data 0.0, ")


def test_phase_that_fails_is_counted(clock):
    taken = Timings()

    def fail():
        with taken.phase("data"):
            clock.now += 1
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        fail()
    clock.now += 2
    assert (taken.seconds()["data"], taken.seconds()["other"]) == (1.0, 2.0)


def test_timings_within_timings_are_the_same(clock):
    with timed() as outer, timed() as inner, phase("trace"):
        clock.now += 1
    assert inner is outer
    assert outer.seconds()["trace"] == 1.0
    with phase("trace"):
        clock.now += 1
    assert outer.seconds()["trace"] == 1.0
    assert timings._current.get() is None
