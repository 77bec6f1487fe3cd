"""The search: from a description to ranked trials and a search folder."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasnn.config.schema import differences, short
from kerasnn.data.class_weights import class_weights
from kerasnn.data.loading import Data, fingerprint
from kerasnn.files import dated_path, delete_partial_files, refuse_links, write_text
from kerasnn.models.from_config import compiled_network
from kerasnn.search import hparams
from kerasnn.search.beginning import Beginning, Table, read_beginning
from kerasnn.search.best_models import BestModels, save_run_model
from kerasnn.search.cluster import Cluster
from kerasnn.search.config import SearchConfig
from kerasnn.search.connection import import_ray
from kerasnn.search.generations import generation_rows
from kerasnn.search.journal import Journal, results_by_number
from kerasnn.search.oracle_config import Pbt
from kerasnn.search.population_trainer import PopulationTrainer
from kerasnn.search.progress import SearchProgress
from kerasnn.search.proposers import LIBRARIES, Begun, check_installed, library_of, proposer_of
from kerasnn.search.result import CONTENT, SearchResult
from kerasnn.search.stopping import trials_to_stop
from kerasnn.search.subject import ScoreToBeat, Subject, Train
from kerasnn.search.table import csv_text, trials_csv
from kerasnn.search.trainer import Trainer, cached_data, proposal_key, trainer_with
from kerasnn.search.trial import Outcome, Proposal, Trial, add_ranked

MAY_CHANGE = ("trials", "workers", "cluster", "listen", "progress", "tensorboard")
"""Settings that a continued search may change, besides `run.report`; searches of kerasnn 0.1 have `listen`."""


def search(
    config: SearchConfig | None = None,
    search_dir: str | Path | None = None,
    data: Data | None = None,
    *,
    initial: Table | None = None,
    earlier: str | Path | None = None,
) -> SearchResult:
    """Search the space that a config describes, or continue the search of a folder.

    The folder holds `config.json` (the search), `journal.jsonl` (every proposal and result, safe from kills),
    `best_config.json` (the best run so far, for `train`), `models/` (the best trials'), `trials.csv`, and for
    TensorBoard's HParams page one run for each trial in `trials/`. A search that ended at any moment continues when it
    is called again with the same folder: the oracle proposes anew from its seed, and the journal answers with the
    results that it holds. One that ended before its first result leaves the folder to any other search.

    Args:
        config: the search; None is the default search on the digits.
        search_dir: a folder that is new, empty or a search's; None makes `logs/<time>-search-<data>`.
        data: prepared data for all trials; None loads the data that each run describes.
        initial: values to try first, by dotted key: a list of dicts, a data frame, a CSV file, or an earlier search's
            `trials.csv`. A key that is missing keeps the run's value.
        earlier: folder of an earlier search with the same objectives: the oracle learns from its trials, which are not
            trained again.

    Returns:
        The ranked trials.

    Raises:
        ValueError: one line, for a folder in use or of another search, and where every trial failed.

    >>> import tempfile
    >>> quiet = {"progress": "silent", "tensorboard": False, "health": False, "graph": False}
    >>> run = {"network": {"hidden": [4]}, "training": {"epochs": 1}, "report": quiet}
    >>> space = {"optimizer.learning_rate": {"min": 0.001, "max": 0.1, "sampling": "log"}}
    >>> result = search(SearchConfig(run=run, space=space, trials=2), tempfile.mkdtemp())
    >>> len(result.trials), list(result.best.values)
    (2, ['optimizer.learning_rate'])
    """
    subject = RunSubject(config or SearchConfig(), data)
    config = subject.config
    beginning = read_beginning(initial, earlier, config)
    return search_subject(subject, search_dir or dated_path("search", config.run.data.name), beginning)


def search_subject(subject: Subject, search_dir: str | Path, beginning: Beginning | None = None) -> SearchResult:
    """Search, or continue the search of a folder.

    Args:
        subject: what its trials train.
        search_dir: a folder that is new, empty or a search's.
        beginning: what it begins with; None for nothing, or what the search of the folder began with.
    """
    check_installed(subject.config)
    if subject.config.has_workers:
        import_ray()
    folder = Path(search_dir)
    journal_file = folder / "journal.jsonl"
    if folder.exists() and not journal_file.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"search_dir must be new, empty or a search's folder, received {folder}, which is none of them"
        )
    population = _population(subject, folder) if isinstance(subject.config.oracle, Pbt) else None
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder, *CONTENT)
    with Journal(journal_file) as journal:
        delete_partial_files(folder, folder / "models")
        return _Search(subject, folder, journal, beginning).run(population)


def _population(subject: Subject, folder: Path) -> PopulationTrainer:
    """What trains a population; a new one is built at once, so that what it cannot train is refused before anything is
    written."""
    config, is_new = subject.config, not (folder / "journal.jsonl").exists()
    trainer = PopulationTrainer(config, *subject.population(), folder / "population")
    if is_new:
        trainer.begin([proposal.values for proposal in proposer_of(config).ask(config.trials_per_batch)])
    return trainer


class RunSubject:
    """The runs of a config.

    Args:
        config: the search.
        data: prepared data for all trials; None loads the data that each run describes.

    Raises:
        ValueError: one line, where the data are given and searched for.
    """

    def __init__(self, config: SearchConfig, data: Data | None) -> None:
        if data is not None and any(key.split(".")[0] in ("data", "task") for key in config.space):
            raise ValueError("space must not contain data or task where data is given")
        self._config, self._data_of = config, cached_data(data)

    @functools.cached_property
    def _loaded(self) -> Data:
        return self._data_of(self._config.run_with({}))

    @functools.cached_property
    def config(self) -> SearchConfig:
        """The search, with the task of its data."""
        return self._config.model_copy(update={"run": self._config.run.with_task(self._loaded.task)})

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the examples."""
        return fingerprint(self._loaded)

    @property
    def logged(self) -> Sequence[str]:
        """Names of the values that trials log."""
        return self.config.run.logged(validation=bool(self.config.run.data.validation_share))

    @property
    def build(self) -> None:
        """None: the config says what a trial trains."""

    def population(self) -> tuple[Callable[[Mapping[str, Any]], keras.Model], Mapping[str, Any]]:
        """A function that builds the network of a trial's values, and what `fit` gets."""
        run, data = self.config.run, self._loaded
        validation = None if data.x_validation is None else (data.x_validation, data.y_validation)
        arguments: dict[str, Any] = {"x": data.x_train, "y": data.y_train, "validation_data": validation}
        arguments |= {"batch_size": run.training.batch_size, "class_weight": class_weights(run, data)}
        return lambda values: compiled_network(self.config.run_with(values), data), arguments

    @contextmanager
    def training(self, progress: SearchProgress, score_to_beat: ScoreToBeat) -> Iterator[Train]:
        """A context that returns the `Train`: of this process, or of workers."""
        if not self.config.has_workers:
            yield Trainer(self.config, self._data_of).train
            return
        make = functools.partial(trainer_with, self.config, self._loaded)
        group = functools.partial(proposal_key, self.config)
        with Cluster(self.config, make, group, progress) as cluster:
            yield functools.partial(cluster.train, score_to_beat=score_to_beat)

    def save(self, trial: Trial, seed: int, weights: list[np.ndarray], path: Path) -> None:
        """Save the model of a trial, given a path without its suffix."""
        run = self.config.run_with(trial.values)
        save_run_model(run, weights, self._data_of(run), path.with_name(f"{path.name}.keras"))

    def best_file(self, trial: Trial) -> tuple[str, str]:
        """Name and text of the file that describes the best trial."""
        return "best_config.json", self.config.run_with(trial.values).to_json() + "\n"


class _Search:
    """A running search: its proposals, its results so far, and its folder."""

    def __init__(self, subject: Subject, folder: Path, journal: Journal, beginning: Beginning | None) -> None:
        self._subject, self._config = subject, subject.config
        self._folder, self._journal = folder, journal
        # Names in the HParams page.
        self._logged: set[str] = set()
        self._begin(beginning)
        self._beginning = Beginning.from_json(journal.entries[0].get("beginning", Beginning().to_json()))
        self._proposed = {entry["proposal"]: entry for entry in journal.entries if "proposal" in entry}
        self._results = results_by_number(journal.entries)
        self._trials: dict[int, Trial] = {}
        # The best first.
        self._ranking: list[Trial] = []
        self._best_written: Trial | None = None
        self._models = BestModels(folder / "models", self._config)
        # The objective by epoch of running trials, by number.
        self._curves: dict[int, list[float]] = {}
        self._reasons_shown: set[str] = set()
        self._progress = SearchProgress(self._config)

    def run(self, population: PopulationTrainer | None) -> SearchResult:
        if population is not None:
            return self._run(population.train)
        with self._subject.training(self._progress, self._score_to_beat) as train:
            return self._run(train)

    def _score_to_beat(self) -> float | None:
        return self._models.score_to_beat(self._ranking)

    def _run(self, train: Train) -> SearchResult:
        oracle = Begun(proposer_of(self._config), self._beginning, self._config)
        batch = 0
        try:
            while (left := self._config.trials - len(self._trials)) > 0:
                proposals = oracle.ask(min(left, self._config.trials_per_batch))
                if not proposals:
                    if not isinstance(self._config.oracle, Pbt):
                        self._progress.message(f"the space is exhausted after {len(self._trials)} trials")
                    break
                self._record(proposals)
                # All results come before the next proposals, in the order of this batch's proposals: so the proposals
                # do not depend on which worker trained what.
                self._train(batch, proposals, train)
                batch += 1
                for proposal in proposals:
                    trial = self._trials[proposal.number]
                    oracle.tell(trial.number, trial.objectives(self._config), trial.epoch)
        finally:
            self._progress.close()
        ranking = self._ranking
        if ranking[0].score is None:
            raise ValueError(
                f"at least one trial must succeed, all {len(ranking)} failed, the first with: {ranking[0].error}"
            )
        if self._config.writes_tensorboard and len(self._config.objectives) > 1:
            hparams.write_front(self._folder, ranking, self._config)
        return SearchResult(tuple(ranking), self._config, self._folder, self._subject.build)

    def _begin(self, beginning: Beginning | None) -> None:
        """Begin the journal, or check that it is this search's."""
        described = self._config.model_dump(mode="json")
        if not self._journal.entries:
            library = library_of(self._config)
            versions = {library: version(library)}
            told = {} if beginning is None else {"beginning": beginning.to_json()}
            self._journal.append([{"search": described, "data": self._subject.fingerprint, **versions, **told}])
        header = self._journal.entries[0]
        if header.keys() - {"beginning"} not in [{"search", "data", library} for library in LIBRARIES]:
            raise ValueError(f"{self._journal.path} must be the journal of a search, received {short(header)}")
        changed = [
            key
            for key in differences(header["search"], described)
            if key not in MAY_CHANGE and not key.startswith("run.report.")
        ]
        if header["data"] != self._subject.fingerprint:
            changed.append("data (its examples)")
        if beginning is not None and beginning.to_json() != header.get("beginning"):
            changed.append("initial or earlier")
        if changed and not any("result" in entry for entry in self._journal.entries):
            # Nothing to continue: what began it was refused, or killed before its first result.
            self._journal.clear()
            self._begin(beginning)
            return
        if changed:
            raise ValueError(
                f"search_dir must continue the search that it holds, {self._folder} began with another "
                f"{', '.join(changed)}; give a new folder or the settings of {self._folder / 'config.json'}"
            )
        write_text(self._folder / "config.json", self._config.to_json() + "\n")
        self._declare(self._subject.logged)

    def _declare(self, logged: Iterable[str]) -> None:
        """Declare the space and the logged values for the HParams page."""
        if self._config.writes_tensorboard and not self._logged.issuperset(logged):
            self._logged |= set(logged)
            hparams.write_search(self._folder, self._config, list(logged))

    def _record(self, proposals: Sequence[Proposal]) -> None:
        """Add proposals to the journal; those that it holds must be the same."""
        new = []
        for proposal in proposals:
            entry = proposal.to_json()
            before = self._proposed.get(proposal.number)
            if before is None:
                new.append(entry)
            elif changed := differences(before, entry):
                library = library_of(self._config)
                then, now = self._journal.entries[0][library], version(library)
                raise ValueError(
                    f"the oracle must propose what it proposed before, trial {proposal.number} has another "
                    f"{', '.join(changed)}; the search began with {library.replace('_', '-')} {then}, this is {now}"
                )
        if new:
            self._journal.append(new)

    def _train(self, batch: int, proposals: Sequence[Proposal], train: Train) -> None:
        """Take the results that the journal holds, and train the other proposals."""
        to_train = []
        for proposal in proposals:
            if (entry := self._results.get(proposal.number)) is not None:
                self._add(Trial.from_json(entry, proposal))
                continue
            to_train.append(proposal)
            if proposal.continues is not None:
                self._curves[proposal.number] = list(self._trials[proposal.continues].curve)
        if len(to_train) < len(proposals):
            self._write_best()
            self._progress.results(self._ranking, replayed=len(proposals) - len(to_train))
        by_number = {proposal.number: proposal for proposal in to_train}
        for outcomes in train(batch, to_train, self._on_epoch) if to_train else ():
            self._take(outcomes, by_number)
        write_text(self._folder / "trials.csv", trials_csv(self._ranking, self._config))
        if isinstance(self._config.oracle, Pbt):
            rows = generation_rows(list(self._trials.values()), self._config)
            write_text(self._folder / "generations.csv", csv_text(rows))

    def _take(self, outcomes: Sequence[Outcome], proposals: Mapping[int, Proposal]) -> None:
        """Keep the outcomes of trials that ended together."""
        config = self._config
        trials = [Trial.from_outcome(outcome, proposals[outcome.number], config) for outcome in outcomes]
        for trial, outcome in zip(trials, outcomes, strict=True):
            if config.writes_tensorboard:
                self._declare(name for history in outcome.histories for name in history)
                scores = outcome.best_epochs(config)
                name = f"{trial.number:04d}"
                hparams.write_trial(self._folder, name, config, trial.values, trial.status, outcome.histories, scores)
            self._add(trial)
            self._curves.pop(trial.number, None)
            if trial.alone is not None and trial.alone not in self._reasons_shown:
                self._reasons_shown.add(trial.alone)
                self._progress.message(f"trial {trial.number} trained alone, and so may others: {trial.alone}")
        # Models before results, so that every best trial in the journal has its model.
        self._models.save(self._ranking, outcomes, self._subject.save)
        # After a crash all of them count or none: trials that train together decide on each other's stopping.
        self._journal.append(
            {**trial.to_json(), "left": left} for trial, left in zip(trials, reversed(range(len(trials))), strict=True)
        )
        self._models.delete_others(self._ranking)
        self._write_best()
        self._progress.results(self._ranking)

    def _on_epoch(self, epoch: int, values: Mapping[int, float]) -> set[int]:
        for number, value in values.items():
            # A continued trial that trains from the start replaces its curve.
            self._curves.setdefault(number, [])[epoch - 1 :] = [value]
        self._progress.epoch(epoch, values)
        running = {number: self._curves[number] for number in values}
        stopper = self._config.stopper
        ended = [trial.curve for trial in self._trials.values() if trial.curve] if stopper else []
        return trials_to_stop(stopper, self._config.direction, running, ended)

    def _add(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        add_ranked(self._ranking, trial, self._config)

    def _write_best(self) -> None:
        best = self._ranking[0]
        if best is self._best_written or best.score is None or not self._config.has_best_run:
            return
        name, text = self._subject.best_file(best)
        path = self._folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        self._best_written = best
