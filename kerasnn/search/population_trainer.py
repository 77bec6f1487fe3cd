"""Trains a population, interval by interval, with its state on disk."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn.config.schema import one_of
from kerasnn.files import inside, replacing
from kerasnn.fused.population import Population
from kerasnn.search.config import SearchSettings
from kerasnn.search.oracle_config import Pbt
from kerasnn.search.space import Choice, Range
from kerasnn.search.trainer import OnEpoch
from kerasnn.search.trial import Outcome, Proposal

Build = Callable[[Mapping[str, Any]], keras.Model]
"""Builds the compiled model of values."""
History = dict[str, list[float]]


class PopulationTrainer:
    """Trains the proposals of population-based training as one program.

    The state of each interval's end is on disk before its results are in the journal, and stays there until those of
    the next are: a search that was killed goes on from it, to the same bits.

    Args:
        config: the search, whose oracle is `pbt`.
        build: builds the compiled model of a trial's values.
        arguments: what the members train on, as in `Population`.
        folder: where the states are.
    """

    def __init__(self, config: SearchSettings, build: Build, arguments: Mapping[str, Any], folder: Path) -> None:
        assert isinstance(config.oracle, Pbt)
        self._config, self._build, self._arguments, self._folder = config, build, dict(arguments), folder
        self._size = config.oracle.members
        self._population: Population | None = None
        # Each member's logged values by epoch.
        self._histories: list[History] = []

    def train(self, batch: int, proposals: Sequence[Proposal], on_epoch: OnEpoch) -> Iterator[list[Outcome]]:
        """Train an interval; as `Trainer.train`. All members end together."""
        start = time.perf_counter()
        population = self._ready(batch, proposals)
        numbers = [proposal.number for proposal in proposals]
        for epoch in range(len(next(iter(self._histories[0].values()), ())), proposals[0].epochs):
            logs = population.train(epoch)
            if (name := self._config.objective_name) not in logs[0]:
                raise ValueError(one_of("objective", name, logs[0]))
            for history, own in zip(self._histories, logs, strict=True):
                for key, value in own.items():
                    history.setdefault(key, []).append(value)
            values = {number: own[name] for number, own in zip(numbers, logs, strict=True)}
            on_epoch(epoch + 1, {number: value for number, value in values.items() if math.isfinite(value)})
        self._write(batch)
        seconds = (time.perf_counter() - start) / len(proposals)
        finite = population.is_finite()
        yield [self._outcome(member, proposal, seconds, finite[member]) for member, proposal in enumerate(proposals)]
        # These results are in the journal now, and the next interval begins with this one's state.
        is_last = proposals[0].epochs == self._config.max_epochs
        for before in range(batch + is_last):
            self._path(before).unlink(missing_ok=True)

    def _ready(self, batch: int, proposals: Sequence[Proposal]) -> Population:
        """The population at the beginning of an interval."""
        first = (batch - 1) * self._size
        parents = [
            member if each.continues is None else each.continues - first for member, each in enumerate(proposals)
        ]
        changed = [member for member, parent in enumerate(parents) if member != parent]
        if self._population is None:
            self.begin([proposal.values for proposal in proposals])
            if batch:
                self._read(batch)
        assert self._population is not None
        if batch:
            self._population.gather(parents)
            self._histories = [
                {name: list(values) for name, values in self._histories[parent].items()} for parent in parents
            ]
            for member in changed:
                self._population.set_numbers(member, self._build(proposals[member].values))
        return self._population

    def begin(self, values: Sequence[Mapping[str, Any]]) -> None:
        """Build the members, given the values of each.

        Raises:
            ValueError: one line, where they cannot train as one program.
        """
        models = [self._build(each) for each in values]
        epochs, seed = self._config.max_epochs, self._config.seed
        self._population = Population(models, self._examples(), self._arguments, epochs, seed)
        self._histories = [{} for _ in models]

    def _examples(self) -> dict[str, list[keras.Model]]:
        """For each key models that differ in its value only."""
        space = self._config.space
        base = {key: _span(parameter)[0] for key, parameter in space.items()}
        return {
            key: [self._build({**base, key: value}) for value in _span(parameter)] for key, parameter in space.items()
        }

    def _outcome(self, member: int, proposal: Proposal, seconds: float, finite: bool) -> Outcome:
        assert self._population is not None
        history = self._histories[member]
        if not (finite and all(math.isfinite(values[-1]) for values in history.values())):
            error = f"loss and weights must stay finite, received NaN or infinity by epoch {proposal.epochs}"
            return Outcome(proposal.number, "failed", (history,), seconds, error)
        weights = (self._population.weights(member),)
        return Outcome(proposal.number, "completed", (history,), seconds, weights=weights)

    # States

    def _path(self, batch: int) -> Path:
        """The file of the state at the end of an interval."""
        return inside(self._folder, f"population-{batch:04d}.npz")

    def _write(self, batch: int) -> None:
        """Write the state at the end of an interval."""
        assert self._population is not None
        histories = np.frombuffer(json.dumps(self._histories).encode(), np.uint8)
        self._folder.mkdir(exist_ok=True)
        with replacing(self._path(batch)) as path, path.open("wb") as file:
            np.savez(file, *self._population.state(), histories=histories)

    def _read(self, batch: int) -> None:
        """Put the state back from which an interval begins."""
        assert self._population is not None
        path = self._path(batch - 1)
        try:
            with np.load(path, allow_pickle=False) as kept:
                self._population.restore([kept[f"arr_{at}"] for at in range(len(kept.files) - 1)])
                self._histories = json.loads(kept["histories"].tobytes().decode())
        except Exception as error:
            raise ValueError(f"{path} must hold the population's state, to go on from: {error}") from None


def _span(parameter: Choice | Range) -> tuple[Any, ...]:
    """Every choice, or two values near the ends of a range: at an end of 0 dropout, for one, is another program."""
    if isinstance(parameter, Choice):
        return parameter.values
    if parameter.is_integer or parameter.step is not None:
        return parameter.extremes
    ends = (parameter.min, parameter.max)
    if parameter.sampling == "log":
        return tuple(low**0.99 * high**0.01 for low, high in (ends, ends[::-1]))
    return tuple(0.99 * low + 0.01 * high for low, high in (ends, ends[::-1]))
