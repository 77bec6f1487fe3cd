"""The models of the best trials, on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kerasnn.callbacks.best_model import save_model
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data
from kerasnn.distribute import devices
from kerasnn.models.building import with_preprocessing
from kerasnn.models.from_config import build_network, compile_model
from kerasnn.search.trainer import DataOf, Outcome
from kerasnn.search.trial import Trial


class BestModels:
    """Keeps the models of a search's best trials in a folder, each of its best epoch, and no others.

    A file is `<trial>.keras`, with several seeds `<trial>-<seed>.keras`; it takes raw examples.

    Args:
        folder: where to; made with the first model.
        count: trials to keep; 0 keeps none.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder, count

    def to_beat(self, ranking: Sequence[Trial]) -> float | None:
        """The score from which on a trial's model is kept; None keeps any.

        Args:
            ranking: trials, the best first.
        """
        return ranking[self._count - 1].score if 0 < self._count <= len(ranking) else None

    def save(
        self,
        ranking: Sequence[Trial],
        outcomes: Sequence[Outcome],
        run_of: Callable[[Trial], RunConfig],
        data_of: DataOf,
    ) -> None:
        """Save those models of trials that just ended which are among the best.

        Args:
            ranking: trials, the best first, those that just ended among them.
            outcomes: those that just ended.
            run_of: a trial's run.
            data_of: a run's data.
        """
        ended = {outcome.number: outcome for outcome in outcomes}
        for trial in self._best(ranking):
            if trial.number not in ended:
                continue
            self._folder.mkdir(exist_ok=True)
            seeds = ended[trial.number].weights
            for seed, weights in enumerate(seeds):
                if weights is not None:
                    name = f"{trial.number:04d}" + (f"-{seed}" if len(seeds) > 1 else "")
                    run = run_of(trial)
                    _save(run, weights, data_of(run), self._folder / f"{name}.keras")

    def drop(self, ranking: Sequence[Trial]) -> None:
        """Delete the models of trials that are not, or no longer, among the best, and what a kill left half-written.

        Args:
            ranking: trials, the best first.
        """
        kept = {f"{trial.number:04d}" for trial in self._best(ranking)}
        for path in self._folder.glob("*"):
            if path.stem.split("-")[0] not in kept:
                path.unlink()

    def _best(self, ranking: Sequence[Trial]) -> list[Trial]:
        return [trial for trial in ranking[: self._count] if trial.score is not None]


def _save(run: RunConfig, weights: list[np.ndarray], data: Data, path: Path) -> None:
    with devices.use(run.devices):
        network = build_network(run, data)
        network.set_weights(weights)
        model = with_preprocessing(network, data.preprocessing(), data.raw_shape)
        compile_model(model, run)
        model.optimizer.build(model.trainable_variables)
        save_model(model, path)
