"""Faults of single states: kills within a save, damaged files, full disks."""

import errno
import json
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chaos.child_process import ChildProcess, Report
from benchmarks.chaos.score import Score
from kerasnn.checkpoint.state_file import StateFolder, encode


def _state_of(epoch: int, size: int) -> dict[str, Any]:
    return {"epoch": epoch, "step": 0, "numbers": [np.full(size, epoch, np.float32) for _ in range(8)]}


def kill_saves(kills: int, folder: Path, draw: random.Random, size: int = 250_000) -> tuple[Score, Score]:
    """Kill processes that do nothing but save states of 8 arrays.

    A kill is survived where there is a whole state of one moment, and none that was reported as saved is lost.

    Args:
        kills: number of kills.
        folder: an empty folder to work in.
        draw: random numbers.
        size: numbers in each array.

    Returns:
        The score of all kills, and that of the kills that came within a save.
    """
    score, within = Score(), Score()
    states, epoch = StateFolder(folder / "saves"), 0
    for _ in range(kills):

        def work(report: Report, epoch: int = epoch) -> None:
            while True:
                epoch += 1
                states.write(_state_of(epoch, size))
                report()

        child = ChildProcess(work, folder / "saver")
        child.wait_for_report()
        time.sleep(draw.uniform(0, 0.1))
        child.kill(signal.SIGKILL)
        reported = 1 + child.count_reports()
        child.close()
        partial = list(states.path.glob(".*"))
        tree = states.newest()
        whole = tree is not None and all((array == tree["epoch"]).all() for array in tree["numbers"])
        good = tree is not None and whole and tree["epoch"] >= epoch + reported
        for each in (score, within) if partial else (score,):
            each.injected += 1
            each.survived += good
        for path in partial:
            path.unlink()
        epoch = 0 if tree is None else tree["epoch"]
    return score, within


def damage(kind: str, times: int, folder: Path, draw: random.Random) -> Score:
    """Truncate the newest state, or flip one bit of it: the state before must be used."""
    score = Score()
    for _ in range(times):
        shutil.rmtree(folder, ignore_errors=True)
        states = StateFolder(folder)
        for epoch in (1, 2):
            states.write(_state_of(epoch, 50))
        path = states.files()[-1]
        content = bytearray(path.read_bytes())
        if kind == "truncations":
            content = content[: draw.randrange(len(content))]
        else:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        tree = states.newest()
        score.injected += 1
        score.survived += tree is not None and tree["epoch"] == 1
    return score


def write_without_room(kind: str, times: int, folder: Path, draw: random.Random) -> Score:
    """Save to a full disk, or past a file-size limit: it must raise one line and leave the state before untouched."""
    score = Score()
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "full disk":
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return Score(note="left out: no right to mount a small disk")
    try:
        for _ in range(times):
            states = StateFolder(folder)
            for path in folder.iterdir():
                path.unlink()
            states.write(_state_of(1, 100))
            before = states.files()[0].read_bytes()
            # 8 arrays of 4 bytes a number, larger than the disk of 1 MiB.
            size = draw.randrange(40_000, 200_000)
            limit = draw.randrange(1, sum(map(len, encode(_state_of(2, size)))))

            def work(report: Report, size: int = size, limit: int = limit) -> list[Any]:
                if kind != "full disk":
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                try:
                    StateFolder(folder).write(_state_of(2, size))
                except OSError as raised:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                    return [raised.errno, str(raised)]
                return []

            child = ChildProcess(work, folder.parent / "limited")
            child.end()
            child.close()
            error = json.loads(child.result.read_text())
            score.injected += 1
            score.survived += (
                bool(error)
                and error[0] in (errno.ENOSPC, errno.EFBIG)
                and "\n" not in error[1]
                and [path.read_bytes() for path in folder.iterdir()] == [before]
            )
    finally:
        if kind == "full disk":
            subprocess.run(["umount", str(folder)], capture_output=True, check=False)
    return score
