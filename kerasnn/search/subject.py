"""What the trials of a search train."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from kerasnn.search.progress import SearchProgress
from kerasnn.search.trainer import OnEpoch
from kerasnn.search.trial import Outcome, Proposal, Trial

Train = Callable[[int, Sequence[Proposal], OnEpoch], Iterable[list[Outcome]]]
"""Trains the proposals of a batch, given its number; yields the outcomes of trials that ended together."""
ScoreToBeat = Callable[[], float | None]
"""Returns the worst score of which a model is kept; None where any score is enough."""


class Subject(Protocol):
    """What the trials of a search train: the runs of a config, or the models that a function builds."""

    @property
    def config(self) -> Any:
        """The search."""

    @property
    def fingerprint(self) -> str:
        """A digest of the examples."""

    @property
    def logged(self) -> Sequence[str]:
        """Names of the values that trials log, as far as they are known."""

    @property
    def build(self) -> Callable[[Mapping[str, Any]], keras.Model] | None:
        """Builds the model of a trial's values; None where a config says what a trial trains."""

    def population(self) -> tuple[Callable[[Mapping[str, Any]], keras.Model], Mapping[str, Any]]:
        """What a population trains: a function that builds the model of a trial's values, and arguments of `fit`."""

    def training(self, progress: SearchProgress, score_to_beat: ScoreToBeat) -> AbstractContextManager[Train]:
        """A context that returns the `Train`, given the display."""

    def save(self, trial: Trial, seed: int, weights: list[np.ndarray], path: Path) -> None:
        """Save the model of a trial that has just ended, given a path without its suffix."""

    def best_file(self, trial: Trial) -> tuple[str, str]:
        """Name and text of the file that describes the best trial."""
