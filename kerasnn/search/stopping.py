"""Early stopping of trials: pure functions of the curves so far, so that a continued search decides the same."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from kerasnn.config.schema import Schema, named


class Median(Schema):
    """Stop a trial whose best value so far is worse than the median of all trials' best values by the same epoch.

    Reference: Golovin et al., "Google Vizier" (KDD 2017), with running trials counted too.
    """

    name: Literal["median"] = "median"
    min_epochs: PositiveInt = 3
    """Epochs that a trial trains before it may be stopped."""
    min_trials: int = Field(default=4, ge=2)
    """Trials, running or ended, that are needed before one may be stopped."""


class Halving(Schema):
    """Successive halving: after min_epochs, min_epochs · factor, … epochs one trial in `factor` continues.

    Reference: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020).
    """

    name: Literal["halving"] = "halving"
    min_epochs: PositiveInt = 2
    """Epochs before the first selection."""
    factor: int = Field(default=3, ge=2)
    """One trial in this many continues."""


Stopper = Annotated[Median | Halving, Field(discriminator="name"), BeforeValidator(named)]


def trials_to_stop(
    stopper: Median | Halving | None,
    direction: str,
    running: Mapping[int, Sequence[float]],
    ended: Sequence[Sequence[float]],
) -> set[int]:
    """The running trials that the stopper ends now.

    >>> trials_to_stop(Median(min_epochs=1), "min", {0: [0.5], 1: [0.7], 2: [0.9]}, [[0.8, 0.4]])
    {2}

    Args:
        stopper: the rule; None stops no trial.
        direction: "min" or "max", whichever is better.
        running: the objective by epoch of each running trial, by number; all of the same length.
        ended: the objective by epoch of each trial that has ended, stopped ones included.

    Returns:
        Numbers out of `running`.

    Reference: `Median` and `Halving`.
    """
    if stopper is None or not running:
        return set()
    epochs = len(next(iter(running.values())))

    def best_loss(curve: Sequence[float]) -> float:
        return -max(curve[:epochs]) if direction == "max" else min(curve[:epochs])

    curves = [*running.values(), *ended]
    if isinstance(stopper, Median):
        if epochs < stopper.min_epochs or len(curves) < stopper.min_trials:
            return set()
        # A stopped trial counts with its last best value: otherwise the median rises until one trial is left.
        threshold = statistics.median(map(best_loss, curves))
    else:
        if not _is_rung(stopper, epochs):
            return set()
        losses = sorted(best_loss(curve) for curve in curves if len(curve) >= epochs)
        threshold = losses[math.ceil(len(losses) / stopper.factor) - 1]
    return {number for number, curve in running.items() if best_loss(curve) > threshold}


def _is_rung(stopper: Halving, epochs: int) -> bool:
    """Whether a selection takes place after this many epochs."""
    rung = stopper.min_epochs
    while rung < epochs:
        rung *= stopper.factor
    return rung == epochs
