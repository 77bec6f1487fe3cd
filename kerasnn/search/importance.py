"""Which hyperparameters decided a search's scores."""

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

from kerasnn.search.space import Range, SearchConfig, as_text
from kerasnn.search.trial import Trial

FEWEST = 10
"""Trials with a score that it takes at least."""
FOLDS = 5


@dataclass(frozen=True)
class Importance:
    """How much hyperparameters decide.

    Args:
        keys: dotted keys, the most important first.
        values: drop of R² when the key's values are shuffled among trials that the model has not seen, mean over folds.
        spread: its standard deviation over folds and shuffles.
        r_squared: of the model on trials that it has not seen: how much of the scores the keys explain at all.
    """

    keys: tuple[str, ...]
    values: tuple[float, ...]
    spread: tuple[float, ...]
    r_squared: float


def importance(trials: Sequence[Trial], config: SearchConfig) -> Importance:
    """Permutation importance of a random forest that predicts the rank of a trial's score, five-fold cross-validated.

    Ranks, because one trial that diverged would otherwise outweigh all others.

    Args:
        trials: the search's; those without a score are left out.
        config: the search.

    Raises:
        ValueError: one line, for fewer than 10 trials with a score.

    Reference: Breiman, "Random Forests", 2001; scikit-learn's `permutation_importance`.
    """
    scored = [trial for trial in trials if trial.score is not None]
    if len(scored) < FEWEST:
        raise ValueError(f"importance needs at least {FEWEST} trials with a score, received {len(scored)}")
    keys = list(config.space)
    numbers = [place for place, key in enumerate(keys) if isinstance(config.space[key], Range)]
    table = np.empty((len(scored), len(keys)), object)
    for place, key in enumerate(keys):
        inactive = np.nan if place in numbers else ""
        for row, trial in enumerate(scored):
            value = trial.values.get(key)
            table[row, place] = inactive if key not in trial.values else value if place in numbers else as_text(value)
    ranks = rankdata([trial.score for trial in scored]) / len(scored)
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), [place for place in range(len(keys)) if place not in numbers]),
            ("passthrough", numbers),
            sparse_threshold=0,
        ),
        RandomForestRegressor(100, random_state=0),
    )
    drops, fits = [], []
    with warnings.catch_warnings():
        # A fold whose trials share one value of a choice is no fault.
        warnings.simplefilter("ignore")
        for learn, check in KFold(FOLDS, shuffle=True, random_state=0).split(table):
            model.fit(table[learn], ranks[learn])
            fits.append(model.score(table[check], ranks[check]))
            found = permutation_importance(model, table[check], ranks[check], n_repeats=10, random_state=0)
            drops.append(found.importances)
    every = np.concatenate(drops, axis=1)
    order = np.argsort(-every.mean(axis=1), kind="stable")
    return Importance(
        tuple(keys[place] for place in order),
        tuple(every.mean(axis=1)[order].tolist()),
        tuple(every.std(axis=1)[order].tolist()),
        float(np.mean(fits)),
    )
