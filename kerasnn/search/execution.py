"""Trainings of models that a user's function builds, as many together as their structures allow."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import keras_tuner

from kerasnn.fused.building import common_names
from kerasnn.fused.fit import fit_fused
from kerasnn.fused.fitted import BestWeights
from kerasnn.fused.loop import OnEpoch
from kerasnn.search.trial import SearchError

logger = logging.getLogger("kerasnn")


class Execution:
    """One training of a trial.

    Args:
        make: builds the model, the same at every call.
        callbacks: makes its callbacks.
        objective: what its epochs are compared by.
        seed: seed of the orders of its examples.

    Attributes:
        model: the model.
        best: the weights of the best epoch.
        best_value: the objective in that epoch.
        result: a History, or the error that ended it; None before it was trained.
        history: logged numbers by epoch, over all trainings.
        segments: first and last epoch of each training of the model so far.
    """

    def __init__(
        self,
        make: Callable[[], keras.Model],
        callbacks: Callable[[], Sequence[Any]],
        objective: keras_tuner.Objective,
        seed: int,
    ) -> None:
        self._make, self._make_callbacks, self._objective = make, callbacks, objective
        self.seed = seed
        self.build()

    def build(self) -> None:
        """Build the model anew."""
        with common_names():
            self.model = self._make()
        self.best, self.best_value = BestWeights(self._is_better), math.nan
        self.callbacks = [*self._make_callbacks(), self.best]
        self.result: Any = None
        self.history: dict[str, list[float]] = {}
        self.segments: list[tuple[int, int]] = []

    def end(self, result: Any, segment: tuple[int, int]) -> None:
        """Keep a History, or the error that ended the training, of the epochs from the first to the last."""
        self.result = result
        self.segments.append(segment)
        for name, values in getattr(result, "history", {}).items():
            if all(isinstance(value, int | float) or getattr(value, "ndim", 1) == 0 for value in values):
                self.history.setdefault(name, []).extend(map(float, values))

    def rebuild(self, options: Mapping[str, Any], max_members: int) -> None:
        """Build the model anew and train it as far as it was; `options` and `max_members` as in `fit_executions`."""
        segments = self.segments
        self.build()
        self.train(segments, options, max_members)

    def train(self, segments: Iterable[tuple[int, int]], options: Mapping[str, Any], max_members: int) -> None:
        """Train the model alone from the first to the last epoch of each segment."""
        for first, last in segments:
            if not self.has_ended:
                fit_executions([self], {**options, "initial_epoch": first, "epochs": last}, max_members)

    @property
    def has_ended(self) -> bool:
        """Whether an error or a callback ended it before its last epoch."""
        if not self.segments:
            return False
        return (
            isinstance(self.result, Exception) or len(self.result.epoch) < self.segments[-1][1] - self.segments[-1][0]
        )

    def _is_better(self, logs: dict[str, Any]) -> bool:
        if not self._objective.has_value(logs):
            return True
        value = self._objective.get_value(logs)
        if math.isnan(self.best_value) or self._objective.better_than(value, self.best_value):
            self.best_value = value
            return True
        return False


def fit_executions(
    executions: Sequence[Execution],
    options: Mapping[str, Any],
    max_members: int,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Train executions together; each keeps its History, or the error that ended it.

    Args:
        executions: those to train.
        options: arguments of `fit`, without the callbacks.
        max_members: as in `fit_fused`.
        on_epoch: as in `fit_fused`; executions that are trained anew, because one of them failed, report their epochs
            anew.

    Raises:
        SearchError, keras_tuner.errors.FatalError: as they come.
    """
    if not executions:
        return
    given = {name: value for name, value in options.items() if name not in ("callbacks", "verbose")}
    segment = given.get("initial_epoch", 0), given.get("epochs", 1)
    for name in ("class_weight", "sample_weight"):
        given[name] = [given.get(name)] * len(executions)
    seeds, callbacks = [one.seed for one in executions], [one.callbacks for one in executions]
    try:
        histories = fit_fused(
            [one.model for one in executions],
            callbacks=callbacks,
            seed=seeds,
            max_members=max_members,
            on_epoch=on_epoch,
            verbose=0,
            **given,
        )
    except (SearchError, keras_tuner.errors.FatalError):
        raise
    except Exception as error:
        if len(executions) == 1:
            executions[0].end(error, segment)
            return
        logger.warning("%d models train one by one: %s", len(executions), str(error).partition("\n")[0])
        for number, one in enumerate(executions):
            # One may be the cause: alone, each succeeds or fails with its own error.
            try:
                one.rebuild(options, max_members)
            except Exception as failure:
                one.end(failure, segment)
                continue
            fit_executions([one], options, max_members, _renumbered(on_epoch, number))
        return
    for one, history in zip(executions, histories, strict=True):
        one.end(history, segment)


def _renumbered(on_epoch: OnEpoch | None, number: int) -> OnEpoch | None:
    """`on_epoch` for the only execution of a call, which is the one of this number in another call."""
    if on_epoch is None:
        return None

    def report(epoch: int, logs: dict[int, Mapping[str, Any]]) -> list[int]:
        return [0] if number in (on_epoch(epoch, {number: logs[0]}) or ()) else []

    return report
