"""The study of a search: what its samplers find, and that a search that goes on is the search."""

import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from trainopt.runner.system.errors import UserError
from trainopt.runner.trials.study import SearchStudy, StudySettings

SPACE = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "width": IntDistribution(1, 9),
    "kind": CategoricalDistribution(["a", "b", "c"]),
}


def objective(lr: float, width: int, kind: str) -> float:
    """Lowest, 0, at (0.01, 4, b)."""
    return (math.log10(lr) + 2) ** 2 + 0.05 * (width - 4) ** 2 + 0.3 * (kind != "b")


def settings(sampler="random", pruner="none", evaluations=0, seed=0) -> StudySettings:
    return StudySettings(sampler, pruner, 3, "test_loss", "minimize", seed, evaluations)


def search(folder, sampler: str, trials: int, reopened: bool = False) -> list[tuple[dict, float]]:
    folder.mkdir(exist_ok=True)
    study = SearchStudy(folder, settings(sampler), SPACE)
    for _ in range(trials):
        study = SearchStudy(folder, settings(sampler), SPACE) if reopened else study
        trial = study.ask("me")
        study.tell(trial, TrialState.COMPLETE, objective(**trial.params))
    return [(trial.params, trial.value) for trial in study.trials()]


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "trials"), [("random", 60), ("qmc", 60), ("tpe", 40), ("cmaes", 60)])
def test_samplers_find_what_brute_force_finds(tmp_path, sampler, trials):
    ended = search(tmp_path, sampler, trials)
    rng = random.Random(1)
    brute = sorted(
        objective(10 ** rng.uniform(-4, 0), rng.randint(1, 9), rng.choice("abc")) for _ in range(trials * 50)
    )
    best = min(value for _, value in ended)
    assert best <= brute[len(brute) // 10]  # as good as the best tenth of random points, with a fiftieth of them


@pytest.mark.parametrize(
    "sampler", ["qmc", "tpe", *(pytest.param(s, marks=pytest.mark.slow) for s in ("random", "cmaes"))]
)
def test_a_search_that_goes_on_tries_what_it_would_have_tried(tmp_path, sampler):
    assert search(tmp_path / "whole", sampler, 14) == search(tmp_path / "parts", sampler, 14, reopened=True)


def test_another_seed_tries_other_points(tmp_path):
    first = SearchStudy(tmp_path, settings(), SPACE).ask("me").params
    (tmp_path / "b").mkdir()
    assert SearchStudy(tmp_path / "b", settings(seed=1), SPACE).ask("me").params != first


def test_searchers_at_a_time_ask_for_as_many_trials_as_one(tmp_path, monkeypatch):
    ask, begun = SearchStudy.ask, threading.Barrier(4)
    monkeypatch.setattr(SearchStudy, "ask", lambda *words: time.sleep(0.02) or ask(*words))
    study = SearchStudy(tmp_path, settings(), SPACE)
    study.tell(study.ask("me"), TrialState.FAIL)

    def work(searcher: int) -> int:
        own = SearchStudy(tmp_path, settings(), SPACE)
        failed = own.trials()
        begun.wait()
        return len(list(iter(lambda: own.next_trial(str(searcher), 6, failed), None)))

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(work, range(4))) == 6  # one of them the other trial, again
    assert len(study.trials()) == 6


def test_a_trial_that_failed_is_tried_again_with_its_values_and_counts_once(tmp_path):
    study = SearchStudy(tmp_path, settings(), SPACE)
    failed = study.ask("me")
    study.tell(failed, TrialState.FAIL)
    (before,) = study.trials()
    again = study.ask("me", retry=before)
    assert again.params == failed.params
    assert [trial.number for trial in study.trials()] == [1]


def test_another_search_in_the_folder_is_refused(tmp_path):
    SearchStudy(tmp_path, settings("tpe"), SPACE)
    with pytest.raises(UserError, match="holds a search with sampler=tpe; give hydra.sweep.dir=DIR for another"):
        SearchStudy(tmp_path, settings("random"), SPACE)


@pytest.mark.parametrize(
    ("pruner", "evaluations", "rungs"),
    [("none", 9, []), ("median", 4, [1, 2, 3]), ("asha", 9, [1, 3]), ("hyperband", 27, [1, 3, 9]), ("asha", 1, [])],
)
def test_rungs(pruner, evaluations, rungs):
    assert settings(pruner=pruner, evaluations=evaluations).rungs() == rungs


def test_asha_stops_what_is_behind(tmp_path):
    """Of trials one after another, the first goes on, and so does each that is better than all before it."""
    study = SearchStudy(tmp_path, settings(pruner="asha", evaluations=9), SPACE)
    values = [5.0, 6.0, 7.0, 4.0, 8.0]
    assert [study.prunes(study.ask("me"), value, 1) for value in values] == [False, True, True, False, True]
