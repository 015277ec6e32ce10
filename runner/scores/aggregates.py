"""Aggregate measures of Agarwal et al. 2021 (arXiv 2108.13264, the package rliable), and bootstrap intervals."""

from collections.abc import Callable

import numpy as np
from scipy.stats import trim_mean

from .profiles import median_times, relative

LEVEL = 0.95  # of intervals


def relative_speeds(times: np.ndarray) -> np.ndarray:
    """Returns the time of the fastest submission on a workload, by its median, over that of each study; 0 for a miss.

    >>> relative_speeds(np.array([[[10.0, 20.0, 40.0]], [[25.0, np.inf, np.inf]]])).tolist()
    [[[2.0, 1.0, 0.5]], [[0.8, 0.0, 0.0]]]

    Args:
        times: (…, submissions, workloads, studies).

    Returns:
        The same shape.
    """
    fastest = median_times(times).min(axis=-2)[..., None, :, None]
    return np.where(np.isfinite(times) & np.isfinite(fastest), relative(fastest, times), 0.0)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Returns the mean of the middle half of all scores of a submission, over workloads and studies.

    >>> float(interquartile_mean(np.array([[0.0, 1.0, 2.0, 100.0]])))
    1.5

    Args:
        scores: (…, workloads, studies).

    Returns:
        (…).
    """
    return trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1)


def improvement_probability(times: np.ndarray, baseline: int) -> np.ndarray:
    """Returns how likely each submission is faster than a baseline on a workload drawn at random.

    For a workload it is the fraction of pairs of studies in which it is faster (Mann and Whitney's U over the number of
    pairs): a tie counts half, as two misses are.

    >>> improvement_probability(np.array([[[10.0, 20.0]], [[15.0, np.inf]]]), baseline=1).tolist()
    [0.75, 0.5]

    Args:
        times: (…, submissions, workloads, studies).
        baseline: its index.

    Returns:
        (…, submissions).
    """
    mine, theirs = times[..., :, None], times[..., baseline, None, :, None, :]
    return ((mine < theirs) + 0.5 * (mine == theirs)).mean(axis=(-3, -2, -1))


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray], times: np.ndarray, draws: int = 2000
) -> np.ndarray:
    """Returns the percentile interval of a statistic, for which studies are drawn with replacement.

    The draws are stratified, as rliable's: those of each submission on each workload are independent.

    Args:
        statistic: of times (draws, submissions, workloads, studies); returns (draws, submissions).
        times: (submissions, workloads, studies).
        draws: how many; the same each time.

    Returns:
        (submissions, 2), the limits of 95 %; nan with a single study, which says nothing about others.
    """
    if times.shape[-1] < 2:
        return np.full((times.shape[0], 2), np.nan)
    index = np.random.default_rng(0).integers(times.shape[-1], size=(draws, *times.shape))
    values = statistic(np.take_along_axis(np.broadcast_to(times, index.shape), index, axis=-1))
    return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T
