"""The command line of the benchmark."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.accuracy_times import ACCURACY_PEERS, accuracy_table, compare_accuracy
from benchmarks.speed.epoch_times import compare, machine, missing, table
from benchmarks.speed.peers import PEERS
from benchmarks.speed.search_times import SEARCHES, compare_searches, search_table
from benchmarks.speed.workloads import WORKLOADS
from kerasnn.commands.command_line import Parser
from kerasnn.commands.execution import DONE, execute
from kerasnn.files import write_text

PROGRAM = "benchmark.py"
ACCURACY = "accuracy"
"""Seconds until a network on Fashion-MNIST reaches a validation accuracy."""
ZOO = "zoo"
"""Every model of the tests' zoo, by plain Keras and by kerasnn."""


def benchmark(arguments: Sequence[str] | None = None) -> int:
    """Compare kerasnn with its peers from the command line.

    Args:
        arguments: the command line; None takes the program's.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    return execute(PROGRAM, arguments, _read, _run)


def _read(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [*WORKLOADS, ACCURACY, *SEARCHES, ZOO]
    parser = Parser(
        PROGRAM,
        "Time epochs of kerasnn beside plain Keras, PyTorch, JAX and NumPy, searches beside keras-tuner "
        "and Optuna: each in its own process, in turn, medians over all turns. Those not installed are left "
        "out (pip install '.[peers]').",
    )
    parser.add_argument("--workloads", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--repeats", type=int, default=5, help="turns of each peer (default 5)")
    parser.add_argument(
        "--trials", type=int, default=8, help="trials of the searches that train one after the other (default 8)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    options = parser.read(arguments)
    for name in ("repeats", "trials"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, received {getattr(options, name)}")
    return options


def _run(options: argparse.Namespace) -> int:
    peers = []
    for peer in options.peers:
        if (package := missing(peer)) is not None:
            print(f"{peer}: left out, {package} is not installed")
        else:
            peers.append(peer)
    found = {}
    for name in options.workloads:
        if name in WORKLOADS:
            found[name] = compare(WORKLOADS[name], peers, options.repeats)
            lines = table(WORKLOADS[name], found[name])
        elif name == ACCURACY:
            found[name] = compare_accuracy([peer for peer in peers if peer in ACCURACY_PEERS], options.repeats)
            lines = accuracy_table(found[name])
        elif name == ZOO:
            # It imports TensorFlow, which the other workloads leave to their processes.
            from benchmarks.speed import zoo_times

            found[name] = zoo_times.compare([*zoo_times.LARGER, *zoo_times.models.ZOO], options.repeats)
            lines = zoo_times.table(found[name])
        else:
            found[name] = compare_searches(SEARCHES[name], options.trials, options.repeats)
            lines = search_table(SEARCHES[name], found[name])
        print(f"\n{lines}", flush=True)
    if options.json is not None:
        write_text(options.json, json.dumps({**machine(), "workloads": found}, indent=2) + "\n")
    return DONE
