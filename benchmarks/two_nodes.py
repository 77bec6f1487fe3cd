"""A search on two machines, of which the second joins, trains, is killed and joins again.

The machines are two network namespaces with a cable between them, which needs the right to make them (root), or else
two loopback addresses: `python -m benchmarks.two_nodes [namespaces | loopback]` prints what happens, and compares the
search with one in a single process.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.processes import descendants
from kerasnn.search.config import SearchConfig
from kerasnn.search.journal import read_journal

PORT = 6390
TOKEN = secrets.token_hex(32)
LIMIT = 300.0
"""Seconds within which each thing must happen."""
CONFIG = SearchConfig.model_validate(
    {
        "run": {
            "network": {"hidden": [6]},
            "training": {"epochs": 300, "batch_size": 128},
            "report": {"progress": "lines", "tensorboard": False},
        },
        "space": {"optimizer.learning_rate": {"min": 1e-3, "max": 1e-1, "sampling": "log"}},
        "trials": 48,
        "trials_at_once": 2,
    }
)


class Machine:
    """A machine: a network namespace, or an address of the loopback device.

    Args:
        name: its name.
        address: its address.
        is_namespace: whether it is a namespace, which must exist.
        folder: an empty folder to work in.
    """

    def __init__(self, name: str, address: str, is_namespace: bool, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        self._prefix = ["ip", "netns", "exec", name] if is_namespace else []
        self._node: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a process on it, in a session of its own."""
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        with log.open("ab") as output:
            return subprocess.Popen(
                [*self._prefix, *command], stdout=output, stderr=output, env=environment, start_new_session=True
            )

    def join(self, head: str | None = None) -> None:
        """Start its part of Ray, which joins that of another address, or is the first."""
        at = ["--head", f"--port={PORT}", "--include-dashboard=false"] if head is None else [f"--address={head}"]
        at += [f"--node-ip-address={self.address}", "--num-cpus=1", "--block", "--disable-usage-stats"]
        if head is None:
            at.append(f"--temp-dir={self.folder}")
        ray = str(Path(sys.executable).with_name("ray"))
        self._node = self.start([ray, "start", *at], self.folder / f"{self.name}.log")

    def kill(self) -> None:
        """Kill every process of its part of Ray at once, as a loss of power does."""
        if self._node is None:
            return
        for pid in descendants(self._node.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._node.wait()
        self._node = None


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _connect(first: Machine, second: Machine) -> None:
    """Make the machines' namespaces, with a cable between them."""
    for machine in (first, second):
        _ip("netns", "add", machine.name)
    _ip("link", "add", "kerasnn0", "netns", first.name, "type", "veth", "peer", "kerasnn1", "netns", second.name)
    for number, machine in enumerate((first, second)):
        _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", f"kerasnn{number}")
        _ip("-n", machine.name, "link", "set", f"kerasnn{number}", "up")
        _ip("-n", machine.name, "link", "set", "lo", "up")


class Observed:
    """What a search prints, with the time at which each line was seen."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log, self._begun, self._shown = process, log, time.monotonic(), 0

    def wait_for(self, text: str) -> None:
        """Wait for a line with a text after those that were waited for before.

        Raises:
            TimeoutError: where it does not come, with all lines.
        """
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            lines = self._log.read_text(errors="replace").splitlines()
            for line in lines[self._shown :]:
                self._shown += 1
                if "trials, " in line or "worker" in line:
                    print(f"{time.monotonic() - self._begun:6.1f} s  {line}", flush=True)
                if text in line:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise TimeoutError(f"no line with {text!r}: {self._log.read_text(errors='replace')[-3000:]}")


def run(kind: str, folder: Path) -> list[str]:
    """Search on two machines, the second of which comes and goes.

    Args:
        kind: "namespaces" or "loopback".
        folder: an empty folder to work in.

    Returns:
        A line for each fault.
    """
    is_namespace = kind == "namespaces"
    addresses = ("198.18.0.1", "198.18.0.2") if is_namespace else ("127.0.0.1", "127.0.0.2")
    first, second = (
        Machine(name, address, is_namespace, folder)
        for name, address in zip(("kerasnn-first", "kerasnn-second"), addresses, strict=True)
    )
    search: subprocess.Popen[bytes] | None = None
    try:
        if is_namespace:
            _connect(first, second)
        head = f"{first.address}:{PORT}"
        first.join()
        _wait_until(lambda: "Ray runtime started" in (folder / f"{first.name}.log").read_text(errors="replace"))
        (folder / "config.json").write_text(CONFIG.to_json())
        command = [sys.executable, "-m", "kerasnn.cli", "search", "--config", str(folder / "config.json")]
        wide = ["--search_dir", str(folder / "wide"), "--workers", "2", "--cluster", head]
        search = first.start([*command, *wide], folder / "search.log")
        seen = Observed(search, folder / "search.log")
        seen.wait_for("1 of 2 workers")
        for is_killed in (True, False):
            second.join(head)
            # When it is ready, and with the first result after that.
            seen.wait_for("2 of 2 workers")
            seen.wait_for("2 of 2 workers")
            if is_killed:
                second.kill()
                seen.wait_for("1 of 2 workers")
        seen.wait_for("dashboard")
        if search.wait(LIMIT):
            return [f"exit code {search.returncode}: {(folder / 'search.log').read_text()[-2000:]}"]
        subprocess.run([*command, "--search_dir", str(folder / "alone")], check=True, stdout=subprocess.DEVNULL)
        return _differences(folder / "wide", folder / "alone")
    finally:
        for process in [search] if search is not None and search.poll() is None else []:
            process.kill()
        second.kill()
        first.kill()
        for machine in (first, second) if is_namespace else ():
            subprocess.run(["ip", "netns", "delete", machine.name], check=False)


def _wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened within {LIMIT:g} s")
        time.sleep(0.1)


def _differences(wide: Path, alone: Path) -> list[str]:
    """In what a search differs from one in a single process."""
    entries = [read_journal(each / "journal.jsonl") for each in (wide, alone)]
    proposals = [[(one["proposal"], one["values"]) for one in each if "proposal" in one] for each in entries]
    faults = [] if proposals[0] == proposals[1] else ["other proposals"]
    found, expected = ({one["result"]: one["score"] for one in each if "result" in one} for each in entries)
    if sum("result" in one for one in entries[0]) != CONFIG.trials:
        faults.append("a trial has no result, or two")
    worst = max(abs(found[number] / score - 1) for number, score in expected.items())
    print(f"scores differ by {worst:.1e} at most from one process's")
    return [*faults, *([f"a score differs by {worst}"] if worst > 1e-4 else [])]


def main() -> int:
    kind = sys.argv[1] if len(sys.argv) > 1 else "namespaces" if os.geteuid() == 0 else "loopback"
    # Ray's sockets have paths of a hundred characters at most.
    folder = Path(tempfile.mkdtemp(prefix="two", dir="/tmp"))
    try:
        faults = run(kind, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(faults) or "as one process")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
