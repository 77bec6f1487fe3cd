"""Kills of a training, or of a search, that goes on each time."""

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


def kill_training(
    case: Case | str, kills: int, folder: Path, draw: random.Random, until: float
) -> tuple[Score, list[str]]:
    """Kill a training, or a search, at random moments, and let it go on each time.

    Args:
        case: the training, or "search".
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
        injected = _kill_repeatedly(case, run, min(8, kills - score.injected), durations, draw, faults)
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
        return run_case(case, run, report) if isinstance(case, Case) else run_search(run)

    return ChildProcess(work, run)


def _kill_repeatedly(
    case: Case | str, run: Path, kills: int, durations: _Durations, draw: random.Random, faults: list[str]
) -> int:
    """Kill one run again and again until it ends by itself; the number of kills.

    Args:
        case: the training, or "search".
        run: its folder.
        kills: largest number of kills.
        durations: how long a run takes.
        draw: random numbers.
        faults: exit codes that a kill does not explain are added here.
    """
    injected = 0
    while injected < kills:
        child = _start(case, run)
        if draw.random() < 0.1:
            time.sleep(draw.uniform(0, durations.start))
        elif isinstance(case, Case):
            child.wait_for_report()
        time.sleep(draw.uniform(0, durations.training * 0.7))
        chosen = draw.choice([signal.SIGKILL] * 8 + ([signal.SIGTERM, signal.SIGINT] if isinstance(case, Case) else []))
        code = child.kill(chosen)
        child.close()
        if code == DONE:
            break
        injected += 1
        handled = {signal.SIGTERM: TERMINATED, signal.SIGINT: INTERRUPTED}.get(chosen)
        if code not in (-chosen, handled):
            faults.append(f"{case}: exit code {code} after signal {chosen}: {child.log.read_text()[-2000:]}")
    return injected
