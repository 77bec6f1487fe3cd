"""Processes that Ray Train starts train one model, and after the loss of one they end with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.processes import command_line, descendants

ROOT = Path(__file__).resolve().parents[2]
slow = pytest.mark.skipif(not os.environ.get("KERASNN_ALL_TESTS"), reason="starts Ray and TensorFlow several times")


def start(folder):
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "ray_train.py")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(parent):
    """The processes that train, among those that a process has started."""
    return [pid for pid in descendants(parent) if "ray::RayTrainWorker" in command_line(pid)]


@slow
def test_a_lost_worker_is_started_again_and_costs_no_bit(tmp_path):
    pytest.importorskip("ray.train", reason="needs ray[train]", exc_type=ImportError)
    whole = start(tmp_path / "whole")
    _, errors = whole.communicate(timeout=900)
    assert whole.returncode == 0, errors
    killed = start(tmp_path / "killed")
    run = tmp_path / "killed" / "logs" / "ray" / "run"
    while not (run / "history.csv").exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    victim = workers(killed.pid)[0]
    os.kill(victim, signal.SIGKILL)
    _, errors = killed.communicate(timeout=900)
    assert killed.returncode == 0, errors
    expected = tmp_path / "whole" / "logs" / "ray" / "run"
    assert (run / "model.keras").read_bytes() == (expected / "model.keras").read_bytes()
    assert (run / "history.csv").read_text() == (expected / "history.csv").read_text()
    assert "process 1 of 2 with 2 replicas" in json.loads((run / "result.json").read_text())["device"]
