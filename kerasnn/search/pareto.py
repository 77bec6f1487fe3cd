"""Trials by several objectives: which of them no other one beats."""

from collections.abc import Sequence

import numpy as np


def fronts(losses: Sequence[Sequence[float]]) -> list[int]:
    """The number of the front of each point, from 0 on: the first front is of points that no other one dominates, the
    next of those that only the first dominates, and so on.

    A point dominates another one if it is lower in one loss and higher in none.

    Args:
        losses: of each point its losses, `(points, losses)`; lower is better.

    Reference: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002.

    >>> fronts([(1, 4), (2, 2), (4, 1), (3, 3), (4, 4), (2, 2)])
    [0, 0, 0, 1, 2, 0]
    """
    points = np.asarray(losses, float)
    front = np.full(len(points), -1)
    left = np.arange(len(points))
    number = 0
    while len(left):
        rest = points[left]
        beaten = np.array(
            [((rest <= point).all(axis=1) & (rest < point).any(axis=1)).any() for point in rest], dtype=bool
        )
        front[left[~beaten]] = number
        left, number = left[beaten], number + 1
    return front.tolist()
