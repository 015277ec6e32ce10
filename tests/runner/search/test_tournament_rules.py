"""What a tournament is made of: methods, one grid for all, and what is refused before it begins."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import open_dict

from helpers.cli import sweep_refusal
from helpers.runs import tournament_jobs, tournament_result
from trainopt.runner.config.run_names import register_resolvers
from trainopt.runner.records.job_table import read_job_table
from trainopt.runner.search.tournament import TournamentSweeper
from trainopt.runner.search.tuning_budget import FINAL, TRIAL, Entrant, check_ended_trial, unequal_budget
from trainopt.runner.system.errors import UserError

# An optimizer that puts the loss where a table says, by its rate.
TABLED = """
import json, pathlib, torch

HERE = pathlib.Path(__file__).parent

class Tabled(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, kind="a"):
        super().__init__(params, {"lr": lr})
        self.value = json.loads((HERE / "table.json").read_text())[kind].get(repr(float(lr)), float("nan"))

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        self.param_groups[0]["params"][0].fill_(self.value)
        return loss
"""
FUNCTION = (
    "-m",
    "hydra/sweeper=tournament",
    "hydra.sweeper.steps=3",
    "hydra.sweeper.over_last=1",
    "hydra.sweeper.exponents=[1]",
    "hydra.sweeper.factors=[2]",
    "hydra.sweeper.seeds=[1]",
    "model=function",
    "model.function=product",
    "model.start=[1.0]",
    "data=none",
    "logger=none",
    "optimizer._target_=their_tabled.Tabled",
    "+optimizer.kind=a,b",
    "duration=4steps",
    "hydra.sweep.dir=sweep",
)
SET = ["model=mlp", "duration=3epochs"]


@pytest.mark.parametrize(
    ("typed", "methods", "names"),
    [
        (["optimizer=sgd,adam"], [], {"optimizer=sgd": [], "optimizer=adam": []}),
        (["optimizer=adam"], [], {"all runs": ["optimizer=adam"]}),
        ([], [], {f"optimizer={o}": [] for o in ("sgd", "adam", "rmsprop", "adagrad", "adadelta", "ehnewton")}),
        (["optimizer=adam"], ["optimizer=sgd"], {"optimizer=sgd": []}),  # instead
        (
            ["optimizer=sgd,adam"],  # and one more
            ["optimizer=ehnewton optimizer.cg_max_iter=20"],
            {"optimizer=sgd": [], "optimizer=adam": [], "optimizer=ehnewton optimizer.cg_max_iter=20": []},
        ),
        (
            ["optimizer=sgd", "optimizer.momentum=0,0.9"],
            [],
            {"optimizer.momentum=0": ["optimizer=sgd"], "optimizer.momentum=0.9": ["optimizer=sgd"]},
        ),
        ([], ["optimizer=adam +optimizer.x=[1,2]"], {"optimizer=adam +optimizer.x=[1,2]": []}),
    ],
)
def test_what_is_a_method(typed, methods, names):
    register_resolvers()
    with initialize_config_module("trainopt.conf", version_base="1.3"):
        config = compose("config", ["experiment=tournament"], return_hydra_config=True)
        with open_dict(config):
            config.hydra.overrides.task = ["experiment=tournament", *SET, *typed]
        settings = TournamentSweeper.settings(config) | {"methods": methods}
        found = TournamentSweeper(**settings).method_overrides(config)
    assert [name for name, _ in found] == list(names)
    for name, overrides in found:
        own = [] if name == "all runs" else name.split()
        assert set(overrides) == {"experiment=tournament", *SET, *names[name], *own}


@pytest.fixture
def tabled(trainopt, tmp_path, monkeypatch):
    """A tournament of two on a function, in this process, with losses by table."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_tabled", raising=False)
    (tmp_path / "their_tabled.py").write_text(TABLED)

    def run(tables: dict[str, dict[float, float]], *arguments: str):
        texts = {kind: {repr(rate): value for rate, value in table.items()} for kind, table in tables.items()}
        (tmp_path / "table.json").write_text(json.dumps(texts))
        return trainopt(*FUNCTION, *arguments)

    return run


@pytest.mark.slow
def test_the_boundary_of_one_extends_the_grid_of_all_up_to_the_limit(tabled, tmp_path):
    inside = {0.1: 1.0, 0.2: 2.0, 1.0: 5.0, 0.01: 4.0}
    rising = {0.1: 4.0, 0.2: 3.0, 1.0: 2.0, 2.0: 1.5}
    result = tabled({"a": inside, "b": rising}, "hydra.sweeper.max_extensions=1")
    assert result.code == 0, result.err
    found = tournament_result(tmp_path)
    # at first 0.1 is the lowest of a, and 0.2 the highest of b
    assert found["budget"]["exponents"] == [0, 1, 2]
    a, b = found["methods"]
    assert (a["chosen"], a["at_boundary"]) == (0.1, False)
    assert (b["chosen"], b["at_boundary"]) == (2.0, True)
    assert [[e["lr"] for e in m["losses"]] for m in (a, b)] == [[1.0, 0.1, 0.01, 0.2], [1.0, 0.1, 0.01, 2.0]]
    assert "warning: 2.0 is the highest value that was tried" in result.out
    assert b["trials"] == len(tournament_jobs(tmp_path / "sweep", "trial", "+optimizer.kind=b")) == 5  # 0.2 too


@pytest.mark.slow
def test_final_runs_of_earlier_choices_in_the_same_folder_do_not_count(tabled, tmp_path):
    inside = {0.1: 1.0, 0.2: 2.0, 1.0: 5.0, 0.01: 4.0}
    rising = {0.1: 4.0, 0.2: 3.0, 1.0: 2.0, 2.0: 1.5}
    for extensions in (1, 0):
        assert tabled({"a": inside, "b": rising}, f"hydra.sweeper.max_extensions={extensions}").code == 0
    assert tournament_result(tmp_path)["budget"]["exponents"] == [1]
    assert [m["chosen"] for m in tournament_result(tmp_path)["methods"]] == [0.1, 0.2]
    roles = Counter(e.role for e in read_job_table(tmp_path / "sweep"))
    assert (roles["final"], roles["former"]) == (2, 1)


@pytest.mark.slow
def test_a_method_that_is_added_leaves_the_runs_of_the_others_as_they_are(tabled, tmp_path):
    tables = {kind: {0.1: 1.0, 0.2: 2.0, 0.05: 3.0} for kind in "abc"}
    assert tabled(tables).code == 0
    earlier = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("*/summary.json")}
    assert len(earlier) == 2 * 4  # three trials and a final run of each
    result = tabled(tables, 'hydra.sweeper.methods=["+optimizer.kind=c"]')
    assert result.code == 0, result.err
    assert {path: path.stat().st_mtime_ns for path in earlier} == earlier
    assert len(list((tmp_path / "sweep").glob("*/summary.json"))) == 3 * 4
    assert [m["name"] for m in tournament_result(tmp_path)["methods"]] == [f"+optimizer.kind={k}" for k in "abc"]


@pytest.mark.slow
def test_a_method_without_a_rate_is_named_and_left_out(tabled, trainopt, tmp_path):
    result = tabled({"a": {0.1: 1.0, 0.01: 2.0}, "b": {}})
    assert result.code == 1
    lost = "no optimizer.lr was found with +optimizer.kind=b: every trial diverged, failed or was killed"
    assert lost in result.out
    a, b = tournament_result(tmp_path)["methods"]
    assert (a["chosen"], b["chosen"], b["seeds"]) == (0.1, None, [])
    again = trainopt("compare", "sweep", "--out", "out")
    assert again.code == 0
    assert "left out: +optimizer.kind=b: has no learning rate" in again.out


@pytest.mark.slow
def test_an_optimizer_that_computes_its_learning_rate_has_final_runs_alone(trainopt, tmp_path):
    typed = [part for part in FUNCTION if "optimizer" not in part]
    result = trainopt(*typed, "optimizer=adaptive_nesterov,sgd")
    assert result.code == 0, result.err
    assert "searching optimizer.lr for 1 method" in result.out
    assert "optimizer=adaptive_nesterov has no optimizer.lr: it has no trials" in result.out
    tuned, untuned = tournament_result(tmp_path)["methods"]
    assert (tuned["name"], untuned["name"]) == ("optimizer=sgd", "optimizer=adaptive_nesterov")
    assert (untuned["chosen"], untuned["losses"], untuned["trials"], untuned["seeds"]) == (None, [], 0, [1])
    assert tuned["trials"] >= len(tuned["losses"]) > 0  # those of a narrower grid too
    again = trainopt("compare", "sweep", "--out", "out")
    assert again.code == 0, again.err
    assert trainopt(*typed, "optimizer=adaptive_nesterov,sgd").code == 0  # there is nothing more to do


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("seed=1", "seed=1: a tournament sets the seeds itself; give hydra.sweeper.seeds=[…]"),
        ("seed=1,2", "seed=1,2: a tournament sets the seeds itself; give hydra.sweeper.seeds=[…]"),
        ("hydra.sweeper.seeds=[0,1]", "0 is one of hydra.sweeper.tuning_seeds=[0]"),
        ("hydra.sweeper.seeds=[]", "hydra.sweeper.seeds=[]: must not be empty"),
        ("hydra.sweeper.tuning_seeds=[7,7]", "hydra.sweeper.tuning_seeds=[7, 7]: must not be empty"),
        ("hydra.sweeper.max_extensions=-1", "hydra.sweeper.max_extensions=-1: must be an integer >= 0"),
        ("hydra.sweeper.widen=1", "hydra.sweeper.widen: is now hydra.sweeper.max_extensions"),
        ("duration=4steps,8steps", "duration=4steps,8steps: must be the same for all methods"),
        ("duration=5", "duration=5: must be a duration"),
        (
            'hydra.sweeper.methods=["optimizer=adam data.limit=9"]',
            "data.limit=9: must be the same for all methods",
        ),
        ('hydra.sweeper.methods=["optimizer=adam seed=3"]', "seed=3: a tournament sets the seeds itself"),
        ('hydra.sweeper.methods=["optimizer=adma"]', "did you mean adam?"),
        (
            'hydra.sweeper.methods=["optimizer=sgd","optimizer=sgd optimizer.momentum=0.9"]',
            "optimizer=sgd and optimizer=sgd optimizer.momentum=0.9: are the same method",
        ),
        ("duration=59steps", "hydra.sweeper.steps=60: must be at most duration=59steps, the length of a final run"),
        ("optimizer=adaptive_nesterov", "optimizer=adaptive_nesterov has no such key"),
        ("hydra.sweeper.parameter=optimizer.rho", "optimizer.rho: optimizer=sgd has no such key"),
    ],
)
def test_what_is_no_tournament_is_refused_in_one_line(typed, message):
    assert message in sweep_refusal("experiment=tournament", typed)


@pytest.mark.parametrize(
    ("status", "final", "limit"),
    [
        ("finished", "9epochs", 18),
        ("finished", "19steps", 19),
        ("finished", "10epochs", None),
        ("failed", "1steps", None),
    ],
)
def test_a_trial_that_was_longer_than_a_final_run_is_refused(tmp_path, status, final, limit):
    """Of two steps an epoch."""
    (tmp_path / "summary.json").write_text(json.dumps({"status": status, "steps": 20, "epochs": 10.0}))
    if limit is None:
        return check_ended_trial(tmp_path, final, "hydra.sweeper.steps=20")
    with pytest.raises(UserError, match=rf"duration={final}; give at most {limit}$"):
        check_ended_trial(tmp_path, final, "hydra.sweeper.steps=20")


@pytest.mark.slow
def test_where_the_length_depends_on_the_data_a_trial_of_each_method_tells(trainopt, tmp_path):
    data = ("data=synthetic", "data.train_size=32", "data.test_size=8", "batching.size=16", "model=mlp")
    search = ("hydra/sweeper=tournament", "hydra.sweeper.steps=5", "hydra.sweeper.over_last=1", "logger=none")
    result = trainopt("-m", *search, *data, "optimizer=sgd,adam", "duration=2epochs", "hydra.sweep.dir=sweep")
    assert result.code == 2
    line = "hydra.sweeper.steps=5: a trial takes 2.5 epochs, and must be no longer than a final run, which has"
    assert f"{line} duration=2epochs; give at most 4" in result.err
    assert len(list((tmp_path / "sweep").rglob("summary.json"))) == 2


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt("-m", "experiment=tournament", "seed=1")
    assert result.code == 2
    assert result.err.startswith("trainopt: seed=1: a tournament sets the seeds itself; give hydra.sweeper.seeds=[…]")
    assert result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


METHODS = ("optimizer=sgd", "optimizer=adam")
GRID = {"parameter": "optimizer.lr", "base": 10, "exponents": [1, 2], "factors": [3]}


def entrants():
    """Two methods with two trials and two final runs each, all alike."""
    runs = []
    for method in METHODS:
        for lr in ("0.1", "0.01"):
            typed = {"optimizer.lr": lr, "seed": "0"}
            runs.append(Entrant(Path("sweep"), method, TRIAL, GRID, typed, "done", (8, 1024)))
        for seed in ("1", "2"):
            runs.append(Entrant(Path("sweep"), method, FINAL, {}, {"seed": seed}, "done", (16, 2048)))
    return runs


def test_equal_efforts_are_no_reason_to_refuse_a_table():
    assert unequal_budget(entrants()) == []


@pytest.mark.parametrize(
    ("which", "changes", "message"),
    [
        (-1, {"length": (12, 1500)}, "1 of its final runs did 12 steps with 1,500 samples, most did 16 with 2,048"),
        (-1, {"state": "interrupted", "length": None}, "its final run with seed 2 is interrupted"),
        (-1, {"state": "missing", "length": None}, "its final run with seed 2 is missing"),
        (-1, {"state": "outdated", "length": None}, "its final run with seed 2 is outdated"),
        (-1, {"typed": {"seed": "3"}}, "final runs with seeds 1, 3, most have 1, 2"),
        (-3, {"length": (9, 1024)}, "1 of its trials did 9 steps with 1,024 samples, most did 8 with 1,024"),
        (-3, {"search": GRID | {"exponents": [5]}}, "its learning rate was searched for with exponents="),
        (-3, {"state": "outdated", "length": None}, "a trial (optimizer.lr=0.01, seed 0) is outdated"),
        (-3, {"state": "missing", "length": None}, "a trial (optimizer.lr=0.01, seed 0) is missing"),
        (-3, {"typed": {"optimizer.lr": "0.3", "seed": "0"}}, "has no trial at the learning rate 0.01 with seed 0"),
    ],
)
def test_efforts_that_differ_are_named(which, changes, message):
    runs = entrants()
    runs[which] = replace(runs[which], **changes)
    assert unequal_budget(runs)[0].startswith(f"{METHODS[1]}: {message}")


def test_durations_that_differ_are_one_reason():
    runs = entrants()
    runs[-1] = replace(runs[-1], length=(12, 1500))
    assert unequal_budget(runs, durations_differ=True) == []
    assert len(unequal_budget(runs)) == 1


def test_trials_that_failed_are_outcomes():
    runs = entrants()
    runs[0] = replace(runs[0], state="failed", length=None)
    assert unequal_budget(runs) == []


def test_without_m_it_is_no_tournament(trainopt, tmp_path):
    result = trainopt("experiment=tournament")
    assert result.code == 2
    assert result.err == "trainopt: hydra/sweeper=tournament: is for sweeps; type trainopt -m …\n"
    assert not list(tmp_path.iterdir())
