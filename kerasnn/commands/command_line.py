"""Parsing of command lines: a subcommand's options, and a flag for every dotted key of its config."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin

from kerasnn.commands.execution import USAGE, complain
from kerasnn.commands.flag_help import flags_help
from kerasnn.config.description import Description, read_json, replace_at
from kerasnn.config.keys import alternatives, models, nearest_key, types_at


class _Once(argparse.Action):
    """Stores a value; refuses a second one, which would replace the first."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if option_string is not None and option_string in parser.given:
            parser.error(f"{option_string} is given twice")
        parser.given.add(option_string)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """A parser of a subcommand's arguments; an error is one line that names the nearest right flag.

    Args:
        program: name of the program in usage and errors: `kerasnn train`.
        description: purpose of the program.
        config: the config whose dotted keys are flags, or None for a program without one.
    """

    def __init__(self, program: str, description: str, config: Description | None = None) -> None:
        usage = None if config is None else "%(prog)s [--config FILE] [--KEY VALUE ...]"
        super().__init__(prog=program, description=description, usage=usage, allow_abbrev=False)
        self.register("action", None, _Once)
        self.config = config
        if config is not None:
            about = f"JSON file, or a {config._FOLDER} whose config.json is meant; flags change it"
            self.add_argument("--config", metavar="FILE", help=about)
        self.given: set[str] = set()
        self.arguments: list[str] = []

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The options that were given.

        Args:
            arguments: the command line without the subcommand; None takes the program's.

        Returns:
            Every option, and `changes`: the values of the config's flags by dotted key.

        Raises:
            ValueError: one line, for a flag that is no valid JSON or contradicts another.
        """
        self.arguments = arguments = list(map(str, sys.argv[1:] if arguments is None else arguments))
        schema = Description if self.config is None else type(self.config)
        names = dict.fromkeys(each[2:].split("=")[0] for each in arguments if each.startswith("--"))
        flags = {name: kinds for name in names if (kinds := types_at(schema, name))}
        for flag in flags:
            self.add_argument(f"--{flag}", default=argparse.SUPPRESS)
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            self.error(self._unknown(next((each for each in unknown if each.startswith("-")), unknown[0])))
        given = vars(options)
        options.changes = {flag: _decoded(flag, given.pop(flag), kinds) for flag, kinds in flags.items()}
        _refuse_contradictions(schema, options.changes)
        return options

    def config_of(self, options: argparse.Namespace, folder: str | None = None) -> Any:
        """The config that a command line describes.

        Args:
            options: the options from `read`.
            folder: a folder whose config the flags change, if it has one and `--config` is not given.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: one line, for a config that is not valid.
        """
        assert self.config is not None
        start = options.config
        if start is None and folder is not None and (Path(folder) / "config.json").is_file():
            start = folder
        config: Any = replace_at(self.config if start is None else type(self.config).load(start), options.changes)
        run, key = (config.run, "run.data.name") if hasattr(config, "run") else (config, "data.name")
        if "run.training.monitor" in options.changes and config.objective is not None:
            objectives = config.objective if isinstance(config.objective, tuple) else (config.objective,)
            names = ", ".join(repr(each.name) for each in objectives)
            raise ValueError(f"--run.training.monitor has no effect beside objective {names}; give --objective")
        if run.data.name == "arrays":
            function = self.prog.split()[-1].replace("-", "_")
            raise ValueError(f"{key} 'arrays' is for {function}() in Python; here give csv, npz or a data set's name")
        return config

    def format_help(self) -> str:
        """The text of `--help`, flags included."""
        return super().format_help() + ("" if self.config is None else flags_help(self.config))

    def error(self, message: str) -> NoReturn:
        """End the program with one line."""
        self.exit(complain(self.prog, message, USAGE))

    def _unknown(self, argument: str) -> str:
        flag = argument.split("=")[0]
        if not flag.startswith("--"):
            return f"unexpected argument {argument!r} (see --help)"
        line, key = f"unknown argument {flag}", flag[2:]
        if near := get_close_matches(flag, self._option_string_actions, cutoff=0.8):
            return f"{line}, did you mean {near[0]}?"
        if self.config is not None:
            schema, sections = type(self.config), key.split(".")[:-1]
            if sections and _is_object(types_at(schema, sections[0])):
                return f"{line}, --{sections[0]} is one JSON object, or a .json file"
            if meant := nearest_key(schema, key):
                return f"{line}, did you mean --{meant}?"
            if found := models(types_at(schema, ".".join(sections))):
                line += f", --{'.'.join(sections)} has {', '.join(found[0].model_fields)}"
        return f"{line} (see --help)"


def _refuse_contradictions(schema: type[Description], flags: Mapping[str, Any]) -> None:
    """Refuse a flag for a part of a value if the flag for the whole value sets that part, too."""
    for key, value in flags.items():
        for outer, whole in flags.items():
            path = key.removeprefix(f"{outer}.").split(".")
            if key.startswith(f"{outer}.") and _sets(schema, outer, whole, path):
                raise ValueError(
                    f"--{key} must not contradict --{outer}, received {json.dumps(value)} and {json.dumps(whole)}"
                )


def _sets(schema: type[Description], key: str, value: Any, path: Sequence[str]) -> bool:
    """Whether the value at a key sets the part at a path within it."""
    for part in path:
        if isinstance(value, list):
            value = dict(zip(map(str, range(len(value))), value, strict=True))
        elif not isinstance(value, dict):
            short_form = "units" if isinstance(value, int) else "name"
            if value is None or not types_at(schema, f"{key}.{short_form}"):
                return True
            value = {short_form: value}
        if part not in value:
            return False
        key, value = f"{key}.{part}", value[part]
    return True


def _is_object(kinds: tuple[Any, ...]) -> bool:
    return any(get_origin(kind) is dict for kind in kinds)


def _decoded(flag: str, text: str, kinds: tuple[Any, ...]) -> Any:
    """The value of a flag. Text remains text where the config itself parses it, as it does numbers.

    Args:
        flag: the flag's dotted key.
        text: null, JSON, the name of a JSON file, items separated by commas, or plain text.
        kinds: the types that the value may have.
    """
    if text == "null":
        return None
    items = tuple(item for kind in kinds if get_origin(kind) is tuple for item in alternatives(get_args(kind)[0]))
    try:
        if text.startswith(("[", "{")):
            return read_json(text)
        if str not in kinds and (items or models(kinds) or _is_object(kinds)) and text.endswith(".json"):
            if not Path(text).is_file():
                raise ValueError(f"there is no file {text}")
            return read_json(Path(text).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--{flag}: {error}") from None
    if items and ("," in text or not (str in kinds or models(kinds))):
        return [_decoded(flag, item.strip(), items) for item in text.split(",")]
    if models(kinds) and NoneType in kinds and text in ("true", "false"):
        return {} if text == "true" else None
    if str not in kinds and (models(kinds) or Any in kinds):
        try:
            return read_json(text)
        except ValueError:
            return text
    return text


class RunParser(Parser):
    """Reads a command line about a trained run: its folder, which of its models, and the batch size."""

    def __init__(self, program: str, description: str) -> None:
        super().__init__(program, description)
        self.add_argument("run_dir", help="the run folder")
        which = "final model or the best epoch's (default: model)"
        self.add_argument("--model", choices=("model", "best"), default="model", help=which)
        size = "examples per batch (default: up to 1024); the predictions are the same"
        self.add_argument("--batch_size", type=int, help=size)

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        options = super().read(arguments)
        if options.batch_size is not None and options.batch_size < 1:
            self.error(f"--batch_size must be at least 1, received {options.batch_size}")
        return options
