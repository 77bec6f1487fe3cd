"""Population-based training: which members go on from which, and with which values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kerasnn.search.config import SearchSettings
from kerasnn.search.oracle_config import Pbt
from kerasnn.search.space import Choice, Range, Space
from kerasnn.search.trial import Proposal

FACTORS = (0.8, 1.2)
"""What a value of a range is multiplied by."""


class PopulationOracle:
    """Proposes a population, interval by interval: for the same search and the same results, the same proposals.

    A trial is a member in an interval. It continues the same member of the interval before; in the place of the worst
    members it continues one of the best, with values that are changed. Failed members are the worst of all.

    >>> space = {"optimizer.learning_rate": {"min": 0.001, "max": 0.1, "sampling": "log"}}
    >>> from kerasnn.search.config import SearchConfig
    >>> oracle = PopulationOracle(SearchConfig(space=space, oracle={"name": "pbt", "members": 4}))
    >>> for proposal in oracle.ask(4):
    ...     oracle.tell(proposal.number, [proposal.number])
    >>> [(proposal.number, proposal.continues, proposal.epochs) for proposal in oracle.ask(4)]
    [(4, 0, 6), (5, 1, 6), (6, 2, 6), (7, 0, 6)]

    Args:
        config: the search, whose oracle is `pbt`.

    Reference: Jaderberg et al., "Population Based Training of Neural Networks", arXiv 1711.09846: truncation selection.
    """

    def __init__(self, config: SearchSettings) -> None:
        assert isinstance(config.oracle, Pbt)
        self._config, self._pbt = config, config.oracle
        self._generation = 0
        self._members: list[Proposal] = []
        self._losses: dict[int, float] = {}

    def ask(self, count: int) -> list[Proposal]:
        """Propose the members of the next interval.

        Args:
            count: number of trials wanted: the population's.

        Returns:
            A trial for each member; none after the last interval, and where every member has failed.
        """
        pbt, generation = self._pbt, self._generation
        if count < pbt.members or generation == pbt.generations(self._config.max_epochs):
            return []
        draw = np.random.default_rng([self._config.seed, generation])
        chosen: list[tuple[int | None, dict[str, Any]]]
        if generation == 0:
            chosen = [(None, _drawn(self._config.space, draw)) for _ in range(pbt.members)]
        elif all(map(math.isinf, self._losses.values())):
            return []
        else:
            chosen = [
                (parent, self._members[parent].values if parent == member else self._explored(parent, draw))
                for member, parent in enumerate(self._parents(draw))
            ]
        epochs = min((generation + 1) * pbt.interval, self._config.max_epochs)
        first = generation * pbt.members
        self._members = [
            Proposal(number, values, epochs, None if parent is None else first - pbt.members + parent)
            for number, (parent, values) in enumerate(chosen, first)
        ]
        self._generation += 1
        self._losses = {}
        return self._members

    def learn(self, values: Mapping[str, Any], scores: Sequence[float], epoch: int) -> None:
        """Never called: a population begins with no results of others."""
        raise NotImplementedError

    def tell(self, number: int, scores: Sequence[float] | None, epoch: int = 0) -> None:
        """Report the objective of a member at the end of the interval; None where it failed."""
        self._losses[number % self._pbt.members] = math.inf if scores is None else self._config.as_loss(scores[0])

    def _parents(self, draw: np.random.Generator) -> list[int]:
        """For each member the member that it goes on from."""
        losses = [self._losses[member] for member in range(self._pbt.members)]
        order = sorted(range(self._pbt.members), key=lambda member: (losses[member], member))
        count = max(1, int(self._pbt.share * self._pbt.members))
        best = [member for member in order[:count] if not math.isinf(losses[member])]
        worst = {member for member in order if math.isinf(losses[member])} | set(order[-count:])
        picks = draw.integers(len(best), size=self._pbt.members)
        return [
            best[pick] if member in worst and member not in best else member
            for member, pick in enumerate(picks.tolist())
        ]

    def _explored(self, parent: int, draw: np.random.Generator) -> dict[str, Any]:
        """The values of a member, changed: each drawn anew with a probability, else moved a little."""
        space, values = self._config.space, self._members[parent].values
        return {
            key: _one(space[key], draw) if draw.random() < self._pbt.resample else _moved(space[key], value, draw)
            for key, value in values.items()
        }


def _drawn(space: Space, draw: np.random.Generator) -> dict[str, Any]:
    return {key: _one(parameter, draw) for key, parameter in space.items()}


def _one(parameter: Choice | Range, draw: np.random.Generator) -> Any:
    """A value of a parameter, each as likely by its sampling."""
    if parameter.values:
        return parameter.values[int(draw.integers(len(parameter.values)))]
    assert isinstance(parameter, Range)
    if parameter.sampling == "log":
        value = math.exp(draw.uniform(math.log(parameter.min), math.log(parameter.max)))
    else:
        value = draw.uniform(parameter.min, parameter.max)
    return _within(parameter, value)


def _moved(parameter: Choice | Range, value: Any, draw: np.random.Generator) -> Any:
    """A value beside another one: multiplied by a factor; of steps and choices, the one before or after."""
    up = int(draw.integers(2))
    if parameter.values:
        at = parameter.values.index(value) + (1 if up else -1)
        return parameter.values[min(max(at, 0), len(parameter.values) - 1)]
    assert isinstance(parameter, Range)
    moved = value * FACTORS[up]
    if parameter.is_integer and round(moved) == value:
        moved = value + (1 if up else -1)
    return _within(parameter, moved)


def _within(parameter: Range, value: float) -> int | float:
    """The value of a range that is nearest to a number."""
    inside = min(max(value, parameter.min), parameter.max)
    return round(inside) if parameter.is_integer else float(inside)
