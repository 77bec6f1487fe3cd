"""Kills of the processes of a search on Ray: of its workers, its driver and Ray's own."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.answered import AnsweredRuns
from benchmarks.answers import SlowAnswers
from benchmarks.chaos.child_process import ChildProcess
from benchmarks.chaos.score import Score
from benchmarks.chaos.trainings import ORACLES, config_of_search
from benchmarks.processes import command_line, descendants
from kerasnn.search.cluster import ATTEMPTS, Cluster
from kerasnn.search.config import SearchConfig
from kerasnn.search.journal import read_journal, results_by_number
from kerasnn.search.result import read_search
from kerasnn.search.run_search import search_subject

LIMIT = 300.0
"""Seconds within which a driver must end by itself."""
LEFT = 120.0
"""Seconds within which Ray's processes must end after the driver."""
VICTIMS = {"worker": "ray::SlowAnswers", "driver": "driver", "raylet": "raylet/raylet"}
"""What the command line of a process contains; the driver is the search's own process."""
MOST = {"worker": ATTEMPTS - 1, "driver": 4, "raylet": 1}
"""Largest number of kills of one search; a trial that meets as many as it has attempts would fail."""


class Search:
    """A search in a process of its own, which is forked from this one; its trials are answered by a formula.

    Args:
        oracle: its oracle.
        workers: number of its workers, Ray's where there are several.
        folder: the search's folder.
    """

    def __init__(self, oracle: str, workers: int, folder: Path) -> None:
        self.folder, self.processes, self._code = folder, set[int](), 0
        self._begun = time.monotonic()
        self._child = ChildProcess(lambda _: _search(config_of_search(oracle, workers=workers), folder), folder)
        self._runs = True

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._begun

    @property
    def output(self) -> str:
        """The end of what it has printed."""
        return self._child.log.read_text(errors="replace")[-2000:]

    def wait(self, seconds: float) -> bool:
        """Wait; whether it still runs then."""
        until = time.monotonic() + seconds
        while self._still_runs() and time.monotonic() < until:
            self.processes |= set(descendants(self._child.pid)[1:])
            time.sleep(min(0.1, max(until - time.monotonic(), 0.0)))
        return self._still_runs()

    def called(self, name: str) -> list[int]:
        """Its processes whose command line contains a text; those with none are the search itself."""
        if name == "driver":
            return [self._child.pid]
        return [pid for pid in descendants(self._child.pid)[1:] if name in command_line(pid)]

    def end(self) -> int | None:
        """The exit code once it has ended, or minus the signal; None where it hangs, and is killed."""
        if self.wait(LIMIT):
            self._child.kill(signal.SIGKILL)
            self._runs = False
            return None
        self._child.close()
        return self._code

    def _still_runs(self) -> bool:
        if self._runs:
            pid, status = os.waitpid(self._child.pid, os.WNOHANG)
            if pid:
                self._runs, self._code = False, os.waitstatus_to_exitcode(status)
        return self._runs


def _search(config: SearchConfig, folder: Path) -> None:
    """Search; fails where a trial with a result trains again, or one has two outcomes or none."""
    train = Cluster.train

    def train_once(cluster: Cluster, batch: int, proposals: Sequence[Any], *rest: Any, **more: Any) -> Iterator[Any]:
        missing = {proposal.number for proposal in proposals}
        if twice := missing & results_by_number(read_journal(folder / "journal.jsonl")).keys():
            raise ValueError(f"trials {sorted(twice)} have results and train again")
        for outcomes in train(cluster, batch, proposals, *rest, **more):
            for outcome in outcomes:
                missing.remove(outcome.number)
            yield outcomes
        if missing:
            raise ValueError(f"trials {sorted(missing)} have no outcome")

    with mock.patch.object(Cluster, "train", train_once):
        search_subject(AnsweredRuns(config, SlowAnswers), folder)


@dataclass
class Killed:
    """What became of searches whose processes were killed.

    Args:
        score: kills, and those after which the search ended as an uninterrupted one.
        faults: a line for each fault.
        longest: seconds of the longest process that was not killed itself.
        orphans: Ray's processes that may outlive their driver, each with the time by which it must have ended.
    """

    score: Score = field(default_factory=Score)
    faults: list[str] = field(default_factory=list)
    longest: float = 0.0
    orphans: dict[int, float] = field(default_factory=dict)


def kill_searches(
    kills: Mapping[str, int], folder: Path, draw: random.Random, until: float
) -> Iterator[tuple[str, Killed]]:
    """Kill processes at random moments of searches of the four oracles, which go on each time.

    Args:
        kills: number of kills by kind of process, one of `VICTIMS`.
        folder: a new folder to work in.
        draw: random numbers.
        until: time after which no further search begins, as `time.monotonic` counts it.

    Yields:
        Each kind with what became of its searches.

    Raises:
        RuntimeError: where a search fails that nothing disturbs.
    """
    folder.mkdir()
    life = _seconds(Search("random", 2, folder / "undisturbed"))
    expected: dict[str, Mapping[str, Any]] = {}
    for victim, wanted in kills.items():
        killed, number = Killed(), 0
        while killed.score.injected < wanted and time.monotonic() < until:
            oracle, run = ORACLES[number % len(ORACLES)], folder / f"{victim}{number}"
            number += 1
            if oracle not in expected:
                _seconds(Search(oracle, 1, folder / oracle))
                expected[oracle] = found(folder / oracle)
            most = min(MOST[victim], wanted - killed.score.injected)
            injected = _kill(victim, oracle, run, most, life, draw, killed)
            killed.score.injected += injected
            fault = difference(found(run), expected[oracle]) if (run / "journal.jsonl").exists() else "no journal"
            if fault is None:
                killed.score.survived += injected
                shutil.rmtree(run)
            else:
                killed.faults.append(f"{victim} of {oracle}, {run}: {fault}")
        _wait_for_orphans(killed)
        killed.score.note = f"longest process {killed.longest:.0f} s, undisturbed {life:.0f}, bound {LIMIT:.0f}"
        yield victim, killed


def _seconds(search: Search) -> float:
    """Seconds of a search that nothing disturbs."""
    if (code := search.end()) != 0:
        raise RuntimeError(f"a search that nothing disturbs ends with {code}: {search.output}")
    return search.seconds


def found(folder: Path) -> dict[str, Any]:
    """The proposals of a search, status and score of its trials, and its models."""
    proposals = [entry for entry in read_journal(folder / "journal.jsonl") if "proposal" in entry]
    trials = sorted(read_search(folder).trials, key=lambda trial: trial.number)
    return {
        # A line's checksum covers the seconds of the lines before it.
        "proposals": [{**entry, "checksum": None} for entry in proposals],
        "trials": [[trial.number, trial.status, trial.score] for trial in trials],
        "models": sorted(path.name for path in (folder / "models").iterdir()),
    }


def difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """What was found otherwise than expected; None for nothing."""
    for part in ("proposals", "trials", "models"):
        if found[part] != expected[part]:
            return f"other {part}: {found[part]} instead of {expected[part]}"
    return None


def _kill(victim: str, oracle: str, run: Path, kills: int, life: float, draw: random.Random, killed: Killed) -> int:
    """Kill processes of one search, and start it anew until it ends well; the number of kills.

    Args:
        victim: one of `VICTIMS`.
        oracle: the search's oracle.
        run: its folder.
        kills: largest number of kills.
        life: seconds of an undisturbed search.
        draw: random numbers.
        killed: faults and processes are added here.
    """
    injected, name = 0, VICTIMS[victim]
    for _ in range(kills + 3):
        search, before = Search(oracle, 2, run), injected
        while injected < kills and _wait_for_moment(search, name, life, draw):
            if pids := search.called(name):
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(pids), signal.SIGKILL)
                    injected += 1
            if victim != "worker":
                break
        code = search.end()
        killed.orphans |= dict.fromkeys(search.processes, time.monotonic() + LEFT)
        if injected == before or victim != "driver":
            killed.longest = max(killed.longest, search.seconds)
        if code == 0:
            break
        # Workers are replaced. Without its raylet a driver ends with an error.
        if code is None or injected == before or victim == "worker":
            killed.faults.append(f"{victim} of {run}: exit code {code}: {search.output}")
    return injected


def _wait_for_moment(search: Search, name: str, life: float, draw: random.Random) -> bool:
    """Wait for a random moment at which there is something to kill; whether the search still runs then."""
    trains = name != "driver" or draw.random() < 0.5
    journal = search.folder / "journal.jsonl"
    while trains and not (search.called(name) and journal.exists()):
        if not search.wait(0.1):
            return False
    # Most of a life is the start of Ray and its workers.
    return search.wait(draw.uniform(0, life * (0.2 if trains else 1.0)))


def _wait_for_orphans(killed: Killed) -> None:
    while alive := [pid for pid in killed.orphans if "ray" in command_line(pid)]:
        if late := [pid for pid in alive if time.monotonic() > killed.orphans[pid]]:
            killed.faults.append(f"processes outlive the driver by {LEFT:g} s: {[command_line(pid) for pid in late]}")
            return
        time.sleep(0.5)
