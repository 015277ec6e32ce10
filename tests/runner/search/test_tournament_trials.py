"""Tournaments whose methods are tuned by trials: random, qmc and tpe, that are killed, diverge, fail and go on."""

import json
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.cli import exit_code, forked, start_fork, sweep_refusal
from helpers.placed import TRAINING, made_steps, place_of, point_key, strike, write_placed
from helpers.runs import summary, tournament_jobs, tournament_result
from trainopt.runner.records.job_table import read_job_table
from trainopt.runner.search.tuning_budget import FINAL, TRIAL, Entrant, check_trial_length, unequal_budget
from trainopt.runner.system.errors import UserError

TOURNAMENT = (
    "-m",
    "hydra/sweeper=tournament",
    "hydra.sweeper.selection=train_loss",
    "hydra.sweeper.trial_duration=4steps",
    "hydra.sweeper.seeds=[1,2]",
    *TRAINING,
    "+optimizer.best=-2.0,-1.0",
    "duration=6steps",
    "log_every=1steps",
    "hydra.sweep.dir=sweep",
)
METHODS = {"+optimizer.best=-2.0": -2.0, "+optimizer.best=-1.0": -1.0}


@pytest.fixture
def there(tmp_path):
    write_placed(tmp_path, fails=(0.5, 1.0), diverges=2.0)
    return tmp_path


def check_tournament(folder: Path, number: int) -> None:
    """Checks each trial against the formula, and that the final runs have the best value of their method."""
    result = tournament_result(folder)
    assert result["comparable"], result["reasons"]
    for method in result["methods"]:
        best = METHODS[method["name"]]
        content = json.loads((folder / "sweep" / method["search"]).read_text())
        assert len(content["trials"]) == number
        ended = {}
        for trial in content["trials"]:
            lr = trial["params"]["optimizer.lr"]
            place = place_of(lr, best)
            if 0.5 < place < 1.0:
                assert trial["state"] == "failed"
            elif place > 2.0:
                assert (trial["state"], trial["value"]) == ("diverged", None)
            else:
                assert trial["state"] == "finished"
                assert trial["value"] == pytest.approx(place + 1 / 3, abs=1e-5)  # the loss before the fourth step
                ended[lr] = trial["value"]
        chosen = min(ended, key=ended.__getitem__)
        assert method["chosen"] == {"optimizer.lr": chosen}
        finals = tournament_jobs(folder / "sweep", FINAL, method["name"])
        assert len(finals) == len(method["seeds"]) == 2
        for run in finals:
            assert f"optimizer.lr={chosen}" in summary_overrides(folder / "sweep", run)
            assert summary(run)["steps"] == 6


def summary_overrides(sweep: Path, run: Path) -> list[str]:
    plan = json.loads((sweep / "sweep.json").read_text())
    return next(job["overrides"] for job in plan["jobs"] if sweep / job["folder"] == run)


@pytest.mark.slow
@pytest.mark.draws
@pytest.mark.parametrize(("search", "launcher"), [("random", "basic"), ("qmc", "joblib"), ("tpe", "basic")])
def test_killed_tournaments_go_on_without_repeating_a_step(there, search, launcher):
    """A kill may come between a step and its checkpoint: each repeats one step of each run at a time at most."""
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2") if launcher == "joblib" else ()
    command = (*TOURNAMENT, f"hydra.sweeper.search={search}", *parallel, "hydra.sweeper.trials=6")
    kills = strike(command, there, random.Random(search), earliest=2.0)
    assert forked(*command, folder=there) in (0, 1), (there / "output").read_text()
    check_tournament(there, 6)
    steps = made_steps(there)
    assert repeated_steps(there, steps) <= kills * (2 if launcher == "joblib" else 1)


def failed_steps(folder: Path) -> set[str]:
    """Returns the lines of first steps of trials that failed, which are tried again each time."""
    lines = set()
    for name, best in METHODS.items():
        method = next(m for m in tournament_result(folder)["methods"] if m["name"] == name)
        content = json.loads((folder / "sweep" / method["search"]).read_text())
        failed = (trial for trial in content["trials"] if trial["state"] == "failed")
        lines |= {f"{point_key(trial['params']['optimizer.lr'], best)},1" for trial in failed}
    return lines


def repeated_steps(folder: Path, steps: Counter) -> int:
    """Returns how many steps were made twice; a best value has a trial and two final runs with the same steps."""
    methods = tournament_result(folder)["methods"]
    chosen = {point_key(m["chosen"]["optimizer.lr"], METHODS[m["name"]]) for m in methods}
    failed = failed_steps(folder)
    repeats = 0
    for line, number in steps.items():
        point, _, step = line.rpartition(",")
        planned = 1
        if point in chosen:
            planned = 3 if int(step) <= 4 else 2
        repeats += 0 if line in failed else number - planned
    return repeats


@pytest.mark.slow
@pytest.mark.draws
def test_more_trials_may_change_what_is_chosen_and_the_final_runs(there):
    command = (*TOURNAMENT, "hydra.sweeper.search=random")
    assert forked(*command, "hydra.sweeper.trials=2", folder=there) in (0, 1)
    steps = made_steps(there)
    assert forked(*command, "hydra.sweeper.trials=7", folder=there) in (0, 1)
    check_tournament(there, 7)
    again = made_steps(there)
    assert all(again[line] == number for line, number in steps.items() if line not in failed_steps(there))
    roles = Counter(job.role for job in read_job_table(there / "sweep"))
    assert roles["final"] == 4
    assert roles["former"] > 0


@pytest.mark.slow
@pytest.mark.draws
def test_two_processes_work_on_one_tournament(there):
    command = (*TOURNAMENT, "hydra.sweeper.search=random", "hydra.sweeper.trials=3", "+optimizer.pause=0.02")
    pids = [start_fork(*command, folder=there, before=os.setsid) for _ in range(2)]
    assert {exit_code(pid) for pid in pids} <= {0, 1}
    assert tournament_result(there)["comparable"]
    steps = made_steps(there)
    assert repeated_steps(there, steps) == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["hydra.sweeper.exponents=[1]"], "hydra.sweeper.exponents=[1]: hydra.sweeper.search=random has no such key"),
        (["hydra.sweeper.search=rule", "hydra.sweeper.trials=3"], "hydra.sweeper.trials=3: hydra.sweeper.search=rule"),
        (
            ["hydra.sweeper.search=rule", "hydra.sweeper.selection=validation_loss"],
            "hydra.sweeper.selection=validation_loss: the rule compares training losses",
        ),
        (
            ["hydra.sweeper.search=rule", "hydra.sweeper.steps=3", "hydra.sweeper.trial_duration=3steps"],
            "hydra.sweeper.steps=3: is the length of a trial, as hydra.sweeper.trial_duration is; give one",
        ),
        (["hydra.sweeper.search=grid"], "hydra.sweeper.search=grid: must be one of rule, random, qmc, tpe"),
    ],
)
def test_keys_that_the_search_has_no_use_for_are_refused_in_one_line(typed, message):
    assert message in sweep_refusal("hydra/sweeper=tournament", "hydra.sweeper.search=random", *typed)


@pytest.mark.slow  # each composes runs
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["hydra.sweeper.trial_duration=3epochs"], "trial_duration=3epochs: must be at most duration=2epochs"),
        (["hydra.sweeper.trial_duration=3steps"], "trial_duration=3steps: give trials and final runs"),
        (
            ["hydra.sweeper.search=rule", "hydra.sweeper.trial_duration=3epochs"],
            "trial_duration=3epochs: must be at most duration=2epochs",
        ),
        (["data.limit=interval(10,20)"], "data.limit=interval(10,20): must be the same for all methods"),
        (["seed=choice(1,2)"], "seed=choice(1,2): a tournament sets the seeds itself"),
        (["optimizer=choice(sgd,adam)"], "optimizer=choice(sgd,adam): each optimizer is a method; give optimizer=a,b"),
        (["optimizer.lr=interval(-1,1)"], "optimizer.lr=-1.0: must be a number >= 0"),
        (
            ["optimizer.lr=0.1", "optimizer.betas=[0.9,0.9]"],
            "every key of the search spaces has a value, so that nothing is searched",
        ),
        (["optimizer._target_=torch.optim.ASGD"], "optimizer=torch.optim.ASGD: has no search space; leave keys open"),
        (
            ['hydra.sweeper.methods=["optimizer=adam","optimizer=adam optimizer.eps=1e-8"]'],
            "optimizer=adam and optimizer=adam optimizer.eps=1e-08: are the same method",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(typed, message):
    random_search = ["hydra/sweeper=tournament", "hydra.sweeper.search=random", "optimizer=adam", "duration=2epochs"]
    assert message in sweep_refusal(*random_search, *typed)


def test_a_trial_is_no_longer_than_a_final_run():
    check_trial_length("2epochs", "2.0epochs")
    with pytest.raises(UserError, match="must be at most duration=8steps"):
        check_trial_length("9steps", "8steps")


def entrants(**second):
    """Two methods with two trials and a final run each, all alike but for changes of the second one's final run."""
    search = {"search": "random", "duration": "8steps"}
    runs = []
    for method in ("a", "b"):
        runs += [Entrant(Path("s"), method, TRIAL, search, {"seed": "0"}, "done", (8, 80), n, None) for n in (0, 1)]
        runs.append(Entrant(Path("s"), method, FINAL, {}, {"seed": "1"}, "done", (16, 160), None, 2))
    runs[-1] = replace(runs[-1], **second)
    return runs


def test_methods_have_as_many_trials():
    assert unequal_budget(entrants()) == []
    assert unequal_budget(entrants(trials=3)) == ["b: 3 trials, most have 2"]
    assert unequal_budget(entrants(trials=None)) == []  # nothing of it is searched
