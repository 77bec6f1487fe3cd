"""The order in which an epoch visits its examples."""

import numpy as np


def epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the examples in one epoch: a permutation that depends on the seed and the epoch alone.

    A resumed run therefore visits the examples in the order of the uninterrupted run.

    Args:
        examples: number of examples.
        seed: the run's seed, 0 or above.
        epoch: epoch number, counted from 0.

    Returns:
        A permutation of `0 … examples − 1`, shape `(examples,)`, int32 (int64 for more examples than int32 counts).

    Raises:
        ValueError: seed or epoch is negative.

    Reference: numpy's `Generator.permutation` (Fisher–Yates) on `default_rng([seed, epoch])`.
    """
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed and epoch must be at least 0; received {seed} and {epoch}")
    rows = np.random.default_rng([seed, epoch]).permutation(examples)
    return rows.astype(np.int32) if examples <= np.iinfo(np.int32).max else rows


def draw_seed() -> int:
    """A random seed for the orders of one `fit`, from the generator that `keras.utils.set_random_seed` seeds."""
    return int(np.random.randint(2**31))
