"""The effort of a search that chose a method's learning rate, beside the comparison of methods."""

import json
from pathlib import Path

from helpers.fixtures import made_up_run
from trainopt.runner.comparison.read import read_comparison


def searched(folder: Path, exponents: dict[str, list[int]]) -> None:
    """Runs of one optimizer with and without momentum, and searches of its rate for each of the two."""
    jobs = []
    for momentum, tried in exponents.items():
        config = {"optimizer.momentum": float(momentum)}
        for seed in range(2):
            made_up_run(folder / f"runs/{momentum},{seed}", seed, config=config)
        for i in tried:
            name = f"{momentum},{i}"
            status = "failed" if i == 7 else "finished"
            made_up_run(folder / "search" / name, config={**config, "optimizer.lr": 10.0**-i}, status=status)
            rule = {"parameter": "optimizer.lr", "exponents": [1, 2] if momentum == "0.5" else tried[:2]}
            jobs.append({"folder": name, "overrides": [], "fingerprint": "", "search": rule})
    (folder / "search/sweep.json").write_text(json.dumps({"overrides": [], "workers": 1, "jobs": jobs}))


def test_compare_counts_the_trials_of_each_variant_and_takes_equal_grids_for_equal_effort(tmp_path):
    searched(tmp_path, {"0.0": [1, 2, 7], "0.5": [1, 2]})
    comparison = read_comparison([tmp_path / "runs"], [tmp_path / "search"])
    assert [len(method.trials) for method in comparison.methods] == [3, 2]
    assert comparison.obstacles == []


def test_compare_refuses_rates_from_other_grids(trainopt, tmp_path):
    searched(tmp_path, {"0.0": [1, 3], "0.5": [1, 2]})
    result = trainopt("compare", "runs", "--tuning", "search")
    assert result.code == 2
    assert "the learning rates were searched for with different exponents" in result.err


def test_the_seeds_of_a_trial_are_one_trial_though_their_names_differ(tmp_path):
    made_up_run(tmp_path / "run")
    for lr in (0.1, 0.01):
        for seed in range(3):
            config = {"optimizer.lr": lr, "run.name": f"lr={lr},seed={seed}"}
            made_up_run(tmp_path / "search" / f"{lr},{seed}", seed, config=config)
    (method,) = read_comparison([tmp_path / "run"], [tmp_path / "search"]).methods
    assert (method.trial_count, len(method.trials)) == (2, 6)
