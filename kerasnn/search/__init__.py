"""Hyperparameter search: keras-tuner proposes, many trials train as one network, a journal keeps what was found."""

import importlib
from typing import Any

from kerasnn.search.config import SearchConfig

__all__ = ["SearchConfig", "SearchResult", "Trial", "search"]


def __getattr__(name: str) -> Any:
    # What trains imports TensorFlow, so it is loaded on first use.
    if name not in __all__:
        raise AttributeError(f"module 'kerasnn.search' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module("kerasnn.search.run"), name)
