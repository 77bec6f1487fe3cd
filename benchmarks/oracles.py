"""Oracles side by side: the best score after 64 trials, and the seconds that a proposal takes at trial 500.

`python -m benchmarks.oracles [folder]` prints two tables; with a folder, searches that ended are not repeated.
"""

import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kerasnn.search.config import SearchConfig
from kerasnn.search.proposers import proposer_of
from kerasnn.search.run_search import search
from kerasnn.search.table import aligned
from kerasnn.study.statistics import interval

SEEDS = 5
TRIALS = 64
AT = 500
ORACLES = ("random", "bayesian", "tpe", "cmaes", "nsga2", *(("gp",) if find_spec("torch") else ()))
STARTUP = {"bayesian": "initial_points", "tpe": "startup_trials", "gp": "startup_trials"}
"""Settings for the number of random trials, with which trial 500 is reached without 499 models."""


def best_scores(oracle: str, folder: Path) -> list[float]:
    """The best validation loss of each seed's search over the default space on the digits."""
    scores = []
    for seed in range(SEEDS):
        config = SearchConfig.model_validate(
            {
                "oracle": oracle,
                "trials": TRIALS,
                "trials_at_once": 8,
                "seed": seed,
                "keep_best": 0,
                "run": {"data": {"validation_share": 0.4}, "report": {"progress": "silent", "tensorboard": False}},
            }
        )
        found = search(config, folder / f"{oracle}-{seed}")
        assert found.best.score is not None
        scores.append(found.best.score)
    return scores


def seconds_per_proposal(oracle: str) -> float:
    """Seconds for each of 8 proposals after 500 trials, which a formula answers."""
    described: dict[str, Any] = {"name": oracle} | ({STARTUP[oracle]: AT} if oracle in STARTUP else {})
    config = SearchConfig.model_validate({"oracle": described, "trials": AT + 8})
    proposer = proposer_of(config)
    for _ in range(AT // 4):
        for proposal in proposer.ask(4):
            dropout, rate = (proposal.values[key] for key in ("regularization.dropout", "optimizer.learning_rate"))
            proposer.tell(proposal.number, [(dropout - 0.2) ** 2 + (rate - 0.01) ** 2])
    start = time.perf_counter()
    assert len(proposer.ask(8)) == 8
    return (time.perf_counter() - start) / 8


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    rows = [["oracle", f"seconds per proposal at trial {AT}"]]
    for oracle in ORACLES:
        rows.append([oracle, f"{seconds_per_proposal(oracle):.4f}"])
        print(rows[-1], flush=True)
    print(aligned(rows))
    rows = [["oracle", f"best val_loss after {TRIALS} trials", "95 % interval", *(f"seed {at}" for at in range(SEEDS))]]
    for oracle in ORACLES:
        scores = best_scores(oracle, folder)
        found = interval(scores)
        rows.append(
            [oracle, f"{found.mean:.4f}", f"{found.low:.4f} to {found.high:.4f}", *(f"{each:.4f}" for each in scores)]
        )
        print(rows[-1], flush=True)
    print(aligned(rows))


if __name__ == "__main__":
    main()
