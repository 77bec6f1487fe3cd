"""The importance of each hyperparameter for a search's scores."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata  # type: ignore[import-untyped]
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from kerasnn.search.config import SearchSettings
from kerasnn.search.space import Range, canonical_json
from kerasnn.search.trial import Trial

MIN_TRIALS = 10
FOLDS = 5


@dataclass(frozen=True)
class Importance:
    """The importance of hyperparameters for a search's scores.

    Args:
        keys: dotted keys, the most important first.
        values: loss of R² on held-out trials when the key's values are shuffled among them, mean over folds.
        std: its standard deviation over folds and shuffles.
        r_squared: R² of the model on held-out trials: the part of the scores' variance that the keys explain.
    """

    keys: tuple[str, ...]
    values: tuple[float, ...]
    std: tuple[float, ...]
    r_squared: float


def importance(trials: Sequence[Trial], config: SearchSettings) -> Importance:
    """Permutation importance of a random forest that predicts the rank of a trial's score, five-fold cross-validated.

    It predicts ranks because otherwise a single diverged trial would outweigh all others. Trials without a score are
    ignored. `python -m benchmarks.importances` compares it with Optuna's evaluators. On trials that an oracle placed
    near the best, this one finds the true order more often; on random trials with outliers, fANOVA does.

    Raises:
        ValueError: one line, for fewer than 10 trials with a score.

    Reference: Breiman, "Random Forests", 2001; scikit-learn's `permutation_importance`.
    """
    scored = [trial for trial in trials if trial.score is not None]
    if len(scored) < MIN_TRIALS:
        raise ValueError(f"importance needs at least {MIN_TRIALS} trials with a score, received {len(scored)}")
    keys = list(config.space)
    numeric = [column for column, key in enumerate(keys) if isinstance(config.space[key], Range)]
    table = np.empty((len(scored), len(keys)), object)
    for column, key in enumerate(keys):
        is_numeric = column in numeric
        for row, trial in enumerate(scored):
            if key not in trial.values:
                table[row, column] = np.nan if is_numeric else ""
            else:
                table[row, column] = trial.values[key] if is_numeric else canonical_json(trial.values[key])
    ranks = rankdata([trial.score for trial in scored]) / len(scored)
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), [column for column in range(len(keys)) if column not in numeric]),
        ("passthrough", numeric),
        sparse_threshold=0,
    )
    model = make_pipeline(encoder, RandomForestRegressor(100, random_state=0))
    drops, r_squared = [], []
    with warnings.catch_warnings():
        # scikit-learn warns of folds whose trials share one value of a choice.
        warnings.simplefilter("ignore")
        for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(table):
            model.fit(table[train], ranks[train])
            r_squared.append(model.score(table[test], ranks[test]))
            permuted = permutation_importance(model, table[test], ranks[test], n_repeats=10, random_state=0)
            drops.append(permuted.importances)
    every_drop = np.concatenate(drops, axis=1)
    means, stds = every_drop.mean(axis=1), every_drop.std(axis=1)
    order = np.argsort(-means, kind="stable")
    return Importance(
        tuple(keys[column] for column in order),
        tuple(means[order].tolist()),
        tuple(stds[order].tolist()),
        float(np.mean(r_squared)),
    )
