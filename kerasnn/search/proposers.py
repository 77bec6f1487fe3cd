"""Which object proposes the trials of a search, and the library that it needs."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from kerasnn.search.beginning import Beginning
from kerasnn.search.config import SearchSettings
from kerasnn.search.oracle import Oracle
from kerasnn.search.oracle_config import Cmaes, Gp, Optuna, Pbt
from kerasnn.search.population_oracle import PopulationOracle
from kerasnn.search.trial import Proposal

LIBRARIES = ("keras_tuner", "optuna", "numpy")
"""The libraries that propose; a journal names its own with its version."""


class Proposer(Protocol):
    """Proposes trials: for the same search and the same results, the same proposals."""

    def ask(self, count: int) -> list[Proposal]:
        """Propose up to `count` trials; none once there are no further ones."""

    def tell(self, number: int, scores: Sequence[float] | None, epoch: int = 0) -> None:
        """Report a trial's value of each objective, or None where it failed."""

    def learn(self, values: Mapping[str, Any], scores: Sequence[float], epoch: int) -> None:
        """Report a result that was not proposed, before the first proposal."""


def library_of(config: SearchSettings) -> str:
    """The library whose version decides what a search proposes."""
    if isinstance(config.oracle, Pbt):
        return "numpy"
    return "optuna" if isinstance(config.oracle, Optuna) else "keras_tuner"


def check_installed(config: SearchSettings) -> None:
    """Refuse an oracle whose library is not installed.

    Raises:
        ValueError: one line.
    """
    oracle = config.oracle
    if not isinstance(oracle, Optuna):
        return
    needed = {"optuna": "Optuna"}
    if isinstance(oracle, Cmaes):
        needed["cmaes"] = "cmaes"
    if isinstance(oracle, Gp):
        needed["torch"] = "PyTorch"
    missing = [name for module, name in needed.items() if find_spec(module) is None]
    if missing:
        extra = "gp" if isinstance(oracle, Gp) else "optuna"
        raise ValueError(f"oracle {oracle.name} needs {' and '.join(missing)}: pip install 'kerasnn[{extra}]'")


def proposer_of(config: SearchSettings) -> Proposer:
    """The object that proposes the trials of a search."""
    if isinstance(config.oracle, Optuna):
        from kerasnn.search.optuna_oracle import OptunaOracle

        return OptunaOracle(config)
    if isinstance(config.oracle, Pbt):
        return PopulationOracle(config)
    return Oracle(config)


class Begun:
    """Proposes what a search begins with, then what its oracle proposes.

    Args:
        oracle: the oracle, which learns from the results that the search begins with.
        beginning: what the search begins with.
        config: the search.
    """

    def __init__(self, oracle: Proposer, beginning: Beginning, config: SearchSettings) -> None:
        self._oracle = oracle
        epochs = [config.epochs_of(values) for values in beginning.initial]
        self._first = [Proposal(at, dict(values), epochs[at]) for at, values in enumerate(beginning.initial)]
        self._waiting = list(self._first)
        for known in beginning.earlier:
            oracle.learn(known.values, known.scores, known.epoch)

    def ask(self, count: int) -> list[Proposal]:
        """Propose up to `count` trials; none once there are no further ones."""
        if self._waiting:
            proposals, self._waiting = self._waiting[:count], self._waiting[count:]
            return proposals
        shift = len(self._first)
        return [
            dataclasses.replace(
                each,
                number=each.number + shift,
                continues=None if each.continues is None else each.continues + shift,
            )
            for each in self._oracle.ask(count)
        ]

    def tell(self, number: int, scores: Sequence[float] | None, epoch: int = 0) -> None:
        """Report a trial's value of each objective, or None where it failed."""
        if number >= len(self._first):
            self._oracle.tell(number - len(self._first), scores, epoch)
        elif scores is not None:
            self._oracle.learn(self._first[number].values, scores, epoch)
