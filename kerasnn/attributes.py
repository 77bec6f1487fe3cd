"""Attributes of an object: temporary ones, those kept beside Keras's, and those that are not its base class's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEPT = "_kerasnn_kept"
"""Name of the attribute with what `kept_with` keeps."""


@contextmanager
def temporary_attributes(owner: object, **values: Any) -> Iterator[None]:
    """Give an object attributes, and put its own attributes back at the end.

    The object's `__setattr__` is bypassed: Keras's would track what is set as part of a layer's or an optimizer's
    saved state.

    Args:
        owner: any object with a `__dict__`.
        values: the attributes by name; a method is replaced on this object alone.

    >>> from types import SimpleNamespace
    >>> layer = SimpleNamespace(activation="relu")
    >>> with temporary_attributes(layer, activation=None, scale=2):
    ...     layer
    namespace(activation=None, scale=2)
    >>> layer
    namespace(activation='relu')
    """
    attributes = vars(owner)
    before = {name: attributes[name] for name in values if name in attributes}
    attributes.update(values)
    try:
        yield
    finally:
        for name in values:
            attributes.pop(name, None)
        attributes.update(before)


def kept_with(owner: object) -> dict[str, Any]:
    """What this package keeps with a model until the next call: programs, readers of variables.

    Keras neither tracks nor saves it.

    Args:
        owner: any object with a `__dict__`.

    >>> class Model:
    ...     pass
    >>> model = Model()
    >>> kept_with(model)["reader"] = 1
    >>> kept_with(model)
    {'reader': 1}
    """
    # Past Keras's __setattr__, which would track it as a part of the model.
    kept: dict[str, Any] = vars(owner).setdefault(KEPT, {})
    return kept


def overridden(owner: object, base: type, *names: str) -> str | None:
    """The first of some methods that an object, or its class, defines in place of a base class's; None if none is.

    >>> class Louder(str):
    ...     def upper(self):
    ...         return super().upper() + "!"
    >>> overridden(Louder(), str, "lower", "upper"), overridden(Louder(), str, "lower")
    ('upper', None)
    """
    return next(
        (name for name in names if getattr(type(owner), name) is not getattr(base, name) or name in vars(owner)), None
    )
