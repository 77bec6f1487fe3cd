"""Which trials to end early: pure functions of the curves so far, so that a continued search decides the same."""

import math
import statistics
from collections.abc import Mapping, Sequence

from kerasnn.search.space import Halving, Median, Stopper


def hopeless(
    stopper: Stopper | None,
    direction: str,
    running: Mapping[int, Sequence[float]],
    finished: Sequence[Sequence[float]],
) -> set[int]:
    """The running trials to end now.

    Args:
        stopper: the rule; None ends none.
        direction: "min" or "max", which is better.
        running: number of each running trial to its objective by epoch, all of one length.
        finished: the objective by epoch of trials that have ended, stopped ones too.

    Returns:
        Numbers out of `running`.

    Reference: `Median` and `Halving`.
    """
    if stopper is None or not running:
        return set()
    epochs = len(next(iter(running.values())))
    curves = [*running.values(), *finished]
    if isinstance(stopper, Median):
        if epochs < stopper.min_epochs or len(curves) < stopper.min_trials:
            return set()
        # A stopped trial keeps its last best: otherwise the median rises until one trial is left.
        bar = statistics.median(_loss(curve, epochs, direction) for curve in curves)
    else:
        if not _is_rung(stopper, epochs):
            return set()
        there = sorted(_loss(curve, epochs, direction) for curve in curves if len(curve) >= epochs)
        bar = there[math.ceil(len(there) / stopper.factor) - 1]
    return {number for number, curve in running.items() if _loss(curve, epochs, direction) > bar}


def _is_rung(stopper: Halving, epochs: int) -> bool:
    rung = stopper.min_epochs
    while rung < epochs:
        rung *= stopper.factor
    return rung == epochs


def _loss(curve: Sequence[float], epochs: int, direction: str) -> float:
    """The best value by an epoch, less being better."""
    return min(curve[:epochs]) if direction == "min" else -max(curve[:epochs])
