"""Processes that train one model together: their addresses, starting them on one machine, and stopping them."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from kerasnn.config.schema import short
from kerasnn.signals import caught, error_of

GRACE = 60.0
"""Seconds for the other processes to stop by themselves after one has failed."""

PYTHON_MODULE = (sys.executable, "-P", "-m")
"""Command that runs a module of the installed packages, never one of the working folder."""

_signal: int | None = None


class Cluster(NamedTuple):
    """The processes that train together, and the number of this one."""

    addresses: tuple[str, ...]
    """`host:port` of every process, the chief first."""
    number: int
    """This process's number; 0 is the chief, which alone writes files."""


def cluster() -> Cluster | None:
    """The cluster that `TF_CONFIG` describes; None if it is not set or names a single process.

    Raises:
        ValueError: one line, if it is not JSON or does not describe a chief and workers.

    Reference: https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return None
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        jobs = config.get("cluster") or {}
        if not jobs:
            return None
        task = config["task"]
        addresses = [*jobs.get("chief", ()), *jobs.get("worker", ())]
        index = int(task["index"]) + (len(jobs.get("chief", ())) if task["type"] == "worker" else 0)
        if set(jobs) - {"chief", "worker"} or task["type"] not in jobs or not 0 <= index < len(addresses):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"TF_CONFIG must be like {example}, received {short(text)}") from None
    return Cluster(tuple(addresses), index) if len(addresses) > 1 else None


def wait_for_peers(cluster: Cluster, seconds: float) -> None:
    """Wait until every other process answers. TensorFlow itself would wait for ever, in silence.

    Args:
        cluster: the processes.
        seconds: the longest wait, in seconds.

    Raises:
        ConnectionError: one line with the addresses that did not answer.
    """
    deadline = time.monotonic() + seconds
    port = int(cluster.addresses[cluster.number].rpartition(":")[2])
    missing = [address for number, address in enumerate(cluster.addresses) if number != cluster.number]
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        raise ConnectionError(f"port {port}, this process's in TF_CONFIG, cannot be used: {error.strerror}") from None
    with server:
        while missing := [address for address in missing if not _answers(address)]:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"processes must meet within devices.worker_wait, {seconds:g} s, received no answer from "
                    + ", ".join(missing)
                )
            time.sleep(0.1)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def free_addresses(count: int) -> list[str]:
    """Addresses with free ports on this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()


def environment() -> dict[str, str]:
    """The environment for a new Python process that imports this kerasnn, whether it is installed or not."""
    root = Path(__file__).resolve().parents[2]
    if root.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def launch(count: int, command: Sequence[str]) -> int:
    """Run a program as several processes of this machine that train one model, connected over loopback.

    The chief's output appears unchanged, that of the other processes only on standard error. When one fails, the others
    have `GRACE` seconds to notice, then they are killed. SIGTERM and SIGINT are passed on. The processes share the
    GPUs.

    Args:
        count: number of processes.
        command: program and arguments.

    Returns:
        Exit code: 0 if all processes succeed, else that of the first that failed.
    """
    addresses = free_addresses(count)
    printed: set[str] = set()
    processes: list[subprocess.Popen[str]] = []
    readers = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        process = subprocess.Popen(
            command,
            # TensorFlow's own lines about a lost process would hide ours.
            env={
                "TF_CPP_MIN_LOG_LEVEL": "3",
                **environment(),
                "TF_CONFIG": json.dumps(config),
                **gpu_environment(index, count),
            },
            stdout=None if index == 0 else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A Ctrl-C in the terminal reaches the processes through this one, once.
            start_new_session=True,
        )
        processes.append(process)
        readers.append(threading.Thread(target=_print_errors, args=(process.stderr, index, printed), daemon=True))
        readers[-1].start()
    try:
        with caught(lambda number: _send(processes, number)):
            code = _wait(processes)
    finally:
        _send(processes, signal.SIGKILL)
    for reader in readers:
        reader.join(1)
    return code


def gpu_environment(index: int, count: int | None = None) -> dict[str, str]:
    """The environment variable that limits a new process to its GPUs; empty without GPUs.

    Args:
        index: number of the process, from 0 on.
        count: number of processes among which all GPUs are divided; None gives each process one GPU, in turn.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        gpus = [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]
    else:
        gpus = [gpu for gpu in visible.split(",") if gpu.strip()]
    if not gpus:
        return {}
    own = [gpus[index % len(gpus)]] if count is None else gpus[index::count]
    return {"CUDA_VISIBLE_DEVICES": ",".join(own)}


@contextmanager
def signals_stop_all() -> Iterator[None]:
    """Within it, SIGTERM and SIGINT are remembered for `stop_signal`; a second signal is raised."""
    global _signal
    _signal = None
    with caught(_remember):
        yield


def stop_signal() -> int:
    """The number of the signal that was received, or 0."""
    return _signal or 0


def _remember(number: int) -> None:
    global _signal
    if _signal is not None:
        raise error_of(number)
    _signal = number


def _wait(processes: list[subprocess.Popen[str]]) -> int:
    """Wait for all processes; returns the exit code of the first that failed, or 0."""
    code, deadline = 0, math.inf
    while True:
        running = any(process.poll() is None for process in processes)
        failed = next((process.returncode for process in processes if process.returncode), 0)
        if failed and not code:
            code, deadline = failed, time.monotonic() + GRACE
        if not running:
            return code if code >= 0 else 128 - code
        if time.monotonic() > deadline:
            _send(processes, signal.SIGKILL)
        time.sleep(0.05)


def _send(processes: list[subprocess.Popen[str]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                process.send_signal(number)


def _print_errors(stream: Any, index: int, printed: set[str]) -> None:
    """Print a process's lines of standard error that no process has printed yet."""
    with stream:
        for line in stream:
            if line not in printed:
                printed.add(line)
                sys.stderr.write(line if index == 0 else f"worker {index}: {line}")
                sys.stderr.flush()
