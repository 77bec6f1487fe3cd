"""Processes that train as one: which this is, how several are started on one machine, and how they stop."""

import json
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
"""Seconds that processes have to stop by themselves once one of them failed."""

PYTHON_MODULE = (sys.executable, "-P", "-m")
"""Runs a module, which is not looked for in the folder that the process happens to be in."""

_signal: int | None = None


class Cluster(NamedTuple):
    """The processes that train together, and this one's place among them."""

    addresses: tuple[str, ...]
    """`host:port` of every process, the chief's first."""
    number: int
    """Which of them this is; 0 is the chief, which alone writes."""


def cluster() -> Cluster | None:
    """What `TF_CONFIG` says, or None where it is not set or names a single process.

    Raises:
        ValueError: one line, where it is no JSON or describes something else than a chief and workers.

    Reference: https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return None
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    try:
        described = json.loads(text)
        jobs, task = described.get("cluster") or {}, described["task"] if described.get("cluster") else {}
        if not jobs:
            return None
        addresses = [*jobs.get("chief", ()), *jobs.get("worker", ())]
        index = int(task["index"]) + (len(jobs.get("chief", ())) if task["type"] == "worker" else 0)
        if set(jobs) - {"chief", "worker"} or task["type"] not in jobs or not 0 <= index < len(addresses):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"TF_CONFIG must be like {example}, received {short(text)}") from None
    return Cluster(tuple(addresses), index) if len(addresses) > 1 else None


def meet(cluster: Cluster, seconds: float) -> None:
    """Wait until every other process can be reached; TensorFlow would wait for ever and say nothing.

    Args:
        cluster: the processes.
        seconds: how long to wait.

    Raises:
        ConnectionError: one line with the addresses that did not answer.
    """
    end = time.monotonic() + seconds
    port = int(cluster.addresses[cluster.number].rpartition(":")[2])
    missing = [address for number, address in enumerate(cluster.addresses) if number != cluster.number]
    try:
        here = socket.create_server(("", port))
    except OSError as error:
        raise ConnectionError(f"port {port}, this process's in TF_CONFIG, cannot be used: {error.strerror}") from None
    with here:
        while missing := [address for address in missing if not _answers(address)]:
            if time.monotonic() > end:
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


def addresses_here(count: int) -> list[str]:
    """Addresses of free ports of this machine.

    Args:
        count: how many.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()


def environment() -> dict[str, str]:
    """The environment in which a new Python process imports this kerasnn, whether it is installed or not."""
    root = Path(__file__).resolve().parents[2]
    if root.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def launch(count: int, command: Sequence[str]) -> int:
    """Run a program as processes of this machine that train as one, over loopback.

    The chief's output is shown as it is, of the others only what they say about errors. Where one fails the others are
    given time to notice, then ended. SIGTERM and SIGINT are handed on. GPUs are shared out among the processes.

    Args:
        count: number of processes.
        command: program and arguments.

    Returns:
        Exit code: 0 where all are done, else that of the first that failed.
    """
    addresses = addresses_here(count)
    said: set[str] = set()
    processes: list[subprocess.Popen[str]] = []
    readers = []
    for index in range(count):
        described = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        process = subprocess.Popen(
            command,
            # TensorFlow's own lines about a lost process would hide the one that says what happened.
            env={
                "TF_CPP_MIN_LOG_LEVEL": "3",
                **environment(),
                "TF_CONFIG": json.dumps(described),
                **_share_of_gpus(index, count),
            },
            stdout=None if index == 0 else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A Ctrl-C of the terminal comes through us, once.
            start_new_session=True,
        )
        processes.append(process)
        readers.append(threading.Thread(target=_hand_on, args=(process.stderr, index, said), daemon=True))
        readers[-1].start()
    try:
        with caught(lambda number: _send(processes, number)):
            code = _wait(processes)
    finally:
        _send(processes, signal.SIGKILL)
    for reader in readers:
        reader.join(1)
    return code


@contextmanager
def signals_stop_all() -> Iterator[None]:
    """Within it SIGTERM and SIGINT are noted, for `stop_signal`; a second one is raised."""
    global _signal
    _signal = None
    with caught(_note):
        yield


def stop_signal() -> int:
    """The signal that was noted, or 0."""
    return _signal or 0


def _note(number: int) -> None:
    global _signal
    if _signal is not None:
        raise error_of(number)
    _signal = number


def _wait(processes: list[subprocess.Popen[str]]) -> int:
    code, end = 0, None
    while any(process.poll() is None for process in processes):
        failed = next((process.returncode for process in processes if process.returncode), 0)
        if failed and end is None:
            code, end = failed, time.monotonic() + GRACE
        if end is not None and time.monotonic() > end:
            _send(processes, signal.SIGKILL)
        time.sleep(0.05)
    failed = next((process.returncode for process in processes if process.returncode), 0)
    code = code or failed
    return code if code >= 0 else 128 - code


def _send(processes: list[subprocess.Popen[str]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                process.send_signal(number)


def _hand_on(stream: Any, index: int, said: set[str]) -> None:
    with stream:
        for line in stream:
            if line not in said:
                said.add(line)
                sys.stderr.write(line if index == 0 else f"worker {index}: {line}")
                sys.stderr.flush()


def _share_of_gpus(index: int, count: int) -> dict[str, str]:
    """Which GPUs a process sees: every `count`-th."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        numbers = [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]
    else:
        numbers = [number for number in visible.split(",") if number.strip()]
    return {"CUDA_VISIBLE_DEVICES": ",".join(numbers[index::count])} if numbers else {}
