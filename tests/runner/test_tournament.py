"""`trainopt -m experiment=tournament`: the same effort for all, fresh seeds, and no table where they differ."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import open_dict

from runs import rows, summary, timeless
from trainopt.runner.ledger import read_ledger
from trainopt.runner.names import register_resolvers
from trainopt.runner.tournament import TournamentSweeper

# Somebody's own: steps along the sign of the gradient.
THEIRS = """
import torch

class Sign(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, sharpness=1.0):
        super().__init__(params, {"lr": lr})
        self.sharpness = sharpness

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        for p in self.param_groups[0]["params"]:
            p.sub_(self.param_groups[0]["lr"] * torch.tanh(self.sharpness * p.grad))
        return loss
"""
YAML = "_target_: their_tournament.Sign\nlr: 0.1\nsharpness: 50.0\n"
SEARCH = (
    "hydra.sweeper.steps=8",
    "hydra.sweeper.over_last=3",
    "hydra.sweeper.exponents=[2]",
    "hydra.sweeper.factors=[3]",
    "hydra.sweeper.seeds=[1,2]",
)
TOURNAMENT = (
    "-m",
    "experiment=tournament",
    *SEARCH,
    "hydra.sweeper.widen=1",
    'hydra.sweeper.methods=["optimizer=mine","optimizer._target_=their_tournament.Sign"]',
    "duration=16steps",
    "evaluate_every=8steps",
    "hydra.sweep.dir=sweep",
    "--config-dir",
    "theirs",
)
METHODS = ["optimizer=mine", "optimizer._target_=their_tournament.Sign"]


def begin(folder: Path, *arguments: str) -> subprocess.Popen:
    """The tournament, in a session of its own."""
    (folder / "theirs/optimizer").mkdir(parents=True, exist_ok=True)
    (folder / "theirs/optimizer/mine.yaml").write_text(YAML)
    (folder / "their_tournament.py").write_text(THEIRS)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", "from trainopt.runner.cli import main; main()", *TOURNAMENT, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def content(folder: Path) -> dict:
    return json.loads((folder / "sweep/tournament.json").read_text())


def config(run: Path) -> dict:
    return yaml.safe_load((run / "run.yaml").read_text())


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """(folder, what it printed) of a tournament that nothing disturbed."""
    folder = tmp_path_factory.mktemp("played")
    out, _ = begin(folder).communicate(timeout=600)
    assert (folder / "sweep/tournament.json").exists(), out
    return folder, out


@pytest.fixture
def sweep(played, tmp_path):
    """A copy of its folder."""
    return Path(shutil.copytree(played[0] / "sweep", tmp_path / "sweep"))


def jobs(sweep: Path, role: str, method: str) -> list[Path]:
    plan = json.loads((sweep / "sweep.json").read_text())
    return [sweep / j["folder"] for j in plan["jobs"] if (j["role"], j["method"]) == (role, method)]


def tried(sweep: Path, method: str) -> dict[float, float]:
    """The loss at each rate, from what the trials wrote."""
    losses = {}
    for run in jobs(sweep, "trial", method):
        totals = {row["step"]: row["total"] for row in rows(run, "train")}
        assert sorted(totals) == list(range(1, 9))
        losses[config(run)["optimizer"]["lr"]] = sum(totals[step] for step in (6, 7, 8)) / 3
    return losses


def by_the_thesis(losses: dict[float, float], exponents: list[int], factor: int) -> tuple[set[float], float]:
    """(rates that are tried, the one chosen): the best power of ten, then `factor` times it if that is better."""
    powers = [float(f"1e{-i}") for i in exponents]
    best = min(powers, key=losses.__getitem__)
    larger = float(f"{factor}e{round(math.log10(best))}")
    return {*powers, larger}, min((best, larger), key=losses.__getitem__)


def test_all_are_tuned_alike_and_run_with_other_seeds(played):
    folder, out = played
    found = content(folder)
    assert found["comparable"] is True, found["reasons"]
    assert [m["name"] for m in found["methods"]] == METHODS
    exponents = found["budget"]["exponents"]
    for method in found["methods"]:
        name = method["name"]
        trials, finals = (jobs(folder / "sweep", role, name) for role in ("trial", "final"))
        losses = tried(folder / "sweep", name)
        rates, chosen = by_the_thesis(losses, exponents, 3)
        assert method["chosen"] == chosen
        assert {entry["lr"]: entry["loss"] for entry in method["losses"]} == pytest.approx(
            {rate: losses[rate] for rate in rates}, rel=1e-12
        )
        assert method["trials"] == len(trials)
        assert f"chosen with {name}: optimizer.lr={chosen} " in out
        assert method["edge"] == (chosen in (min(rates), max(rates)))
        assert f"careful: {chosen} is the" in out or not method["edge"]
        assert {config(run)["seed"] for run in trials} == {0}
        assert [config(run)["seed"] for run in finals] == method["seeds"] == [1, 2]
        assert {config(run)["optimizer"]["lr"] for run in finals} == {chosen}
        assert {(summary(run)["steps"], summary(run)["samples"]) for run in trials} == {(8, 8 * 128)}
        assert {summary(run)["steps"] for run in finals} == {16} == {found["budget"]["final_runs"]["steps"]}
        assert [row["step"] for row in rows(finals[0], "test")] == [0, 8, 16]
        tops = [summary(run)["final"]["top1"] for run in finals]
        assert method["figures"]["final_top1"]["mean"] == pytest.approx(sum(tops) / 2, rel=1e-12)
    sharp, plain = (config(jobs(folder / "sweep", "final", name)[0])["optimizer"] for name in METHODS)
    assert (sharp["sharpness"], "momentum" in plain, plain["_target_"]) == (50.0, False, "their_tournament.Sign")
    assert (folder / "sweep/comparison/report.html").exists()
    assert "unequal" not in out


def test_the_grid_that_was_too_narrow_is_wider_for_all(played):
    """Steps of at most 0.03, eight of them, are too short on digits."""
    folder, out = played
    exponents = content(folder)["budget"]["exponents"]
    assert set(exponents) > {2}
    assert f"all get exponents {exponents}" in out
    for name in METHODS:
        assert {float(f"1e{-i}") for i in exponents} <= set(tried(folder / "sweep", name))


def test_compare_takes_final_runs_for_runs_and_trials_for_tuning(trainopt, played, sweep):
    result = trainopt("compare", "sweep", "--out", "out")
    assert result.code == 0, result.err
    header, *lines = [line.split(",") for line in (sweep.parent / "out/table.csv").read_text().splitlines()]
    table = [dict(zip(header, line, strict=True)) for line in lines]
    assert [row["method"] for row in table] == METHODS
    assert [(row["runs"], row["seeds"]) for row in table] == [("2", "1 2")] * 2
    for row, method in zip(table, content(played[0])["methods"], strict=True):
        assert int(row["tuning_trials"]) == method["trials"] == len(tried(sweep, row["method"]))
        assert float(row["final_top1_mean"]) == pytest.approx(method["figures"]["final_top1"]["mean"])
        assert int(row["tuning_gradients"]) == 8 * method["trials"]


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def another_grid(sweep: Path) -> None:
    plan = json.loads((sweep / "sweep.json").read_text())
    own = [job for job in plan["jobs"] if job["method"] == METHODS[1] and job["role"] == "trial"]
    own[0]["search"]["exponents"] = [5]
    (sweep / "sweep.json").write_text(json.dumps(plan))


def another_configuration(run: Path) -> None:
    text = (run / "run.yaml").read_text()
    mark = config(run)["fingerprint"]
    (run / "run.yaml").write_text(text.replace(mark, mark[::-1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda s: edit(jobs(s, "final", METHODS[1])[0] / "summary.json", steps=12, samples=1500),
            f"{METHODS[1]}: 1 of its final runs did 12 steps with 1,500 samples, most did 16 with",
        ),
        (
            lambda s: edit(jobs(s, "final", METHODS[1])[0] / "summary.json", status="interrupted"),
            f"{METHODS[1]}: its final run with seed 1 is interrupted",
        ),
        (lambda s: shutil.rmtree(jobs(s, "final", METHODS[1])[1]), "its final run with seed 2 is missing"),
        (
            lambda s: another_configuration(jobs(s, "final", METHODS[1])[1]),
            f"{METHODS[1]}: its final run with seed 2 is stale",
        ),
        (
            lambda s: edit(jobs(s, "trial", METHODS[1])[0] / "summary.json", steps=9),
            f"{METHODS[1]}: 1 of its trials did 9 steps with 1,024 samples, most did 8 with 1,024",
        ),
        (another_grid, f"{METHODS[1]}: its rate was searched for with exponents="),
        (lambda s: another_configuration(jobs(s, "trial", METHODS[1])[0]), f"{METHODS[1]}: a trial ("),
        (lambda s: shutil.rmtree(jobs(s, "trial", METHODS[1])[0]), f"{METHODS[1]}: a trial ("),
    ],
)
def test_a_table_whose_efforts_differ_is_refused_in_a_line(trainopt, sweep, damage, message):
    damage(sweep)
    result = trainopt("compare", "sweep", "--out", "out")
    assert result.code == 2
    assert message in result.err
    assert "; --force compares all the same" in result.err
    assert result.err.count("\n") == 1
    assert not (sweep.parent / "out").exists()


def test_trials_alone_are_no_methods(trainopt, sweep):
    plan = json.loads((sweep / "sweep.json").read_text())
    plan["jobs"] = [job for job in plan["jobs"] if job["role"] == "trial"]
    (sweep / "sweep.json").write_text(json.dumps(plan))
    for run in (run for name in METHODS for run in jobs(sweep, "final", name)):
        shutil.rmtree(run)
    result = trainopt("compare", "sweep")
    assert result.code == 2
    assert "sweep: has no final run yet; the same command goes on with the tournament" in result.err


def kill_when(folder: Path, condition) -> None:
    """Begin the tournament, and kill all of it when a condition on its ledger holds."""
    plan = folder / "sweep/sweep.json"
    until = time.monotonic() + 600
    with begin(folder) as started:
        while started.poll() is None and time.monotonic() < until:
            if plan.exists() and condition(read_ledger(folder / "sweep")):
                break
            time.sleep(0.05)
        os.killpg(started.pid, signal.SIGKILL)
        out, _ = started.communicate(timeout=60)
    assert started.returncode == -signal.SIGKILL, out
    while any(e.state == "running" for e in read_ledger(folder / "sweep")):
        time.sleep(0.05)


@pytest.mark.parametrize("role", [pytest.param("trial", marks=pytest.mark.slow), "final"])
def test_a_tournament_that_is_killed_goes_on_and_comes_to_the_same(played, tmp_path, role):
    kill_when(tmp_path, lambda entries: any(e.role == role and e.state == "done" for e in entries))
    before = {e.name: e.state for e in read_ledger(tmp_path / "sweep")}
    assert "missing" in before.values() or "interrupted" in before.values()
    done = [tmp_path / "sweep" / name / "metrics.jsonl" for name, state in before.items() if state == "done"]
    written = {path: path.stat().st_mtime_ns for path in done}
    out, _ = begin(tmp_path).communicate(timeout=600)
    assert content(tmp_path)["comparable"] is True, out
    assert {path: path.stat().st_mtime_ns for path in done} == written
    assert timeless(content(tmp_path)) == timeless(content(played[0]))
    assert [e.state for e in read_ledger(tmp_path / "sweep")] == ["done"] * len(read_ledger(played[0] / "sweep"))


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
        found = TournamentSweeper(**settings).named(config)
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


def test_the_edge_of_one_widens_the_grid_of_all_up_to_the_limit(tabled, tmp_path):
    inside = {0.1: 1.0, 0.2: 2.0, 1.0: 5.0, 10.0: 5.0, 0.01: 4.0}
    rising = {0.1: 4.0, 0.2: 3.0, 1.0: 2.0, 2.0: 1.5, 10.0: 1.0, 20.0: 0.5}
    result = tabled({"a": inside, "b": rising}, "hydra.sweeper.widen=2")
    assert result.code == 0, result.err
    found = content(tmp_path)
    # at first 0.1 is the lowest of a, and 0.2 the highest of b
    assert found["budget"]["exponents"] == [-1, 0, 1, 2]
    a, b = found["methods"]
    assert (a["chosen"], a["edge"]) == (0.1, False)
    assert (b["chosen"], b["edge"]) == (20.0, True)
    assert [[e["lr"] for e in m["losses"]] for m in (a, b)] == [
        [10.0, 1.0, 0.1, 0.01, 0.2],
        [10.0, 1.0, 0.1, 0.01, 20.0],
    ]
    assert "careful: 20.0 is the highest rate that was tried" in result.out
    assert b["trials"] == len(jobs(tmp_path / "sweep", "trial", "+optimizer.kind=b")) == 7  # 0.2 and 2.0 too
    # with other choices in the same folder the earlier final runs do not count
    assert tabled({"a": inside, "b": rising}, "hydra.sweeper.widen=0").code == 0
    assert content(tmp_path)["budget"]["exponents"] == [1]
    assert [m["chosen"] for m in content(tmp_path)["methods"]] == [0.1, 0.2]
    roles = Counter(e.role for e in read_ledger(tmp_path / "sweep"))
    assert (roles["final"], roles["former"]) == (2, 1)


def test_a_method_without_a_rate_is_named_and_left_out(tabled, trainopt, tmp_path):
    result = tabled({"a": {0.1: 1.0, 0.01: 2.0}, "b": {}})
    assert result.code == 1
    lost = "no optimizer.lr was found with +optimizer.kind=b: every trial diverged, failed or was killed"
    assert lost in result.out
    a, b = content(tmp_path)["methods"]
    assert (a["chosen"], b["chosen"], b["seeds"]) == (0.1, None, [])
    again = trainopt("compare", "sweep", "--out", "out")
    assert again.code == 0
    assert "left out: +optimizer.kind=b: has no rate" in again.out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("seed=1", "seed=1: a tournament sets the seeds itself; give hydra.sweeper.seeds=[…]"),
        ("seed=1,2", "seed=1,2: a tournament sets the seeds itself; give hydra.sweeper.seeds=[…]"),
        ("hydra.sweeper.seeds=[0,1]", "0 is one of hydra.sweeper.tuning_seeds=[0]"),
        ("hydra.sweeper.seeds=[]", "hydra.sweeper.seeds=[]: must have an element"),
        ("hydra.sweeper.tuning_seeds=[7,7]", "hydra.sweeper.tuning_seeds=[7, 7]: must have an element, and none"),
        ("hydra.sweeper.widen=-1", "hydra.sweeper.widen=-1: must be an integer >= 0"),
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
        ("optimizer=sgd,adaptive_nesterov", "optimizer=adaptive_nesterov has no such key"),
    ],
)
def test_what_is_no_tournament_is_said_in_a_line_before_anything_is_written(trainopt, tmp_path, typed, message):
    result = trainopt("-m", "experiment=tournament", typed)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_m_it_is_no_tournament(trainopt, tmp_path):
    result = trainopt("experiment=tournament")
    assert result.code == 2
    assert result.err == "trainopt: hydra/sweeper=tournament: is for sweeps; type trainopt -m …\n"
    assert not list(tmp_path.iterdir())
