"""Importances of hyperparameters: kerasnn's against Optuna's evaluators, on scores whose important keys are known.

`python -m benchmarks.importances [search folder ...]` prints how often each evaluator finds the key that decides most,
how well its order agrees with the true one (Kendall's tau over seeds), and how often it names a key without any effect
among those with one. Search folders are compared by their own trials, without a truth.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from kerasnn.search.config import SearchConfig
from kerasnn.search.importance import importance
from kerasnn.search.proposers import proposer_of
from kerasnn.search.result import read_search
from kerasnn.search.space import Choice, Range, canonical_json
from kerasnn.search.table import aligned
from kerasnn.search.trial import Trial

SEEDS = 5
TRIALS = 64
SPACE = {
    "optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"},
    "regularization.dropout": {"min": 0.0, "max": 0.5},
    "network.activation": {"choices": ["relu", "tanh", "gelu"]},
    "regularization.l2": {"min": 1e-6, "max": 1e-2, "sampling": "log"},
}
TRUE_ORDER = list(SPACE)
"""The keys by their share of the variance; the last has none."""

Evaluator = Callable[[Sequence[Trial], SearchConfig], Mapping[str, float]]


def ours(trials: Sequence[Trial], config: SearchConfig) -> Mapping[str, float]:
    found = importance(trials, config)
    return dict(zip(found.keys, found.values, strict=True))


def optunas(evaluator: Any) -> Evaluator:
    def evaluate(trials: Sequence[Trial], config: SearchConfig) -> Mapping[str, float]:
        study = optuna.create_study(direction="minimize")
        for trial in trials:
            if trial.score is None:
                continue
            distributions = {key: _distribution(config.space[key]) for key in trial.values}
            values = {key: _value(config.space[key], value) for key, value in trial.values.items()}
            score = config.as_loss(trial.score)
            study.add_trial(optuna.trial.create_trial(params=values, distributions=distributions, value=score))
        return get_param_importances(study, evaluator=evaluator())

    return evaluate


EVALUATORS: dict[str, Evaluator] = {
    "kerasnn": ours,
    "fANOVA": optunas(lambda: FanovaImportanceEvaluator(seed=0)),
    "PED-ANOVA": optunas(PedAnovaImportanceEvaluator),
}


def _distribution(parameter: Choice | Range) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution([canonical_json(value) for value in parameter.values])
    kind = IntDistribution if parameter.is_integer else FloatDistribution
    return kind(parameter.min, parameter.max, log=parameter.sampling == "log")  # type: ignore[arg-type]


def _value(parameter: Choice | Range, value: Any) -> Any:
    return canonical_json(value) if isinstance(parameter, Choice) else value


def loss(values: Mapping[str, Any], outliers: bool) -> float:
    """A valley in the learning rate, a smaller one in the dropout, and steps between activations; with outliers, the
    highest rates diverge to a loss that is a hundred times as large."""
    rate, dropout = np.log10(values["optimizer.learning_rate"]), values["regularization.dropout"]
    valley = (rate + 2.3) ** 2
    steps = {"relu": 0.0, "gelu": 0.05, "tanh": 0.2}[values["network.activation"]]
    found = 0.1 + 0.5 * valley + 8 * (dropout - 0.2) ** 2 + steps
    return float(found * (100 if outliers and rate > -1.2 else 1))


def synthetic(oracle: str, seed: int, outliers: bool) -> tuple[list[Trial], SearchConfig]:
    config = SearchConfig.model_validate({"space": SPACE, "oracle": oracle, "trials": TRIALS, "seed": seed})
    proposer, noise, trials = proposer_of(config), np.random.default_rng(seed), list[Trial]()
    while len(trials) < TRIALS:
        for proposal in proposer.ask(8):
            score = loss(proposal.values, outliers) * float(np.exp(noise.normal(0, 0.05)))
            trials.append(Trial(proposal.number, proposal.values, "completed", score=score))
            proposer.tell(proposal.number, [score])
    return trials, config


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    rows = [["oracle", "outliers", "evaluator", "first key right", "Kendall's tau", "no effect, last"]]
    for oracle in ("random", "tpe"):
        for outliers in (False, True):
            searches = [synthetic(oracle, seed, outliers) for seed in range(SEEDS)]
            for name, evaluate in EVALUATORS.items():
                found = [evaluate(*each) for each in searches]
                orders = [sorted(values, key=values.__getitem__, reverse=True) for values in found]
                ranks = [[order.index(key) for key in TRUE_ORDER] for order in orders]
                tau = np.mean([kendalltau(each, range(len(each))).statistic for each in ranks])
                first = sum(order[0] == TRUE_ORDER[0] for order in orders)
                last = sum(order[-1] == TRUE_ORDER[-1] for order in orders)
                rows.append([oracle, str(outliers), name, f"{first}/{SEEDS}", f"{tau:.2f}", f"{last}/{SEEDS}"])
    print(aligned(rows))
    for folder in sys.argv[1:]:
        result = read_search(Path(folder))
        for name, evaluate in EVALUATORS.items():
            values = evaluate(result.trials, result.config)
            shown = ", ".join(f"{key} {value:.2f}" for key, value in sorted(values.items(), key=lambda pair: -pair[1]))
            print(f"{folder}, {name}: {shown}")


if __name__ == "__main__":
    main()
