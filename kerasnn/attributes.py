"""Attributes that an object has for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
