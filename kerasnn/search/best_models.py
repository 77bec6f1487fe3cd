"""The models of the best trials, on disk."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data
from kerasnn.distribute import devices
from kerasnn.models.building import with_preprocessing
from kerasnn.models.from_config import build_network, compile_model
from kerasnn.models.saving import save_model
from kerasnn.search.config import SearchSettings
from kerasnn.search.trial import Outcome, Trial, best_of

_FILE = re.compile(r"(\d{4,})(?:-(\d+))?\.(?:keras|weights\.h5)")
Save = Callable[[Trial, int, list[np.ndarray], Path], None]
"""Saves the weights of a trial's seed, given a path without its suffix."""


class BestModels:
    """Keeps the models of a search's best trials in a folder, each of its best epoch, and no others.

    With several objectives these are the trials of the Pareto front. A file is `<trial>.keras`, with several seeds
    `<trial>-<seed>.keras`; the model takes raw examples.

    >>> from kerasnn.search.config import SearchConfig
    >>> models = BestModels(Path("models"), SearchConfig(keep_best=2))
    >>> models.score_to_beat([Trial(7, {}, "completed", score=0.1), Trial(3, {}, "completed", score=0.2)])
    0.2

    Args:
        folder: the folder, made with the first model.
        config: the search.
    """

    def __init__(self, folder: Path, config: SearchSettings) -> None:
        self._folder, self._count, self._config = folder, config.keep_best, config

    def score_to_beat(self, ranking: Sequence[Trial]) -> float | None:
        """The worst score of which a model is kept, given trials, the best first; None where any score is enough."""
        has_enough = 0 < self._count <= len(ranking) and len(self._config.objectives) == 1
        return ranking[self._count - 1].score if has_enough else None

    def save(self, ranking: Sequence[Trial], outcomes: Sequence[Outcome], save: Save) -> None:
        """Save the models of trials that have just ended and are among the best.

        Args:
            ranking: trials, the best first, including those that have just ended.
            outcomes: those that have just ended.
            save: saves the model of one seed.
        """
        just_ended = {outcome.number: outcome for outcome in outcomes}
        for trial in self._best(ranking):
            if trial.number not in just_ended:
                continue
            self._folder.mkdir(exist_ok=True)
            seeds = just_ended[trial.number].weights
            for seed, weights in enumerate(seeds):
                if weights is not None:
                    name = f"{trial.number:04d}" + (f"-{seed}" if len(seeds) > 1 else "")
                    save(trial, seed, weights, self._folder / name)

    def delete_others(self, ranking: Sequence[Trial]) -> None:
        """Delete the models of trials that are not among the best, given all trials, the best first."""
        kept = {f"{trial.number:04d}" for trial in self._best(ranking)}
        files = [(path, match[1]) for path in self._folder.glob("*") if (match := _FILE.fullmatch(path.name))]
        if all(number in kept for _, number in files):
            return
        others = {f"{trial.number:04d}" for trial in ranking} - kept
        for path, number in files:
            if number in others:
                path.unlink()

    def _best(self, ranking: Sequence[Trial]) -> list[Trial]:
        if self._count and len(self._config.objectives) > 1:
            return best_of(ranking, self._config)
        return [trial for trial in ranking[: self._count] if trial.score is not None]


def model_files(folder: Path, number: int) -> list[Path]:
    """The files of a trial's models, by seed."""
    found = {path: match for path in folder.glob("*") if (match := _FILE.fullmatch(path.name))}
    return sorted(
        (path for path, match in found.items() if match[1] == f"{number:04d}"),
        key=lambda path: int(found[path][2] or 0),
    )


def save_run_model(run: RunConfig, weights: list[np.ndarray], data: Data, path: Path) -> None:
    """Save the model of a run, which takes raw examples, with these weights of its network."""
    with devices.use(run.devices):
        network = build_network(run, data)
        network.set_weights(weights)
        model = with_preprocessing(network, data.preprocessing(), data.raw_shape)
        compile_model(model, run)
        model.optimizer.build(model.trainable_variables)
        save_model(model, path)
