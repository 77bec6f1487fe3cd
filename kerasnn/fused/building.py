"""What makes hundreds of small models quick to build."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from kerasnn.keras_private import pywrap_tfe, replaced

_drawn: set[int] = set()
"""Seeds that `set_drawn_seed` has set."""


@contextmanager
def common_names() -> Iterator[None]:
    """Within it, all variables of TensorFlow get one name.

    TensorFlow prepares the operation that makes a variable anew for every name. Keras's variables keep the names and
    paths that Keras gave them, and those are what models are saved and reported by.

    >>> with common_names():
    ...     kernel = keras.Variable([1.0, 2.0], name="kernel")
    >>> kernel.name, kernel.value.name
    ('kernel', 'model/variable:0')
    """

    def make(next_creator: Any, **arguments: Any) -> Any:
        # A scope that ends in a slash takes the place of those around it.
        with tf.name_scope("model/"):
            return next_creator(**{**arguments, "name": "variable"})

    with tf.variable_creator_scope(make):
        yield


def set_drawn_seed(seed: int) -> None:
    """As `keras.utils.set_random_seed`, but TensorFlow keeps the operations that it has prepared.

    TensorFlow drops them all when a seed is set, because the random ones among them would go on where they stopped. It
    prepares those for their seed, so for a seed that was never set before none of them is there.

    Args:
        seed: a seed drawn from so many that nothing else sets it; drawn here again, all is dropped.
    """
    if seed in _drawn:
        keras.utils.set_random_seed(seed)
        return
    _drawn.add(seed)
    with replaced(pywrap_tfe, TFE_ContextClearCaches=lambda context: None):
        keras.utils.set_random_seed(seed)
