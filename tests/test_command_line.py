"""What a command line means: no flag vanishes, and a wrong one leads to the right one."""

import importlib
import io
import shlex
import signal
import subprocess
import sys

import pytest

import kerasnn
from kerasnn.cli import COMMANDS, main
from kerasnn.commands.execution import continued_by, execute
from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.config.schedules import Cosine, MultiStep, Step
from kerasnn.search.config import ObjectiveConfig, SearchConfig
from kerasnn.search.oracle_config import Hyperband
from kerasnn.search.stopping import Median
from kerasnn.signals import TerminatedError
from kerasnn.study.config import StudyConfig

CSV = {"name": "csv", "path": "t.csv", "target": "2020"}
CONFIGS = {"train": RunConfig(), "search": SearchConfig(), "study": StudyConfig()}


def read(command, line):
    return importlib.import_module(f"kerasnn.commands.{command.replace('-', '_')}").read(shlex.split(line))


@pytest.mark.parametrize(
    ("command", "line", "changes"),
    [
        ("train", "--schedule cosine --schedule.warmup 2", {"schedule": Cosine(warmup=2)}),
        ("train", "--schedule.warmup 2 --schedule cosine", {"schedule": Cosine(warmup=2)}),
        ("train", "--schedule step --schedule.gamma 0.1", {"schedule": Step(gamma=0.1)}),
        ("train", "--schedule '{\"warmup\": 2}' --schedule.name cosine", {"schedule": Cosine(warmup=2)}),
        ("train", "--schedule multi_step --schedule.milestones 1,2", {"schedule": MultiStep(milestones=(1, 2))}),
        ("search", "--run.schedule cosine --run.schedule.warmup 2", {"run.schedule": Cosine(warmup=2)}),
        (
            "search",
            "--objective val_loss,val_accuracy",
            {"objective": (ObjectiveConfig(name="val_loss"), ObjectiveConfig(name="val_accuracy"))},
        ),
        (
            "search",
            '--objective \'[{"name": "val_accuracy", "direction": "min"}, "val_loss"]\'',
            {"objective": (ObjectiveConfig(name="val_accuracy", direction="min"), ObjectiveConfig(name="val_loss"))},
        ),
        ("search", "--oracle hyperband --oracle.factor 4", {"oracle": Hyperband(factor=4)}),
        ("search", "--stopper.min_epochs 2 --stopper median", {"stopper": Median(min_epochs=2)}),
        (
            "search",
            "--objective val_accuracy --objective.direction max",
            {"objective": ObjectiveConfig(name="val_accuracy", direction="max")},
        ),
        ("study", "--objective.direction min", {"objective": ObjectiveConfig(name="val_accuracy", direction="min")}),
        ("train", "--training.early_stopping true", {"training.early_stopping": {}}),
        ("train", "--training.early_stopping false", {}),
        (
            "train",
            "--training.early_stopping true --training.early_stopping.patience 3",
            {"training.early_stopping": {"patience": 3}},
        ),
        ("train", "--training.early_stopping.patience=3", {"training.early_stopping": {"patience": 3}}),
        ("train", "--training.plateau true", {"training.plateau": {}}),
        (
            "train",
            "--network.activation leaky_relu --network.activation.negative_slope 0.1",
            {"network.activation": {"name": "leaky_relu", "negative_slope": 0.1}},
        ),
        ("train", "--network.hidden 50,30", {"network.hidden": [50, 30]}),
        (
            "train",
            "--network.hidden 50,30 --network.hidden.1.activation tanh",
            {"network.hidden": [50, {"units": 30, "activation": "tanh"}]},
        ),
        ("train", "--network.hidden.0 30", {"network.hidden": [30, 100]}),
        (
            "train",
            '--optimizer \'{"name": "sgd"}\' --optimizer.learning_rate 0.1',
            {"optimizer": {"name": "sgd", "learning_rate": 0.1}},
        ),
        (
            "train",
            "--optimizer.name muon --optimizer.arguments.ns_steps 3",
            {"optimizer": {"name": "muon", "arguments": {"ns_steps": 3}}},
        ),
        ("train", "--training.class_weight balanced", {"training.class_weight": "balanced"}),
        (
            "train",
            "--training.class_weight '{\"0\": 1}' --training.class_weight.1 5",
            {"training.class_weight": {"0": 1.0, "1": 5.0}},
        ),
        ("train", "--training.metrics accuracy,auc", {"training.metrics": ["accuracy", "auc"]}),
        ("train", "--devices.jit_compile true", {"devices.jit_compile": True}),
        ("train", "--devices.device CPU:0", {"devices.device": "CPU:0"}),
        ("train", "--data.name csv --data.path t.csv --data.target 2020", {"data": CSV}),
        ("train", "--optimizer.learning_rate null", {}),
        (
            "search",
            "--space.seed '{\"choices\": [1, 2]}'",
            {"space": {**SearchConfig().model_dump(mode="json")["space"], "seed": {"choices": [1, 2]}}},
        ),
    ],
)
def test_a_value_and_flags_for_its_parts_merge(command, line, changes):
    assert read(command, line).config == replace_at(CONFIGS[command], changes)


@pytest.mark.parametrize(
    ("command", "line", "error"),
    [
        (
            "train",
            "--training.early_stopping null --training.early_stopping.patience 3",
            '^--training.early_stopping.patience must not contradict --training.early_stopping, received "3" and null$',
        ),
        ("train", "--schedule cosine --schedule.name step", "--schedule.name must not contradict --schedule, received"),
        ("train", "--network.hidden 50 --network.hidden.0.units 60", "must not contradict --network.hidden, received"),
        ("train", "--network.hidden.0 5 --network.hidden 6", "--network.hidden.0 must not contradict --network.hidden"),
        (
            "train",
            "--training.class_weight balanced --training.class_weight.0 5",
            '--training.class_weight.0 must not contradict --training.class_weight, received "5" and "balanced"',
        ),
        ("train", "--schedule.gamma 0.1", "schedule: key must be one of name, warmup, .*; received 'gamma'"),
        ("train", "--network.hidden 5 --network.hidden.1.units 5", "position from 0 to 0 at '1'"),
        ("search", "--stopper.min_epochs 2", "stopper.name is required and was not given"),
        (
            "search",
            "--objective val_accuracy --run.training.monitor val_loss",
            "--run.training.monitor has no effect beside objective 'val_accuracy'; give --objective",
        ),
        ("find-learning-rate", "--schedule cosine", "--schedule has no effect on a range test"),
        ("find-learning-rate", "--optimizer.learning_rate 1", "--optimizer.learning_rate has no effect on a range"),
        ("search", "--space nosuch.json", "^--space: there is no file nosuch.json$"),
        ("search", '--space \'{"lr": {"min": 0.1, "max": 1.0}}\'', r"did you mean 'optimizer.learning_rate'\?"),
        ("search", '--space \'{"training.epoch": {"choices": [1, 2]}}\'', r"did you mean 'epochs'\?"),
        ("study", "--factors '{\"batch_size\": [1, 2]}'", r"did you mean 'training.batch_size'\?"),
        ("train", '--network.hidden \'[{"units": 5, "units": 6}]\'', "--network.hidden: JSON must name each key once"),
        ("train", "--training.early_stopping 3", r"must be an object \(keys: monitor, mode, .*\), received 3"),
        ("train", "--optimizer.learning_rate fast", "optimizer.learning_rate must be a valid number, .*'fast'"),
        ("train", "--training.class_weight x", "training.class_weight must be balanced or an object, received 'x'"),
        ("train", "--devices.jit_compile x", "devices.jit_compile must be true or false or auto, received 'x'"),
    ],
)
def test_a_flag_without_effect_is_an_error(command, line, error):
    with pytest.raises(ValueError, match=error) as raised:
        read(command, line)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("command", "line", "error"),
    [
        ("train", "--epochs 3", "unknown argument --epochs, did you mean --training.epochs?"),
        ("train", "--batch_size 3", "unknown argument --batch_size, did you mean --training.batch_size?"),
        ("train", "--lr 3", "unknown argument --lr, did you mean --optimizer.learning_rate?"),
        ("train", "--learning_rate 3", "unknown argument --learning_rate, did you mean --optimizer.learning_rate?"),
        ("train", "--learning-rate=3", "unknown argument --learning-rate, did you mean --optimizer.learning_rate?"),
        ("train", "--optimizer.lr 3", "unknown argument --optimizer.lr, did you mean --optimizer.learning_rate?"),
        ("train", "--optimizer.learning_rte 3", "did you mean --optimizer.learning_rate?"),
        ("train", "--optimzer.learning_rate 3", "did you mean --optimizer.learning_rate?"),
        ("train", "--patience 3", "unknown argument --patience, did you mean --training.early_stopping.patience?"),
        ("train", "--layers 3", "unknown argument --layers, did you mean --network.hidden?"),
        ("train", "--run-dir x", "unknown argument --run-dir, did you mean --run_dir?"),
        ("search", "--epochs 3", "unknown argument --epochs, did you mean --run.training.epochs?"),
        ("search", "--training.epochs 3", "did you mean --run.training.epochs?"),
        ("search", "--space.network.hidden 3", "--space is one JSON object, or a .json file"),
        ("study", "--lr 3", "unknown argument --lr, did you mean --run.optimizer.learning_rate?"),
        ("train", "--devices.nosuch 3", "unknown argument --devices.nosuch, --devices has strategy, device, workers, "),
        ("train", "--nosuch 3", "unknown argument --nosuch (see --help)"),
        ("train", "3", "unexpected argument '3' (see --help)"),
        ("train", "--seed 1 --seed 2", "--seed is given twice"),
        ("evaluate", "run --modle best", "unknown argument --modle, did you mean --model?"),
    ],
)
def test_an_unknown_flag_leads_to_the_right_one(capsys, command, line, error):
    with pytest.raises(SystemExit, match="2"):
        read(command, line)
    said = capsys.readouterr().err
    assert error in said
    assert said.startswith(f"kerasnn {command}: error: ")
    assert said.count("\n") == 1


def test_flags_change_a_config_file(tmp_path):
    start = replace_at(RunConfig(), {"schedule": Step(step_size=3), "training.early_stopping": {"patience": 9}})
    (tmp_path / "config.json").write_text(start.to_json())

    def config(line):
        return read("train", f"--config {tmp_path} {line}").config

    assert config("") == start
    assert config("--schedule.gamma 0.1").schedule == Step(step_size=3, gamma=0.1)
    assert config("--schedule cosine --schedule.warmup 2").schedule == Cosine(warmup=2)
    assert config("--schedule.name cosine --schedule.warmup 2").schedule == Cosine(warmup=2)
    assert config("--training.early_stopping.min_delta 1").training.early_stopping.patience == 9
    assert config("--training.early_stopping null").training.early_stopping is None
    assert config("--training.early_stopping true").training.early_stopping.patience == 5


def test_a_changed_name_starts_an_oracle_or_an_activation_from_its_defaults():
    search = SearchConfig(oracle={"name": "bayesian", "beta": 1.0})
    assert replace_at(search, {"oracle.name": "hyperband"}).oracle == Hyperband()
    run = replace_at(RunConfig(), {"network.activation": {"name": "leaky_relu", "negative_slope": 0.1}})
    assert replace_at(run, {"network.activation.name": "elu"}).network.activation == "elu"


def test_an_object_may_be_a_file(tmp_path):
    file = tmp_path / "space.json"
    file.write_text('{"seed": {"choices": [1, 2]}}')
    assert list(read("search", f"--space {file}").config.space) == ["seed"]


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (
            "train",
            [
                "--schedule {constant,step,multi_step,",
                "`optimizer.learning_rate`. (default: constant)",
                "--schedule step: Multiply the rate by gamma every step_size epochs.",
                "--schedule.gamma NUMBER Factor at each drop, above 0; 0.5 halves the rate. (default: 0.5)",
                "--schedule.per {epoch,update}",
                "--network.hidden LIST",
                "(default: [50, 100])",
                "--training.early_stopping {true,JSON} Early stopping; null trains all epochs. (default: null)",
            ],
        ),
        (
            "search",
            [
                "--oracle {random,grid,bayesian,hyperband,tpe,gp,cmaes,nsga2,pbt}",
                "--trials INTEGER",
                "--run.network.hidden LIST",
            ],
        ),
        ("study", ["(default: val_accuracy)", "--run.training.epochs INTEGER Passes over the training examples."]),
    ],
)
def test_help_shows_the_defaults_that_hold(capsys, command, lines):
    assert main_code([command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for line in lines:
        assert line in said


def main_code(arguments):
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


def test_the_list_of_commands_needs_no_heavy_import():
    program = (
        "import sys; from kerasnn.cli import main; main(['--help']); print({'keras', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *listed, imported = done.stdout.splitlines()
    assert imported == "set()"
    for name, purpose in COMMANDS.items():
        assert any(line.split() == [name, *purpose.split()] for line in listed)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TerminatedError(), "terminated: go on with kerasnn train --resume '{}'"),
        (KeyboardInterrupt("stopped"), "interrupted: stopped; go on with kerasnn train --resume '{}'"),
        (OSError("disk full"), "disk full; go on with kerasnn train --resume '{}'"),
        (ConnectionError("start all again"), "start all again"),
        (ValueError("wrong"), "wrong"),
    ],
)
def test_an_interruption_names_the_command_that_goes_on(tmp_path, capsys, error, message):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")

    def run(_):
        with continued_by("kerasnn train --resume", folder):
            raise error

    assert execute("kerasnn train", [], list, run) != 0
    assert capsys.readouterr().err == f"kerasnn train: error: {message.format(folder)}\n"


def test_an_interruption_before_the_folder_exists_names_none(tmp_path, capsys):
    def run(_):
        with continued_by("kerasnn train --resume", tmp_path / "run"):
            raise KeyboardInterrupt

    assert execute("kerasnn train", [], list, run) == 130
    assert capsys.readouterr().err == "kerasnn train: error: interrupted: nothing had begun\n"


def test_a_second_signal_does_not_cut_the_last_line_short(capsys, monkeypatch):
    def run(_):
        signal.raise_signal(signal.SIGINT)

    class Interrupted(io.StringIO):
        def write(self, text):
            signal.raise_signal(signal.SIGINT)
            return super().write(text)

    errors = Interrupted()
    monkeypatch.setattr(sys, "stderr", errors)
    assert execute("kerasnn train", [], list, run) == 130
    assert errors.getvalue() == "kerasnn train: error: interrupted\n"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kerasnn {kerasnn.__version__}\n"


def test_unknown_command_leads_to_the_right_one(capsys):
    assert main(["trian"]) == 2
    assert main(["find_learning_rate"]) == 2
    assert main(["-x"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "kerasnn: error: unknown command 'trian', did you mean train?",
        "kerasnn: error: unknown command 'find_learning_rate', did you mean find-learning-rate?",
        f"kerasnn: error: unknown command '-x', the commands are {', '.join(COMMANDS)}",
    ]


@pytest.mark.parametrize(
    "line",
    [
        *("LONG", "train --LONG 1", "train LONG", "train --style LONG", "train --seed LONG", "train --config LONG"),
        *("evaluate LONG", "search --search_dir LONG", "report LONG", "train --data.path LONG --data.name csv"),
    ],
)
def test_long_input_is_echoed_in_part(capsys, line):
    try:
        code = main([word.replace("LONG", "A" * 100_000) for word in line.split()])
    except SystemExit as end:
        code = end.code
    assert code in (1, 2)
    echoed = capsys.readouterr().err
    assert echoed.count("\n") == 1
    assert len(echoed) < 500
