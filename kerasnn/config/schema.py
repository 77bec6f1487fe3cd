"""The base of all configuration models: frozen, validated, with errors of one line that name rule and choices."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kerasnn.config.keys import models, nearest_key, types_at

_RULES = {
    "bool_parsing": "be true or false",
    "bool_type": "be true or false",
    "dict_type": "be an object",
    "model_attributes_type": "be a name or an object with the key 'name'",
    "string_type": "be a string",
    "tuple_type": "be a list",
}
"""Rules that pydantic words in Python's terms, for a reader of JSON."""


def named(value: Any) -> Any:
    """A bare name as a mapping without arguments: `"cosine"` becomes `{"name": "cosine"}`."""
    return {"name": value} if isinstance(value, str) else value


def one_of(rule: str, received: object, choices: Iterable[str], meant: str | None = None) -> str:
    """The error message for a name that is not among the choices.

    Args:
        rule: subject of the sentence (`"activation"`).
        received: the value received.
        choices: all accepted names.
        meant: the right name; None: the choice with the most similar spelling.

    >>> one_of("activation", "rellu", ["relu", "tanh"])
    "activation must be one of relu, tanh; received 'rellu' (did you mean 'relu'?)"
    """
    choices = list(choices)
    near = [meant] if meant else get_close_matches(str(received)[:80].lower(), choices, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{rule} must be one of {', '.join(choices)}; received {short(received)}{hint}"


def one_line(error: ValidationError, data: object, schema: type[BaseModel]) -> str:
    """The first fault of a pydantic error as one line: dotted key, rule, value received.

    Args:
        error: pydantic's error.
        data: the value that was validated.
        schema: the model that it was validated as.
    """
    # Among the alternatives of a union, the one that failed at the deepest key was meant.
    faults = error.errors(include_url=False)
    fault = max(faults, key=lambda fault: len(fault["loc"]))
    key = dotted(fault["loc"], data, missing=fault["type"] == "missing")
    match fault["type"]:
        case "value_error":
            message = str(fault["ctx"]["error"])
            last = key.rpartition(".")[2]
            # Avoids "network.activation: activation must be …".
            return (
                f"{key}{message.removeprefix(last)}"
                if last and message.startswith(f"{last} ")
                else (f"{key}: {message}" if key else message)
            )
        case "missing":
            return f"{key} is required and was not given"
        case "union_tag_invalid":
            choices = fault["ctx"]["expected_tags"].strip("'").split("', '")
            return one_of(f"{key}.name", fault["ctx"]["tag"], choices)
        case "union_tag_not_found":
            return f"{key}.name is required and was not given"
    alternatives = [each for each in faults if dotted(each["loc"], data) == key]
    if len(alternatives) == 1 and fault["type"] == "literal_error":
        return one_of(key, fault["input"], _choices(fault))
    rules = dict.fromkeys(_rule(each, types_at(schema, key)) for each in alternatives)
    rule = " or ".join(rule if number == 0 else rule.removeprefix("be ") for number, rule in enumerate(rules))
    hint = ""
    if isinstance(fault["input"], str) and fault["type"] == "model_type" and types_at(schema, f"{key}.name"):
        hint = f" (did you mean {f'{key}.name'!r}?)"
    return f"{key} must {rule}, received {short(fault['input'])}{hint}"


def _choices(fault: Any) -> list[str]:
    return fault["ctx"]["expected"].replace("' or '", "', '").strip("'").split("', '")


def _rule(fault: Any, kinds: tuple[Any, ...]) -> str:
    """What a fault's value must be or do, in a reader's words."""
    match fault["type"]:
        case "literal_error":
            return f"be {', '.join(_choices(fault))}"
        case "model_type":
            found = [kind for kind in models(kinds) if kind.__name__ == fault["ctx"]["class_name"]]
            return f"be an object (keys: {', '.join(found[0].model_fields)})" if found else "be an object"
    return _RULES.get(fault["type"]) or fault["msg"].removeprefix("Input ").removeprefix("should ").removeprefix(
        "Value "
    )


def dotted(location: tuple[int | str, ...], data: object, missing: bool = False) -> str:
    """The dotted key of a pydantic location, without the union tags that pydantic inserts.

    Args:
        location: pydantic's `loc`.
        data: the value that was validated; a part of the location that is not a key in it is a tag.
        missing: whether the last part names a missing key.
    """
    keys = []
    for position, part in enumerate(location):
        if isinstance(data, dict):
            known = part in data
            data = data[part] if known else data
        elif isinstance(data, list | tuple) and isinstance(part, int):
            known, data = True, data[part] if part < len(data) else None
        elif isinstance(data, BaseModel):
            known = part in type(data).model_fields
            data = getattr(data, str(part), None) if known else data
        else:
            known = False
        if known or (missing and position == len(location) - 1):
            keys.append(str(part))
    return ".".join(keys)


def short(value: object, limit: int = 80) -> str:
    """The `repr` of a value on one line, truncated to `limit` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def readable(number: float) -> str:
    """A measured number with four digits, thousands apart.

    >>> readable(0.92474), readable(38763.617), readable(2557491712.0)
    ('0.9247', '38,764', '2.557e+09')
    """
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e8 else f"{number:.4g}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The dotted keys whose values differ between two JSON objects."""
    found = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [f"{key}.{inner}" for inner in differences(old, new)]
        elif old != new or (key in before) != (key in after):
            found.append(key)
    return found


class Schema(BaseModel):
    """The base of all configuration models: frozen, strict about keys, with errors of one line.

    Raises:
        ValueError: one line with the dotted key, the rule, the value received and the choices.

    Reference: pydantic's `BaseModel`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise ValueError(one_line(error, data, type(self))) from None

    # Pydantic calls a custom __init__ for nested models too, where the error would lose its outer keys. With this mark
    # it does not.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """An instance from a dictionary, with the errors of the constructor."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise ValueError(one_line(error, obj, cls)) from None

    def __str__(self) -> str:
        # pydantic's leaves out the class, and is empty where all fields have their defaults.
        return repr(self)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # Only fields that differ from their defaults.
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if field.is_required() or value != field.get_default(call_default_factory=True):
                yield key, value

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(one_of("key", key, cls.model_fields, nearest_key(cls, str(key))))
        return data
