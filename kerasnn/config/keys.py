"""The dotted keys of a schema: the types of their values, and the key that a mistyped one means."""

from collections.abc import Iterator
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

ABBREVIATIONS = {
    "batch": "batch_size",
    "bs": "batch_size",
    "layers": "hidden",
    "lr": "learning_rate",
    "units": "hidden",
    "wd": "weight_decay",
}
"""Names of other programs for some keys."""


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, without annotations; any other type is its only member.

    >>> alternatives(Annotated[int, "epochs"] | None)
    (<class 'int'>, <class 'NoneType'>)
    """
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(each for member in get_args(kind) for each in alternatives(member))
    return (kind,)


def models(kinds: tuple[Any, ...]) -> list[type[BaseModel]]:
    """The types that are schemas themselves."""
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def types_at(schema: type[BaseModel], key: str) -> tuple[Any, ...]:
    """The types that the value at a dotted key may have.

    Args:
        schema: a pydantic model.
        key: a dotted key; a part of it may be a position in a list (`network.hidden.0`) or a key of an object.

    Returns:
        The alternative types; none if there is no such key.
    """
    kinds: tuple[Any, ...] = (schema,)
    for part in key.split("."):
        kinds = tuple(inner for kind in kinds for inner in _types_within(kind, part))
    return kinds


def _types_within(kind: Any, part: str) -> tuple[Any, ...]:
    if models((kind,)):
        field = kind.model_fields.get(part)
        return () if field is None else alternatives(field.annotation)
    if get_origin(kind) is dict:
        key, value = get_args(kind)
        return alternatives(value) if key is str or part.isdigit() else ()
    if get_origin(kind) is tuple and part.isdigit():
        return alternatives(get_args(kind)[0])
    return ()


def keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a schema; keys that only some alternatives have, as those of schedules, come last."""
    of_some: list[str] = []
    for name, field in schema.model_fields.items():
        yield prefix + name
        found = models(alternatives(field.annotation))
        if len(found) == 1:
            yield from keys(found[0], f"{prefix}{name}.")
        else:
            of_some += [key for each in found for key in keys(each, f"{prefix}{name}.")]
    yield from dict.fromkeys(of_some)


def nearest_key(schema: type[BaseModel], key: str) -> str | None:
    """The dotted key that a mistyped, abbreviated or incomplete one means, or None.

    Args:
        schema: a pydantic model.
        key: a wrong key: `lr`, `epochs`, `optimizer.learning_rte`.
    """
    section, dot, last = key.lower().rpartition(".")
    last = ABBREVIATIONS.get(last, last)
    known = list(keys(schema))

    def ending(end: str) -> list[str]:
        return sorted((each for each in known if f".{each}".endswith(f".{end}")), key=lambda each: each.count("."))

    beside = [each.rpartition(".")[2] for each in known if each.rpartition(".")[0] == section]
    found = (
        ending(f"{section}{dot}{last}")
        or ending(last)
        or [f"{section}{dot}{near}" for near in get_close_matches(last, beside)]
        or get_close_matches(key, known, cutoff=0.8)
        or [each for near in get_close_matches(last, [k.rpartition(".")[2] for k in known]) for each in ending(near)]
    )
    return found[0] if found else None
