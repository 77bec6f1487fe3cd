"""The part of `--help` that lists a config's flags, with the defaults that hold."""

import json
import shutil
import textwrap
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kerasnn.config.keys import alternatives, models

INTRODUCTION = """
Each key below is a flag. Lists and objects are JSON, or a .json file: --{run}network.hidden '[50, 100]'. A list may be
written with commas, too: 50,100. A section is a flag that replaces all of it: --{run}network '{{"hidden": [50]}}'.
"""
_INDENT = 24
_LABELS = {bool: "true,false", int: "INTEGER", float: "NUMBER", str: "TEXT", dict: "JSON", tuple: "LIST", Any: "VALUE"}


class _Section(NamedTuple):
    title: str
    about: str
    rows: list[str]


def flags_help(config: BaseModel) -> str:
    """Every flag by section, with its meaning and its default in `config`."""
    introduction = INTRODUCTION.format(run="run." if hasattr(config, "run") else "")
    lines = ["", *_wrapped(" ".join(introduction.split()), 0)]
    for section in _sections("", "general", "", type(config), config):
        if section.rows:
            lines += ["", *_wrapped(f"{section.title}: {section.about}" if section.about else f"{section.title}:", 0)]
            lines += section.rows
    return "\n".join(lines) + "\n"


def _sections(prefix: str, title: str, about: str, schema: type[BaseModel], values: Any) -> Iterator[_Section]:
    """A schema's own keys, then the sections within it."""
    rows: list[str] = []
    within: list[_Section] = []
    for name, field in schema.model_fields.items():
        key, default = prefix + name, _default(values, name, field)
        kinds = alternatives(field.annotation)
        found = models(kinds)
        if len(found) == 1 and NoneType not in kinds:
            within += _sections(f"{key}.", key, field.description or "", found[0], default)
            continue
        row = _row(key, field, default)
        if len(found) > 1:
            within += _alternatives(key, row, found, default)
            continue
        rows += row
        if found:
            rows += [row for section in _sections(f"{key}.", "", "", found[0], default) for row in section.rows]
    yield _Section(title, about, rows)
    yield from within


def _alternatives(key: str, row: list[str], found: list[type[BaseModel]], default: Any) -> Iterator[_Section]:
    """The keys that all alternatives have, then those of each."""
    shared = set.intersection(*(set(model.model_fields) for model in found)) if default is not None else {"name"}
    common = {name: field for name, field in found[0].model_fields.items() if name in shared and name != "name"}
    rows = [_row(f"{key}.{name}", field, _default(default, name, field)) for name, field in common.items()]
    yield _Section(key, "", [*row, *(line for each in rows for line in each)])
    for model in found:
        rest = {name: field for name, field in model.model_fields.items() if name not in shared}
        rows = [_row(f"{key}.{name}", field, field.default) for name, field in rest.items()]
        about = (model.__doc__ or "").strip().splitlines()[0]
        yield _Section(f"--{key} {model.model_fields['name'].default}", about, [line for each in rows for line in each])


def _default(values: Any, name: str, field: FieldInfo) -> Any:
    return field.default if values is None else getattr(values, name, field.default)


def _row(key: str, field: FieldInfo, default: Any) -> list[str]:
    if isinstance(default, str):
        shown: str | None = default
    elif isinstance(default, BaseModel):
        shown = getattr(default, "name", None) or default.model_dump_json(exclude_defaults=True)
    elif field.is_required() and default is field.default:
        shown = None
    else:
        shown = json.dumps(default, default=lambda value: value.model_dump(mode="json", exclude_defaults=True))
    text = " ".join((field.description or "").split()) + (f" (default: {shown})" if shown is not None else "")
    head = f"  --{key} {_label(alternatives(field.annotation))}"
    body = _wrapped(text, _INDENT)
    if len(head) < _INDENT - 1:
        return [head.ljust(_INDENT) + body[0].lstrip(), *body[1:]]
    return [head, *body]


def _label(kinds: tuple[Any, ...]) -> str:
    parts: list[str] = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            parts += map(str, get_args(kind))
        elif models((kind,)):
            name = kind.model_fields.get("name")
            parts.append("true,JSON" if name is None else "NAME" if name.is_required() else str(name.default))
        elif kind is not NoneType:
            parts.append(_LABELS[get_origin(kind) or kind])
    label = ",".join(dict.fromkeys(parts))
    return f"{{{label}}}" if "," in label else label


def _wrapped(text: str, indent: int) -> list[str]:
    width = max(shutil.get_terminal_size().columns - 2, 40)
    return textwrap.wrap(text, width, initial_indent=" " * indent, subsequent_indent=" " * indent) or [""]
