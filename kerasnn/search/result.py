"""The result of a search, and how it is read from a folder."""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
from matplotlib.figure import Figure

from kerasnn.config.run import RunConfig
from kerasnn.files import refuse_links
from kerasnn.fused.ensemble import Ensemble, select_ensemble
from kerasnn.search import hparams
from kerasnn.search.best_models import model_files
from kerasnn.search.journal import read_journal, results_by_number
from kerasnn.search.model_config import load_search
from kerasnn.search.pictures import parallel_coordinates
from kerasnn.search.table import trials_table
from kerasnn.search.trial import Proposal, Trial, best_of, ranked

CONTENT = (
    *("config.json", "journal.jsonl", "best_config.json", "best_values.json", "trials.csv", "generations.csv"),
    *(hparams.FILE, "models", "trials", "population"),
)
"""The files and folders of a search folder."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The result of a search.

    >>> from kerasnn.search.config import SearchConfig
    >>> trials = (Trial(1, {"optimizer.learning_rate": 0.1}, "completed", score=0.4),)
    >>> result = SearchResult(trials, SearchConfig(), Path("logs"))
    >>> result.best_config.optimizer.learning_rate
    0.1

    Args:
        trials: all trials, the best first.
        config: the search; a `ModelSearchConfig` for one over a function that builds models.
        search_dir: its folder.
        build: makes the model of a trial's values, where the search was over a function; None in a result that was
            read from its folder.
    """

    trials: tuple[Trial, ...] = field(repr=False)
    config: Any = field(repr=False)
    search_dir: Path
    build: Callable[[Mapping[str, Any]], keras.Model] | None = field(default=None, repr=False)

    @property
    def best(self) -> Trial:
        """The best trial.

        Raises:
            ValueError: one line, with several objectives, by which no trial is the best.
        """
        if len(self.config.objectives) > 1:
            names = ", ".join(name for name, _ in self.config.objectives)
            raise ValueError(f"the best trial needs one objective, received {names}; best_trials is their Pareto front")
        return self.trials[0]

    @property
    def best_trials(self) -> tuple[Trial, ...]:
        """The best trial; with several objectives the Pareto front, the trials that no other one beats in all of them,
        by the first objective; empty where every trial failed."""
        return tuple(best_of(self.trials, self.config))

    @property
    def best_config(self) -> RunConfig:
        """The run of the best trial of a config's search; `train` with it gives the trial's score again.

        Raises:
            ValueError: one line, of a population, whose members change their values while they train.
        """
        if not self.config.has_best_run:
            raise ValueError(f"trial {self.best.number} of pbt has no run that gives its score again; models/ has it")
        run: RunConfig = self.config.run_with(self.best.values)
        return run

    def best_models(self, count: int = 1) -> list[keras.Model]:
        """The models of the best trials, the best first, each with the weights of its best epoch.

        Args:
            count: number of trials, at most the search's `keep_best`. Of a trial with several seeds, its best one.

        Raises:
            ValueError: one line, where fewer are kept.
        """
        kept = min(self.config.keep_best, sum(trial.score is not None for trial in self.trials))
        if kept and len(self.config.objectives) > 1:
            kept = len(self.best_trials)
        if not 1 <= count <= kept:
            raise ValueError(f"count must be from 1 to {kept}, the models that the search keeps, received {count}")
        return [self._model(trial) for trial in self.trials[:count]]

    def _model(self, trial: Trial) -> keras.Model:
        losses = list(map(self.config.as_loss, trial.scores))
        path = model_files(self.search_dir / "models", trial.number)[losses.index(min(losses)) if losses else 0]
        if self.build is None:
            if path.suffix != ".keras":
                raise ValueError(
                    f"{path} holds weights only: call search again, with the function that builds the model"
                )
            loaded: keras.Model = keras.models.load_model(path)
            return loaded
        model = self.build(trial.values)
        if not model.built:
            _build_as_saved(model, path)
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        model.load_weights(path)
        return model

    def ensemble(self, count: int, x: Any = None, y: Any = None, rounds: int = 20) -> Ensemble:
        """The best trials' models as one model: with equal shares, or selected greedily on held-out examples.

        Args:
            count: number of trials, at most the search's `keep_best`.
            x, y: held-out examples as the models take them, from which to select; None gives all the same share.
            rounds: as in `kerasnn.select_ensemble`.

        Raises:
            ValueError: one line, where fewer models are kept.
        """
        models = self.best_models(count)
        return Ensemble(models) if x is None else select_ensemble(models, x, y, rounds)

    def figure(self) -> Figure:
        """Every trial as a line through its values to its score: the darker, the better."""
        return parallel_coordinates(self.trials, self.config)

    def table(self, rows: int = 10) -> str:
        """The best trials as text."""
        return trials_table(self.trials[:rows], self.config)


def read_search(search_dir: str | Path) -> SearchResult:
    """The trials of a search that have ended, from its folder; the search may be running.

    Args:
        search_dir: the folder.

    Raises:
        FileNotFoundError: where the folder holds no search.
        ValueError: one line, where a file is damaged or no trial has ended.
    """
    folder = Path(search_dir)
    refuse_links(folder, *CONTENT)
    config, entries = load_search(folder), read_journal(folder / "journal.jsonl")
    proposals = {entry["proposal"]: Proposal.from_json(entry) for entry in entries if "proposal" in entry}
    trials = [Trial.from_json(entry, proposals[number]) for number, entry in results_by_number(entries).items()]
    if not trials:
        raise ValueError(f"at least one trial must have ended, {folder} has none yet")
    return SearchResult(tuple(ranked(trials, config)), config, folder)


def _build_as_saved(model: keras.Model, path: Path) -> None:
    """Build a model for the shapes of its inputs that a `.keras` file keeps."""
    if path.suffix != ".keras":
        raise ValueError(f"{path} holds weights only: the function must return a built model to take them")
    with zipfile.ZipFile(path) as archive:
        described = json.loads(archive.read("config.json"))
    model.build_from_config(described["build_config"])
    # Keras builds the layers, and does not say so of the model.
    model.built = True
