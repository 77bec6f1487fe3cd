"""Descriptions as JSON, both ways, with dotted overrides."""

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
"""Bytes of the largest config file that is read."""


class Described(Schema):
    """What a folder's `config.json` holds: JSON both ways."""

    _FOLDER: ClassVar[str]

    def to_json(self) -> str:
        """JSON text, of which `from_json` makes an equal description."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A description from JSON text.

        Raises:
            ValueError: one line where the text is no JSON, names a key twice or describes nothing valid.
        """
        return cls.model_validate(parse_json(text))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A description from a JSON file, or from the `config.json` of a folder.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: one line naming the file and what is wrong with it.
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
    """A JSON object, read as strictly as `read_json` does."""
    value = read_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"JSON must hold an object, received {short(value)}")
    return value


def read_json(text: str) -> Any:
    """A JSON value, strictly: no key twice, no NaN, no infinity, no bottomless nesting.

    Raises:
        ValueError: one line saying what is wrong and where.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise ValueError(f"JSON must name each key once, received {key!r} twice")
            seen[key] = value
        return seen

    def finite(constant: str) -> float:
        raise ValueError(f"JSON numbers must be finite, received {constant}")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"JSON must be valid: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("JSON must not be nested this deeply") from None


def replace_at(config: S, changes: Mapping[str, Any]) -> S:
    """A copy of a config with the values at dotted keys replaced, checked as a whole.

    Args:
        config: any described value, mostly a `RunConfig`.
        changes: dotted key to new value, `{"optimizer.learning_rate": 0.01, "network.hidden.0": 30}`. A part that was
            null is made from its defaults; a changed `schedule.name` starts that schedule from its defaults, as the
            name of an oracle, a stopper or an activation does.

    Returns:
        A new config of the same type.

    Raises:
        ValueError: one line with the key, the rule and the value received.
    """
    data: Any = config.model_dump(mode="json")
    # A value before its parts, and a name before the fields that it decides.
    for key in sorted(changes, key=lambda key: (key.count("."), not key.endswith("name"))):
        *path, last = key.split(".")
        place = data
        for part in path:
            place = _enter(place, part, key)
        index = _index(place, last, key)
        renamed = last == "name" and place.get(last, changes[key]) != changes[key]
        if renamed and _name_decides_fields(type(config), ".".join(path)):
            place.clear()
        place[index] = copy.deepcopy(changes[key])
    return type(config).model_validate(data)


def _name_decides_fields(schema: type[Schema], key: str) -> bool:
    """Whether the name in the value at a key decides which other fields that value has."""
    kinds = types_at(schema, key)
    return len(models(kinds)) > 1 or any(get_origin(kind) is dict for kind in kinds)


def _enter(place: Any, part: str, key: str) -> Any:
    index = _index(place, part, key)
    inner = place[index] if isinstance(place, list) else place.get(index)
    if inner is None:
        inner = {}
    elif isinstance(inner, bool | float) or not isinstance(inner, dict | list | int | str):
        raise ValueError(f"key must name a value, received {key!r}, where {part!r} is {short(inner)}")
    elif isinstance(inner, int | str):
        # The short forms: 50 is a layer of that many units, "relu" an activation of that name.
        inner = {"units" if isinstance(inner, int) else "name": inner}
    place[index] = inner
    return inner


def _index(place: Any, part: str, key: str) -> Any:
    if not isinstance(place, list):
        return part
    if not part.isdigit() or int(part) >= len(place):
        raise ValueError(f"key must give a position from 0 to {len(place) - 1} at {part!r}, received {key!r}")
    return int(part)
