"""Seconds of an epoch in each peer. Peers run in turn, one process each, so that other load on the machine hits all."""

import importlib
import importlib.util
import logging
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.peers import DENSE_ONLY, IMPORTS, PEERS, Arrays
from benchmarks.speed.workloads import Workload
from kerasnn.commands.execution import import_tensorflow

BASELINE = "keras"
"""The peer that the others are compared with."""
PACKAGES = ("kerasnn", "tensorflow", "keras", "torch", "jax", "numpy")

Figures = dict[str, Any]


def missing(peer: str) -> str | None:
    """The package that a peer needs and that is not installed here, or None."""
    package = IMPORTS[peer.split("-")[0]].split(".")[0]
    return None if importlib.util.find_spec(package) else package


def compare(workload: Workload, peers: Sequence[str], repeats: int) -> dict[str, Figures]:
    """Train a workload with each peer, in turn.

    Args:
        workload: what to train.
        peers: names in `PEERS`.
        repeats: turns of each peer, of `workload.epochs` epochs each.

    Returns:
        By peer: `epoch_seconds` (median), `epochs` (seconds of every epoch), `times_faster` (than plain `fit`),
        `first_epoch_seconds` (building, compiling and the first epoch, without imports) and `peak_bytes` of memory.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "data.npz"
        np.savez(file, **workload.load())
        workers, found = {}, {}
        for peer in peers:
            if peer in DENSE_ONLY and workload.convolutional:
                continue
            workers[peer] = stack.enter_context(_worker(peer, workload, file))
            found[peer] = {"first_epoch_seconds": _answer(peer, workers[peer]), "epochs": []}
        for _ in range(repeats):
            for peer, worker in workers.items():
                worker.send(workload.epochs)
                found[peer]["epochs"] += _answer(peer, worker)
        for peer, worker in workers.items():
            worker.send(None)
            found[peer]["peak_bytes"] = _answer(peer, worker)
    for figures in found.values():
        figures["epoch_seconds"] = statistics.median(figures["epochs"])
    if BASELINE in found:
        for figures in found.values():
            figures["times_faster"] = found[BASELINE]["epoch_seconds"] / figures["epoch_seconds"]
            figures["times_memory"] = figures["peak_bytes"] / found[BASELINE]["peak_bytes"]
    return found


def table(workload: Workload, found: dict[str, Figures]) -> str:
    """Figures as text, one line a peer."""
    lines = [
        f"{workload.name}",
        f"{'peer':20}{'epoch ms':>10}{'faster':>9}{'first epoch s':>15}{'peak MB':>9}{'memory':>8}",
    ]
    for peer, figures in found.items():
        ratio, memory = figures.get("times_faster"), figures.get("times_memory")
        lines.append(
            f"{peer:20}{1000 * figures['epoch_seconds']:10.1f}{'' if ratio is None else f'{ratio:8.2f}×':>9}"
            f"{figures['first_epoch_seconds']:15.2f}{figures['peak_bytes'] / 1e6:9.0f}"
            f"{'' if memory is None else f'{memory:7.2f}×':>8}"
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """The machine and the versions that the figures were measured on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "processors": len(os.sched_getaffinity(0)), "versions": versions}


@contextmanager
def _worker(peer: str, workload: Workload, file: Path) -> Iterator[Connection]:
    # Spawned, not forked: every framework starts its own threads, and a fork would share TensorFlow's.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, peer, workload, file), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(30)
        if process.is_alive():
            process.kill()


def begun(peer: str, file: Path) -> Arrays:
    """Import what a peer needs, before the clock starts, and load the examples."""
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if peer.startswith("keras"):
        import_tensorflow()
        for name in ("tensorflow", "kerasnn"):
            logging.getLogger(name).setLevel(logging.ERROR)
    importlib.import_module(IMPORTS[peer.split("-")[0]])
    return arrays


def _work(connection: Connection, peer: str, workload: Workload, file: Path) -> None:
    """Build a peer, then run as many epochs as each message asks for; the message None asks for the peak memory."""
    try:
        arrays = begun(peer, file)
        start = time.perf_counter()
        run = PEERS[peer](workload, arrays)
        run(1)
        connection.send(time.perf_counter() - start)
        while (epochs := connection.recv()) is not None:
            connection.send(run(epochs))
        connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    except EOFError:
        return
    except Exception as error:
        connection.send(error)


def _answer(peer: str, worker: Connection) -> Any:
    try:
        answer = worker.recv()
    except EOFError:
        raise RuntimeError(f"the process of peer {peer} ended without an answer") from None
    if isinstance(answer, Exception):
        raise RuntimeError(f"peer {peer}: {answer}") from answer
    return answer
