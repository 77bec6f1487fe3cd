"""The order in which an epoch visits its examples."""

import numpy as np


def epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch: every example once, another order each epoch, and no state between them.

    Any epoch's order can be made again from its number alone, so a resumed run goes on as the uninterrupted one would.

    Args:
        examples: how many there are.
        seed: the run's seed, 0 or above.
        epoch: the epoch, from 0 on.

    Returns:
        A permutation of `0 … examples − 1`, int32, or int64 where that is too small, shape `(examples,)`.

    Raises:
        ValueError: seed or epoch is negative.

    Reference: numpy's `Generator.permutation` (Fisher–Yates) on `default_rng([seed, epoch])`.
    """
    if seed < 0 or epoch < 0:
        raise ValueError(f"an order needs a seed and an epoch of 0 or above; received {seed} and {epoch}")
    rows = np.random.default_rng([seed, epoch]).permutation(examples)
    return rows.astype(np.int32) if examples <= np.iinfo(np.int32).max else rows


def draw_seed() -> int:
    """A seed for the orders of one `fit`, drawn from the generator that `keras.utils.set_random_seed` seeds."""
    return int(np.random.randint(2**31))
