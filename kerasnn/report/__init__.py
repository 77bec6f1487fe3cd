"""Runs, searches and studies as one HTML page that needs nothing else."""

import importlib
from typing import Any

__all__ = ["report"]


def __getattr__(name: str) -> Any:
    # What evaluates imports TensorFlow, so it is loaded on first use.
    if name not in __all__:
        raise AttributeError(f"module 'kerasnn.report' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module("kerasnn.report.run"), name)
