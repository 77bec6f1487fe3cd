"""Configuration models in JSON, both ways, and dotted overrides."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_origin

from kerasnn.config.keys import models, types_at
from kerasnn.config.schema import Schema, short
from kerasnn.files import inside

S = TypeVar("S", bound=Schema)

LARGEST_FILE = 2**24
"""Maximum size of a config file in bytes."""


class Description(Schema):
    """The content of a folder's `config.json`."""

    _FOLDER: ClassVar[str]

    def to_json(self) -> str:
        """JSON text, from which `from_json` makes an equal description."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A description from JSON text.

        Raises:
            ValueError: one line: invalid JSON, a repeated key, or a value that breaks a rule.
        """
        return cls.model_validate(parse_json(text))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A description from a JSON file, or from the `config.json` of a folder.

        Raises:
            FileNotFoundError: one line, if the file does not exist.
            ValueError: one line with the file and its fault.
        """
        path = Path(path)
        path = inside(path, "config.json") if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"config must be a JSON file or a {cls._FOLDER} with config.json, received {path}")
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise ValueError(f"{path} must be a config of at most {LARGEST_FILE} bytes, received {size}")
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def parse_json(text: str) -> dict[str, Any]:
    """Parse a JSON object as strictly as `read_json` does."""
    value = read_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"JSON must hold an object, received {short(value)}")
    return value


def read_json(text: str) -> Any:
    """Parse a JSON value strictly: no repeated key, no NaN or infinity, no excessive nesting.

    Raises:
        ValueError: one line with the fault and, where known, its position.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise ValueError(f"JSON must name each key once, received {key!r} twice")
            seen[key] = value
        return seen

    def refuse_constant(constant: str) -> float:
        raise ValueError(f"JSON numbers must be finite, received {constant}")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"JSON must be valid: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("JSON must not be nested this deeply") from None


def replace_at(config: S, changes: Mapping[str, Any]) -> S:
    """A copy of a config with new values at dotted keys, validated as a whole.

    Args:
        config: any configuration model, usually a `RunConfig`.
        changes: dotted key to new value, `{"optimizer.learning_rate": 0.01, "network.hidden.0": 30}`. A key inside a
            section that is null creates the section from its defaults. A new `schedule.name` starts from that
            schedule's defaults, and so does the name of an oracle, a stopper or an activation.

    Returns:
        A new config of the same type.

    Raises:
        ValueError: one line with the key, the rule and the value received.

    >>> from kerasnn.config.run import RunConfig
    >>> replace_at(RunConfig(), {"network.hidden.0": 30, "training.epochs": 5}).training.epochs
    5
    """
    data: Any = config.model_dump(mode="json")
    # A value before its parts, and a name before the fields that it decides.
    for key in sorted(changes, key=lambda key: (key.count("."), not key.endswith("name"))):
        *path, last = key.split(".")
        parent = data
        for part in path:
            parent = _child(parent, part, key)
        index = _index(parent, last, key)
        renamed = last == "name" and parent.get(last, changes[key]) != changes[key]
        if renamed and _name_decides_fields(type(config), ".".join(path)):
            parent.clear()
        parent[index] = copy.deepcopy(changes[key])
    return type(config).model_validate(data)


def _name_decides_fields(schema: type[Schema], key: str) -> bool:
    """Whether the name in the value at a key decides which other fields that value has."""
    kinds = types_at(schema, key)
    return len(models(kinds)) > 1 or any(get_origin(kind) is dict for kind in kinds)


def _child(parent: Any, part: str, key: str) -> Any:
    """The mapping or list at one part of a dotted key, expanded from null or from a short form."""
    index = _index(parent, part, key)
    child = parent[index] if isinstance(parent, list) else parent.get(index)
    if child is None:
        child = {}
    elif isinstance(child, bool | float) or not isinstance(child, dict | list | int | str):
        raise ValueError(f"key must name a value, received {key!r}, where {part!r} is {short(child)}")
    elif isinstance(child, int | str):
        # The short forms: 50 is a layer of 50 units, "relu" the activation of that name.
        child = {"units" if isinstance(child, int) else "name": child}
    parent[index] = child
    return child


def _index(parent: Any, part: str, key: str) -> Any:
    if not isinstance(parent, list):
        return part
    if not part.isdigit() or int(part) >= len(parent):
        raise ValueError(f"key must give a position from 0 to {len(parent) - 1} at {part!r}, received {key!r}")
    return int(part)
