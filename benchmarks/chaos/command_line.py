"""The command line that injects faults. TensorFlow is imported only once there is something to do."""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.score import Score
from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, FAILED, execute, import_tensorflow

PROGRAM = "chaos.py"
ON_RAY = ("worker", "driver", "raylet")
"""Processes of a search on Ray that can be killed."""


def chaos(arguments: Sequence[str] | None = None) -> int:
    """Inject faults from the command line.

    Args:
        arguments: the command line; None takes the program's.

    Returns:
        Exit code: 0 all survived, 1 some did not, 2 wrong usage, 130 interrupted.
    """
    return execute(PROGRAM, arguments, _read, _run)


def _read(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        PROGRAM,
        "Kill trainings, searches and saves at random moments and let them go on; compare weights, "
        "optimizer, history, best model and events with those of runs that were never killed.",
    )
    parser.add_argument("--kills", type=int, default=10, help="kills of each training, search and study (default 10)")
    parser.add_argument("--saves", type=int, default=400, help="kills of processes that only save (default 400)")
    parser.add_argument("--faults", type=int, default=100, help="truncations and bit flips, each (default 100)")
    parser.add_argument("--limits", type=int, default=20, help="full disks and file-size limits, each (default 20)")
    parser.add_argument(
        "--surroundings", type=int, default=2, help="runs in each kind of hostile surroundings (default 2)"
    )
    parser.add_argument("--mutations", type=int, default=200, help="mutations of each kind of file (default 200)")
    for victim in ON_RAY:
        parser.add_argument(
            f"--{victim}s", type=int, default=0, help=f"kills of a {victim} of searches on Ray (default 0)"
        )
    parser.add_argument("--cases", default="", metavar="TEXT", help="only trainings whose name contains it")
    parser.add_argument("--minutes", type=float, default=1e9, help="minutes after which no further training begins")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments and damages (default 0)")
    options = parser.read(arguments)
    for name in [
        *("kills", "saves", "faults", "limits", "surroundings", "mutations"),
        *(f"{each}s" for each in ON_RAY),
    ]:
        if getattr(options, name) < 0:
            parser.error(f"--{name} must be 0 or above, received {getattr(options, name)}")
    return options


def _run(options: argparse.Namespace) -> int:
    import_tensorflow()
    from benchmarks.chaos.kill_training import kill_training
    from benchmarks.chaos.save_faults import damage, kill_saves, write_without_room
    from benchmarks.chaos.trainings import CASES, SEARCHES, Case

    draw, until = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    faults: list[str] = []
    total = Score()
    with tempfile.TemporaryDirectory(prefix="chaos") as scratch:
        print(f"{'':<36} {'injected':>8} {'survived':>8}", flush=True)

        def show(name: object, score: Score, counts: bool = True) -> None:
            print(score.row(name), flush=True)
            if counts:
                total.injected += score.injected
                total.survived += score.survived
                total.before_state += score.before_state

        if options.saves:
            score, within = kill_saves(options.saves, Path(scratch), draw)
            show("kills of a process that saves", score)
            show("  of them within the save", within, counts=False)
        for kind in ("truncations", "bit flips"):
            show(kind, damage(kind, options.faults, Path(scratch) / "damage", draw))
        for kind in ("full disk", "file-size limit"):
            show(kind, write_without_room(kind, options.limits, Path(scratch) / kind.replace(" ", "-"), draw))
        cases: list[Case | str] = [*CASES, *SEARCHES]
        for case in [case for case in cases if options.cases in str(case)]:
            if options.kills and time.monotonic() < until:
                folder = Path(scratch) / str(case).replace(", ", "-").replace(" ", "_")
                folder.mkdir()
                score, found = kill_training(case, options.kills, folder, draw, until)
                faults += found
                show(case, score)
        if kills := {victim: getattr(options, f"{victim}s") for victim in ON_RAY if getattr(options, f"{victim}s")}:
            from benchmarks.chaos.kill_cluster import kill_searches

            for victim, killed in kill_searches(kills, Path(scratch) / "ray", draw, until):
                faults += killed.faults
                show(f"kills of a {victim} of searches on Ray", killed.score)
        # From here on TensorFlow is at work in this process, so that it can't be forked any more.
        if options.surroundings:
            from benchmarks.chaos.surroundings import FAULTS, disturb

            folder = Path(scratch) / "surroundings"
            folder.mkdir()
            faults += disturb(list(FAULTS), options.surroundings, folder, draw, show)
        if options.mutations:
            from benchmarks.chaos.hostile_files import formats, fuzz

            for name, fuzzed in formats().items():
                score, found = fuzz(fuzzed, options.mutations, Path(scratch) / name.replace(" ", "-"), draw)
                faults += found
                show(f"mutations: {name}", score)
        show("all", total, counts=False)
    for line in faults:
        print(line)
    return DONE if total.survived == total.injected and not faults else FAILED
