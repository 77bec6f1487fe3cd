"""Which object proposes the trials of a search, and the library that it needs."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol

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
