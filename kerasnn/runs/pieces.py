"""Examples that need not fit into memory: how many are predicted for at a time."""

import math
from typing import Any

import keras
import numpy as np

from kerasnn.engine.fit import predict

PIECE_BYTES = 2**28
"""Size of the examples, as floats, that are predicted for at a time."""
BATCH_BYTES = 2**26
"""Size of a batch, as floats, where no number of examples is asked for."""
STREAMED = 1e-9
"""The fraction of the memory that examples may take that are to be streamed."""


def batch_rows(shape: tuple[int, ...], most: int = 1024) -> int:
    """Examples of a shape in a batch whose size changes nothing but time and memory."""
    return max(1, min(most, BATCH_BYTES // (4 * math.prod(shape))))


def piece_rows(shape: tuple[int, ...], batch_size: int) -> int:
    """Examples of a shape that are predicted for at a time, in whole batches."""
    return max(1, PIECE_BYTES // (4 * math.prod(shape) * batch_size)) * batch_size


def predict_pieces(model: keras.Model, x: Any, batch_size: int) -> np.ndarray:
    """A model's outputs, `(examples, outputs)`, from piece after piece of an array of examples."""
    rows = piece_rows(x.shape[1:], batch_size)
    pieces = [
        predict(model, x[start : start + rows], batch_size=batch_size, verbose=0) for start in range(0, len(x), rows)
    ]
    return np.concatenate(pieces)


def memory_share(x: Any, share: float = 0.5) -> float:
    """The fraction of the memory that examples may take in `fit` and `evaluate`: none, if they lie in a file."""
    return STREAMED if isinstance(x, np.memmap) else share
