"""Processes that train as one: who they are, how they meet, start and stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kerasnn import RunConfig, replace_at, train
from kerasnn.distribute import processes
from kerasnn.signals import TerminatedError

ROOT = Path(__file__).resolve().parents[2]
TRAIN = [sys.executable, str(ROOT / "scripts" / "train.py"), "--devices.workers", "2"]
slow = pytest.mark.skipif(not os.environ.get("KERASNN_ALL_TESTS"), reason="starts TensorFlow several times")


def cluster(jobs, kind, index):
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("{}", None),
        (cluster({"worker": ["a:1"]}, "worker", 0), None),
        (cluster({"worker": ["a:1", "b:2"]}, "worker", 1), (("a:1", "b:2"), 1)),
        (cluster({"worker": ["b:2"], "chief": ["a:1"]}, "worker", 0), (("a:1", "b:2"), 1)),
        (cluster({"worker": ["b:2"], "chief": ["a:1"]}, "chief", 0), (("a:1", "b:2"), 0)),
    ],
)
def test_cluster_is_read_from_tf_config(monkeypatch, text, expected):
    monkeypatch.setenv("TF_CONFIG", text)
    assert processes.cluster() == expected


@pytest.mark.parametrize(
    "text",
    [
        "worker",
        "[]",
        cluster({"worker": ["a:1", "b:2"]}, "worker", 2),
        cluster({"worker": ["a:1", "b:2"]}, "chief", 0),
        cluster({"worker": ["a:1"], "ps": ["b:2"]}, "worker", 0),
        json.dumps({"cluster": {"worker": ["a:1", "b:2"]}}),
    ],
)
def test_other_descriptions_are_refused_in_one_line(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=r"^TF_CONFIG must be like .*, received .*$"):
        processes.cluster()


def test_a_process_that_does_not_start_is_an_error_in_time():
    here, there = processes.free_addresses(2)
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"within devices.worker_wait, 0.3 s, received no answer from {there}"):
        processes.wait_for_peers(processes.Cluster((here, there), 0), 0.3)
    assert time.monotonic() - start < 3


def test_processes_that_listen_meet():
    here, there = processes.free_addresses(2)
    with socket.create_server(("127.0.0.1", int(there.rpartition(":")[2]))):
        processes.wait_for_peers(processes.Cluster((here, there), 0), 5)


def test_launched_processes_know_each_other_and_fail_together(capfd):
    program = (
        "import sys; from kerasnn.distribute.processes import cluster; place = cluster();"
        "print('number', place.number);"
        "print('same line', file=sys.stderr); sys.exit(3 * place.number)"
    )
    assert processes.launch(2, [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"]) == 3
    said = capfd.readouterr()
    assert said.out == "number 0\n"
    assert said.err.count("same line") == 1


@pytest.mark.parametrize(
    ("visible", "index", "count", "own"),
    [
        ("0,1,2,3,4", 1, 2, "1,3"),
        ("4,7", 1, None, "7"),
        ("4,7", 2, None, "4"),
        ("GPU-a", 3, None, "GPU-a"),
        ("0", 1, 2, ""),  # fewer GPUs than processes that train one model
    ],
)
def test_processes_share_the_gpus(monkeypatch, visible, index, count, own):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert processes.gpu_environment(index, count) == {"CUDA_VISIBLE_DEVICES": own}


def test_without_gpus_processes_get_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert processes.gpu_environment(0) == {}


def test_signal_is_noted_once_and_then_raises():
    with processes.signals_stop_all():
        assert processes.stop_signal() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert processes.stop_signal() == signal.SIGTERM
        with pytest.raises(TerminatedError):
            os.kill(os.getpid(), signal.SIGTERM)


def test_two_processes_leave_the_folder_of_one(tmp_path):
    options = {"network.hidden": [8], "training.epochs": 2, "training.batch_size": 128, "report.graph": False}
    flags = [part for key, value in options.items() for part in (f"--{key}", json.dumps(value))]
    two, one = tmp_path / "two", tmp_path / "one"
    done = subprocess.run([*TRAIN, *flags, "--run_dir", two], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    alone = train(replace_at(RunConfig(), options), one)
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    result = json.loads((two / "result.json").read_text())
    assert "process 1 of 2 with 2 replicas" in result["device"]
    assert result["metrics"] == pytest.approx(alone.metrics, abs=1e-6)
    assert done.stdout.count("epoch 2/2") == 1
    assert len(list((two / "train").iterdir())) == 1


@slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_resumes_on_another_number_of_devices(tmp_path, before, after):
    options = {"network.hidden": [8], "regularization.dropout": 0.2, "training.batch_size": 100, "report.graph": False}
    flags = [part for key, value in options.items() for part in (f"--{key}", json.dumps(value))]
    for workers, epochs in ((before, 2), (after, 4)):
        command = [*TRAIN[:-1], str(workers), *flags, "--training.epochs", str(epochs), "--run_dir", tmp_path / "run"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
    assert "resumes     after 2 epochs" in done.stdout
    alone = train(replace_at(RunConfig(), {**options, "training.epochs": 4}), tmp_path / "alone")
    found = [
        [float(cell) for cell in line.split(",")]
        for line in (tmp_path / "run" / "history.csv").read_text().splitlines()[1:]
    ]
    expected = [
        [float(cell) for cell in line.split(",")]
        for line in (tmp_path / "alone" / "history.csv").read_text().splitlines()[1:]
    ]
    assert found == [pytest.approx(row, abs=1e-5) for row in expected]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"] == pytest.approx(alone.metrics, abs=1e-5)


@slow
@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_lost_and_stopped_processes_stop_all(tmp_path, number, target):
    launcher = subprocess.Popen(
        [*TRAIN, "--report.graph", "false", "--training.epochs", "2000", "--run_dir", "run"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    history = tmp_path / "run" / "history.csv"
    while launcher.poll() is None and not history.exists():
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True, check=True)
    os.kill(sorted(map(int, children.stdout.split()))[target], number)
    start = time.monotonic()
    _, errors = launcher.communicate(timeout=60)
    assert time.monotonic() - start < 60
    assert launcher.returncode != 0
    expected = "another of the processes that train together is gone" if number == signal.SIGKILL else "terminated"
    assert expected in errors
    assert len(errors.splitlines()) <= 2
    if number == signal.SIGTERM:
        assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "interrupted"
