"""Sphinx's settings: `make -C docs html` builds the site, warnings as errors."""

import importlib
import io
import os
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import kerasnn
from kerasnn.cli import COMMANDS

project = "kerasnn"
author = copyright = "kerasnn developers"
version = release = kerasnn.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"kerasnn {version}"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# Keras's words about its own methods say nothing about ours.
autodoc_inherit_docstrings = False
myst_heading_anchors = 3
nitpicky = True
# TensorFlow's and pydantic's, and names that are not public.
nitpick_ignore = [
    ("py:exc", "InvalidArgumentError"),
    ("py:exc", "TerminatedError"),
    ("py:class", "kerasnn.config.schema.named"),
    ("py:class", "pydantic.functional_validators.BeforeValidator"),
]

_FIELDS = ("attribute", "property", "data")
fields: dict[str, list[str]] = {}
"""Docstrings of fields, as they are written, until napoleon has read them."""


def setup(app: Any) -> None:
    # Before napoleon reads the docstring.
    app.connect("autodoc-process-docstring", _quote_code, priority=400)
    # After napoleon, which takes what is in front of a field's first colon for its type.
    app.connect("autodoc-process-docstring", _restore_field, priority=600)


def _quote_code(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Write code as reStructuredText does: our docstrings mark it as Markdown does."""
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line) for line in lines]
    if what in _FIELDS:
        fields[name] = list(lines)


def _restore_field(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    if what in _FIELDS:
        lines[:] = fields.pop(name)


def _write_command_line(path: Path) -> None:
    """Every command's `--help`, which is made from the configs."""
    sections = ["# Command line\n"]
    for name in COMMANDS:
        command = importlib.import_module(f"kerasnn.commands.{name.replace('-', '_')}")
        with redirect_stdout(text := io.StringIO()), suppress(SystemExit):
            command.read(["--help"])
        sections.append(f"## kerasnn {name}\n\n```text\n{text.getvalue().rstrip()}\n```\n")
    _write(path, "\n".join(sections))


def _write_api(path: Path) -> None:
    """Every public name."""
    rooms = ("search", "study", "report", "tuners")
    names = [name for name in kerasnn.__all__ if not name.startswith("_") and name not in rooms]
    sections = ["# Python reference\n"]
    for name in names:
        value = getattr(kerasnn, name)
        kind = "module" if isinstance(value, type(os)) else "class" if isinstance(value, type) else "function"
        title = f"## {name}\n"
        options = "" if kind == "function" else "\n:members:"
        target = value.__name__ if kind == "module" else f"kerasnn.{name}"
        body = f"```{{eval-rst}}\n.. auto{kind}:: {target}{options.replace(chr(10), chr(10) + '   ')}\n```\n"
        sections += [title, body]
    for room in rooms:
        module = importlib.import_module(f"kerasnn.{room}")
        sections.append(f"## kerasnn.{room}\n")
        for name in module.__all__:
            value = getattr(module, name)
            # keras-tuner's own names are documented there.
            if value.__module__.startswith("kerasnn"):
                kind = "class" if isinstance(value, type) else "function"
                members = "\n   :members:" if kind == "class" else ""
                sections.append(f"```{{eval-rst}}\n.. auto{kind}:: kerasnn.{room}.{name}{members}\n```\n")
    _write(path, "\n".join(sections))


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


_write_command_line(Path(__file__).parent / "command_line.md")
_write_api(Path(__file__).parent / "api.md")
