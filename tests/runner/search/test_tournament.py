"""`trainopt -m experiment=tournament`: the same effort for all, fresh seeds, and no table where they differ."""

import fcntl
import json
import math
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from helpers.cli import exit_code, start_fork
from helpers.runs import rows, summary, timeless, tournament_jobs, tournament_result
from trainopt.runner.records.job_table import OPEN_SEARCH, read_job_table

pytestmark = pytest.mark.slow  # it trains; the rules of tournaments, with a stub for training: test_tournament_rules.py

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
    "hydra.sweeper.max_extensions=1",
    'hydra.sweeper.methods=["optimizer=mine","optimizer._target_=their_tournament.Sign"]',
    "duration=16steps",
    "evaluate_every=8steps",
    "hydra.sweep.dir=sweep",
    "--config-dir",
    "theirs",
)
METHODS = ["optimizer=mine", "optimizer._target_=their_tournament.Sign"]


def begin(folder: Path) -> int:
    """Starts the tournament in a process and a session of its own; returns its number."""
    (folder / "theirs/optimizer").mkdir(parents=True, exist_ok=True)
    (folder / "theirs/optimizer/mine.yaml").write_text(YAML)
    (folder / "their_tournament.py").write_text(THEIRS)
    return start_fork(*TOURNAMENT, folder=folder, before=os.setsid)


def config(run: Path) -> dict:
    return yaml.safe_load((run / "run.yaml").read_text())


@pytest.fixture(scope="module")
def played(tmp_path_factory, worker_id):
    """(folder, what it printed) of a tournament that nothing disturbed; one for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "played"
    folder.mkdir(exist_ok=True)
    printed = folder / "printed"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            exit_code(begin(folder))
            assert (folder / "sweep/tournament.json").exists(), (folder / "output").read_text()
            (folder / "output").rename(printed)
    return folder, printed.read_text()


@pytest.fixture
def sweep(played, tmp_path):
    """A copy of its folder."""
    return Path(shutil.copytree(played[0] / "sweep", tmp_path / "sweep"))


def tried(sweep: Path, method: str) -> dict[float, float]:
    """The loss at each rate, from what the trials wrote."""
    losses = {}
    for run in tournament_jobs(sweep, "trial", method):
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
    found = tournament_result(folder)
    assert found["comparable"] is True, found["reasons"]
    assert [m["name"] for m in found["methods"]] == METHODS
    exponents = found["budget"]["exponents"]
    for method in found["methods"]:
        name = method["name"]
        trials, finals = (tournament_jobs(folder / "sweep", role, name) for role in ("trial", "final"))
        losses = tried(folder / "sweep", name)
        rates, chosen = by_the_thesis(losses, exponents, 3)
        assert method["chosen"] == chosen
        assert {entry["lr"]: entry["loss"] for entry in method["losses"]} == pytest.approx(
            {rate: losses[rate] for rate in rates}, rel=1e-12
        )
        assert method["trials"] == len(trials)
        assert f"chosen with {name}: optimizer.lr={chosen} " in out
        assert method["at_boundary"] == (chosen in (min(rates), max(rates)))
        assert f"warning: {chosen} is the" in out or not method["at_boundary"]
        assert {config(run)["seed"] for run in trials} == {0}
        assert [config(run)["seed"] for run in finals] == method["seeds"] == [1, 2]
        assert {config(run)["optimizer"]["lr"] for run in finals} == {chosen}
        assert {(summary(run)["steps"], summary(run)["samples"]) for run in trials} == {(8, 8 * 128)}
        assert {summary(run)["steps"] for run in finals} == {16} == {found["budget"]["final_runs"]["steps"]}
        assert [row["step"] for row in rows(finals[0], "test")] == [0, 8, 16]
        tops = [summary(run)["final"]["top1"] for run in finals]
        assert method["figures"]["final_top1"]["mean"] == pytest.approx(sum(tops) / 2, rel=1e-12)
    sharp, plain = (config(tournament_jobs(folder / "sweep", "final", name)[0])["optimizer"] for name in METHODS)
    assert (sharp["sharpness"], "momentum" in plain, plain["_target_"]) == (50.0, False, "their_tournament.Sign")
    assert (folder / "sweep/comparison/report.html").exists()
    assert "unequal" not in out


def test_the_grid_that_was_too_narrow_is_wider_for_all(played):
    """Steps of at most 0.03, eight of them, are too short on digits."""
    folder, out = played
    exponents = tournament_result(folder)["budget"]["exponents"]
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
    for row, method in zip(table, tournament_result(played[0])["methods"], strict=True):
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
    (run / "run.yaml").write_text(re.sub(r"(?m)^log_every: .*$", "log_every: 7steps", text.replace(mark, mark[::-1])))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda s: edit(tournament_jobs(s, "final", METHODS[1])[0] / "summary.json", steps=12, samples=1500),
            f"{METHODS[1]}: 1 of its final runs did 12 steps with 1,500 samples, most did 16 with",
        ),
        (
            lambda s: edit(tournament_jobs(s, "final", METHODS[1])[0] / "summary.json", status="interrupted"),
            f"{METHODS[1]}: its final run with seed 1 is interrupted",
        ),
        (
            lambda s: shutil.rmtree(tournament_jobs(s, "final", METHODS[1])[1]),
            "its final run with seed 2 is missing",
        ),
        (
            lambda s: another_configuration(tournament_jobs(s, "final", METHODS[1])[1]),
            f"{METHODS[1]}: its final run with seed 2 is outdated",
        ),
        (
            lambda s: edit(tournament_jobs(s, "trial", METHODS[1])[0] / "summary.json", steps=9),
            f"{METHODS[1]}: 1 of its trials did 9 steps with 1,024 samples, most did 8 with 1,024",
        ),
        (another_grid, f"{METHODS[1]}: its learning rate was searched for with exponents="),
        (lambda s: another_configuration(tournament_jobs(s, "trial", METHODS[1])[0]), f"{METHODS[1]}: a trial ("),
        (lambda s: shutil.rmtree(tournament_jobs(s, "trial", METHODS[1])[0]), f"{METHODS[1]}: a trial ("),
    ],
)
def test_a_table_whose_efforts_differ_is_refused_in_a_line(trainopt, sweep, damage, message):
    damage(sweep)
    result = trainopt("compare", "sweep", "--out", "out")
    assert result.code == 2
    assert message in result.err
    assert "; --force compares nevertheless" in result.err
    assert result.err.count("\n") == 1
    assert not (sweep.parent / "out").exists()


def test_trials_alone_are_no_methods(trainopt, sweep):
    plan = json.loads((sweep / "sweep.json").read_text())
    plan["jobs"] = [job for job in plan["jobs"] if job["role"] == "trial"]
    (sweep / "sweep.json").write_text(json.dumps(plan))
    for run in (run for name in METHODS for run in tournament_jobs(sweep, "final", name)):
        shutil.rmtree(run)
    result = trainopt("compare", "sweep")
    assert result.code == 2
    assert "sweep: has no final run yet; the same command goes on with the tournament" in result.err


def kill_when(folder: Path, condition) -> None:
    """Begin the tournament, and kill all of it when a condition on its job table holds."""
    plan = folder / "sweep/sweep.json"
    until = time.monotonic() + 600
    pid = begin(folder)
    while not (plan.exists() and condition(read_job_table(folder / "sweep"))) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL, (folder / "output").read_text()
    while any(e.state == "running" for e in read_job_table(folder / "sweep")):
        time.sleep(0.05)


@pytest.mark.parametrize("role", ["trial", "final"])
def test_a_tournament_that_is_killed_goes_on_and_comes_to_the_same(played, tmp_path, role):
    kill_when(tmp_path, lambda entries: any(e.role == role and e.state == "done" for e in entries))
    before = {e.name: e.state for e in read_job_table(tmp_path / "sweep")}
    assert "missing" in before.values() or "interrupted" in before.values()
    assert (tmp_path / "sweep" / OPEN_SEARCH).exists()
    done = [tmp_path / "sweep" / name / "metrics.jsonl" for name, state in before.items() if state == "done"]
    written = {path: path.stat().st_mtime_ns for path in done}
    exit_code(begin(tmp_path))
    assert tournament_result(tmp_path)["comparable"] is True, (tmp_path / "output").read_text()
    assert not (tmp_path / "sweep" / OPEN_SEARCH).exists()
    assert {path: path.stat().st_mtime_ns for path in done} == written
    assert timeless(tournament_result(tmp_path)) == timeless(tournament_result(played[0]))
    assert [e.state for e in read_job_table(tmp_path / "sweep")] == ["done"] * len(read_job_table(played[0] / "sweep"))
