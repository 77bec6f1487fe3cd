"""One search, whole: a description in, ranked trials and a search folder out."""

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from kerasnn.config import RunConfig, replace_at
from kerasnn.data import Data, load
from kerasnn.files import write_text
from kerasnn.schema import short
from kerasnn.search import hparams
from kerasnn.search.config import Hyperband, SearchConfig
from kerasnn.search.journal import Journal, Record, differences
from kerasnn.search.proposals import Oracle, Proposal
from kerasnn.search.report import Board, Trial, ranked, table, to_csv
from kerasnn.search.stopping import hopeless
from kerasnn.search.trials import History, Job, Outcome, train_jobs

__all__ = ["SearchConfig", "SearchResult", "Trial", "search"]


def _may_change(key: str) -> bool:
    """Whether a continued search may change a setting."""
    return key == "trials" or key.startswith("run.report.")


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
    `best_config.json` (the best run so far, for `train`), `trials.csv`, and for TensorBoard's HParams page one run for
    each trial in `trials/`. A search that was ended anywhere goes on when it is called again with the same folder: the
    oracle is asked again from its seed, and answered from the journal as far as that goes.

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
    folder = Path(search_dir or Path("logs") / f"{datetime.now():%Y%m%d-%H%M%S}-search-{config.run.data.name}")
    journal_file = folder / "journal.jsonl"
    if folder.exists() and not journal_file.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"search_dir must be new, empty or a search's folder, received {folder}, which is none of them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(journal_file) as journal:
        return _Search(config, folder, journal, data).run()


class _Search:
    """A search under way: what was proposed, found and shown so far."""

    def __init__(self, config: SearchConfig, folder: Path, journal: Journal, data: Data | None) -> None:
        self.config, self.folder, self.journal = config, folder, journal
        self._given = data
        self._loaded: dict[str, Data] = {}
        self._begin()
        self._proposed = {record["proposal"]: record for record in journal.records if "proposal" in record}
        self._found = _results(journal.records)
        self.trials: dict[int, Trial] = {}
        # What hyperband may continue: the outcomes of the last batch, and their number is bounded by that.
        self._outcomes: dict[int, Outcome] = {}
        self._running: dict[int, list[float]] = {}
        self._told: set[str] = set()
        self.board = Board(
            config.objective_name,
            config.direction,
            list(config.space),
            config.trials,
            "auto" if config.run.report.progress == "auto" else config.run.report.progress,
        )

    def run(self) -> SearchResult:
        oracle = Oracle(self.config)
        try:
            while (left := self.config.trials - len(self.trials)) > 0:
                proposals = oracle.ask(min(left, self.config.batch))
                if not proposals:
                    self.board.say(f"the space is exhausted after {len(self.trials)} trials")
                    break
                self._check_replay(proposals)
                self._batch(proposals)
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
        header: Record = {"search": described, "data": _fingerprint(self._data_of(self.config.run_with({})))}
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

    def _batch(self, proposals: Sequence[Proposal]) -> None:
        """Answer proposals from the journal, and train the others."""
        jobs, by_number = [], {proposal.number: proposal for proposal in proposals}
        for proposal in proposals:
            if (record := self._found.get(proposal.number)) is not None:
                self.trials[proposal.number] = _trial(record, proposal)
            else:
                jobs.append(self._job(proposal))
        if len(jobs) < len(proposals):
            self._new_best()
            self.board.results(self.trials)
        outcomes: dict[int, Outcome] = {}
        if jobs:
            for together in train_jobs(jobs, self._data_of, self.config.objective_name, self._watch):
                self._finish(together, by_number)
                outcomes |= {outcome.number: outcome for outcome in together if outcome.states}
        self._outcomes = outcomes if isinstance(self.config.oracle, Hyperband) else {}
        write_text(self.folder / "trials.csv", to_csv(self._best_first(), list(self.config.space)))

    def _job(self, proposal: Proposal) -> Job:
        run = self.config.run_with(proposal.values)
        runs = tuple(replace_at(run, {"seed": run.seed + index}) for index in range(self.config.seeds_per_trial))
        # Without its state, after a kill, it is trained from the start: to the same end.
        before = None if proposal.continues is None else self._outcomes.get(proposal.continues)
        if before is not None:
            self._running[proposal.number] = list(self.trials[before.number].curve)
        return Job(proposal.number, runs, proposal.epochs, before)

    def _finish(self, outcomes: Sequence[Outcome], proposals: Mapping[int, Proposal]) -> None:
        records = []
        for outcome in outcomes:
            proposal = proposals[outcome.number]
            record = _record(outcome, self.config.objective_name, self.config.direction)
            if self.config.run.report.tensorboard:
                self._write_events(outcome, proposal, record["status"])
            records.append(record)
            self.trials[outcome.number] = _trial(record, proposal)
            self._running.pop(outcome.number, None)
            if outcome.alone is not None and outcome.alone not in self._told:
                self._told.add(outcome.alone)
                self.board.say(f"trial {outcome.number} trained by itself, as others may: {outcome.alone}")
        # On disk, all of them count or none: those that trained together decided on each other's stopping.
        self.journal.append({**record, "left": len(records) - 1 - i} for i, record in enumerate(records))
        self._new_best()
        self.board.results(self.trials)

    def _write_events(self, outcome: Outcome, proposal: Proposal, status: str) -> None:
        seeds = []
        for history in outcome.histories:
            best = _best(history, self.config.objective_name, self.config.direction) if status != "failed" else None
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

    def _data_of(self, run: RunConfig) -> Data:
        if self._given is not None:
            return self._given
        key = run.task + run.data.model_dump_json()
        if key not in self._loaded:
            self._loaded[key] = load(run.data, run.task)
        return self._loaded[key]


def _results(records: Sequence[Record]) -> dict[int, Record]:
    """Results by number, without those at the end whose companions did not reach the disk."""
    found, waiting = {}, []
    for record in records:
        if "result" in record:
            waiting.append(record)
            if not record["left"]:
                found.update({one["result"]: one for one in waiting})
                waiting = []
    return found


def _record(outcome: Outcome, objective: str, direction: str) -> Record:
    """An outcome as the journal keeps it."""
    record: Record = {
        "result": outcome.number,
        "status": outcome.status,
        "seconds": round(outcome.seconds, 3),
        "epochs": outcome.epochs,
    }
    if outcome.alone is not None:
        record["alone"] = outcome.alone
    if outcome.status == "failed":
        return {**record, "error": outcome.error}
    bests = [_best(history, objective, direction) for history in outcome.histories]
    scores = [score for score, _ in bests]
    record["score"] = statistics.fmean(scores)
    record["std"] = statistics.stdev(scores) if len(scores) > 1 else None
    record["epoch"] = round(statistics.fmean(epoch for _, epoch in bests))
    record["metrics"] = {
        name: statistics.fmean(
            history[name][epoch - 1] for history, (_, epoch) in zip(outcome.histories, bests, strict=True)
        )
        for name in outcome.histories[0]
    }
    # Of the seeds that still trained in an epoch.
    record["curve"] = [
        statistics.fmean(history[objective][epoch] for history in outcome.histories if epoch < len(history[objective]))
        for epoch in range(outcome.epochs)
    ]
    return record


def _best(history: History, objective: str, direction: str) -> tuple[float, int]:
    """The best value and its epoch, from 1 on, the first of equals."""
    values = history[objective]
    best = min(values) if direction == "min" else max(values)
    return best, values.index(best) + 1


def _trial(record: Record, proposal: Proposal) -> Trial:
    kept = {
        key: record[key]
        for key in ("status", "score", "std", "epoch", "epochs", "metrics", "seconds", "error")
        if key in record
    }
    return Trial(
        proposal.number, proposal.values, continues=proposal.continues, curve=tuple(record.get("curve", ())), **kept
    )


def _fingerprint(data: Data) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in ("x_train", "y_train", "x_validation", "y_validation"):
        array = getattr(data, part)
        if array is not None:
            digest.update(str(array.shape).encode() + array.tobytes())
    return digest.hexdigest()
