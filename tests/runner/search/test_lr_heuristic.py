"""`trainopt -m hydra/sweeper=lr_heuristic`: what the thesis' rule leads to, whatever becomes of a trial."""

import json
import math
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from helpers.cli import exit_code, start_fork, sweep_refusal
from trainopt.runner.records.job_table import read_job_table
from trainopt.runner.search.compose import Composer
from trainopt.runner.search.search_rule import LRSearchRule, best_lr, is_at_boundary

INF = math.inf

# An optimizer of somebody's that puts the loss where a table says, by its rate; every start goes on record.
THEIRS = """
import json, os, pathlib, signal, time, torch

HERE = pathlib.Path(__file__).parent

class Tabled(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, kind="a", shift=0.0, pause=0.0):
        super().__init__(params, {"lr": lr})
        self.value = json.loads((HERE / "table.json").read_text())[kind][repr(float(lr))]
        self.shift, self.pause = shift, pause
        with open(HERE / "starts", "a") as file:
            file.write(f"{kind}:{lr!r}:{shift}\\n")

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        time.sleep(self.pause)
        if self.value == "raises":
            raise ArithmeticError("no further")
        if self.value == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        value = float("nan") if self.value == "diverges" else self.value + self.shift
        for p in self.param_groups[0]["params"]:
            p.fill_(value)
        return loss
"""
# the function theta -> theta of one variable: its value is where the optimizer puts it
LENGTH = ("hydra.sweeper.steps=4", "hydra.sweeper.over_last=2")
SEARCH = (
    "-m",
    "hydra/sweeper=lr_heuristic",
    *LENGTH,
    "model=function",
    "model.function=product",
    "model.start=[1.0]",
    "data=none",
    "logger=none",
    "optimizer._target_=their_rates.Tabled",
    "hydra.sweep.dir=sweep",
)
WORDS = {"raises": "failed", "killed": "interrupted", "diverges": "diverged"}


def by_the_thesis(table: dict[float, float | str], exponents=range(1, 8), factors=range(2, 10)):
    """Section 4.3.2: "the i offering the lowest loss", then "increasing values until one does not offer further
    improvement". Returns (rates in the order in which they are tried, the one chosen).
    """

    def loss(n, i):
        value = table[float(f"{n}e{-i}")]
        return INF if isinstance(value, str) else value

    tried = [float(f"1e{-i}") for i in exponents]
    best_i, lowest = None, INF
    for i in exponents:
        if loss(1, i) < lowest:
            best_i, lowest = i, loss(1, i)
    if best_i is None:
        return tried, None
    best_n = 1
    for n in factors:
        tried.append(float(f"{n}e{-best_i}"))
        if not loss(n, best_i) < lowest:
            break
        best_n, lowest = n, loss(n, best_i)
    return tried, float(f"{best_n}e{-best_i}")


def tables(count: int):
    """Losses at every rate of the thesis' grid: with ties, monotone, with any share of what cannot be trained."""
    rng = random.Random(0)
    rates = [float(f"{n}e{-i}") for i in range(1, 8) for n in range(1, 10)]
    yield {rate: rate for rate in rates}
    yield {rate: -rate for rate in rates}
    yield dict.fromkeys(rates, 2.0)
    yield dict.fromkeys(rates, INF)
    for _ in range(count):
        lost, values = rng.random(), rng.choice([3, 10, 1000])
        yield {rate: INF if rng.random() < lost else float(rng.randrange(values)) for rate in rates}


def test_the_rule_is_that_of_the_thesis():
    rule = LRSearchRule(10, tuple(range(1, 8)), tuple(range(2, 10)))
    lengths = set()
    for table in tables(1000):
        losses: dict[float, float] = {}
        while wanted := rule.next_lrs(losses):
            assert not set(wanted) & set(losses)
            losses |= {rate: table[rate] for rate in wanted}
        assert (list(losses), best_lr(losses)) == by_the_thesis(table)
        lengths.add(len(losses))
    assert {7, 8, 9, 10, 11, 15} <= lengths


@pytest.mark.parametrize(
    ("table", "chosen", "at_boundary"),
    [
        ({0.1: 1, 0.01: 2, 0.2: 2}, 0.1, False),  # 0.2 lies beyond, and is worse
        ({0.1: 1, 0.01: 2, 0.2: INF}, 0.1, False),
        ({0.1: 3, 0.01: 2, 0.02: 4}, 0.01, True),
        ({0.1: 3, 0.01: 2, 0.02: 1, 0.03: 4}, 0.02, False),
        ({0.1: 3, 0.01: 4, 0.2: 2, 0.3: 1}, 0.3, True),  # the last factor
        ({0.1: 3}, 0.1, True),
    ],
)
def test_the_boundary_is_where_nothing_beyond_was_tried(table, chosen, at_boundary):
    assert best_lr(table) == chosen
    assert is_at_boundary(chosen, table) == at_boundary


def prepare(folder: Path, **tables: dict[float, float | str]) -> None:
    (folder / "their_rates.py").write_text(THEIRS)
    named = {kind: {repr(rate): value for rate, value in table.items()} for kind, table in tables.items()}
    (folder / "table.json").write_text(json.dumps(named))


def starts(folder: Path) -> Counter:
    return Counter((folder / "starts").read_text().split())


def found(folder: Path, name: str = "lr_heuristic") -> dict:
    return json.loads((folder / f"sweep/{name}.json").read_text())


@pytest.fixture
def search(trainopt, tmp_path, monkeypatch):
    """A search in this process."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "their_rates", raising=False)
    return lambda *arguments: trainopt(*SEARCH, *arguments)


HARD = {0.1: "diverges", 0.01: "raises", 0.001: 4.0, 1e-4: "killed", 0.002: 3.5, 0.003: 3.25, 0.004: 3.25}


@pytest.mark.slow
@pytest.mark.draws
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_trials_that_diverge_fail_or_are_killed_are_infinitely_bad(search, finished, tmp_path, launcher):
    prepare(tmp_path, a=HARD)
    if launcher == "basic":
        result = search("hydra.sweeper.exponents=[1,2,3,4]")
    else:
        parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
        result = finished(*SEARCH, "hydra.sweeper.exponents=[1,2,3,4]", *parallel)
    content = found(tmp_path)
    tried, chosen = by_the_thesis(HARD, range(1, 5))
    assert content["chosen"] == chosen == 0.003
    assert content["at_boundary"] is False
    assert [t["lr"] for t in content["trials"]] == tried
    assert [t["stage"] for t in content["trials"]] == [1] * 4 + [2] * 3
    values = [HARD[rate] for rate in tried]
    assert [t["loss"] for t in content["trials"]] == [None if isinstance(v, str) else v for v in values]
    assert [t["status"] for t in content["trials"]] == [WORDS.get(v, "finished") for v in values]
    assert result.code == 1  # two did not come to their end
    assert "7 jobs: 4 done, 1 diverged, 1 interrupted, 1 failed" in result.out
    message = "chosen: optimizer.lr=0.003 (mean training loss over the last 2 steps, duration=4steps: 3.25)"
    assert message in result.out
    assert (tmp_path / "sweep/lr_heuristic.png").read_bytes().startswith(b"\x89PNG")
    assert len(read_job_table(tmp_path / "sweep")) == 7


@pytest.mark.slow
def test_the_losses_are_those_of_gradient_descent(trainopt, tmp_path):
    """J = 5 + 3 |theta|^2 by gradient descent, which multiplies theta by 1 - 6 lr: it diverges from 1/3 on."""

    def mean_of_the_last(lr, steps=12, last=5):
        losses = [5 + 3 * 34 * (1 - 6 * lr) ** (2 * step) for step in range(steps)]
        return sum(losses[-last:]) / last

    run = ("model=function", "model.function=quadratic", "data=none", "optimizer=sgd", "optimizer.momentum=0")
    grid = ("hydra.sweeper.exponents=[0,1,2]", "hydra.sweeper.steps=12", "hydra.sweeper.over_last=5")
    result = trainopt("-m", "hydra/sweeper=lr_heuristic", *run, *grid, "log_every=2steps", "hydra.sweep.dir=sweep")
    assert result.code == 0
    losses = {t["lr"]: t["loss"] for t in found(tmp_path)["trials"]}
    # rows of steps 8, 10 and 12 were written, not each of the last five
    rows = {lr: sum(5 + 3 * 34 * (1 - 6 * lr) ** (2 * s) for s in (7, 9, 11)) / 3 for lr in losses}
    assert losses == pytest.approx(rows, rel=1e-12)
    tried, chosen = by_the_thesis(rows | {n / 10: mean_of_the_last(n / 10) for n in range(2, 10)}, range(3))
    assert (list(losses), found(tmp_path)["chosen"]) == (tried, chosen)
    assert chosen == 0.2


@pytest.mark.slow
def test_the_same_search_again_repeats_nothing_and_a_wider_one_only_adds(search, tmp_path):
    prepare(tmp_path, a={1.0: 1.0, 0.1: 2.0, 0.01: 3.0, 0.2: 1.5, 0.3: "diverges", 2.0: 3.0})
    narrow = ("hydra.sweeper.exponents=[1,2]", "hydra.sweeper.factors=[2]")
    first = search(*narrow)
    assert first.code == 0
    assert (found(tmp_path)["chosen"], found(tmp_path)["at_boundary"]) == (0.2, True)
    message = "warning: 0.2 is the highest value that was tried, and a better one may lie beyond it; extend the grid"
    assert message in first.out
    assert "'hydra.sweeper.exponents=[0,1,2]'" in first.out
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "sweep").glob("function*/*")}
    assert search(*narrow).code == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "sweep").glob("function*/*")} == before
    assert search("hydra.sweeper.exponents=[0,1,2]", "hydra.sweeper.factors=[2]").code == 0
    assert (found(tmp_path)["chosen"], found(tmp_path)["at_boundary"]) == (1.0, False)
    assert starts(tmp_path) == {f"a:{rate}:0.0": 1 for rate in (0.1, 0.01, 0.2, 1.0, 2.0)}


@pytest.mark.slow
def test_where_every_trial_is_lost_nothing_is_chosen(search, tmp_path):
    prepare(tmp_path, a={0.1: "diverges", 0.01: "diverges"})
    result = search("hydra.sweeper.exponents=[1,2]")
    assert result.code == 1
    assert "2 jobs: 2 diverged" in result.out
    assert "no optimizer.lr was found: every trial diverged, failed or was killed" in result.out
    content = found(tmp_path)
    assert (content["chosen"], content["at_boundary"]) == (None, False)
    assert [t["loss"] for t in content["trials"]] == [None, None]


@pytest.mark.slow
def test_each_combination_has_a_search_of_its_own_and_seeds_are_averaged(search, tmp_path):
    one, two = {0.1: 4.0, 0.2: 2.0}, {0.1: 1.0, 0.2: 1.0}
    prepare(tmp_path, a=one, b=two)
    grid = ("hydra.sweeper.exponents=[1]", "hydra.sweeper.factors=[2]")
    # beside the table's value there is the seed
    result = search(*grid, "+optimizer.kind=a,b", "seed=0,1", "+optimizer.shift=${seed}")
    assert result.code == 0
    for kind, table, chosen in (("a", one, 0.2), ("b", two, 0.1)):
        content = found(tmp_path, f"lr_heuristic,+optimizer.kind={kind}")
        assert {t["lr"]: t["loss"] for t in content["trials"]} == {r: loss + 0.5 for r, loss in table.items()}
        assert [len(t["runs"]) for t in content["trials"]] == [2] * len(table)
        assert content["chosen"] == chosen
        assert f"chosen with +optimizer.kind={kind}: optimizer.lr={chosen}" in result.out
    assert set(starts(tmp_path).values()) == {1}
    assert len(read_job_table(tmp_path / "sweep")) == 2 * (len(one) + len(two))


def workers_of(pid: int) -> list[int]:
    """The processes that a process began, but for Python's tracker of resources, which ends by itself."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("basic", signal.SIGKILL),
        ("basic", signal.SIGINT),
        ("joblib", signal.SIGKILL),
        ("joblib", signal.SIGINT),
        ("joblib", signal.SIGHUP),
    ],
)
def test_a_search_that_is_cut_short_goes_on(search, tmp_path, launcher, number):
    table = {0.1: 4.0, 0.01: 3.0, 0.001: 4.0, 0.02: 2.0, 0.03: 2.0}
    prepare(tmp_path, a=table)
    grid = ("hydra.sweeper.exponents=[1,2,3]", "+optimizer.pause=0.1")
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    pid = start_fork(*SEARCH, *grid, *parallel, folder=tmp_path)
    until = time.monotonic() + 120
    while not (tmp_path / "starts").exists() or len(starts(tmp_path)) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    states = Counter(e.state for e in read_job_table(tmp_path / "sweep"))
    assert states["running"] + states["done"] + states["missing"] == 3
    workers = workers_of(pid) if number == signal.SIGKILL else []
    for process in (pid, *workers):  # joblib's would wait for work for some minutes
        os.kill(process, number)
    assert exit_code(pid) == (-number if number == signal.SIGKILL else 128 + number)
    assert not (tmp_path / "sweep/lr_heuristic.json").exists()
    while any(e.state == "running" for e in read_job_table(tmp_path / "sweep")):
        assert time.monotonic() < until
        time.sleep(0.05)
    ended = {e.overrides[-1].partition("=")[2] for e in read_job_table(tmp_path / "sweep") if e.state == "done"}
    assert len(ended) < 3
    before = starts(tmp_path)
    assert search(*grid).code == 0
    assert found(tmp_path)["chosen"] == by_the_thesis(table, range(1, 4))[1] == 0.02
    assert [e.state for e in read_job_table(tmp_path / "sweep")] == ["done"] * 5
    again = starts(tmp_path) - before
    assert set(again) == {f"a:{rate}:0.0" for rate in map(repr, table) if rate not in ended}
    assert set(again.values()) == {1}


@pytest.mark.slow
def test_two_searches_at_a_time_share_the_work(tmp_path):
    table = {0.1: 4.0, 0.01: 3.0, 0.001: 4.0, 0.02: 2.0, 0.03: 2.0}
    prepare(tmp_path, a=table)
    command = (*SEARCH, "hydra.sweeper.exponents=[1,2,3]", "+optimizer.pause=0.1")
    both = [start_fork(*command, folder=tmp_path) for _ in range(2)]
    assert [exit_code(pid) for pid in both] == [0, 0]
    assert (tmp_path / "output").read_text().count("chosen: optimizer.lr=0.02") == 2
    assert starts(tmp_path) == {f"a:{rate}:0.0": 1 for rate in table}


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("hydra.sweeper.parameter=optimizer.lrr", "optimizer=sgd has no such key; did you mean optimizer.lr?"),
        ("optimizer=sgd,adaptive_nesterov", "optimizer=adaptive_nesterov has no such key"),
        ("hydra.sweeper.parameter=nothing", "hydra.sweeper.parameter=nothing: there is no such key"),
        ("hydra.sweeper.parameter=seed", "seed=0.1: must be an integer"),
        ("optimizer.lr=0.1", "optimizer.lr=0.1: is what the sweeper searches; leave it out"),
        ("hydra.sweeper.exponents=[]", "hydra.sweeper.exponents=[]: must not be empty"),
        ("hydra.sweeper.exponents=[0.5]", "hydra.sweeper.exponents=[0.5]: must be a list of integer"),
        ("hydra.sweeper.factors=[1]", "hydra.sweeper.factors=[1]: must be a list of number > 1"),
        ("hydra.sweeper.steps=0", "hydra.sweeper.steps=0: must be an integer >= 1"),
        ("hydra.sweeper.steps=20", "hydra.sweeper.over_last=50: must be at most the 20steps of a trial"),
        ("duration=49steps", "hydra.sweeper.over_last=50: must be at most the 49steps of a trial"),
        (
            "hydra.sweeper.stepz=20",
            "hydra.sweeper.stepz: Hydra has no such key; did you mean hydra.sweeper.steps?",
        ),
        ("optimizer.momentum=-1", "optimizer.momentum=-1: must be a number in [0, 1)"),
        ("run.name=a", "two jobs of the sweep would share the folder a"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(typed, message):
    assert message in sweep_refusal("hydra/sweeper=lr_heuristic", typed)


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt("-m", "hydra/sweeper=lr_heuristic", "hydra.sweeper.steps=0")
    assert result.code == 2
    assert result.err == "trainopt: hydra.sweeper.steps=0: must be an integer >= 1\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ("-m", "hydra/sweeper=lr_heuristik"),
            "hydra/sweeper=lr_heuristik: no such option; did you mean lr_heuristic?",
        ),
        (("-m", "hydra/launcher=joblb", "seed=0,1"), "hydra/launcher=joblb: no such option; did you mean joblib?"),
        (("hydra/sweeper=lr_heuristic",), "hydra/sweeper=lr_heuristic: is for sweeps; type trainopt -m …"),
    ],
)
def test_a_mistyped_sweeper_is_named(trainopt, tmp_path, typed, message):
    result = trainopt(*typed)
    assert result.code == 2
    assert result.err.startswith(f"trainopt: {message}")
    assert not list(tmp_path.iterdir())


def test_help_shows_the_keys_of_the_sweeper(trainopt):
    assert "  exponents: [1, 2, 3, 4, 5, 6, 7] # i in" in trainopt("hydra/sweeper=lr_heuristic", "--help").out


def test_a_search_has_a_folder_apart_from_that_of_the_plain_sweep():
    typed = ["model=function", "data=none", "optimizer=sgd", "duration=2steps", "seed=0"]
    plain = "outputs/sweeps/data=none,duration=2steps,model=function,optimizer=sgd,seed=0"
    with Composer().composed(typed) as config:
        assert config.hydra.sweep.dir == plain
    with Composer().composed(["hydra/sweeper=lr_heuristic", *typed]) as config:
        assert config.hydra.sweep.dir == plain.replace("sweeps/", "sweeps/lr_heuristic,")
