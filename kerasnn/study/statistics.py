"""Statistics over seeds: intervals of means, paired tests and their correction."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with the interval that contains the true mean in 95 of 100 studies."""

    mean: float
    low: float
    high: float


def interval(values: ArrayLike) -> Interval:
    """Mean and 95 % interval of the seeds' values.

    Formula: `mean ± t · std / sqrt(n)`, with t the 97.5 % quantile of Student's distribution with n - 1 degrees of
    freedom.

    >>> [round(value, 3) for value in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]

    Args:
        values: one for each seed, `(seeds,)`, two or more.

    Returns:
        The interval, which assumes that seeds are independent and their mean is about normal.
    """
    low, mean, high = bands(np.asarray(values, "float64")[:, None])[:, 0]
    return Interval(float(mean), float(low), float(high))


def bands(values: ArrayLike) -> NDArray[np.float64]:
    """Mean and 95 % interval of each column of values.

    Args:
        values: `(seeds, columns)`; NaN where a seed has no value.

    Returns:
        Low, mean and high, `(3, columns)`; all are the mean where only one seed has a value.
    """
    values = np.asarray(values, "float64")
    counts = np.sum(~np.isnan(values), axis=0)
    means = np.nanmean(values, axis=0)
    variances = np.nansum((values - means) ** 2, axis=0) / np.maximum(counts - 1, 1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(counts - 1, 1)) * np.sqrt(variances / counts)
    return np.stack([means - half, means, means + half])


def p_value(differences: ArrayLike) -> float:
    """Two-sided p-value of the paired t-test: the probability of a mean difference this far from 0 if there were none.

    Args:
        differences: one for each seed, `(seeds,)`.

    Returns:
        The p-value; 1 where all differences are 0, 0 where all are the same other number.
    """
    differences = np.asarray(differences, "float64")
    if np.ptp(differences) == 0:
        return float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of p-values: at 0.05, at most 5 of 100 studies find any difference that is only chance.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Args:
        p_values: one for each comparison.

    Returns:
        The adjusted p-values, in the same order.

    Reference: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979; R's `p.adjust`.
    """
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def padded(curves: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Curves of different lengths as the rows of one array, with NaN after the end of each."""
    length = max(map(len, curves))
    return np.array([[*curve, *[np.nan] * (length - len(curve))] for curve in curves])
