"""Kills of a training, a search or a study, which goes on each time."""

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.chaos.child_process import ChildProcess, Report
from benchmarks.chaos.score import Score
from benchmarks.chaos.trainings import Case, Hashes, run_case, run_search
from kerasnn.checkpoint import training_state
from kerasnn.commands.execution import DONE, INTERRUPTED, TERMINATED


class _Durations(NamedTuple):
    start: float
    """Seconds from the process's start to the beginning of training."""
    training: float
    """Seconds from there to the end."""


KILLS = (
    *[(signal.SIGKILL,)] * 6,
    *[(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT)],
    (signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL),
)
"""Signals that are sent together; each kill draws one of them."""
_EXIT_CODES = {signal.SIGTERM: TERMINATED, signal.SIGINT: INTERRUPTED}


def kill_training(
    case: Case | str, kills: int, folder: Path, draw: random.Random, until: float
) -> tuple[Score, list[str]]:
    """Kill a training, a search or a study at random moments, and let it go on each time.

    Args:
        case: the training, or one of `SEARCHES`.
        kills: number of kills.
        folder: an empty folder to work in.
        draw: random numbers.
        until: time after which no further round begins, as `time.monotonic` counts it.

    Returns:
        The score, kills and those after which the run ended as the uninterrupted one; and a line for each fault.
    """
    begin = time.monotonic()
    child = _start(case, folder / "whole")
    if isinstance(case, Case):
        child.wait_for_report()
    begun = time.monotonic()
    if child.end() != DONE:
        return Score(note="failed"), [f"{case}: {child.log.read_text()[-2000:]}"]
    durations = _Durations(begun - begin, time.monotonic() - begun)
    expected = json.loads(child.result.read_text())
    score, faults = Score(), list[str]()
    number = 0
    while score.injected < kills and time.monotonic() < until:
        run, number = folder / f"run{number}", number + 1
        most, whole_life = min(8, kills - score.injected), bool(number % 2)
        injected = _kill_repeatedly(case, run, most, durations, whole_life, draw, score, faults)
        score.injected += injected
        child = _start(case, run)
        code = child.end()
        found = json.loads(child.result.read_text()) if code == DONE else {"exit code": code}
        if found == expected:
            score.survived += injected
            shutil.rmtree(run, ignore_errors=True)
        else:
            differing = [key for key in expected if found.get(key) != expected[key]]
            faults.append(f"{case}, {run}: another {', '.join(differing)} (exit code {code})")
    return score, faults


def _start(case: Case | str, run: Path) -> ChildProcess:
    def work(report: Report) -> Hashes:
        training_state.SECONDS = 0.02
        return run_case(case, run, report) if isinstance(case, Case) else run_search(case, run)

    return ChildProcess(work, run)


def _kill_repeatedly(
    case: Case | str,
    run: Path,
    kills: int,
    durations: _Durations,
    whole_life: bool,
    draw: random.Random,
    score: Score,
    faults: list[str],
) -> int:
    """Kill one run again and again until it ends by itself; the number of kills.

    Args:
        case: the training, or one of `SEARCHES`.
        run: its folder.
        kills: largest number of kills.
        durations: how long a run takes.
        whole_life: whether kills come at any moment of a process, or only once it trains.
        draw: random numbers.
        score: kills before the first state are counted here.
        faults: exit codes that a kill does not explain are added here.
    """
    injected = 0
    while injected < kills:
        child = _start(case, run)
        if whole_life:
            time.sleep(draw.uniform(0, durations.start + durations.training))
        else:
            if isinstance(case, Case):
                child.wait_for_report()
            time.sleep(draw.uniform(0, durations.training * 0.7))
        signals = draw.choice(KILLS)
        began_anew = not _has_state(run)
        code = child.kill(*signals)
        child.close()
        if code == DONE:
            break
        injected += 1
        score.before_state += began_anew
        if code not in (-signals[-1], _EXIT_CODES.get(signals[-1])):
            faults.append(f"{case}: exit code {code} after signals {signals}: {child.log.read_text()[-2000:]}")
    return injected


def _has_state(run: Path) -> bool:
    """Whether a run has a state, or a search or a study's search a result."""
    journals = [path for path in (run / "journal.jsonl", run / "search" / "journal.jsonl") if path.exists()]
    return any(run.glob("state/*.state")) or any(b'"result"' in path.read_bytes() for path in journals)
