"""The command lines; the files in scripts/ are one-liners over them.

TensorFlow is imported only once there is something to compute, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from kerasnn.config.description import replace_at
from kerasnn.config.run import RunConfig
from kerasnn.config.schema import Schema, short
from kerasnn.distribute import processes
from kerasnn.signals import TerminatedError, raised

DONE, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line with the nearest right flag."""

    def error(self, message: str) -> NoReturn:
        unknown, _, flag = message.rpartition("unrecognized arguments: ")
        if not unknown and flag != message:
            flag = flag.split()[0].split("=")[0]
            section, _, key = flag.rpartition(".")
            known = [each.rpartition(".") for each in self._option_string_actions]
            keys = [each[2] for each in known if section and each[0] == section]
            near = get_close_matches(key, keys) or get_close_matches(flag, self._option_string_actions, cutoff=0.9)
            message = f"unknown argument {flag}"
            if near:
                message += f", did you mean {section + '.' + near[0] if near[0] in keys else near[0]}?"
            elif keys:
                message += f", {section} has {', '.join(keys)}"
            message += " (see --help)"
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


class _TrainSettings(RunConfig, BaseSettings):
    """Train a network and leave a run folder for TensorBoard."""

    model_config = SettingsConfigDict(cli_hide_none_type=True, cli_use_class_docs_for_groups=True)

    config: str | None = Field(
        default=None, description="JSON file, or a run folder whose config.json is meant; flags change it."
    )
    run_dir: str | None = Field(
        default=None,
        description="New or empty folder for the run, or that of a run to go on with; null makes "
        "logs/<time>-<data>-<style>.",
    )
    resume: str | None = Field(
        default=None, description="Run folder to go on with, as --config and --run_dir together; flags may add epochs."
    )


def train(arguments: Sequence[str] | None = None) -> int:
    """Train from the command line.

    Args:
        arguments: the command line; None takes the program's.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.
    """
    code = guarded("train.py", lambda: _train(arguments))
    if code == FAILED and "TF_CONFIG" in os.environ:
        # TensorFlow's threads would wait for the other processes.
        sys.stdout.flush()
        os._exit(code)
    return code


def _train(arguments: Sequence[str] | None) -> int:
    try:
        flags = given(_TrainSettings, "train.py", arguments)
        start, run_dir, resume = (flags.pop(key, None) for key in ("config", "run_dir", "resume"))
        if resume is not None:
            if start is not None or run_dir is not None:
                raise ValueError("--resume names the run folder, so --config and --run_dir must be left out")
            start = run_dir = resume
        config = replace_at(RunConfig() if start is None else RunConfig.load(start), flags)
        if config.data.name == "arrays":
            raise ValueError("data.name 'arrays' is for train() in Python; here give csv, npz or a data set's name")
        cluster = processes.cluster()
    except (ValueError, FileNotFoundError) as error:
        return complain("train.py", error, USAGE)
    if config.devices.workers is not None and cluster is None and config.devices.workers > 1:
        given_arguments = sys.argv[1:] if arguments is None else arguments
        root = str(Path(__file__).resolve().parents[2])
        program = (
            f"import sys; sys.path.insert(0, {root!r}); from kerasnn.commands.command import train; sys.exit(train())"
        )
        return processes.launch(config.devices.workers, [sys.executable, "-c", program, *map(str, given_arguments)])
    import_tensorflow()
    from kerasnn.runs.train import train as run

    result = run(config, run_dir)
    if cluster is not None and cluster.number > 0:
        return DONE
    print("  ".join(f"test {name} {value:.4f}" for name, value in result.metrics.items()))
    print(f"run folder  {result.run_dir}")
    print(f"dashboard   tensorboard --logdir {result.run_dir.parent}")
    return DONE


class _Range(Schema):
    """The rates that are tried."""

    lowest: float = Field(default=1e-7, gt=0)
    """The first learning rate."""
    highest: float = Field(default=10.0, gt=0)
    """The last learning rate."""
    updates: int = Field(default=100, ge=32)
    """How many updates there are from the first to the last."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest must be below highest, received {self.lowest:g} and {self.highest:g}")
        return self


class _Tried(Schema):
    range: _Range = _Range()


class _RangeTestSettings(RunConfig, BaseSettings):
    """Suggest a learning rate for a run: a range test over some updates, and a picture of it."""

    model_config = SettingsConfigDict(cli_hide_none_type=True, cli_use_class_docs_for_groups=True)

    config: str | None = Field(
        default=None, description="JSON file, or a run folder whose config.json is meant; flags change it."
    )
    figure: str | None = Field(
        default=None, description="PNG or SVG picture to write; null makes logs/<time>-<data>-learning_rate.png."
    )
    range: _Range = Field(default=_Range(), description="The rates that are tried.")


def find_learning_rate(arguments: Sequence[str] | None = None) -> int:
    """Suggest a learning rate from the command line.

    Args:
        arguments: the command line; None takes the program's.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    return guarded("find_learning_rate.py", lambda: _find_learning_rate(arguments))


def _find_learning_rate(arguments: Sequence[str] | None) -> int:
    program = "find_learning_rate.py"
    try:
        flags = given(_RangeTestSettings, program, arguments)
        start, figure = flags.pop("config", None), flags.pop("figure", None)
        own = {key: flags.pop(key) for key in list(flags) if key.split(".")[0] == "range"}
        tried = replace_at(_Tried(), own).range
        config = replace_at(RunConfig() if start is None else RunConfig.load(start), flags)
        if config.data.name == "arrays":
            raise ValueError(
                "data.name 'arrays' is for find_learning_rate() in Python; here give csv, npz or a data set"
            )
    except (ValueError, FileNotFoundError) as error:
        return complain(program, error, USAGE)
    import_tensorflow()
    from kerasnn import figures
    from kerasnn.runs.learning_rate_finder import find_learning_rate as find

    test = find(config, **tried.model_dump())
    path = Path(figure or f"logs/{datetime.now():%Y%m%d-%H%M%S}-{config.data.name}-learning_rate.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.save(test.figure(), path)
    print(f"suggestion  {test.suggestion:.2g} (valley); steepest {test.steepest:.2g}, minimum / 10 {test.minimum:.2g}")
    print(f"picture     {path}")
    print(f"train       python scripts/train.py --optimizer.learning_rate {test.suggestion:.2g}")
    return DONE


def evaluate(arguments: Sequence[str] | None = None) -> int:
    """Evaluate a run folder from the command line.

    Args:
        arguments: the command line; None takes the program's.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.
    """
    return guarded("evaluate.py", lambda: _evaluate(arguments))


def _evaluate(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog="evaluate.py", description="Evaluate a trained run.", allow_abbrev=False)
    parser.add_argument("run_dir", help="the run folder")
    parser.add_argument("--data", metavar="FILE", help="csv or npz file of raw examples (default: the run's test part)")
    parser.add_argument(
        "--model", choices=("model", "best"), default="model", help="final model or the best epoch's (default: model)"
    )
    parser.add_argument("--predictions", metavar="FILE", help="CSV file to write, one row an example")
    parser.add_argument("--confusion", metavar="FILE", help="PNG or SVG picture of the confusion matrix to write")
    parser.add_argument(
        "--batch_size", type=int, default=1024, help="examples predicted at a time (default: 1024); no effect on them"
    )
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch_size must be at least 1, received {options.batch_size}")
    RunConfig.load(options.run_dir)  # a wrong folder is said before TensorFlow has started
    import_tensorflow()
    from kerasnn import figures
    from kerasnn.runs.evaluate import evaluate_run

    evaluation = evaluate_run(options.run_dir, options.data, model=options.model, batch_size=options.batch_size)
    print(evaluation)
    if options.predictions is not None:
        evaluation.write_csv(options.predictions)
    if options.confusion is not None:
        if evaluation.confusion is None or evaluation.class_names is None:
            raise ValueError("--confusion needs a classifier with one class an example")
        figures.save(figures.confusion_matrix(evaluation.confusion, evaluation.class_names), options.confusion)
    return DONE


def given(settings: type[BaseSettings], program: str, arguments: Sequence[str] | None) -> dict[str, Any]:
    """The flags that were given, by dotted key, with JSON values read.

    Args:
        settings: what the flags are generated from.
        program: the program's name.
        arguments: the command line; None takes the program's.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = Parser(
        prog=program,
        usage=f"{program} [--config FILE] [--KEY VALUE ...]",
        description=settings.__doc__,
        epilog="A KEY is a dotted name below; lists and objects are JSON: --network.hidden '[50, 100]'.",
        allow_abbrev=False,
    )
    source = CliSettingsSource[Any](settings, cli_parse_args=arguments, root_parser=parser)
    try:
        nested = source()
    except SettingsError as error:
        # It names the field and nothing else.
        field = str(error).split('"')[1]
        value = next(iter(arguments[arguments.index(f"--{field}") + 1 :]), "") if f"--{field}" in arguments else ""
        raise ValueError(
            f"--{field} must be a JSON object, received {short(value)}; a key of it is a flag: --{field}.KEY VALUE"
        ) from None
    flags = [argument[2:].split("=")[0] for argument in arguments if argument.startswith("--")]
    return {flag: value for flag in flags if (value := _at(nested, flag)) is not _ABSENT}


_ABSENT = object()


def _at(nested: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(nested, dict) or part not in nested:
            return _ABSENT
        nested = nested[part]
    return nested


def import_tensorflow() -> None:
    """Import TensorFlow without its greetings, notes about the processor and missing drivers; an error shows them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as greetings:
        os.dup2(greetings.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
            # Collections need not walk TensorFlow's million objects over and over while programs are traced.
            gc.freeze()
        except BaseException:
            greetings.seek(0)
            os.write(terminal, greetings.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def guarded(program: str, body: Callable[[], int]) -> int:
    """Run a program's body; what may go wrong becomes one line and an exit code.

    Args:
        program: the program's name.
        body: what it does; returns the exit code.
    """
    try:
        with raised():
            return body()
    except TerminatedError:
        return complain(program, "terminated", TERMINATED)
    except KeyboardInterrupt as signal:
        return complain(program, ": ".join(filter(None, ("interrupted", str(signal)))), INTERRUPTED)
    except (ValueError, TypeError, ArithmeticError, OSError) as error:
        if os.environ.get("KERASNN_TRACEBACK"):
            raise
        return complain(program, error, FAILED)


def complain(program: str, error: object, code: int) -> int:
    """Print an error as one line, and give back the exit code."""
    print(f"{program}: error: {error}", file=sys.stderr)
    return code
