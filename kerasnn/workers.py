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
from typing import Any, NamedTuple

from kerasnn.schema import short

GRACE = 60.0
"""Seconds that processes have to stop by themselves once one of them failed."""

_signal: int | None = None
_deferring = False


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
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    said: set[str] = set()
    processes: list[subprocess.Popen[str]] = []
    readers = []
    for index in range(count):
        described = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        process = subprocess.Popen(
            command,
            env={**os.environ, "TF_CONFIG": json.dumps(described), **_share_of_gpus(index, count)},
            stdout=None if index == 0 else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A Ctrl-C of the terminal comes through us, once.
            start_new_session=True,
        )
        processes.append(process)
        readers.append(threading.Thread(target=_hand_on, args=(process.stderr, index, said), daemon=True))
        readers[-1].start()
    handed = {number: signal.signal(number, lambda number, _: _send(processes, number)) for number in _SIGNALS}
    try:
        code = _wait(processes)
    finally:
        for number, handler in handed.items():
            signal.signal(number, handler)
        _send(processes, signal.SIGKILL)
    for reader in readers:
        reader.join(1)
    return code


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def signals_stop_all() -> Iterator[None]:
    """Within it SIGTERM and SIGINT raise KeyboardInterrupt: at once, or where `deferring`, when all processes do.

    TensorFlow swallows SIGTERM once processes are connected.
    """
    global _signal
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _signal = None
    before = {number: signal.signal(number, _heard) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferring() -> Iterator[None]:
    """Within it a signal is only noted, for `stop_signal`; a second one is not."""
    global _deferring
    _deferring = True
    try:
        yield
    finally:
        _deferring = False


def stop_signal() -> int:
    """The signal that was noted, or 0."""
    return _signal or 0


def _heard(number: int, _: Any) -> None:
    global _signal
    if _deferring and _signal is None:
        _signal = number
        return
    raise KeyboardInterrupt(signal.Signals(number).name)


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
    for line in stream:
        if line not in said:
            said.add(line)
            sys.stderr.write(line if index == 0 else f"worker {index}: {line}")
            sys.stderr.flush()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


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
