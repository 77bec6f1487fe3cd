"""The command lines as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--network.hidden", "[8]", "--training.epochs", "2", "--training.batch_size", "128", "--report.graph", "false")


def script(name, *arguments, cwd):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    done = script("train", *QUICK, "--run_dir", "logs/first", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_train_says_what_it_does_and_where_it_is(run):
    folder, done = run
    assert "64-8-10, sequential, 610 parameters" in done.stdout
    assert "11 an epoch of batch size 128, 22 in 2 epochs" in done.stdout
    assert "epoch 2/2  accuracy" in done.stdout
    assert "test accuracy 0." in done.stdout
    assert "run folder  logs/first" in done.stdout
    assert "tensorboard --logdir logs" in done.stdout
    assert json.loads((folder / "logs/first/result.json").read_text())["status"] == "finished"


def test_evaluate_prints_tables_and_writes_predictions(run):
    folder, _ = run
    done = script("evaluate", "logs/first", "--predictions", "p.csv", "--confusion", "c.png", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "class  precision  recall      f1  support" in done.stdout
    assert len((folder / "p.csv").read_text().splitlines()) == 360
    assert (folder / "c.png").read_bytes().startswith(b"\x89PNG")


def test_config_of_a_run_can_be_changed_by_flags(run):
    folder, _ = run
    done = script("train", "--config", "logs/first", "--training.epochs", 1, "--run_dir", "logs/second", cwd=folder)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((folder / "logs" / name / "config.json").read_text()) for name in ("first", "second"))
    assert second["training"].pop("epochs") == 1
    assert first["training"].pop("epochs") == 2
    assert first == second


def test_a_learning_rate_is_suggested_and_drawn(tmp_path):
    test = ("find_learning_rate", "--network.hidden", "[8]", "--training.batch_size", "128")
    done = script(*test, "--figure", "range.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "suggestion  0.0" in done.stdout
    assert "range.png" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["range.png"]
    assert (tmp_path / "range.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_that_is_killed_goes_on_and_its_best_run_finds_its_score_again(tmp_path):
    space = {
        "optimizer.learning_rate": {"min": 1e-3, "max": 1e-1, "sampling": "log"},
        "network.hidden": {"choices": [[4], [6]]},
    }
    config = ("--run.training.epochs", 2, "--run.training.batch_size", 256, "--run.report.tensorboard", "false")
    arguments = (*config, "--space", json.dumps(space), "--trials", 6, "--search_dir", "logs/search")
    command = [sys.executable, ROOT / "scripts" / "search.py", *map(str, arguments)]
    journal = tmp_path / "logs" / "search" / "journal.jsonl"
    killed = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None and not (journal.exists() and "result" in journal.read_text()):
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    before = journal.read_text().splitlines()
    done = script("search", "--search_dir", "logs/search", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 trials" in done.stdout
    assert journal.read_text().splitlines()[: len(before)] == before
    again = script("train", "--config", "logs/search/best_config.json", "--run_dir", "logs/best", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    best = json.loads((tmp_path / "logs/best/result.json").read_text())["best"]
    scores = [json.loads(line).get("score") for line in journal.read_text().splitlines()]
    assert best["value"] == pytest.approx(min(score for score in scores if score), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "code", "line"),
    [
        ("train", ["--training.epochs", "0"], 2, "training.epochs must be greater than 0, received '0'"),
        ("train", ["--optimizer.learning_rte", "1"], 2, "did you mean --optimizer.learning_rate?"),
        ("train", ["--optimizer.lr", "1"], 2, "did you mean --optimizer.learning_rate?"),
        (
            "train",
            ["--loss", "mse"],
            2,
            "loss must be an object (keys: name, from_logits, label_smoothing, arguments), received 'mse' "
            "(did you mean 'loss.name'?)",
        ),
        ("train", ["--schedule.name", "cosin"], 2, "schedule.name must be one of"),
        ("train", ["--config", "nothing.json"], 2, "config must be a JSON file or a run folder"),
        ("train", ["--resume", "nothing"], 2, "config must be a JSON file or a run folder"),
        ("train", ["--resume", "a", "--run_dir", "b"], 2, "--resume names the run folder, so --config and --run_dir"),
        ("train", ["--data.name", "arrays"], 2, "data.name 'arrays' is for train() in Python"),
        ("train", ["--network.hidden", "[5"], 2, "network.hidden"),
        ("find_learning_rate", ["--range.updates", "3"], 2, "range.updates must be greater than or equal to 32"),
        ("find_learning_rate", ["--range", '{"lowest": 1, "highest": 0.1}'], 2, "range: lowest must be below highest"),
        (
            "find_learning_rate",
            ["--data.name", "arrays"],
            2,
            "data.name 'arrays' is for find_learning_rate() in Python",
        ),
        ("search", ["--space", '{"seeds": {"choices": [1, 2]}}'], 2, "space must hold valid runs only"),
        ("search", ["--oracle", "rando"], 2, "oracle.name must be one of random, grid, bayesian, hyperband"),
        ("search", ["--run.data.name", "arrays"], 2, "run.data.name 'arrays' is for search() in Python"),
        ("study", ["--seeds", "1"], 2, "seeds must be greater than or equal to 2, received"),
        ("study", ["--factors", '{"network.activaton": ["relu", "tanh"]}'], 2, "did you mean 'activation'"),
        ("study", ["--study_dir", "/dev/null"], 1, "study_dir must be new, empty or a study's folder"),
        ("gallery", ["activatons"], 2, "did you mean 'activations'?"),
        ("report", ["nothing"], 1, "folder must be a run's, a search's or a study's with config.json"),
        ("report", [], 2, "the following arguments are required: FOLDER"),
        ("evaluate", ["nothing"], 1, "config must be a JSON file or a run folder"),
        ("evaluate", [], 2, "the following arguments are required: run_dir"),
        ("evaluate", ["x", "--batch_size", "0"], 2, "--batch_size must be at least 1, received 0"),
    ],
)
def test_errors_are_one_line_with_the_customary_code(tmp_path, name, arguments, code, line):
    done = script(name, *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not done.stdout
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    "name", ["train", "evaluate", "search", "find_learning_rate", "study", "gallery", "report", "doctor"]
)
def test_help_needs_no_tensorflow(tmp_path, name):
    program = (
        "import sys, runpy\nsys.argv = [sys.argv[1], '--help']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    path = ROOT / "scripts" / f"{name}.py"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: kerasnn {name.replace('_', '-')} " in done.stdout


def test_ctrl_c_leaves_a_valid_run_folder(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "train.py", "--training.epochs", "100000", "--run_dir", "run"]
    command += ["--report.tensorboard", "false"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    history = tmp_path / "run" / "history.csv"
    deadline = time.monotonic() + 120
    while not history.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "kerasnn train: error: interrupted: go on with kerasnn train --resume run"
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "interrupted"
    assert script("evaluate", "run", cwd=tmp_path).returncode == 0


def test_sigterm_saves_the_state_and_resume_goes_on(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "train.py", "--training.epochs", "100000", "--run_dir", "run"]
    command += ["--report.tensorboard", "false"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    history = tmp_path / "run" / "history.csv"
    deadline = time.monotonic() + 120
    while not history.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "which another process is using" in script("train", "--resume", "run", cwd=tmp_path).stderr
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.strip().splitlines() == ["kerasnn train: error: terminated: go on with kerasnn train --resume run"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "interrupted"
    rows = len(history.read_text().splitlines()) - 1
    done = script("train", "--resume", "run", "--training.epochs", rows + 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"resumes     after {rows} epochs" in done.stdout
    epochs = [line.split(",")[0] for line in history.read_text().splitlines()[1:]]
    assert epochs == [str(epoch + 1) for epoch in range(rows + 2)]
    refused = script("train", "--resume", "run", "--seed", 3, cwd=tmp_path)
    assert refused.returncode == 1
    assert "run_dir must continue the run that it holds, run began with another seed" in refused.stderr


@pytest.mark.skipif("KERASNN_ALL_TESTS" not in os.environ, reason="kills for long; set KERASNN_ALL_TESTS=1")
def test_chaos_prints_what_was_injected_and_survived(tmp_path):
    done = script(
        "chaos",
        "--kills",
        2,
        "--saves",
        4,
        "--faults",
        3,
        "--limits",
        2,
        "--cases",
        "tf.data, dropout, plain",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    rows = {line[:36].strip(): line[36:].split()[:2] for line in done.stdout.splitlines()[1:]}
    assert rows["kills of a process that saves"] == ["4", "4"]
    assert rows["truncations"] == rows["bit flips"] == ["3", "3"]
    assert rows["file-size limit"] == ["2", "2"]
    assert rows["tf.data, dropout, plain"] == ["2", "2"]
