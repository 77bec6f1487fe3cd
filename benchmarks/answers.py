"""Workers of a search that answer by a formula in place of training, without TensorFlow."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasnn.search.actors import Worker, WorkersConfig
from kerasnn.search.trial import Outcome, Proposal


class Answers(Worker):
    """Reports every epoch and answers by a formula, each trial by itself."""

    seconds = 0.0
    """Seconds that each trial takes."""
    has_weights = False
    """Whether outcomes have weights, of one hidden layer on the digits."""

    def prepare(self, config: WorkersConfig, make: list[Any], mailbox: Any) -> str:
        """Get ready."""
        self._mailbox = mailbox
        return ""

    def train(self, batch: int, proposals: Sequence[Proposal], score_to_beat: float | None) -> list[list[Outcome]]:
        """Answer for the share."""
        return [[self._answer(each)] for each in proposals]

    def _answer(self, proposal: Proposal) -> Outcome:
        time.sleep(self.seconds)
        rate = proposal.values["optimizer.learning_rate"]
        loss = 1 / (1 + rate) + proposal.values["regularization.dropout"]
        curve = [loss + 1 / epoch for epoch in range(1, proposal.epochs + 1)]
        if self._mailbox is not None:
            for epoch, value in enumerate(curve, 1):
                self._mailbox.report.remote(epoch, {proposal.number: value}, False)
        names = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
        weights: list[np.ndarray] = []
        if self.has_weights:
            units = proposal.values["network.hidden"][0]
            weights = [np.full(shape, rate) for shape in ((64, units), (units,), (units, 10), (10,))]
        history = {name: list(curve) for name in names}
        return Outcome(proposal.number, "completed", (history,), 0.1, weights=(weights,) if weights else ())


class SlowAnswers(Answers):
    """Takes its time, so that kills hit it."""

    seconds = 0.5
    has_weights = True
