"""Studies: settings compared factorially, over many seeds, with intervals."""

import importlib
from typing import Any

from kerasnn.study.config import StudyConfig

__all__ = ["Cell", "StudyConfig", "StudyResult", "study"]


def __getattr__(name: str) -> Any:
    # What trains imports TensorFlow, so it is loaded on first use.
    if name not in __all__:
        raise AttributeError(f"module 'kerasnn.study' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module("kerasnn.study.run"), name)
