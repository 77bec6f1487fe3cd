"""Which trials are ended early."""

import pytest

from kerasnn.search.stopping import Halving, Median, trials_to_stop

DOWN = {0: [3.0, 1.0], 1: [3.0, 2.0], 2: [3.0, 3.0], 3: [3.0, 4.0]}


@pytest.mark.parametrize(
    ("stopper", "direction", "running", "finished", "ended"),
    [
        (None, "min", DOWN, [], set()),
        # Best so far 1, 2, 3, 3; median 2.5.
        (Median(min_epochs=2), "min", DOWN, [], {2, 3}),
        (Median(min_epochs=3), "min", DOWN, [], set()),
        (Median(min_epochs=2, min_trials=5), "min", DOWN, [], set()),
        # Best so far 3, 3, 3, 4; median 3.
        (Median(min_epochs=2), "max", DOWN, [], set()),
        # A stopped trial counts with its last best, a long one up to this epoch: 1, 2, 3, 3, 0.5, 9; median 2.5.
        (Median(min_epochs=2), "min", DOWN, [[0.5], [9.0, 9.0, 0.0]], {2, 3}),
        (Median(min_epochs=2, min_trials=2), "min", {7: [5.0, 5.0]}, [[1.0, 1.0]], {7}),
        # A third of four goes on: two.
        (Halving(min_epochs=2), "min", DOWN, [], {2, 3}),
        (Halving(min_epochs=1), "min", DOWN, [], set()),
        (Halving(min_epochs=2, factor=4), "min", DOWN, [], {1, 2, 3}),
        (Halving(min_epochs=2, factor=2), "max", DOWN, [], set()),
        # Those that never came this far don't count: 0.5 and 2, of which one in three goes on.
        (Halving(min_epochs=2), "min", {5: [2.0, 2.0]}, [[0.1], [0.5, 0.5]], {5}),
        (Halving(min_epochs=2), "min", {5: [2.0, 2.0]}, [[0.1]], set()),
        (Median(), "min", {}, [], set()),
    ],
)
def test_trials_to_stop(stopper, direction, running, finished, ended):
    assert trials_to_stop(stopper, direction, running, finished) == ended


@pytest.mark.parametrize(("epochs", "chooses"), [(1, False), (2, True), (3, False), (6, True), (12, False), (18, True)])
def test_rungs_of_halving_are_a_power_apart(epochs, chooses):
    running = {0: [1.0] * epochs, 1: [2.0] * epochs}
    assert trials_to_stop(Halving(min_epochs=2, factor=3), "min", running, []) == ({1} if chooses else set())
