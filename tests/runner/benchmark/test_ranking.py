"""From records of trials to times, targets and scores, by hand."""

import json
from math import inf, nan

import numpy as np
import pytest

from helpers.fixtures import made_up_sweep
from helpers.pages import faults, violations
from trainopt.runner.benchmark.plan import Search
from trainopt.runner.benchmark.ranking import rank, ranking_as_json
from trainopt.runner.benchmark.report import conclusion, ranking_table, times_table, write_report
from trainopt.runner.benchmark.results import Results, TrialResult, add_records, find_target, read_trials
from trainopt.runner.benchmark.submissions import Submission
from trainopt.runner.benchmark.suite import Effort, Suite, Workload
from trainopt.runner.comparison.tables.layout import table_width
from trainopt.runner.reporting.figure_style import figure_style
from trainopt.runner.reporting.tables import LAYOUTS
from trainopt.runner.system.errors import UserError

UP = Workload("up", [], "validation_top1", "maximize", 90.0)
DOWN = Workload("down", [], "validation_loss", "minimize", 0.5)


def records(*values, name="top1"):
    """Evaluations every 10 steps; a step costs 3 gradients and 0.5 seconds. And records that are none."""
    rows = [{"kind": "train", "step": 7, "total": 0.1}, {"kind": "test", "step": 0, name: 100.0}]
    for i, value in enumerate(values):
        costs = {"step": 10 * i, "gradient_equivalents": 30 * i, "train_seconds": 5.0 * i}
        rows.append({"kind": "validation", **costs, name: value})
    return rows


def result(rows, workload):
    trial = TrialResult("run", "done", [], dict.fromkeys(("gradients", "steps", "seconds"), inf))
    add_records(trial, rows, workload)
    return trial


def test_a_killed_trial_may_end_with_an_incomplete_record_and_a_finished_one_may_not(tmp_path):
    sweep = made_up_sweep(tmp_path / "sweep", [{"status": "finished"}, {"seed": 1, "status": "running"}])
    search = Search("w", Submission("sgd", ()), 0, sweep, trials=2, overrides=[], options=[])
    finished, killed = sorted(sweep.glob("*/metrics.jsonl"))
    with open(killed, "a") as file:
        file.write('{"kind": "te')
    workload = Workload("w", [], "test_top1", "maximize")
    assert [(trial.state, trial.steps) for trial in read_trials(search, workload)] == [
        ("done", 40),
        ("interrupted", 40),
    ]
    finished.write_bytes(killed.read_bytes())
    with pytest.raises(UserError, match=r"seed=0/metrics.jsonl: is damaged; remove the folder"):
        read_trials(search, workload)


def test_the_cost_is_that_of_the_first_evaluation_at_the_target():
    assert result(records(10.0, 90.0, 80.0, 95.0), UP).cost == {"gradients": 30.0, "steps": 10.0, "seconds": 5.0}
    assert result(records(1.0, None, nan, 0.5, name="loss"), DOWN).cost["steps"] == 30
    assert result(records(0.5, name="loss"), DOWN).cost["steps"] == 0
    assert result(records(10.0, 89.9), UP).cost["steps"] == inf
    assert result([], UP).cost["steps"] == inf


def test_an_unknown_metric_is_said():
    with pytest.raises(UserError, match="validation_top1: the runs have no such metric; their validation records have"):
        result(records(0.5, name="loss"), UP)


class MadeUp:
    """The plan of a benchmark that has been run: by submission and workload, the values of trials of each study."""

    ruleset, trials, common, typed = "external", 2, [], "trainopt benchmark mine"

    def __init__(self, values, folder, target=90.0):
        names = list(next(iter(values.values())))
        workloads = {name: Workload(name, [], "validation_top1", "maximize", target) for name in names}
        studies = len(next(iter(next(iter(values.values())).values())))
        self.suite = Suite("mine", "Made up", Effort(2, studies), Effort(1, 1), [], workloads, targets="by hand")
        self.submissions = [Submission(name, (f"optimizer={name}",), f"The {name}") for name in values]
        self.effort, self.folder = Effort(2, studies), folder
        self.searches = [
            Search(w, s, k, folder / f"{w}-{s.name}-{k}", 2, [], [])
            for w in workloads
            for s in self.submissions
            for k in range(studies)
        ]
        self.results = Results(
            self,
            {
                (w, name, k): [result(records(*trial), workloads[w]) for trial in trials]
                for name, by_workload in values.items()
                for w, of_studies in by_workload.items()
                for k, trials in enumerate(of_studies)
            },
        )


@pytest.fixture
def made_up(tmp_path):
    never = [1.0, 2.0, 3.0]
    return MadeUp(
        {
            "a": {"x": [[never, [0, 0, 90]], [[0, 95], never], [[0, 91], [0, 0, 90]]], "y": [[never, never]] * 3},
            "b": {"x": [[[0, 0, 0, 92], never]] * 3, "y": [[[0, 99], never], [never] * 2, [[0, 0, 99], never]]},
        },
        tmp_path,
    ).results


def test_the_best_trial_of_a_study_and_the_median_over_studies(made_up):
    assert made_up.times("steps").tolist() == [[[20, 10, 10], [inf] * 3], [[30] * 3, [10, inf, 20]]]
    ranking = rank(made_up, "steps")
    assert ranking.medians["steps"].tolist() == [[10, inf], [30, 20]]
    # a: r = 1 and a miss; b: r = 3 and 1
    assert {name: score.score for name, score in ranking.scores["steps"].items()} == pytest.approx(
        {"a": 1 / 2, "b": (1 / 3 + 1) / 2}
    )
    assert ranking.order == ["b", "a"]
    assert [ranking.scores["gradients"][name].score for name in "ab"] == pytest.approx([1 / 2, 2 / 3])
    assert [ranking.scores["steps"][name].reached for name in "ab"] == [1, 2]
    # b is never faster than a on x; on y in 2 of 3 studies, and both miss in the third
    assert ranking.scores["steps"]["b"].improvement == pytest.approx((0 + 2 / 3 + 1 / 6) / 2)
    assert 0 <= ranking.scores["steps"]["a"].low <= 1 / 2 <= ranking.scores["steps"]["a"].high <= 1


def test_the_files(made_up):
    ranking = rank(made_up, "steps")
    run = made_up.plan.searches[0].folder / "run"
    run.mkdir(parents=True)
    (run / "summary.json").write_text('{"training_images": 1150, "validation_images": 287}')
    for name in write_report(ranking):
        assert (made_up.plan.folder / name).exists()
    content = json.loads((made_up.plan.folder / "benchmark.json").read_text())
    assert content["ranking"] == ["b", "a"]
    assert content["labels"] == {"a": "The a", "b": "The b"}
    assert content["times"]["steps"]["b"]["y"] == [10, None, 20]
    assert len(content["taus"]) == len(content["scores"]["steps"]["a"]["profile"])
    assert ranking_table(ranking)[1][0][:2] == ["The b", "0.667"]
    assert times_table(ranking)[0] == ["steps to the target", "The b", "The a"]
    assert times_table(ranking)[1] == [["x", "30", "10"], ["y", "20", "missed"]]
    page = (made_up.plan.folder / "report.html").read_text()
    assert "over τ from 1 to 4 on a linear axis, divided by 3." in page
    assert "External tuning: a study has 2 trials" in page
    text = (made_up.plan.folder / "table.md").read_text()
    assert text.startswith("## Ranking\n\n| submission | score (steps) | 95 % interval of the score |")
    assert "a study has 2 trials, points of the submission's search space" in text
    assert "Made up" in page
    assert "The b has the highest score, 0.667 in steps, before The a" in page
    assert 'alt="Fraction of workloads within τ times the fastest: The b; The a"' in page
    assert "x; 1,150 training and 287 validation samples" in page
    assert "trainopt benchmark mine" in page
    assert faults(page) == []
    assert ranking_as_json(ranking)["unfinished"] == []


@pytest.mark.parametrize(("style", "width"), [("notebook", 5.5), ("paper", 3.3)])
def test_the_tables_for_a_paper_fit_its_column_or_span_the_page(made_up, style, width):
    ranking = rank(made_up, "steps")
    with figure_style(style):
        write_report(ranking)
    first, second = (made_up.plan.folder / "table.tex").read_text().split("\n\n")
    assert (
        r"\caption{Ranking. The score is AlgoPerf's: the integral of the performance profile over $\tau$ from" in first
    )
    name = made_up.plan.folder.name.replace("_", "-")
    assert rf"\label{{tab:{name}-ranking}}" in first
    assert rf"\label{{tab:{name}-times}}" in second
    assert r"95 \% interval\\of the score" in first
    assert (r"\begin{table*}" in first) is (table_width(*ranking_table(ranking), LAYOUTS[-1]) > width)
    assert r"\caption{Cost to the target. External tuning: a study has 2 trials" in second
    assert r"\begin{table}" in second
    assert r"x & 30 & 10 \\" in second


def test_a_workload_that_refuses_a_submission_is_a_miss_and_no_unfinished_work(made_up):
    for study in range(3):
        for trial in made_up.study("y", "a", study):
            trial.state, trial.refusal = "failed", "there are no hidden weights"
    crash = made_up.study("x", "b", 0)[0]
    crash.state, crash.error = "failed", "LinAlgError: svd"
    made_up.study("x", "b", 1)[0].state, made_up.study("x", "b", 1)[0].refusal = "failed", "of one trial only"
    ranking = rank(made_up, "steps")
    assert ranking.medians["steps"][0, 1] == inf
    assert ranking.refusals == ["y, The a: there are no hidden weights"]
    assert ranking.unfinished == []
    number = len(made_up.study("x", "b", 0))
    assert ranking.failures == [
        f"x, The b, study 0: 1 of {number} trials: LinAlgError: svd",
        f"x, The b, study 1: 1 of {number} trials: of one trial only",
    ]
    assert made_up.refused_everywhere() == []
    write_report(ranking)
    page = (made_up.plan.folder / "report.html").read_text()
    assert "a miss: y, The a: there are no hidden" in page
    assert "a miss: x, The b, study 0: 1 of" in page
    for trial in made_up.study("x", "b", 2):
        trial.state = "failed"
    assert [line.partition(":")[0] for line in rank(made_up, "steps").unfinished] == ["x, The b, study 2"]
    for study in range(3):
        for trial in made_up.study("x", "a", study):
            trial.state, trial.refusal = "failed", "nor here"
    assert made_up.refused_everywhere() == ["The a"]


def test_a_target_that_nobody_reached_is_named(tmp_path):
    never, soon = [1.0, 2.0], [1.0, 95.0]
    values = {name: {"x": [[soon]], "y": [[never]], "z": [[never]]} for name in "ab"}
    text = conclusion(rank(MadeUp(values, tmp_path).results, "steps"))
    assert text.endswith("No submission reached the target of y, z: this lowers every score.")
    values = {name: {"x": [[never]]} for name in "ab"}
    text = conclusion(rank(MadeUp(values, tmp_path).results, "steps"))
    assert text == "No submission reached the target of any workload."


@pytest.mark.slow
def test_the_page_violates_no_rule_of_axe(made_up, tmp_path):
    write_report(rank(made_up, "steps"))
    assert violations(made_up.plan.folder / "report.html", tmp_path) == []


def test_the_rule_for_targets(tmp_path):
    # within 75 % of 40 steps: the values at 0 to 30 steps; of two trials the best; the median study and baseline
    results = MadeUp(
        {
            "a": {"x": [[[0, 1, 2, 3, 99], [0, 5, 4, 1, 1]], [[0, 0, 0, 7, 8]], [[0, 0, 6, 0, 9]]]},
            "b": {"x": [[[0, 1, 2, 6.12345, 99]], [[0, 50, 0, 0, 0]], [[0] * 5]]},
        },
        tmp_path,
    ).results
    assert find_target(results, "x") == 6.123
    assert np.isfinite(results.times("steps")).sum() == 2


def test_a_target_is_what_a_quarter_of_the_trials_reach(tmp_path):
    trials = [[0, value, 0, 0, 99] for value in (1, 8, 3, 7, 5, 6, 4, 2)]
    results = MadeUp({"a": {"x": [trials, trials[:4], trials[:5]]}}, tmp_path).results
    # the second of eight trials (7), the first of four (8), the second of five (7); the median study
    assert find_target(results, "x") == 7


def test_runs_that_should_not_be_compared_are_named(made_up):
    def write(number, digest="a", checksum="1", commit="abc", earlier=()):
        run = made_up.plan.searches[number].folder / "run"
        run.mkdir(parents=True, exist_ok=True)
        code = [{"files": {"mine.py": digest * 8}}]
        content = {"code": code, "data_checksum": {"value": checksum}, "commit": commit, "earlier": earlier}
        (run / "environment.json").write_text(json.dumps(content))

    for number in range(len(made_up.plan.searches)):
        write(number, checksum=made_up.plan.searches[number].workload)
    assert rank(made_up, "steps").obstacles == []
    write(0, checksum="x", earlier=[{"data_checksum": {"value": "2"}}])
    assert rank(made_up, "steps").obstacles == ["different data in x, though its keys are the same"]
    write(0, checksum="x")
    write(1, digest="b", commit="def")
    ranking = rank(made_up, "steps")
    code, commits, data = ranking.obstacles
    assert code.startswith("different code: mine.py is aaaaaaaa in ")
    assert commits == "different commits of the program: abc, def"
    assert data == "different data in x, though its keys are the same"
    write_report(ranking)
    page = (made_up.plan.folder / "report.html").read_text()
    assert "the ranking is not sound" in page
    assert data in page
    assert faults(page) == []


def test_a_run_whose_files_do_not_agree_is_named(made_up, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    search = made_up.plan.searches[0]
    made_up_sweep(search.folder, [{"top1": 80.0}])
    (run,) = (path.parent for path in search.folder.glob("*/run.yaml"))

    def obstacles():
        made_up.trials["x", "a", 0] = read_trials(search, Workload("x", [], "test_top1", "maximize"))
        return rank(made_up, "steps").obstacles

    assert obstacles() == []
    summary = json.loads((run / "summary.json").read_text())
    summary["best_top1"]["value"] = 99.5
    (run / "summary.json").write_text(json.dumps(summary))
    values = "best_top1 top1 99.5 and 80"
    line = f"{run.relative_to(tmp_path)} has other values in summary.json than in metrics.jsonl: {values}"
    assert obstacles() == [line]
    (run / "metrics.jsonl").unlink()  # has been read
    assert rank(made_up, "steps").obstacles == [line]
    (run / "run.yaml").write_text("a: [")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"run.yaml: is damaged; remove the folder"):
        obstacles()
