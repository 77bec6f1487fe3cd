"""The scripts and notebooks of examples/ run in an empty folder, and give what they promise."""

import os
import runpy
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
# What each script prints when it has done what it shows.
PRINTED = {
    "gan": "generator_loss",
    "own_model": "test accuracy",
    "own_table": "Grignolino     1.0000",
    "search_build": "test accuracy",
}


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of an execution in a folder; what TensorFlow writes to the log is left out."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def test_every_script_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PRINTED, "ray_train", "recovery"}


@pytest.mark.parametrize("name", PRINTED)
def test_a_script_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert PRINTED[name] in capsys.readouterr().out


def test_recovery_goes_on_after_a_kill(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "recovery.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as killed:
        # The state of the beginning, and of the first epoch while it is written, would have nothing to go on after.
        history = Path("logs/recovery/history.csv")
        while (not history.exists() or len(history.read_text().splitlines()) < 4) and killed.poll() is None:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    runpy.run_path(str(EXAMPLES / "recovery.py"), run_name="__main__")
    resumed = capsys.readouterr().out
    assert "goes on after epoch" in resumed
    assert "epochs 30" in resumed
    assert len(history.read_text().splitlines()) == 31


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_has_its_outputs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kept = nbformat.read(path, as_version=4)
    found = executed(path, tmp_path)

    def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
        # Printed text comes in one piece or in several, as the kernel finds time.
        outputs = ([output.output_type for output in cell.get("outputs", ())] for cell in notebook.cells)
        return [[kind for kind, _ in groupby(each)] for each in outputs]

    assert kinds(found) == kinds(kept)
    assert any("image/png" in output.get("data", ()) for cell in kept.cells for output in cell.get("outputs", ()))
