"""Performance profiles and scores: computed by hand, and AlgoPerf's published ones."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import trapezoid

from trainopt.runner.scores.profiles import benchmark_score, median_times, performance_ratios, profile

INF = np.inf

# Seconds to the validation target of the best trial of each study, from AlgoPerf's logs, leaderboards 0.5 and 0.6:
# https://github.com/mlcommons/submissions_algorithms at 12c8e4e (Apache License 2.0), column `score` of the files
# eval_measurements.csv. The best trial is, as in the program of the time, the one with the fewest evaluations (0.5), or
# with the fewest seconds (0.6).
FACTS = Path(__file__).parent / "algoperf.csv"

PUBLISHED = {  # README.md and previous_leaderboards/algoperf_v05/README.md, there
    ("0.5", "external"): {
        "shampoo_submission": 0.7784,
        "schedule_free_adamw": 0.7077,
        "generalized_adam": 0.6383,
        "cyclic_lr": 0.6301,
        "nadamp": 0.5909,
        "baseline": 0.5707,
        "amos": 0.4918,
        "caspr_adaptive": 0.4722,
        "lawa_queue": 0.3699,
        "lawa_ema": 0.3384,
        "schedule_free_prodigy": 0.0,
    },
    ("0.5", "self"): {
        "schedule_free_adamw": 0.8542,
        "baseline": 0.8194,
        "nadamw_sequential": 0.3308,
        "sinv6_75": 0.1420,
        "sinv6": 0.0903,
        "adamg": 0.0,
    },
    ("0.6", "external"): {"shampoo": 0.6244, "baseline": 0.4590},
}


def algoperf_ratios(version, ruleset):
    """Returns the submissions and their performance ratios."""
    with open(FACTS) as file:
        rows = [row for row in csv.DictReader(file) if (row["version"], row["ruleset"]) == (version, ruleset)]
    medians = {
        (row["submission"], row["workload"]): median_times(np.array(row["seconds"].split(), float)) for row in rows
    }
    submissions = sorted({row["submission"] for row in rows})
    workloads = sorted({row["workload"] for row in rows})
    base_of = {w: next((b for b in workloads if w.startswith(f"{b}_")), w) for w in workloads}
    held_out = {workloads.index(w): workloads.index(b) for w, b in base_of.items() if w != b}
    assert (len(workloads), len(held_out)) == ((14, 6) if version == "0.5" else (8, 0))
    times = np.array([[medians.get((s, w), INF) for w in workloads] for s in submissions])
    return submissions, performance_ratios(times, held_out)


@pytest.mark.parametrize("board", PUBLISHED)
def test_the_scores_of_algoperf_are_the_published_ones(board):
    submissions, ratios = algoperf_ratios(*board)
    taus = np.linspace(1, 4, 100)
    scores = trapezoid(profile(ratios, taus), taus, axis=-1) / 3  # as the program there integrates
    assert dict(zip(submissions, scores.round(4), strict=True)) == PUBLISHED[board]
    assert benchmark_score(ratios) == pytest.approx(scores, abs=1 / 99 / 2)  # half a step of its grid


def test_a_score_by_hand():
    # r = 1, 1.5, 4 | 2, 1, miss | 1, 8, 1: the third is as fast as the first on the first workload
    times = np.array([[10.0, 30.0, 40.0], [20.0, 20.0, INF], [10.0, 160.0, 10.0]])
    ratios = performance_ratios(times)
    assert ratios.tolist() == [[1, 1.5, 4], [2, 1, INF], [1, INF, 1]]
    assert profile(ratios, np.array([1.0, 1.5, 2.0, 3.9, 4.0])) == pytest.approx(
        np.array([[1, 2, 2, 2, 3], [1, 1, 2, 2, 2], [2, 2, 2, 2, 2]]) / 3
    )
    # integrals: (3 + 2.5 + 0) / 9, (2 + 3 + 0) / 9, (3 + 0 + 3) / 9
    assert benchmark_score(ratios) == pytest.approx([5.5 / 9, 5 / 9, 6 / 9])


def test_the_score_is_the_integral_of_the_profile():
    ratios = np.array([[1.0, 1.25, 3.5, INF, 2.0], [1.0, 4.0, 5.0, 1.0, 1.75]])
    taus = np.linspace(1, 4, 12_001)  # whose middles no ratio lies on
    integral = profile(ratios, (taus[1:] + taus[:-1]) / 2).mean(axis=-1)
    assert benchmark_score(ratios) == pytest.approx(integral, abs=1e-12)


def test_one_workload_ties_and_misses():
    assert benchmark_score(performance_ratios(np.array([[5.0], [5.0], [10.0], [INF]]))) == pytest.approx(
        [1, 1, 2 / 3, 0]
    )
    assert benchmark_score(performance_ratios(np.array([[INF], [INF]]))).tolist() == [0, 0]
    assert benchmark_score(performance_ratios(np.array([[7.0, INF]]))).tolist() == [0.5]  # alone it is the fastest


def test_a_target_that_is_reached_before_the_first_step():
    assert performance_ratios(np.array([[0.0, 2.0], [0.0, 4.0], [5.0, INF]])).tolist() == [[1, 1], [1, 2], [INF, INF]]


def test_a_study_without_a_hit_is_a_miss():
    assert median_times(np.array([1.0, INF, INF])) == INF
    assert median_times(np.array([1.0, 3.0, INF])) == 3
    assert median_times(np.array([1.0, INF])) == INF
    assert median_times(np.array([2.0])) == 2


def test_held_out_workloads_gate_their_base():
    # columns: base, other base, variant of base
    times = np.array([[10.0, 10.0, INF], [30.0, 10.0, 50.0], [40.0, INF, 20.0], [INF, 10.0, 1.0], [35.0, 10.0, 90.0]])
    ratios = performance_ratios(times, {2: 0})
    # the first misses the variant; the fourth, which misses the base, is not the fastest there; 90 > 4 * 20
    assert ratios.tolist() == [[INF, 1], [1, 1], [4 / 3, INF], [INF, 1], [INF, 1]]


def test_batches_of_tables():
    times = np.random.default_rng(0).exponential(size=(5, 4, 3)) + 1
    assert np.array_equal(
        benchmark_score(performance_ratios(times)), [benchmark_score(performance_ratios(t)) for t in times]
    )
