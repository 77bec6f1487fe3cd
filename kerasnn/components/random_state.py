"""The state of Python's and NumPy's random number generators, which data and callbacks may draw from."""

import random
from typing import Any

import numpy as np


def random_state() -> dict[str, Any]:
    """The state of Python's and NumPy's global generators, as JSON values and arrays.

    >>> state = random_state()
    >>> first = np.random.rand(), random.random()
    >>> set_random_state(state)
    >>> (np.random.rand(), random.random()) == first
    True
    """
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    return {"python": [version, np.array(words, np.uint32), gauss], "numpy": numpy_state}


def set_random_state(state: dict[str, Any]) -> None:
    """Give the generators the state that `random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(state["numpy"])
