"""`trainopt -m hydra/sweeper=optuna`: trials that fail, diverge, are pruned or killed, and searches that go on."""

import json
import math
import os
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from PIL import Image

from helpers.cli import exit_code, forked, start_fork, sweep_refusal
from helpers.pages import faults
from helpers.placed import TRAINING, made_steps, place_of, point_key, strike, write_placed
from trainopt.runner.commands.run import split_style
from trainopt.runner.records.job_table import read_job_table
from trainopt.runner.reporting.figure_style import STYLE
from trainopt.runner.system.errors import UserError
from trainopt.runner.system.hydra_compat import accept_sweeper
from trainopt.runner.trials import result

SEARCH = (
    "-m",
    "hydra/sweeper=optuna",
    "hydra.sweeper.metric=test_loss",
    *TRAINING,
    "+optimizer.width=interval(1,9)",
    "duration=9steps",
    "hydra.sweep.dir=sweep",
)


@pytest.fixture
def there(tmp_path):
    write_placed(tmp_path, fails=(1.0, 1.5), diverges=3.0)
    return tmp_path


def content(folder: Path) -> dict:
    return json.loads((folder / "sweep/search.json").read_text())


def check_trials(folder: Path, number: int, pruner: str) -> None:
    """Checks each trial against the formula, and that no step was made twice."""
    result = content(folder)
    trials = result["trials"]
    assert len(trials) == number
    ended = {}
    for trial in trials:
        at = place_of(trial["params"]["optimizer.lr"], width=trial["params"]["+optimizer.width"])
        if 1.0 < at < 1.5:
            assert trial["state"] == "failed"
        elif at > 3.0:  # its first evaluation, where a pruner may end it, is not finite either
            assert (trial["state"], trial["value"]) == ("diverged", None) or trial["state"] == "pruned"
        elif trial["state"] == "pruned":
            rung = max(int(step) for step in trial["intermediate"])
            assert rung in {1, 3}
            assert trial["intermediate"][str(rung)] == pytest.approx(at + 1 / rung, abs=1e-5)
        else:
            assert trial["state"] == "finished"
            assert trial["value"] == pytest.approx(at + 1 / 9, abs=1e-5)
            ended[trial["number"]] = trial["value"]
    assert result["best"]["number"] == min(ended, key=ended.__getitem__)
    assert bool(result["pruned"]) == (pruner != "none")
    states = Counter(job.state for job in read_job_table(folder / "sweep"))
    assert states["pruned"] == len(result["pruned"])
    assert states["done"] == len(ended)


@pytest.mark.slow
@pytest.mark.draws
def test_a_search_prunes_and_takes_more_trials(there):
    command = (*SEARCH, "hydra.sweeper.pruner=hyperband", "hydra.sweeper.sampler=random")
    assert forked(*command, "hydra.sweeper.n_trials=4", folder=there) == 0
    first = content(there)["trials"]
    assert forked(*command, "hydra.sweeper.n_trials=7", folder=there) == 0
    assert content(there)["trials"][:4] == first
    check_trials(there, 7, "hyperband")
    assert set(made_steps(there).values()) == {1}
    assert (there / "sweep/search_slice.png").read_bytes().startswith(b"\x89PNG")
    page = (there / "sweep/report.html").read_text()
    assert faults(page) == []
    assert page.count("<figure") == len(list((there / "sweep").glob("search_*.png")))
    steps = made_steps(there)
    for style, width in (((), 864), (("--style", "paper", "--width=84mm"), 992)):
        assert forked(*command, "hydra.sweeper.n_trials=7", *style, folder=there) == 0
        with Image.open(there / "sweep/search_history.png") as image:
            assert image.size[0] == width
    assert made_steps(there) == steps


def test_the_style_of_figures_may_stand_anywhere_and_is_no_flag_of_hydra():
    style, others = split_style(["-m", "--width", "84mm", "seed=0,1", "--style=paper", "--cfg", "job"])
    assert others == ["-m", "seed=0,1", "--cfg", "job"]
    with style:
        assert (STYLE.get().font_size, round(STYLE.get().width, 2)) == (8, 3.31)
    assert split_style(others)[1] == others
    with pytest.raises(UserError, match="--width 3: must be a length with its unit"):
        split_style(["--width", "3"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "pruner", "launcher"),
    [("random", "hyperband", "basic"), ("qmc", "asha", "joblib"), ("tpe", "none", "basic")],
)
def test_killed_searches_go_on_without_repeating_a_step(there, sampler, pruner, launcher):
    """A kill may come between a step and its checkpoint: each repeats one step of each run at a time at most."""
    options = (f"hydra.sweeper.sampler={sampler}", f"hydra.sweeper.pruner={pruner}", "hydra.sweeper.n_trials=8")
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2") if launcher == "joblib" else ()
    command = (*SEARCH, *options, *parallel)
    kills = strike(command, there, random.Random(f"{launcher} {sampler}"), earliest=1.0)
    code = forked(*command, folder=there)
    check_trials(there, 8, pruner)
    assert code == 0  # though some failed
    failed = {
        f"{point_key(trial['params']['optimizer.lr'], width=trial['params']['+optimizer.width'])},1"
        for trial in content(there)["trials"]
        if trial["state"] == "failed"  # which is tried again each time
    }
    repeated = sum(number - 1 for step, number in made_steps(there).items() if step not in failed)
    assert repeated <= kills * (2 if launcher == "joblib" else 1)


@pytest.mark.slow
def test_a_trial_that_goes_on_at_rungs_is_the_run_that_nothing_paused(there):
    run = ("model=mlp", "data.limit=128", "batching.size=32", "duration=9epochs", "logger=none", "data.validation=0.2")
    key = ("optimizer=adam", "optimizer.lr=tag(log,interval(1e-4,0.1))", "seed=0,1")
    options = ("hydra/sweeper=optuna", "hydra.sweeper.pruner=hyperband", "hydra.sweeper.n_trials=6")
    assert forked("-m", *options, *run, *key, "hydra.sweep.dir=sweep", folder=there) == 0
    result = content(there)
    assert result["pruned"]
    best = result["best"]
    losses = []
    for folder, seed in zip(best["runs"], (0, 1), strict=True):
        lr = best["params"]["optimizer.lr"]
        undisturbed = ("optimizer=adam", f"optimizer.lr={lr!r}", f"seed={seed}", f"hydra.run.dir=alone{seed}")
        assert forked(*run, *undisturbed, folder=there) == 0
        states = [
            torch.load(there / path / "checkpoints/last.pt", weights_only=True)
            for path in (f"sweep/{folder}", f"alone{seed}")
        ]
        for part in ("model", "optimizer"):
            assert repr(states[0][part]) == repr(states[1][part])
        assert all(torch.equal(a, b) for a, b in zip(*(s["model"].values() for s in states), strict=True))
        rows = [json.loads(line) for line in (there / f"alone{seed}/metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if row["kind"] == "validation"])
    means = [sum(pair) / 2 for pair in zip(*losses, strict=True)]
    assert best["value"] == pytest.approx(means[-1], rel=1e-12)
    assert best["intermediate"] == {rung: pytest.approx(means[int(rung)], rel=1e-12) for rung in ("1", "3")}


@pytest.mark.slow
def test_two_processes_work_on_one_search(there):
    options = ("hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=10", "+optimizer.pause=0.05")
    pids = [start_fork(*SEARCH, *options, folder=there, before=os.setsid) for _ in range(2)]
    assert {exit_code(pid) for pid in pids} <= {0, 1}
    assert not {"running"} & {trial["state"] for trial in content(there)["trials"]}  # each waits for the other
    assert len(content(there)["trials"]) <= 11  # each may ask for the last one at the same moment
    by_trial = Counter(trial["params"]["optimizer.lr"] for trial in content(there)["trials"])
    assert set(by_trial.values()) == {1}


@pytest.mark.slow
def test_a_finished_search_is_outdated_by_another_default(there):
    (there / "mine/optimizer").mkdir(parents=True)
    option = there / "mine/optimizer/placed.yaml"
    option.write_text("_target_: their_placed.Placed\nlr: 0.1\nbest: -2.0\n")
    training = [word for word in TRAINING if "_target_" not in word]
    options = ("hydra/sweeper=optuna", "hydra.sweeper.metric=test_loss", "hydra.sweeper.n_trials=2")
    command = ("-m", *options, *training, "optimizer=placed", "--config-dir", "mine", "hydra.sweep.dir=sweep")
    command = (*command, "duration=2steps")
    assert forked(*command, folder=there) in (0, 1)
    assert forked(*command, folder=there) in (0, 1)
    made = made_steps(there)
    option.write_text(option.read_text().replace("-2.0", "-1.0"))
    assert forked(*command, folder=there) == 2
    assert "holds a run with another configuration, as a default has changed since" in (there / "output").read_text()
    assert made_steps(there) == made


class Grid(Sweeper):
    """A sweeper as Hydra's plugins are: it takes what a job returns for the metric."""

    def __init__(self, **settings):
        """Takes the settings of the sweeper that Hydra's configuration has, and needs none."""

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments):
        batch = [[*arguments, f"optimizer.lr={lr}"] for lr in (0.01, 0.1, 1.0)]
        values = [job.return_value for job in self.launcher.launch(batch, initial_job_idx=0)]
        Path("values").write_text(" ".join(map(str, values)))


@pytest.mark.slow
def test_a_job_returns_its_metric_to_a_sweeper_of_others(there):
    training = [word for word in TRAINING if "interval" not in word]
    command = ("-m", *training, "hydra.sweeper._target_=theirs.Grid", "duration=4steps", "hydra.sweep.dir=sweep")

    def register() -> None:
        accept_sweeper(Grid, "theirs")

    assert exit_code(start_fork(*command, folder=there, before=register)) == 0, (there / "output").read_text()
    first, second, diverged = map(float, (there / "values").read_text().split())
    assert [first, second] == pytest.approx([0.25, 1.0], abs=1e-5)  # after four steps, and before the first
    assert math.isnan(diverged)


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (("optimizer.lr=interval(-1,1)",), "optimizer.lr=-1.0: must be a number >= 0"),
        (("optimizer.lr=0.1,0.2", "hydra.sweeper.metric=loss"), "hydra.sweeper.metric=loss: give SET_NAME, as"),
        (
            ("optimizer.lr=0.1,0.2", "hydra.sweeper.pruner=asha", "duration=20steps"),
            "hydra.sweeper.pruner=asha: decides at evaluations; give duration and evaluate_every the same unit"
            " (they are 20steps and 1epochs)",
        ),
        (
            ("optimizer.lr=0.1,0.2", "hydra.sweeper.sampler=grid"),
            "hydra.sweeper.sampler=grid: must be one of random, qmc",
        ),
    ],
)
def test_bad_searches_are_refused_before_the_first_trial(typed, text):
    assert sweep_refusal("hydra/sweeper=optuna", *typed).startswith(text)


def test_a_failed_trial_is_an_outcome_unless_nothing_can_be_chosen():
    content = {"trials": [{"state": "failed"}, {"state": "finished"}], "at_boundary": []}
    content |= {"metric": "validation_loss", "space": {}, "best": {"number": 1, "value": 0.5, "params": {}}}
    assert result.exit_code(content) == 0
    assert result.conclusions(content)[1].startswith("1 failed, which counts as a miss; trainopt status says why")
    assert result.exit_code(content | {"best": None}) == 1
