"""A pytest plugin that sends every `Model.fit`, `evaluate` and `predict` of a test through kerasnn."""

import functools
import threading
from typing import Any

import pytest

_inside = threading.local()


@pytest.fixture(autouse=True, scope="session")
def through_kerasnn() -> Any:
    """Replace the methods of Keras's trainer for the whole run."""
    import keras

    import kerasnn

    trainer = next(kind for kind in keras.Model.__mro__ if "fit" in vars(kind))
    options: dict[str, dict[str, Any]] = {"fit": {"checks": "off"}, "evaluate": {"checks": "off"}, "predict": {}}
    kept = {name: vars(trainer)[name] for name in options}
    for name, further in options.items():
        setattr(trainer, name, _routed(kept[name], getattr(kerasnn, name), further))
    yield
    for name, method in kept.items():
        setattr(trainer, name, method)


def _routed(method: Any, function: Any, further: dict[str, Any]) -> Any:
    @functools.wraps(method)
    def routed(self: Any, *arguments: Any, **options: Any) -> Any:
        # kerasnn runs Keras's own loop, which calls the same methods.
        if getattr(_inside, "active", False):
            return method(self, *arguments, **options)
        _inside.active = True
        try:
            return function(self, *arguments, **options, **further)
        finally:
            _inside.active = False

    return routed
