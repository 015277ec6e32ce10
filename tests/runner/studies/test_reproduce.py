"""`trainopt reproduce`: the plan, what is missing is run and nothing twice, and errors are one line each."""

import shutil
import subprocess
import sys

import pytest

from helpers import ROOT
from helpers.studies import OURS, RUN, states, times
from trainopt.runner.config.options import CONF, Vocabulary
from trainopt.runner.search.compose import Composer
from trainopt.runner.studies.plan import StudyPlan
from trainopt.runner.studies.schema import read_study
from trainopt.runner.system.errors import UserError

pytestmark = pytest.mark.usefixtures("no_report", "no_data")


def one(*typed):
    """Sweeps with one at smoke."""
    return {"sweeps": {"one": {"typed": {"smoke": [*RUN, "duration=2steps", *typed]}}}}


def plan(tmp_path, scale="smoke"):
    """The plan of the study tiny."""
    tiny = read_study(tmp_path / "mine/study/tiny.yaml")
    return StudyPlan(tiny, scale, tmp_path / "out", Composer(), ["hydra/launcher=basic"])


def row(out, name):
    """The cells of a line of the plan."""
    (line,) = [line for line in out.splitlines() if line.startswith(f"{name}  ")]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_plan_says_what_is_run_and_what_it_costs_and_writes_nothing(trainopt, study, tmp_path):
    study()
    before = times(tmp_path)
    result = trainopt("reproduce", "tiny", "--config-dir", "mine", "--dry-run")
    assert result.code == 0
    assert "tiny: Tiny (nobody, 2020)" in result.out
    assert "smoke: an MLP on digits; about 2 min; in outputs/studies/tiny/smoke" in result.out
    assert row(result.out, "first") == ["first", "1", "0", "4 steps", "4 steps"]
    assert row(result.out, "second") == ["second", "2", "0", "0.5 epochs", "1 epoch"]
    assert row(result.out, "total") == ["total", "3", "0", "4 steps, 1 epoch"]
    assert "not run: other, behind: not part of scale smoke" in result.out
    assert times(tmp_path) == before
    assert not (tmp_path / "outputs").exists()


def test_the_plan_has_the_sweeps_that_are_named_and_those_that_they_need(trainopt, study):
    study()
    command = ("reproduce", "tiny", *OURS, "--dry-run", "--only")
    assert row(trainopt(*command, "sec*").out, "total")[1] == "3"  # the second needs the first
    result = trainopt(*command, "first")
    assert row(result.out, "total")[:3] == ["total", "1", "0"]
    assert "not run: second: left out by --only" in result.out
    assert "about 2 min" not in result.out


@pytest.mark.slow
def test_sweeps_that_are_left_out_are_not_run_and_keep_their_results(trainopt, study, tmp_path):
    study()
    command = ("reproduce", "tiny", *OURS)
    apart = ["not_run", "not part of scale smoke"]
    others = {"other": apart, "behind": apart}
    assert trainopt(*command, "--only", "first").code == 0
    assert states(tmp_path) == {"first": ["done", None], "second": ["not_run", "left out by --only"], **others}
    assert trainopt(*command).code == 0
    before = times(tmp_path / "outputs/studies/tiny/smoke/sweeps")
    assert "tiny: nothing is left to run" in trainopt(*command, "--only", "first").out
    assert states(tmp_path) == {"first": ["done", None], "second": ["done", None], **others}
    assert times(tmp_path / "outputs/studies/tiny/smoke/sweeps") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tiny", "--only", "firs"), "--only firs: no such sweep at scale smoke; did you mean first?"),
        (("tiny", "--only", "x"), "--only x: no such sweep at scale smoke; there are first, second"),
        (("tiny", "--only", "oth*"), "--only oth*: no such sweep at scale smoke, only at small"),
        (("tiny", "again", "--only", "first"), "--only first: names sweeps of one study; give one study"),
    ],
)
def test_sweeps_that_do_not_exist_cannot_be_run_alone(trainopt, study, words, message):
    study()
    study("again")
    result = trainopt("reproduce", *words, *OURS, "--dry-run")
    assert result.code == 2
    assert message in result.err


@pytest.mark.slow
def test_what_is_missing_is_run_and_nothing_twice(trainopt, study, tmp_path):
    study()
    command = ("reproduce", "tiny", *OURS)
    first = trainopt(*command)
    assert first.code == 0, first.err
    assert "tiny, first: trainopt --config-dir mine -m model=mlp" in first.out
    assert first.out.rstrip().endswith("report of tiny at smoke")
    apart = ["not_run", "not part of scale smoke"]
    assert states(tmp_path) == {"first": ["done", None], "second": ["done", None], "other": apart, "behind": apart}
    sweeps = tmp_path / "outputs/studies/tiny/smoke/sweeps"
    assert len(list(sweeps.glob("second/*/summary.json"))) == 2
    before = times(sweeps)
    again = trainopt(*command)
    assert again.code == 0
    assert "tiny: nothing is left to run" in again.out
    assert row(again.out, "total")[:3] == ["total", "3", "3"]
    assert times(sweeps) == before

    lost = next(sweeps.glob("second/*seed=1"))
    shutil.rmtree(lost)
    assert row(trainopt(*command, "--dry-run").out, "second")[:3] == ["second", "2", "1"]
    assert trainopt(*command).code == 0
    assert before.keys() == times(sweeps).keys()
    others = [p for folder in sweeps.glob("*/*") if folder.is_dir() and folder != lost for p in folder.rglob("*")]
    assert all(times(sweeps)[p] == before[p] for p in others if p.is_file())


@pytest.mark.slow
def test_sweeps_whose_data_is_missing_are_not_run_until_it_is_there(trainopt, study, tmp_path, npz):
    study()
    command = ("reproduce", "tiny", *OURS, "--scale", "small")
    result = trainopt(*command)
    assert result.code == 0
    found = states(tmp_path, scale="small")
    reason = found["other"][1]
    assert found["other"][0] == found["behind"][0] == "not_run"
    assert "mnist: neither mnist.npz nor torchvision's files (MNIST/raw/train" in reason
    assert str(tmp_path / "data") in reason
    assert "trainopt data=mnist data.download=true" in reason
    assert found["behind"][1] == f"needs other, which is not run: {reason}"
    assert reason in result.out
    assert not (tmp_path / "outputs/studies/tiny/small/sweeps").exists()

    assert plan(tmp_path, "small").sweeps["other"].missing_files == [reason]
    npz("data/mnist.npz", shape=(28, 28, 1))
    assert all(not sweep.missing_files for sweep in plan(tmp_path, "small").sweeps.values())


def test_files_below_the_data_are_looked_for(study, tmp_path, npz):
    scales = {"smoke": {"about": "", "files": ["for_all.txt"]}}
    study(scales=scales, **one("data=arrays", "data.path={data}/mine.npz"))
    mine, for_all = plan(tmp_path).sweeps["one"].missing_files
    assert f"{tmp_path}/data/mine.npz (data.path): is not there; Your own data" in mine
    assert f"{tmp_path}/data/for_all.txt (scales.smoke.files): is not there; it has to be put there" in for_all
    npz("data/mine.npz")
    (tmp_path / "data/for_all.txt").touch()
    assert plan(tmp_path).sweeps["one"].missing_files == []


MISTAKES = [
    ({"tittle": "x"}, "tiny.yaml: tittle: unknown key; did you mean title?"),
    (one("optimizer.lrr=1"), "tiny.yaml: sweeps.one.typed.smoke: optimizer.lrr: unknown key; did you mean"),
    (one("optimizer=sgdd"), "optimizer=sgdd: no such option; did you mean sgd?"),
    (one("optimizer.lr=0.1,-1"), "sweeps.one.typed.smoke: optimizer.lr=-1: must be"),
    (one("--multirun"), "--multirun: must be KEY=VALUE"),
    (one("hydra.sweep.dir=x"), "hydra.sweep.dir=x: cannot be set by a study"),
    (one("hydra/launcher=basic"), "hydra/launcher=basic: cannot be set by a study"),
    (
        {"scales": {"smoke": {"about": "", "data": ["mnits"]}}, **one()},
        "scales.smoke.data: mnits: no such data set; did you mean mnist?",
    ),
]


@pytest.mark.parametrize(("parts", "said"), MISTAKES)
def test_a_mistake_in_a_study_costs_one_line(study, tmp_path, parts, said):
    study(**parts)
    with pytest.raises(UserError) as refused:
        plan(tmp_path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_mistake_in_one_study_costs_no_run_of_another(trainopt, study, tmp_path):
    study("right", **one())
    study(**one("optimizer.lrr=1"))
    result = trainopt("reproduce", "right", "tiny", *OURS)
    assert result.code == 2
    assert "tiny.yaml: sweeps.one.typed.smoke: optimizer.lrr: unknown key" in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["tinny"], "tinny: no such study; did you mean tiny? there are"),
        (["tiny", "--scale", "smal"], "--scale smal: no such scale; did you mean small? there are smoke, small"),
        (["tiny", "--scale", "paper"], "tiny: has no scale paper; there are smoke, small"),
        (["tiny", "--launcher", "joblibb"], "hydra/launcher=joblibb: no such option; did you mean joblib?"),
        (["tiny", "hydra.launcher.n_job=2"], "hydra.launcher.n_job"),
        (["tiny", "seed=3"], "seed=3: a study sets what is run"),
        ([], "which study?"),
    ],
)
def test_a_mistake_in_the_command_costs_one_line(trainopt, study, typed, said):
    study()
    result = trainopt("reproduce", *typed, "--config-dir", "mine")
    assert result.code == 2
    assert said in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.slow
def test_a_study_that_fails_does_not_stop_the_next(trainopt, study, tmp_path):
    sweeps = {
        "bad": {"typed": {"smoke": [*RUN, "duration=2steps", "seed=0,1", "optimizer.nesterov=true"]}},
        "behind": {"after": ["bad"], "typed": {"smoke": [*RUN, "duration=2steps"]}},
        "apart": {"typed": {"smoke": [*RUN, "duration=2steps"]}},
    }
    sweeps["bad"]["typed"]["smoke"].append("optimizer.momentum=0")
    study("bad", sweeps=sweeps)
    study("good", **one("optimizer.lr=1e30"))  # diverges: an outcome
    result = trainopt("reproduce", "bad", "good", *OURS)
    assert result.code == 1
    found = states(tmp_path, "bad")
    assert found["bad"][0] == "incomplete"
    assert found["bad"][1].startswith("of 2 runs 2 failed (")
    assert "Nesterov momentum requires a momentum" in found["bad"][1]
    assert found["behind"] == ["not_run", f"needs bad, which is incomplete: {found['bad'][1]}"]
    assert found["apart"] == ["done", None]
    assert states(tmp_path, "good") == {"one": ["done", None]}
    assert "1 diverged" in result.out
    assert "report of bad at smoke" in result.out


def test_a_report_that_fails_is_said(trainopt, study, monkeypatch):
    def write(*_):
        raise ArithmeticError("no further")

    monkeypatch.setattr(sys.modules["trainopt.runner.studies.report"], "write_study_report", write)
    study()
    result = trainopt("reproduce", "tiny", *OURS, "--scale", "small")  # runs nothing without its data
    assert result.code == 1
    assert "tiny: no report: ArithmeticError: no further" in result.err


@pytest.mark.slow
def test_a_search_is_run_to_its_end_and_not_again(trainopt, study, tmp_path):
    search = ["hydra/sweeper=lr_heuristic", "hydra.sweeper.exponents=[1]", "hydra.sweeper.factors=[2]"]
    study(**one(*search, "hydra.sweeper.over_last=1"))
    command = ("reproduce", "tiny", *OURS)
    assert row(trainopt(*command, "--dry-run").out, "one") == ["one", "1+", "0", "2 steps", "2 steps+"]
    assert trainopt(*command).code == 0
    sweeps = tmp_path / "outputs/studies/tiny/smoke/sweeps"
    before = times(sweeps)
    assert len(list(sweeps.glob("one/*/summary.json"))) == 2
    assert "nothing is left to run" in trainopt(*command).out
    assert times(sweeps) == before
    shutil.rmtree(next(sweeps.glob("one/*optimizer.lr=0.2")))
    assert trainopt(*command).code == 0
    assert times(sweeps).keys() == before.keys()


@pytest.mark.slow
def test_runs_of_another_configuration_are_left_alone_and_named(trainopt, study, tmp_path):
    study(**one())
    option = tmp_path / "mine/optimizer/slow.yaml"
    option.parent.mkdir()
    option.write_text("_target_: torch.optim.SGD\nlr: 0.001\n")
    study(**one("optimizer=slow"))
    command = ("reproduce", "tiny", *OURS)
    assert trainopt(*command).code == 0
    before = times(tmp_path / "outputs/studies/tiny/smoke/sweeps")
    option.write_text("_target_: torch.optim.SGD\nlr: 0.002\n")
    assert trainopt(*command).code == 1
    state, reason = states(tmp_path)["one"]
    assert state == "incomplete"
    assert reason.startswith("of 1 run 1 outdated; outdated: the folder mlp-digits-slow")
    assert times(tmp_path / "outputs/studies/tiny/smoke/sweeps") == before


def test_studies_are_no_options(trainopt, study):
    study()
    assert "study" not in Vocabulary([CONF]).groups
    result = trainopt("--config-dir", "mine", "study=tiny")
    assert result.code == 2
    assert "study: unknown key" in result.err
    assert "\n  study: " not in trainopt("--config-dir", "mine", "--help").out


def test_the_makefile_has_a_target_for_each_study():
    def said(*words):
        done = subprocess.run(
            ["make", "--no-print-directory", "-n", "-o", ".venv/ready", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    assert said("reproduce") == ".venv/bin/trainopt reproduce all --scale smoke"
    assert said("reproduce-zorca2020", "SCALE=small") == ".venv/bin/trainopt reproduce zorca2020 --scale small"
