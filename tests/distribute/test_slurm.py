"""The processes of a Slurm step find each other, whatever the order of the machines' names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kerasnn import RunConfig, replace_at, train
from kerasnn.distribute.processes import free_addresses
from kerasnn.distribute.slurm import set_tf_config

ROOT = Path(__file__).resolve().parents[2]


def step(monkeypatch, **variables):
    """Set the variables of a process: job 7, three processes on the machines n9 and n10."""
    described = {"JOB_ID": 7, "STEP_NUM_TASKS": 3, "STEP_NODELIST": "n[9-10]", "STEP_TASKS_PER_NODE": "1,2"}
    for name, value in (described | variables).items():
        name = name if name == "SLURMD_NODENAME" else f"SLURM_{name}"
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(("number", "machine", "local", "index"), [(0, "n9", 0, 2), (1, "n10", 0, 0), (2, "n10", 1, 1)])
def test_each_process_has_its_own_address(monkeypatch, number, machine, local, index):
    # Both are put back at the end of the test.
    monkeypatch.setenv("TF_CONFIG", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    step(monkeypatch, PROCID=number, LOCALID=local, SLURMD_NODENAME=machine)
    set_tf_config()
    found = json.loads(os.environ["TF_CONFIG"])
    assert found["cluster"] == {"worker": ["n10:12007", "n10:12008", "n9:12007"]}
    assert found["task"] == {"type": "worker", "index": index}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"


@pytest.mark.parametrize("variables", [{"STEP_NUM_TASKS": 1}, {"STEP_NUM_TASKS": None}])
def test_one_process_trains_alone(monkeypatch, variables):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    step(monkeypatch, **variables)
    set_tf_config()
    assert "TF_CONFIG" not in os.environ


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"LOCALID": None}, "a process of srun must have the variable SLURM_LOCALID, which is not set"),
        ({"LOCALID": 5}, "a process of srun must run on one of n10:12007, n10:12008, n9:12007, received n9:12012"),
    ],
)
def test_what_does_not_fit_is_refused(monkeypatch, variables, line):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    step(monkeypatch, **{"PROCID": 0, "LOCALID": 0, "SLURMD_NODENAME": "n9", **variables})
    with pytest.raises(ValueError, match=f"^{line}$"):
        set_tf_config()


@pytest.mark.skipif(not os.environ.get("KERASNN_ALL_TESTS"), reason="starts TensorFlow several times")
def test_a_step_trains_as_one_process(tmp_path):
    """Two processes with srun's variables, on this machine."""
    options = {"network.hidden": [8], "training.epochs": 1, "training.batch_size": 128, "report.graph": False}
    flags = ["--devices.strategy", "multi_worker"]
    flags += [part for key, value in options.items() for part in (f"--{key}", json.dumps(value))]
    port = int(free_addresses(1)[0].rpartition(":")[2])
    shared = {"SLURM_JOB_ID": str(port - 12_000), "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
    shared |= {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURMD_NODENAME": "localhost", "TF_CPP_MIN_LOG_LEVEL": "3"}
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "scripts" / "train.py", *flags, "--run_dir", tmp_path / "two"],
            env={**os.environ, **shared, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert "process 1 of 2 with 2 replicas" in result["device"]
    alone = train(replace_at(RunConfig(), options), tmp_path / "one")
    assert result["metrics"] == pytest.approx(alone.metrics, abs=1e-6)
