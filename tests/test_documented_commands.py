"""Every command line of the documentation gives the config that is meant."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from kerasnn.cli import COMMANDS
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.search.config import SearchConfig
from kerasnn.study.config import StudyConfig

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"train": RunConfig(), "search": SearchConfig(), "study": StudyConfig()}

# Every command line of the documentation, and what is meant by it: the config as changes of the default one, or of the
# files and folders that `files` makes; other options by name.
MEANT = {
    "train": {},
    'train --network.hidden \'[100, {"units": 50, "activation": "tanh", "dropout": 0.2}]\' --optimizer.name sgd '
    "--optimizer.momentum 0.9 --optimizer.learning_rate 0.05 --schedule cosine --schedule.warmup 2": {
        "network.hidden": [100, {"units": 50, "activation": "tanh", "dropout": 0.2}],
        "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.05},
        "schedule": {"name": "cosine", "warmup": 2},
    },
    "train --data.path table.csv --data.target price --run_dir logs/first": {
        "data": {"name": "table", "path": "table.csv", "target": "price"},
        "run_dir": "logs/first",
    },
    "train --config logs/search/best_config.json": {"seed": 2},
    "train --run_dir logs/first": {"run_dir": "logs/first"},
    "train --report.mlflow sqlite:///mlflow.db": {"report.mlflow": "sqlite:///mlflow.db"},
    "train --report.timings true": {"report.timings": True},
    "train --data.path animals --data.augment.flip horizontal --data.augment.rotation 0.05": {
        "data": {"path": "animals", "augment": {"flip": "horizontal", "rotation": 0.05}},
    },
    "evaluate logs/first labelled": {"run_dir": "logs/first", "data": "labelled"},
    "search --workers 4": {"workers": 4},
    "search --trials 60 --objective val_accuracy --search_dir logs/search": {
        "trials": 60,
        "objective": {"name": "val_accuracy"},
        "search_dir": "logs/search",
    },
    "predict logs/first new_images": {"run_dir": "logs/first", "data": "new_images"},
    "predict logs/first new.csv": {"run_dir": "logs/first", "data": "new.csv"},
    "train --config logs/first --training.epochs 50": {"seed": 1, "training.epochs": 50},
    "train --config 'logs/<search>/best_config.json'": {"seed": 2},
    "train --resume logs/first": {"seed": 1, "run_dir": "logs/first"},
    "train --resume logs/first --training.epochs 50": {"seed": 1, "training.epochs": 50, "run_dir": "logs/first"},
    "train --resume logs/first --devices.workers 2": {"seed": 1, "devices.workers": 2, "run_dir": "logs/first"},
    "study --workers 4": {"workers": 4},
    "train --devices.precision mixed_bfloat16": {"devices.precision": "mixed_bfloat16"},
    'train --devices.device \'["GPU:0", "GPU:1"]\'': {"devices.device": ["GPU:0", "GPU:1"]},
    "train --devices.workers 2": {"devices.workers": 2},
    "search": {},
    "search --oracle nsga2 --objective val_loss,val_accuracy --search_dir logs/both": {
        "oracle": {"name": "nsga2"},
        "objective": [{"name": "val_loss"}, {"name": "val_accuracy"}],
        "search_dir": "logs/both",
    },
    "search --oracle pbt --run.training.epochs 24 --search_dir logs/population --space "
    '\'{"optimizer.learning_rate": {"min": 1e-4, "max": 0.1, "sampling": "log"}, "regularization.dropout": '
    '{"min": 0.0, "max": 0.5}}\'': {
        "oracle": {"name": "pbt"},
        "run.training.epochs": 24,
        "search_dir": "logs/population",
        "space": {
            "optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"},
            "regularization.dropout": {"min": 0.0, "max": 0.5},
        },
    },
    "search --oracle hyperband --trials 60 --objective val_accuracy --stopper median --space "
    '\'{"optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"}, "network.hidden": {"choices": '
    "[[50], [50, 100]]}}'": {
        "oracle": {"name": "hyperband"},
        "trials": 60,
        "objective": {"name": "val_accuracy"},
        "stopper": {"name": "median"},
        "space": {
            "optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"},
            "network.hidden": {"choices": [[50], [50, 100]]},
        },
    },
    "search --workers 16 --cluster auto --search_dir logs/wide": {
        "workers": 16,
        "cluster": "auto",
        "search_dir": "logs/wide",
    },
    "find-learning-rate --config logs/first --figure learning_rate.png": {"seed": 1},
    "evaluate logs/first --predictions predictions.csv --confusion confusion.png": {
        "run_dir": "logs/first",
        "predictions": "predictions.csv",
        "confusion": "confusion.png",
    },
    "train --data.path titanic.csv --data.target survived": {
        "data": {"name": "table", "path": "titanic.csv", "target": "survived"}
    },
    "compare titanic.csv --target survived": {"table": "titanic.csv", "target": "survived", "seeds": 3},
    "evaluate logs/first labelled.csv": {"run_dir": "logs/first", "data": "labelled.csv"},
    "evaluate logs/first": {"run_dir": "logs/first", "data": None},
    "study": {},
    'study --factors \'{"network.activation": ["relu", "gelu"], "optimizer.learning_rate": [0.001, 0.01]}\' '
    "--seeds 8": {
        "factors": {"network.activation": ["relu", "gelu"], "optimizer.learning_rate": [0.001, 0.01]},
        "seeds": 8,
    },
    "report logs/first": {"folders": ["logs/first"]},
    "report logs/both": {"folders": ["logs/both"]},
    "report logs/population": {"folders": ["logs/population"]},
    "gallery": {"pictures": [], "gallery_dir": "logs/gallery"},
    "doctor": {"replicas": None},
}
FLAGS = {
    '--data.delimiter ";"': ("train", {"data": {"delimiter": ";"}}),
    "--schedule cosine": ("train", {"schedule": {"name": "cosine"}}),
    "--schedule.warmup 2": ("train", {"schedule": {"name": "constant", "warmup": 2}}),
    "--data.name csv --data.path table.csv --data.target price --task regression": (
        "train",
        {"data": {"name": "csv", "path": "table.csv", "target": "price"}, "task": "regression"},
    ),
    "--training.on_nan rollback": ("train", {"training.on_nan": "rollback"}),
    "--training.lsuv true": ("train", {"training.lsuv": True}),
    "--report.health false": ("train", {"report.health": False}),
    "--report.progress silent": ("train", {"report.progress": "silent"}),
    "--report.timings true": ("train", {"report.timings": True}),
    "--data.name texts --data.path letters": ("train", {"data": {"name": "texts", "path": "letters"}}),
    "--data.path animals": ("train", {"data": {"path": "animals"}}),
    "--run_dir logs/first": ("train", {"run_dir": "logs/first"}),
    "--cluster ray://first:10001": ("search", {"cluster": "ray://first:10001"}),
    "--devices.workers 2": ("train", {"devices.workers": 2}),
    "--oracle tpe": ("search", {"oracle": "tpe"}),
    "--oracle pbt": ("search", {"oracle": "pbt"}),
    "--workers 4": ("search", {"workers": 4}),
    "--model best": ("evaluate", {"model": "best"}),
    "--config logs/first": ("gallery", {"config": "logs/first"}),
}


OPTIONS = ("run_dir", "search_dir", "join", "predictions", "confusion", "model", "config")
CALL = re.compile(r"\s*(?:[A-Z_]+='[^']*'\s+)?(?:\S*/)?(?:python3? scripts/(\w+)\.py|kerasnn ([a-z-]+))(.*)")


def documentation():
    """Every text that may tell commands: the Markdown files, and the docstrings of the package."""
    yield from (path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))])
    for path in sorted((ROOT / "kerasnn").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def shell_lines():
    """Every line of a shell block, and every piece of inline code."""
    for text in documentation():
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                yield from line.split("&&")
        yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def documented():
    """Command lines in one spelling, and flags that are mentioned with a value."""
    commands, flags = set(), set()
    for line in shell_lines():
        if called := CALL.match(line):
            name = called[2] or called[1].replace("_", "-")
            arguments = shlex.split(called[3], comments=True)
            if name in COMMANDS and arguments and "--help" not in arguments:
                commands.add(shlex.join([name, *arguments]))
        elif re.match(r"--\w[\w.]* ", line):
            flags.add(line)
    return commands, flags


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    best = [(f"logs/{name}/best_config.json", 2) for name in ("<search>", "search")]
    for path, seed in (("logs/first/config.json", 1), *best):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(json.dumps({"seed": seed}))


def expected(command, meant):
    """The config and the options that are meant."""
    keys = [
        key for key in meant if key in ("run_dir", "search_dir", "join", "predictions", "confusion", "model", "config")
    ]
    options = {key: meant[key] for key in keys}
    changes = {key: value for key, value in meant.items() if key not in keys}
    if command in ("train", "search", "study") and "join" not in options:
        options["config"] = replace_at(CONFIGS[command], changes)
    elif command == "find-learning-rate":
        options["config"] = RunConfig(**changes)
    else:
        options |= changes
    return options


def test_every_command_of_the_documentation_is_listed():
    commands, flags = documented()
    spelled = {shlex.join(shlex.split(line)) for line in MEANT}
    assert len(commands) > 14
    assert commands - spelled == set()
    assert flags - set(FLAGS) == set()


@pytest.mark.parametrize(
    ("line", "meant"),
    [*MEANT.items(), *((f"{command} {flags}", meant) for flags, (command, meant) in FLAGS.items())],
)
def test_a_command_gives_the_config_that_is_meant(files, line, meant):
    command, _, arguments = line.partition(" ")
    if (command, arguments) == ("evaluate", "--model best"):
        arguments = f"logs/first {arguments}"
    module = importlib.import_module(f"kerasnn.commands.{command.replace('-', '_')}")
    options = module.read(shlex.split(arguments))
    for key, value in expected(command, meant).items():
        found = getattr(options, key)
        if command == "find-learning-rate":
            found = RunConfig.model_validate(found.model_dump(exclude={"range"}))
        assert found == value
