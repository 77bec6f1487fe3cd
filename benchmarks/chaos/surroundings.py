"""`kerasnn train` in hostile surroundings: it must end in one line, and then go on as if nothing had disturbed it."""

import ctypes
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.score import Score
from benchmarks.chaos.trainings import events

TRAIN = (
    *("train", "--network.hidden", "6", "--training.epochs", "40", "--regularization.dropout", "0.2"),
    *("--report.health", "false", "--report.images_every", "0", "--report.histograms_every", "1"),
    *("--training.compiled", "off"),
)
_CLOCK_SET_BACK = "import time; real = time.time; time.time = lambda: real() - 3e8; "


@dataclass(frozen=True)
class Surroundings:
    """A folder to work in, and the content of a run folder that nothing has disturbed.

    Args:
        folder: a folder to work in.
        expected: content of the run folder by part.
        draw: random numbers.
    """

    folder: Path
    expected: Mapping[str, object]
    draw: random.Random

    def ends_as_alone(self, run: Path, **options: Any) -> str | None:
        """The fault of a run that trains to its end: an error, or other content; None for none."""
        ended = start(run, **options).end()
        if ended.code:
            return f"exit code {ended.code}: {ended.error}"
        found = content(run)
        differing = [part for part in self.expected if found[part] != self.expected[part]]
        return f"another {', '.join(differing)}" if differing else None


@dataclass
class Command:
    """A running `kerasnn train`.

    Args:
        process: its process.
        code: its exit code, once it has ended.
        error: what it printed to stderr.
    """

    process: subprocess.Popen[str]
    code: int = 0
    error: str = ""
    output: str = field(default="", repr=False)

    def end(self) -> "Command":
        """Wait for the end."""
        self.output, self.error = self.process.communicate(timeout=600)
        self.code = self.process.returncode
        return self

    def wait_for_state(self, run: Path) -> None:
        """Wait until the run has trained an epoch, or has ended."""
        while self.process.poll() is None and not (run / "history.csv").exists():
            time.sleep(0.01)

    @property
    def fault(self) -> str | None:
        """What is wrong with how the command failed: it must print one line."""
        lines = [line for line in self.error.splitlines() if line.startswith("kerasnn")]
        if self.code not in (0, 1, 2) or "Traceback" in self.error or (self.code and len(lines) != 1):
            return f"exit code {self.code}: {self.error[-500:]}"
        return None


def start(
    run: Path,
    *,
    before: str = "",
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
) -> Command:
    """Start a run, or go on with it.

    Args:
        run: its folder.
        before: Python statements that the process executes first.
        environment: changes of the environment.
        prepare: called in the process before Python starts.
    """
    code = f"import sys; {before}from kerasnn.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *TRAIN, "--run_dir", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        preexec_fn=prepare,
    )
    return Command(process)


def start_and_kill(run: Path) -> None:
    """Start a run, and kill it once it has trained an epoch."""
    command = start(run)
    command.wait_for_state(run)
    command.process.kill()
    command.process.wait()


def content(run: Path) -> dict[str, object]:
    """What a run folder holds: models to the byte, history, events."""
    names = ("model.keras", "best.keras", "history.csv")
    return {name: (run / name).read_bytes() for name in names} | {"events": events(run)}


def small_disk(around: Surroundings) -> str | None:
    """The disk is full at some write; then it has room."""
    disk = _disk(around.folder, f"size={around.draw.randrange(8, 400)}k")
    if disk is None:
        return "left out: no right to mount a small disk"
    try:
        full = start(disk / "run").end()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        return full.fault or around.ends_as_alone(disk / "run")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def read_only(around: Surroundings) -> str | None:
    """The disk becomes read-only while a run trains; then it is writable again."""
    disk = _disk(around.folder, "size=64m")
    if disk is None:
        return "left out: no right to mount a small disk"
    try:
        # A file that is open for writing keeps a disk from becoming read-only.
        start_and_kill(disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        refused = start(disk / "run").end()
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        return refused.fault or (None if refused.code else "trained") or around.ends_as_alone(disk / "run")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def vanished(around: Surroundings) -> str | None:
    """The run folder is deleted while the run trains."""
    run = around.folder / "run"
    command = start(run)
    command.wait_for_state(run)
    shutil.rmtree(run, ignore_errors=True)
    fault = command.end().fault
    shutil.rmtree(run, ignore_errors=True)
    return fault or around.ends_as_alone(run)


def renamed(around: Surroundings) -> str | None:
    """The run folder is renamed while the run trains, and goes on under its new name."""
    run = around.folder / "run"
    command = start(run)
    command.wait_for_state(run)
    run.rename(around.folder / "renamed")
    return command.end().fault or around.ends_as_alone(around.folder / "renamed")


def two_processes(around: Surroundings) -> str | None:
    """A second process trains in the same folder through another path."""
    (around.folder / "runs").mkdir()
    (around.folder / "link").symlink_to("runs")
    first = start(around.folder / "runs" / "run")
    first.wait_for_state(around.folder / "runs" / "run")
    second = start(around.folder / "link" / "run").end()
    if second.fault or "which another process is using" not in second.error:
        first.process.kill()
        return second.fault or f"two processes trained: {second.error}"
    return first.end().fault or around.ends_as_alone(around.folder / "runs" / "run")


def no_right_to_write(around: Surroundings) -> str | None:
    """A user who may read a run but not write to it goes on with it."""
    run = around.folder / "run"
    start_and_kill(run)
    paths = [run, *run.rglob("*")]
    before = {path: path.read_bytes() for path in paths if path.is_file()}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    refused = start(run, prepare=_obey_modes).end()
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    if refused.fault or not refused.code or after != before:
        return refused.fault or f"the run was changed, exit code {refused.code}"
    return around.ends_as_alone(run)


def _obey_modes() -> None:
    """Have root obey the modes of files, too."""
    drop_from_bounding_set, override_modes = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, override_modes)


def private_files(around: Surroundings) -> str | None:
    """umask 077: no file is readable by others."""
    run = around.folder / "run"
    fault = around.ends_as_alone(run, prepare=lambda: os.umask(0o077) and None)
    readable = [path.name for path in run.rglob("*") if path.stat().st_mode & 0o077]
    return fault or (f"readable by others: {', '.join(readable)}" if readable else None)


def plain_locale(around: Surroundings) -> str | None:
    """LANG=C, and a folder whose name is not ASCII."""
    return around.ends_as_alone(around.folder / "Läufe 学習 1", environment={"LANG": "C", "LC_ALL": "C"})


def long_path(around: Surroundings) -> str | None:
    """A folder whose path is nearly as long as paths may be."""
    run = around.folder
    while len(str(run)) < 3500:
        run /= "x" * 200
    return around.ends_as_alone(run)


def random_hash_seed(around: Surroundings) -> str | None:
    """Python's hashes are random."""
    return around.ends_as_alone(around.folder / "run", environment={"PYTHONHASHSEED": "random"})


def clock_set_back(around: Surroundings) -> str | None:
    """The clock is set back by ten years between a kill and the next start."""
    run = around.folder / "run"
    start_and_kill(run)
    return around.ends_as_alone(run, before=_CLOCK_SET_BACK)


FAULTS: Mapping[str, Callable[[Surroundings], str | None]] = {
    "disk full at a random write": small_disk,
    "read-only disk": read_only,
    "folder vanished": vanished,
    "folder renamed": renamed,
    "two processes, two paths": two_processes,
    "no right to write": no_right_to_write,
    "umask 077": private_files,
    "LANG=C, a name that is not ASCII": plain_locale,
    "a path of 3,500 characters": long_path,
    "random hash seed": random_hash_seed,
    "clock set back": clock_set_back,
}


def disturb(
    names: Sequence[str], times: int, folder: Path, draw: random.Random, show: Callable[[str, Score], None]
) -> list[str]:
    """Train in hostile surroundings.

    Args:
        names: which, of `FAULTS`.
        times: how often each.
        folder: an empty folder to work in.
        draw: random numbers.
        show: called with the name and the score of each.

    Returns:
        A line for each fault.
    """
    alone = start(folder / "alone").end()
    if alone.code:
        return [f"a run that nothing disturbs fails: {alone.error}"]
    expected, faults = content(folder / "alone"), list[str]()
    for name in names:
        score = Score()
        for number in range(times):
            scratch = folder / f"{list(FAULTS).index(name)}-{number}"
            scratch.mkdir()
            fault = FAULTS[name](Surroundings(scratch, expected, draw))
            if fault is not None and fault.startswith("left out"):
                score.note = fault
                break
            score.injected += 1
            score.survived += fault is None
            if fault is not None:
                faults.append(f"{name}: {fault}")
        show(name, score)
    return faults


def _disk(folder: Path, options: str) -> Path | None:
    """A small disk, mounted in a folder; None without the right to mount one."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    return None if subprocess.run(mount, capture_output=True, check=False).returncode else disk
