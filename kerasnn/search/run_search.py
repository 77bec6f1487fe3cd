"""One search, whole: a description in, ranked trials and a search folder out."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from kerasnn.config.run import RunConfig
from kerasnn.config.schema import differences, short
from kerasnn.data.loading import Data
from kerasnn.files import dated_path, write_text
from kerasnn.search import hparams
from kerasnn.search.best_models import BestModels
from kerasnn.search.chief import Chief
from kerasnn.search.journal import ADDRESS, Journal, Record, read
from kerasnn.search.oracle import Oracle, Proposal
from kerasnn.search.outcomes import best_of, complete, record_of, trial_of
from kerasnn.search.space import SearchConfig
from kerasnn.search.stopping import hopeless
from kerasnn.search.trainer import DataOf, Outcome, Trainer, Watch
from kerasnn.search.trial import Board, Trial, ranked, table, to_csv

__all__ = ["SearchConfig", "SearchResult", "Trial", "search"]


Train = Callable[[int, Sequence[Proposal], Watch], Iterable[list[Outcome]]]
"""Trains proposals of a batch, given its number; yields the outcomes of those that ended together."""


def _may_change(key: str) -> bool:
    """Whether a continued search may change a setting."""
    return key in ("trials", "workers", "listen") or key.startswith("run.report.")


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search gives.

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
        """The best trial's run; `train` with it finds the trial's score again."""
        return self.config.run_with(self.best.values)

    def table(self, rows: int = 10) -> str:
        """The best trials as text."""
        return table(self.trials[:rows], list(self.config.space), self.config.objective_name)


def search(
    config: SearchConfig | None = None, search_dir: str | Path | None = None, data: Data | None = None
) -> SearchResult:
    """Search the space that a config describes; continue the search that a folder holds.

    The folder holds `config.json` (the search), `journal.jsonl` (every proposal and result, safe from kills),
    `best_config.json` (the best run so far, for `train`), `models/` (the best trials'), `trials.csv`, and for
    TensorBoard's HParams page one run for each trial in `trials/`. A search that was ended anywhere goes on when it is
    called again with the same folder: the oracle is asked again from its seed, and answered from the journal as far as
    that goes.

    Args:
        config: the search; None is the default search on the digits.
        search_dir: a folder that is new, empty or a search's; None makes `logs/<time>-search-<data>`.
        data: prepared data for all trials; None loads what each run describes.

    Returns:
        The ranked trials.

    Raises:
        ValueError: one line, for a folder in use or of another search, and where every trial failed.
    """
    config = config or SearchConfig()
    if data is not None and any(key.split(".")[0] in ("data", "task") for key in config.space):
        raise ValueError("space must leave data and task alone where data is given")
    if data is not None and config.is_chief:
        raise ValueError(
            "workers need data that they can load themselves: describe it in run.data, or leave workers at 1"
        )
    folder = Path(search_dir or dated_path("search", config.run.data.name))
    journal_file = folder / "journal.jsonl"
    if folder.exists() and not journal_file.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"search_dir must be new, empty or a search's folder, received {folder}, which is none of them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(journal_file) as journal:
        return _Search(config, folder, journal, data).run()


def read_search(search_dir: str | Path) -> SearchResult:
    """What a search has found so far, from its folder; it may be running.

    Args:
        search_dir: the folder.

    Raises:
        FileNotFoundError: where the folder holds no search.
        ValueError: one line, where a file is damaged or no trial has ended.
    """
    folder = Path(search_dir)
    config, records = SearchConfig.load(folder), read(folder / "journal.jsonl")
    proposed = {record["proposal"]: record for record in records if "proposal" in record}
    trials = []
    for number, record in complete(records).items():
        described = proposed[number]
        proposal = Proposal(number, described["values"], described["epochs"], described.get("continues"))
        trials.append(trial_of(record, proposal))
    if not trials:
        raise ValueError(f"at least one trial must have ended, {folder} has none yet")
    return SearchResult(tuple(ranked(trials, config.direction)), config, folder)


class _Search:
    """A search under way: what was proposed, found and shown so far."""

    def __init__(self, config: SearchConfig, folder: Path, journal: Journal, data: Data | None) -> None:
        self.config, self.folder, self.journal = config, folder, journal
        self._data_of = DataOf(data)
        self._fingerprint = self._data_of.fingerprint(config.run_with({}))
        self._begin()
        self._proposed = {record["proposal"]: record for record in journal.records if "proposal" in record}
        self._found = complete(journal.records)
        self.trials: dict[int, Trial] = {}
        self._models = BestModels(folder / "models", config.keep_best)
        self._running: dict[int, list[float]] = {}
        self._told: set[str] = set()
        self.board = Board(
            config.objective_name,
            config.direction,
            list(config.space),
            config.trials,
            config.run.report.progress,
        )

    def run(self) -> SearchResult:
        # Of a chief that was killed.
        (self.folder / ADDRESS).unlink(missing_ok=True)
        if not self.config.is_chief:
            trainer = Trainer(self.config, self._data_of)
            return self._run(trainer.train)
        with Chief(self.config, self._fingerprint, self.folder, self.board.say) as chief:
            if self.config.listen is not None:
                self.board.say(f"workers join with  kerasnn search --join {chief.address}")
            return self._run(functools.partial(chief.train, to_beat=lambda: self._models.to_beat(self._best_first())))

    def _run(self, train: Train) -> SearchResult:
        oracle = Oracle(self.config)
        batch = 0
        try:
            while (left := self.config.trials - len(self.trials)) > 0:
                proposals = oracle.ask(min(left, self.config.batch))
                if not proposals:
                    self.board.say(f"the space is exhausted after {len(self.trials)} trials")
                    break
                self._check_replay(proposals)
                # All of it before more is asked for, and told in the order proposed: what is proposed does not depend
                # on who trained which.
                self._batch(batch, proposals, train)
                batch += 1
                for proposal in proposals:
                    trial = self.trials[proposal.number]
                    oracle.tell(trial.number, trial.score, trial.epoch)
        finally:
            self.board.close()
        best = self._best_first()
        if best[0].score is None:
            raise ValueError(
                f"at least one trial must succeed, all {len(best)} failed, the first with: {best[0].error}"
            )
        return SearchResult(tuple(best), self.config, self.folder)

    def _begin(self) -> None:
        """Begin the journal, or see that it is this search's."""
        described = self.config.model_dump(mode="json")
        header: Record = {"search": described, "data": self._fingerprint}
        if not self.journal.records:
            self.journal.append([{**header, "keras_tuner": version("keras-tuner")}])
        before = self.journal.records[0]
        if "search" not in before:
            raise ValueError(f"{self.journal.path} must be the journal of a search, received {short(before)}")
        changed = [key for key in differences(before["search"], described) if not _may_change(key)]
        if before["data"] != header["data"]:
            changed.append("data (its examples)")
        if changed:
            raise ValueError(
                f"search_dir must continue the search that it holds, {self.folder} began with another "
                f"{', '.join(changed)}; give a new folder or the settings of {self.folder / 'config.json'}"
            )
        write_text(self.folder / "config.json", self.config.to_json() + "\n")
        if self.config.run.report.tensorboard:
            hparams.write_search(
                self.folder, self.config, self.config.run.logged(validation=bool(self.config.run.data.validation_share))
            )

    def _check_replay(self, proposals: Sequence[Proposal]) -> None:
        new = []
        for proposal in proposals:
            record: Record = {"proposal": proposal.number, "values": proposal.values, "epochs": proposal.epochs}
            if proposal.continues is not None:
                record["continues"] = proposal.continues
            before = self._proposed.get(proposal.number)
            if before is None:
                new.append(record)
            elif changed := differences(before, record):
                then, now = self.journal.records[0]["keras_tuner"], version("keras-tuner")
                raise ValueError(
                    f"the oracle must propose what it proposed before, trial {proposal.number} has another "
                    f"{', '.join(changed)}; the search began with keras-tuner {then}, this is {now}"
                )
        if new:
            self.journal.append(new)

    def _batch(self, batch: int, proposals: Sequence[Proposal], train: Train) -> None:
        """Answer proposals from the journal, and train the others."""
        waiting, by_number = [], {proposal.number: proposal for proposal in proposals}
        for proposal in proposals:
            if (record := self._found.get(proposal.number)) is not None:
                self.trials[proposal.number] = trial_of(record, proposal)
            else:
                waiting.append(proposal)
                if proposal.continues is not None:
                    self._running[proposal.number] = list(self.trials[proposal.continues].curve)
        if len(waiting) < len(proposals):
            self._new_best()
            self.board.results(self.trials, replayed=len(proposals) - len(waiting))
        if waiting:
            for together in train(batch, waiting, self._watch):
                self._finish(together, by_number)
        write_text(self.folder / "trials.csv", to_csv(self._best_first(), list(self.config.space)))

    def _finish(self, outcomes: Sequence[Outcome], proposals: Mapping[int, Proposal]) -> None:
        records = []
        for outcome in outcomes:
            proposal = proposals[outcome.number]
            record = record_of(outcome, self.config.objective_name, self.config.direction)
            if self.config.run.report.tensorboard:
                self._write_events(outcome, proposal, record["status"])
            records.append(record)
            self.trials[outcome.number] = trial_of(record, proposal)
            self._running.pop(outcome.number, None)
            if outcome.alone is not None and outcome.alone not in self._told:
                self._told.add(outcome.alone)
                self.board.say(f"trial {outcome.number} trained by itself, as others may: {outcome.alone}")
        ranking = self._best_first()
        # Before the results: who is among the best has a model.
        self._models.save(ranking, outcomes, lambda trial: self.config.run_with(trial.values), self._data_of)
        # On disk, all of them count or none: those that trained together decided on each other's stopping.
        self.journal.append({**record, "left": len(records) - 1 - i} for i, record in enumerate(records))
        self._models.drop(ranking)
        self._new_best()
        self.board.results(self.trials)

    def _write_events(self, outcome: Outcome, proposal: Proposal, status: str) -> None:
        seeds = []
        for history in outcome.histories:
            best = best_of(history, self.config.objective_name, self.config.direction) if status != "failed" else None
            seeds.append((history, best))
        hparams.write_trial(self.folder, outcome.number, self.config, proposal.values, status, seeds or [({}, None)])

    def _watch(self, epoch: int, values: Mapping[int, float]) -> set[int]:
        for number, value in values.items():
            curve = self._running.setdefault(number, [])
            curve[epoch - 1 :] = [value]
        self.board.epoch(epoch, values)
        if self.config.stopper is None:
            return set()
        finished = [trial.curve for trial in self.trials.values() if trial.curve]
        running = {number: self._running[number] for number in values}
        return hopeless(self.config.stopper, self.config.direction, running, finished)

    def _best_first(self) -> list[Trial]:
        return ranked(self.trials.values(), self.config.direction)

    def _new_best(self) -> None:
        best = self._best_first()[0]
        if best.score is not None:
            text = self.config.run_with(best.values).to_json() + "\n"
            path = self.folder / "best_config.json"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_text(path, text)
