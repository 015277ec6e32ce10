"""Performance profiles and the benchmark score of AlgoPerf.

Dolan and Moré 2002, Benchmarking optimization software with performance profiles; Dahl et al. 2023, Benchmarking neural
network training algorithms (arXiv 2306.07179); held-out workloads count as in the competition's program
(mlcommons/submissions_algorithms, scoring/). A time is infinite where the target was missed.
"""

from collections.abc import Mapping

import numpy as np

TAU_MAX = 4.0  # AlgoPerf's r_max: who is slower than the fastest by more than this factor gets nothing for a workload


def median_times(times: np.ndarray) -> np.ndarray:
    """Returns the time to the target of each submission on each workload: the median over studies.

    With an even number of studies it is the mean of the two in the middle, and infinite where one of them is.

    >>> median_times(np.array([[[5.0, 7.0, np.inf], [5.0, np.inf, np.inf]]])).tolist()
    [[7.0, inf]]

    Args:
        times: (…, submissions, workloads, studies), of the best trial of a study.

    Returns:
        (…, submissions, workloads).
    """
    return np.median(times, axis=-1)


def performance_ratios(times: np.ndarray, held_out: Mapping[int, int] | None = None) -> np.ndarray:
    """Returns r = t / min t, how many times as long a submission took on a workload as the fastest one.

    A held-out workload is a variant of another one, its base, and has no ratio of its own. A submission that misses the
    target of the variant, or takes more than TAU_MAX times as long there as the fastest, has an infinite ratio on the
    base. Who misses the target of the base is not the fastest on the variant.

    >>> performance_ratios(np.array([[10.0, 40.0], [20.0, 10.0]])).tolist()
    [[1.0, 4.0], [2.0, 1.0]]
    >>> performance_ratios(np.array([[10.0, np.inf], [20.0, 10.0]]), held_out={1: 0}).tolist()
    [[inf], [1.0]]

    Args:
        times: (…, submissions, workloads).
        held_out: the column of the base by the column of each held-out workload.

    Returns:
        (…, submissions, workloads without the held-out ones); infinite where nobody reached the target.
    """
    times = times.copy()
    held_out = held_out or {}
    for variant, base in held_out.items():
        times[..., variant] = np.where(np.isfinite(times[..., base]), times[..., variant], np.inf)
    times = np.where(times > TAU_MAX * times.min(axis=-2, keepdims=True), np.inf, times)
    for variant, base in held_out.items():
        times[..., base] = np.where(np.isfinite(times[..., variant]), times[..., base], np.inf)
    times = times[..., [column for column in range(times.shape[-1]) if column not in held_out]]
    return np.where(np.isfinite(times), relative(times, times.min(axis=-2, keepdims=True)), np.inf)


def relative(times: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns times / reference, and 1 where they are equal: also 0 / 0, of a target reached before the first step.

    >>> relative(np.array([0.0, 3.0, 3.0]), np.array([0.0, 0.0, 6.0])).tolist()
    [1.0, inf, 0.5]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(times == reference, 1.0, times / reference)


def profile(ratios: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """Returns rho(tau), the fraction of workloads on which a submission took at most tau times as long as the fastest.

    >>> profile(np.array([[1.0, 4.0], [2.0, 1.0]]), np.array([1.0, 2.0, 4.0])).tolist()
    [[0.5, 0.5, 1.0], [0.5, 1.0, 1.0]]

    Args:
        ratios: (…, submissions, workloads).
        taus: (points,).

    Returns:
        (…, submissions, points).
    """
    return (ratios[..., None] <= taus).mean(axis=-2)


def benchmark_score(ratios: np.ndarray) -> np.ndarray:
    """Returns the benchmark score B = 1 / (TAU_MAX - 1) times the integral of rho(tau) over tau from 1 to TAU_MAX.

    The axis of tau is linear. rho is a sum of steps, so the integral is exact: a workload adds
    (TAU_MAX - r) / (TAU_MAX - 1), over the number of workloads. AlgoPerf's program has the trapezoidal rule with 100
    points, which differs in the third digit.

    >>> benchmark_score(np.array([[1.0, 4.0], [2.0, 1.0]])).round(3).tolist()
    [0.5, 0.833]

    Args:
        ratios: (…, submissions, workloads).

    Returns:
        (…, submissions), from 0 to 1: the fastest on every workload.
    """
    return np.clip((TAU_MAX - ratios) / (TAU_MAX - 1.0), 0.0, None).mean(axis=-1)
