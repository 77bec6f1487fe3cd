"""The search: from a description to ranked trials and a search folder."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from matplotlib.figure import Figure

from kerasnn.config.run import RunConfig
from kerasnn.config.schema import differences, short
from kerasnn.data.loading import Data, fingerprint
from kerasnn.files import dated_path, delete_partial_files, refuse_links, write_text
from kerasnn.search import hparams
from kerasnn.search.best_models import BestModels
from kerasnn.search.cluster import Cluster
from kerasnn.search.config import SearchConfig
from kerasnn.search.journal import Journal, read_journal, results_by_number
from kerasnn.search.oracle import Oracle
from kerasnn.search.pictures import parallel_coordinates
from kerasnn.search.progress import SearchProgress
from kerasnn.search.stopping import trials_to_stop
from kerasnn.search.table import trials_csv, trials_table
from kerasnn.search.trainer import OnEpoch, Trainer, cached_data
from kerasnn.search.trial import Outcome, Proposal, Trial, ranked

CONTENT = ("config.json", "journal.jsonl", "best_config.json", "trials.csv", hparams.FILE, "models", "trials")
"""The files and folders of a search folder."""
MAY_CHANGE = ("trials", "workers", "cluster", "listen")
"""Settings that a continued search may change, besides `run.report`; searches of kerasnn 0.1 have `listen`."""
Train = Callable[[int, Sequence[Proposal], OnEpoch], Iterable[list[Outcome]]]
"""Trains the proposals of a batch, given its number; yields the outcomes of trials that ended together."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The result of a search.

    >>> trials = (Trial(1, {"optimizer.learning_rate": 0.1}, "completed", score=0.4),)
    >>> result = SearchResult(trials, SearchConfig(), Path("logs"))
    >>> result.best_config.optimizer.learning_rate
    0.1

    Args:
        trials: all trials, the best first.
        config: the search.
        search_dir: its folder.
    """

    trials: tuple[Trial, ...] = field(repr=False)
    config: SearchConfig = field(repr=False)
    search_dir: Path

    @property
    def best(self) -> Trial:
        """The best trial."""
        return self.trials[0]

    @property
    def best_config(self) -> RunConfig:
        """The run of the best trial; `train` with it gives the trial's score again."""
        return self.config.run_with(self.best.values)

    def table(self, rows: int = 10) -> str:
        """The best trials as text."""
        return trials_table(self.trials[:rows], self.config)

    def figure(self) -> Figure:
        """Every trial as a line through its values to its score: the darker, the better."""
        return parallel_coordinates(self.trials, self.config)


def search(
    config: SearchConfig | None = None, search_dir: str | Path | None = None, data: Data | None = None
) -> SearchResult:
    """Search the space that a config describes, or continue the search of a folder.

    The folder holds `config.json` (the search), `journal.jsonl` (every proposal and result, safe from kills),
    `best_config.json` (the best run so far, for `train`), `models/` (the best trials'), `trials.csv`, and for
    TensorBoard's HParams page one run for each trial in `trials/`. A search that ended at any moment continues when it
    is called again with the same folder: the oracle proposes anew from its seed, and the journal answers with the
    results that it holds.

    Args:
        config: the search; None is the default search on the digits.
        search_dir: a folder that is new, empty or a search's; None makes `logs/<time>-search-<data>`.
        data: prepared data for all trials; None loads the data that each run describes.

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
    config = config or SearchConfig()
    if data is not None and any(key.split(".")[0] in ("data", "task") for key in config.space):
        raise ValueError("space must not contain data or task where data is given")
    folder = Path(search_dir or dated_path("search", config.run.data.name))
    journal_file = folder / "journal.jsonl"
    if folder.exists() and not journal_file.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"search_dir must be new, empty or a search's folder, received {folder}, which is none of them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder, *CONTENT)
    with Journal(journal_file) as journal:
        delete_partial_files(folder, folder / "models")
        return _Search(config, folder, journal, data).run()


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
    config, entries = SearchConfig.load(folder), read_journal(folder / "journal.jsonl")
    proposals = {entry["proposal"]: Proposal.from_json(entry) for entry in entries if "proposal" in entry}
    trials = [Trial.from_json(entry, proposals[number]) for number, entry in results_by_number(entries).items()]
    if not trials:
        raise ValueError(f"at least one trial must have ended, {folder} has none yet")
    return SearchResult(tuple(ranked(trials, config)), config, folder)


class _Search:
    """A running search: its proposals, its results so far, and its folder."""

    def __init__(self, config: SearchConfig, folder: Path, journal: Journal, data: Data | None) -> None:
        self._data_of = cached_data(data)
        loaded = self._data_of(config.run_with({}))
        config = config.model_copy(update={"run": config.run.with_task(loaded.task)})
        self._config, self._folder, self._journal = config, folder, journal
        self._fingerprint = fingerprint(loaded)
        self._begin()
        self._proposed = {entry["proposal"]: entry for entry in journal.entries if "proposal" in entry}
        self._results = results_by_number(journal.entries)
        self._trials: dict[int, Trial] = {}
        self._models = BestModels(folder / "models", config.keep_best)
        # The objective by epoch of running trials, by number.
        self._curves: dict[int, list[float]] = {}
        self._reasons_shown: set[str] = set()
        self._progress = SearchProgress(config)

    def run(self) -> SearchResult:
        if not self._config.has_workers:
            return self._run(Trainer(self._config, self._data_of).train)
        with Cluster(self._config, self._data_of(self._config.run_with({})), self._progress.message) as cluster:
            train = functools.partial(cluster.train, score_to_beat=lambda: self._models.score_to_beat(self._ranking()))
            return self._run(train)

    def _run(self, train: Train) -> SearchResult:
        oracle = Oracle(self._config)
        batch = 0
        try:
            while (left := self._config.trials - len(self._trials)) > 0:
                proposals = oracle.ask(min(left, self._config.trials_per_batch))
                if not proposals:
                    self._progress.message(f"the space is exhausted after {len(self._trials)} trials")
                    break
                self._record(proposals)
                # All results come before the next proposals, in the order of this batch's proposals: so the proposals
                # do not depend on which worker trained what.
                self._train(batch, proposals, train)
                batch += 1
                for proposal in proposals:
                    trial = self._trials[proposal.number]
                    oracle.tell(trial.number, trial.score, trial.epoch)
        finally:
            self._progress.close()
        ranking = self._ranking()
        if ranking[0].score is None:
            raise ValueError(
                f"at least one trial must succeed, all {len(ranking)} failed, the first with: {ranking[0].error}"
            )
        return SearchResult(tuple(ranking), self._config, self._folder)

    def _begin(self) -> None:
        """Begin the journal, or check that it is this search's."""
        described = self._config.model_dump(mode="json")
        if not self._journal.entries:
            versions = {"keras_tuner": version("keras-tuner")}
            self._journal.append([{"search": described, "data": self._fingerprint, **versions}])
        header = self._journal.entries[0]
        if header.keys() != {"search", "data", "keras_tuner"}:
            raise ValueError(f"{self._journal.path} must be the journal of a search, received {short(header)}")
        changed = [
            key
            for key in differences(header["search"], described)
            if key not in MAY_CHANGE and not key.startswith("run.report.")
        ]
        if header["data"] != self._fingerprint:
            changed.append("data (its examples)")
        if changed:
            raise ValueError(
                f"search_dir must continue the search that it holds, {self._folder} began with another "
                f"{', '.join(changed)}; give a new folder or the settings of {self._folder / 'config.json'}"
            )
        write_text(self._folder / "config.json", self._config.to_json() + "\n")
        if self._config.run.report.tensorboard:
            logged = self._config.run.logged(validation=bool(self._config.run.data.validation_share))
            hparams.write_search(self._folder, self._config, logged)

    def _record(self, proposals: Sequence[Proposal]) -> None:
        """Add proposals to the journal; those that it holds must be the same."""
        new = []
        for proposal in proposals:
            entry = proposal.to_json()
            before = self._proposed.get(proposal.number)
            if before is None:
                new.append(entry)
            elif changed := differences(before, entry):
                then, now = self._journal.entries[0]["keras_tuner"], version("keras-tuner")
                raise ValueError(
                    f"the oracle must propose what it proposed before, trial {proposal.number} has another "
                    f"{', '.join(changed)}; the search began with keras-tuner {then}, this is {now}"
                )
        if new:
            self._journal.append(new)

    def _train(self, batch: int, proposals: Sequence[Proposal], train: Train) -> None:
        """Take the results that the journal holds, and train the other proposals."""
        to_train = []
        for proposal in proposals:
            if (entry := self._results.get(proposal.number)) is not None:
                self._trials[proposal.number] = Trial.from_json(entry, proposal)
                continue
            to_train.append(proposal)
            if proposal.continues is not None:
                self._curves[proposal.number] = list(self._trials[proposal.continues].curve)
        if len(to_train) < len(proposals):
            self._write_best_config()
            self._progress.results(self._trials, replayed=len(proposals) - len(to_train))
        by_number = {proposal.number: proposal for proposal in to_train}
        for outcomes in train(batch, to_train, self._on_epoch) if to_train else ():
            self._take(outcomes, by_number)
        write_text(self._folder / "trials.csv", trials_csv(self._ranking(), self._config))

    def _take(self, outcomes: Sequence[Outcome], proposals: Mapping[int, Proposal]) -> None:
        """Keep the outcomes of trials that ended together."""
        config = self._config
        trials = [Trial.from_outcome(outcome, proposals[outcome.number], config) for outcome in outcomes]
        for trial, outcome in zip(trials, outcomes, strict=True):
            if config.run.report.tensorboard:
                scores = outcome.best_epochs(config)
                name = f"{trial.number:04d}"
                hparams.write_trial(self._folder, name, config, trial.values, trial.status, outcome.histories, scores)
            self._trials[trial.number] = trial
            self._curves.pop(trial.number, None)
            if trial.alone is not None and trial.alone not in self._reasons_shown:
                self._reasons_shown.add(trial.alone)
                self._progress.message(f"trial {trial.number} trained alone, and so may others: {trial.alone}")
        ranking = self._ranking()
        # Models before results, so that every best trial in the journal has its model.
        self._models.save(ranking, outcomes, config, self._data_of)
        # After a crash all of them count or none: trials that train together decide on each other's stopping.
        self._journal.append(
            {**trial.to_json(), "left": left} for trial, left in zip(trials, reversed(range(len(trials))), strict=True)
        )
        self._models.delete_others(ranking)
        self._write_best_config()
        self._progress.results(self._trials)

    def _on_epoch(self, epoch: int, values: Mapping[int, float]) -> set[int]:
        for number, value in values.items():
            # A continued trial that trains from the start replaces its curve.
            self._curves.setdefault(number, [])[epoch - 1 :] = [value]
        self._progress.epoch(epoch, values)
        running = {number: self._curves[number] for number in values}
        ended = [trial.curve for trial in self._trials.values() if trial.curve]
        return trials_to_stop(self._config.stopper, self._config.direction, running, ended)

    def _ranking(self) -> list[Trial]:
        return ranked(self._trials.values(), self._config)

    def _write_best_config(self) -> None:
        best = self._ranking()[0]
        if best.score is not None:
            text = self._config.run_with(best.values).to_json() + "\n"
            path = self._folder / "best_config.json"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_text(path, text)
