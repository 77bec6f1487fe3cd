"""Kills real trainings, searches and saves at random moments and compares what they end with.

Every process is forked from one that has imported TensorFlow but not yet run anything in it, which saves each of them
the import.
"""

import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

from kerasnn.callbacks.best_model import BestModel
from kerasnn.callbacks.early_stopping import early_stopping
from kerasnn.callbacks.history import HistoryFile
from kerasnn.callbacks.learning_rate import LearningRate
from kerasnn.checkpoint import training_state
from kerasnn.checkpoint.state_file import StateFolder, encode
from kerasnn.commands.command import DONE, FAILED, INTERRUPTED, TERMINATED, Parser, guarded
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.data.loading import Data, from_arrays
from kerasnn.engine.fit import fit
from kerasnn.files import write_text
from kerasnn.models.from_config import compiled_network
from kerasnn.runs.train import train
from kerasnn.search.config import SearchConfig
from kerasnn.search.run_search import search
from kerasnn.signals import TerminatedError
from kerasnn.tensorboard.callback import TensorBoard

PROGRAM = "chaos.py"
FEATURES: dict[str, dict[str, Any]] = {
    "dropout": {"regularization.dropout": 0.3},
    "batch norm": {"regularization.batch_norm": True},
    "early stopping": {
        "training.epochs": 30,
        "training.early_stopping": {"patience": 4, "min_delta": 0.02},
        "regularization.dropout": 0.1,
    },
    "plateau": {"training.plateau": {"patience": 1, "factor": 0.5, "min_delta": 0.05}, "regularization.dropout": 0.1},
    "one-cycle": {"schedule": {"name": "one_cycle"}, "regularization.dropout": 0.1},
    "best checkpoint": {"training.monitor": "val_accuracy", "optimizer.learning_rate": 0.05},
}
EXAMPLES = 400
Found = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A training to kill: what it is fed, what it has to bring back, and how its steps run.

    Args:
        data: "arrays" (a whole run of `train`) or "tf.data" (`model.fit` with callbacks).
        feature: one of `FEATURES`.
        mode: "plain", "compiled" or "2 devices", which are logical CPUs.
    """

    data: str
    feature: str
    mode: str

    def __str__(self) -> str:
        return f"{self.data}, {self.feature}, {self.mode}"


CASES = [
    Case(data, feature, mode)
    for mode in ("plain", "compiled", "2 devices")
    for data in ("arrays", "tf.data")
    for feature in FEATURES
]


@dataclass
class Score:
    """How often something was done to a run, and how often it ended as if nothing had been."""

    injected: int = 0
    survived: int = 0
    note: str = ""

    def row(self, name: object) -> str:
        """A line of the table."""
        return f"{name!s:<36} {self.injected:>8} {self.survived:>8}  {self.note}"


class _Begun(keras.callbacks.Callback):
    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self.tell = tell

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Say so."""
        self.tell()


def run_case(case: Case, folder: Path, tell: Callable[[], None]) -> Found:
    """Train a case to its end, from where the folder's state is.

    Args:
        case: the training.
        folder: its run folder.
        tell: called when training begins.

    Returns:
        Hashes of all that it ends with.
    """
    if case.mode == "2 devices":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    config = replace_at(
        RunConfig(),
        {
            "data.name": "arrays", "network.hidden": [12], "training.epochs": 12, "optimizer.learning_rate": 0.01,
            "report.progress": "silent", "report.graph": False, "report.images_every": 0, "report.health": False,
            "data.test_share": 0,
            "training.compiled": "off" if case.mode == "plain" else "on",
            "devices.strategy": "mirrored" if case.mode == "2 devices" else "one_device", **FEATURES[case.feature],
        },
    )  # fmt: skip
    generator = np.random.default_rng(0)
    x = generator.normal(size=(EXAMPLES, 16))
    labels = (x[:, :10] + generator.normal(size=(EXAMPLES, 10))).argmax(axis=1)
    data = from_arrays(x, labels, config=config.data)
    if case.data == "arrays":
        result = train(config, folder, data, callbacks=[_Begun(tell)])
        whole, history = result.model, result.history
    else:
        whole, history = _train_dataset(config, data, folder, case.mode, tell)
    best = keras.saving.load_model(folder / "best.keras")
    return {
        "weights": _hash(variable.numpy() for variable in whole.variables),
        "optimizer": _hash(variable.numpy() for variable in whole.optimizer.variables),
        "history": _hash([json.dumps(history), (folder / "history.csv").read_text()]),
        "best model": _hash(best.get_weights()),
        "events": _hash(events(folder)),
    }


def _train_dataset(
    config: RunConfig, data: Data, folder: Path, mode: str, tell: Callable[[], None]
) -> tuple[keras.Model, Any]:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]) if mode == "2 devices" else None
    with nullcontext() if strategy is None else strategy.scope():
        model = compiled_network(replace_at(config, {"seed": 1, "devices.jit_compile": mode == "compiled"}), data)
    folder.mkdir(exist_ok=True)
    rate = LearningRate(config.schedule, config.optimizer.learning_rate, config.training.plateau)
    callbacks = [rate, BestModel(folder / "best.keras", config.monitor), HistoryFile(folder / "history.csv")]
    callbacks += [TensorBoard(folder, graph=False, images_every=0, learning_rate=rate), _Begun(tell)]
    if config.training.early_stopping is not None:
        callbacks.append(early_stopping(config))
    saved = training_state.TrainingState(folder / "state")
    dataset = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train)).shuffle(EXAMPLES, seed=7).batch(32)
    with saved.on_signals():
        history = (model.fit if strategy is None else partial(fit, model))(
            epochs=config.training.epochs,
            verbose=0,
            validation_data=(data.x_validation, data.y_validation),
            **saved.resume(model, callbacks, dataset),
        )
    return model, history.history


def run_search(folder: Path) -> Found:
    """Search to the end, from where the folder's journal is; trials and scores, to five digits."""
    space = {
        "optimizer.learning_rate": {"min": 1e-3, "max": 1e-1, "sampling": "log"},
        "network.hidden": {"choices": [[4], [6]]},
    }
    run = {"training": {"epochs": 3, "batch_size": 128}, "report": {"progress": "silent", "tensorboard": False}}
    result = search(SearchConfig(space=space, trials=8, run=run), folder)
    trials = sorted(result.trials, key=lambda trial: trial.number)
    return {
        "trials": json.dumps([[trial.number, trial.values, trial.status, f"{trial.score:.5g}"] for trial in trials]),
        "best": json.dumps(result.best.values),
    }


def events(folder: Path) -> list[str]:
    """Every event of a run in order: part, step, tag and, of scalars and histograms, the value."""
    found = []
    for part in ("train", "validation"):
        for path in sorted((folder / part).glob("events.out.tfevents.*")):
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event = Event.FromString(record)
                for value in event.summary.value:
                    content = value.tensor.tensor_content.hex() if value.HasField("tensor") else value.simple_value
                    found.append(f"{part} {event.step} {value.tag} {content}")
    return found


def _hash(parts: Iterable[Any]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


class _Child:
    """A process that does something, says when it has begun, and leaves what it found in a file."""

    def __init__(self, work: Callable[[Callable[[], None]], Any], place: Path) -> None:
        self.result = place.with_suffix(".json")
        self.result.unlink(missing_ok=True)
        self.log = place.with_suffix(".log")
        self._told, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._be(work, write)
        os.close(write)

    def _be(self, work: Callable[[Callable[[], None]], Any], write: int) -> None:
        def tell() -> None:
            os.write(write, b".")

        code = FAILED
        try:
            with self.log.open("ab") as log:
                for stream in (1, 2):
                    os.dup2(log.fileno(), stream)
            write_text(self.result, json.dumps(work(tell)))
            code = DONE
        except TerminatedError:
            code = TERMINATED
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def wait_begun(self) -> None:
        """Wait until it has said so, or has ended."""
        os.read(self._told, 1)

    def said(self) -> int:
        """How often it has said so by now; it must have ended."""
        return len(os.read(self._told, 1 << 20))

    def end(self) -> int:
        """Wait for its end; its exit code, or minus the signal that killed it."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        os.close(self._told)

    def kill(self, number: int) -> int:
        os.kill(self.pid, number)
        return self.end()


def kill_training(
    case: Case | str, kills: int, folder: Path, draw: random.Random, until: float
) -> tuple[Score, list[str]]:
    """Kill a training, or a search, at random moments, and let it go on each time.

    Args:
        case: the training, or "search".
        kills: how often.
        folder: an empty folder to work in.
        draw: random numbers.
        until: when to begin no further round, by `time.monotonic`.

    Returns:
        The score: kills, and those whose run ended as the uninterrupted one; and what went wrong.
    """

    def start(run: Path) -> _Child:
        def work(tell: Callable[[], None]) -> Found:
            training_state.SECONDS = 0.02
            return run_search(run) if isinstance(case, str) else run_case(case, run, tell)

        return _Child(work, run)

    score, wrong = Score(), []
    begin = time.monotonic()
    child = start(folder / "whole")
    if not isinstance(case, str):
        child.wait_begun()
    begun = time.monotonic()
    if child.end() != DONE:
        return Score(note="failed"), [f"{case}: {child.log.read_text()[-2000:]}"]
    expected, seconds, starting = json.loads(child.result.read_text()), time.monotonic() - begun, begun - begin
    number = 0
    while score.injected < kills and time.monotonic() < until:
        run, number, injected = folder / f"run{number}", number + 1, 0
        while injected < min(8, kills - score.injected):
            child = start(run)
            if draw.random() < 0.1:
                time.sleep(draw.uniform(0, starting))
            elif not isinstance(case, str):
                child.wait_begun()
            time.sleep(draw.uniform(0, seconds * 0.7))
            signals = [signal.SIGKILL] * 8 + ([signal.SIGTERM, signal.SIGINT] if not isinstance(case, str) else [])
            chosen = draw.choice(signals)
            code = child.kill(chosen)
            child.close()
            if code == DONE:
                break
            injected += 1
            allowed = {signal.SIGTERM: (TERMINATED, -chosen), signal.SIGINT: (INTERRUPTED, -chosen)}.get(
                chosen, (-chosen,)
            )
            if code not in allowed:
                wrong.append(f"{case}: exit code {code} after signal {chosen}: {child.log.read_text()[-2000:]}")
        score.injected += injected
        code = start(run).end()
        found = json.loads(child.result.read_text()) if code == DONE else {"exit code": code}
        if found == expected:
            score.survived += injected
            shutil.rmtree(run, ignore_errors=True)
        else:
            other = [key for key in expected if found.get(key) != expected[key]]
            wrong.append(f"{case}, {run}: another {', '.join(other)} (exit code {code})")
    return score, wrong


def _numbered(number: int, size: int) -> dict[str, Any]:
    return {"epoch": number, "step": 0, "numbers": [np.full(size, number, np.float32) for _ in range(8)]}


def kill_saves(kills: int, folder: Path, draw: random.Random, size: int = 250_000) -> tuple[Score, Score]:
    """Kill processes that do nothing but save states of 8 arrays.

    Args:
        kills: how often.
        folder: an empty folder to work in.
        draw: random numbers.
        size: numbers in each array.

    Returns:
        Score of all kills: a whole state is there, of one moment, and none that was reported as saved is lost; and
        of those that came within a save.
    """
    score, within = Score(), Score()
    saved, at = StateFolder(folder / "saves"), 0
    for _ in range(kills):

        def work(tell: Callable[[], None], first: int = at) -> None:
            number = first
            while True:
                number += 1
                saved.write(_numbered(number, size))
                tell()

        child = _Child(work, folder / "saver")
        child.wait_begun()
        time.sleep(draw.uniform(0, 0.1))
        child.kill(signal.SIGKILL)
        told = 1 + child.said()
        child.close()
        inside = bool(list(saved.path.glob(".*")))
        tree = saved.newest()
        whole = tree is not None and all((array == tree["epoch"]).all() for array in tree["numbers"])
        good = tree is not None and whole and tree["epoch"] >= at + told
        for each in (score, *([within] if inside else [])):
            each.injected += 1
            each.survived += good
        for path in saved.path.glob(".*"):
            path.unlink()
        at = 0 if tree is None else tree["epoch"]
    return score, within


def damage(kind: str, times: int, folder: Path, draw: random.Random) -> Score:
    """Truncate the newest state, or turn one bit of it, and see that the one before is used."""
    score = Score()
    for _ in range(times):
        shutil.rmtree(folder, ignore_errors=True)
        saved = StateFolder(folder)
        for number in (1, 2):
            saved.write(_numbered(number, 50))
        path = saved.files()[-1]
        content = bytearray(path.read_bytes())
        if kind == "truncations":
            content = content[: draw.randrange(len(content))]
        else:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        tree = saved.newest()
        score.injected += 1
        score.survived += tree is not None and tree["epoch"] == 1
    return score


def no_room(kind: str, times: int, folder: Path, draw: random.Random) -> Score:
    """Save into a disk that is full, or past a file-size limit: an error, and the state before as it was."""
    score = Score()
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "full disk":
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return Score(note="left out: no right to mount a small disk")
    try:
        for _ in range(times):
            saved = StateFolder(folder)
            for path in folder.iterdir():
                path.unlink()
            saved.write(_numbered(1, 100))
            before = saved.files()[0].read_bytes()
            # 8 arrays of 4 bytes a number, larger than the disk of 1 MiB.
            size = draw.randrange(40_000, 200_000)
            limit = draw.randrange(1, sum(map(len, encode(_numbered(2, size)))))

            def work(tell: Callable[[], None], size: int = size, limit: int = limit) -> list[Any]:
                if kind != "full disk":
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                try:
                    StateFolder(folder).write(_numbered(2, size))
                except OSError as error:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                    return [error.errno, str(error)]
                return []

            child = _Child(work, folder.parent / "limited")
            child.end()
            child.close()
            told = json.loads(child.result.read_text())
            score.injected += 1
            score.survived += (
                bool(told)
                and told[0] in (errno.ENOSPC, errno.EFBIG)
                and "\n" not in told[1]
                and [path.read_bytes() for path in folder.iterdir()] == [before]
            )
    finally:
        if kind == "full disk":
            subprocess.run(["umount", str(folder)], capture_output=True, check=False)
    return score


def chaos(arguments: Sequence[str] | None = None) -> int:
    """Inject faults from the command line.

    Args:
        arguments: the command line; None takes the program's.

    Returns:
        Exit code: 0 all survived, 1 some did not, 2 wrong usage, 130 interrupted.
    """
    return guarded(PROGRAM, lambda: _chaos(arguments))


def _chaos(arguments: Sequence[str] | None) -> int:
    parser = Parser(
        prog=PROGRAM,
        description="Kill trainings, searches and saves at random moments and let them go on; compare weights, "
        "optimizer, history, best model and events with those of runs that were never killed.",
        allow_abbrev=False,
    )
    parser.add_argument("--kills", type=int, default=10, help="kills of each training and of the search (default 10)")
    parser.add_argument("--saves", type=int, default=400, help="kills of processes that only save (default 400)")
    parser.add_argument("--faults", type=int, default=100, help="truncations and bit flips, each (default 100)")
    parser.add_argument("--limits", type=int, default=20, help="full disks and file-size limits, each (default 20)")
    parser.add_argument("--cases", default="", metavar="TEXT", help="only trainings whose name holds it")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing new after so long")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    options = parser.parse_args(arguments)
    for name in ("kills", "saves", "faults", "limits"):
        if getattr(options, name) < 0:
            parser.error(f"--{name} must be 0 or above, received {getattr(options, name)}")
    draw, until = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    wrong: list[str] = []
    total = Score()
    with tempfile.TemporaryDirectory(prefix="chaos") as scratch:
        print(f"{'':<36} {'injected':>8} {'survived':>8}", flush=True)

        def show(name: object, score: Score, counts: bool = True) -> None:
            print(score.row(name), flush=True)
            if counts:
                total.injected += score.injected
                total.survived += score.survived

        if options.saves:
            score, within = kill_saves(options.saves, Path(scratch), draw)
            show("kills of a process that saves", score)
            show("  of them within the save", within, counts=False)
        for kind in ("truncations", "bit flips"):
            show(kind, damage(kind, options.faults, Path(scratch) / "damage", draw))
        for kind in ("full disk", "file-size limit"):
            show(kind, no_room(kind, options.limits, Path(scratch) / kind.replace(" ", "-"), draw))
        cases: list[Case | str] = [*CASES, "search"]
        for case in [case for case in cases if options.cases in str(case)]:
            if options.kills and time.monotonic() < until:
                folder = Path(scratch) / str(case).replace(", ", "-").replace(" ", "_")
                folder.mkdir()
                score, found = kill_training(case, options.kills, folder, draw, until)
                wrong += found
                show(case, score)
        show("all", total, counts=False)
    for line in wrong:
        print(line)
    return DONE if total.survived == total.injected and not wrong else FAILED
