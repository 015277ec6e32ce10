"""Medians, ratios and the best of several learning rates, against numbers computed by hand from synthetic runs."""

import json
import math

import pytest
from PIL import Image

from helpers.fixtures import made_up_sweep
from trainopt.runner.studies.metrics import MetricReader, MetricResult
from trainopt.runner.studies.plan import SweepState
from trainopt.runner.studies.report import read_result, write_study_report
from trainopt.runner.studies.schema import Claim, Scale, Study, StudySweep, StudyTable
from trainopt.runner.studies.text import BELOW_ANY, claim_text
from trainopt.runner.studies.verdicts import judge_claim
from trainopt.runner.system.errors import UserError

NEWTON, ADAM = {"optimizer": "newton"}, {"optimizer": "adam"}
ALL = {"sweep": ["newton", "rates", "more"], "row": {"kind": "test", "column": "top1", "reach": 80}}
BEST = {**ALL, "where": ADAM, "best": "optimizer.lr"}
GRADIENTS = {"row": {**ALL["row"], "axis": "gradients"}}


def run(choices, seed, steps, lr=0.1, **more):
    """Returns a run of 40 steps that reaches 80 % after so many; None: never."""
    curve = [90.0 if steps is not None and 10 * i >= steps else 10.0 for i in range(5)]
    return {"choices": choices, "config": {"optimizer.lr": lr}, "seed": seed, "curve": curve, **more}


@pytest.fixture
def folder(tmp_path):
    """Newton misses the level once. Of Adam's rates 0.1 is best over seeds 0 and 1, and has seeds 2 and 3 too."""
    newton = [run(NEWTON, seed, steps, hvps=5) for seed, steps in enumerate((10, 20, None))]
    rates = [
        run(ADAM, seed, steps, lr)
        for lr, both in ((0.01, (20, 40)), (0.1, (10, 30)))
        for seed, steps in enumerate(both)
    ]
    made_up_sweep(tmp_path / "newton", newton)
    made_up_sweep(tmp_path / "rates", rates)
    made_up_sweep(tmp_path / "more", [run(ADAM, seed, 40) for seed in (2, 3)])
    return tmp_path


def study_of(**parts):
    values = {
        "newton": {**ALL, "where": NEWTON},
        "newton's gradients": {**ALL, "where": NEWTON, **GRADIENTS},
        "adam": BEST,
    }
    sweeps = {name: StudySweep({"smoke": []}) for name in ("newton", "rates", "more", "later")}
    sweeps["adam_later"] = StudySweep({"smoke": ["optimizer=adam,sgd"]})
    return Study("tiny", "Tiny", "nobody", {"smoke": Scale("")}, sweeps, values, **parts)


def states_of(folder, **states):
    known = {name: SweepState(folder / name, "done") for name in ("newton", "rates", "more")}
    return {**known, "later": SweepState(folder / "later", "not_run", "no data"), **states}


def read(folder, metric, **states):
    return MetricReader(study_of(), "smoke", states_of(folder, **states), None).read(metric)


def test_a_metric_has_the_runs_of_several_sweeps(folder):
    result = read(folder, {**ALL, "where": {**ADAM, "optimizer.lr": 0.1}})
    assert (result.values, result.median) == ({0: 10.0, 1: 30.0, 2: 40.0, 3: 40.0}, 35.0)
    assert read(folder, {**ALL, "where": NEWTON}).median == 20.0


def test_the_best_rate_is_chosen_over_the_seeds_that_all_rates_have(folder):
    """Over all its seeds 0.1 has a median of 35 steps, and 0.01 of 30; over seeds 0 and 1 it has 20."""
    result = read(folder, BEST)
    assert (result.chosen, result.median) == ("lr 0.1", 35.0)


def test_the_best_rate_is_that_of_steps_on_each_axis(tmp_path):
    """The rate that is quicker in steps needs more seconds."""
    quick, cheap = run(ADAM, 0, 10, 0.1, seconds=9.0), run(ADAM, 0, 20, 0.01, seconds=1.0)
    made_up_sweep(tmp_path / "rates", [quick, cheap])
    result = read(tmp_path, {**BEST, "sweep": "rates", "row": {**ALL["row"], "axis": "seconds"}})
    assert (result.chosen, result.median) == ("lr 0.1", 9.0)


def test_no_best_rate_is_chosen_while_one_is_missing(tmp_path):
    made_up_sweep(tmp_path / "rates", [run(ADAM, 0, 10), run(ADAM, 0, 10, 0.01, status="missing")])
    state = SweepState(tmp_path / "rates", "incomplete", "1 of 2 runs is missing")
    result = read(tmp_path, {**BEST, "sweep": "rates"}, rates=state)
    assert result.values == {}
    assert result.unavailable == "1 run of the sweep rates failed or never ended"


def test_rates_without_a_common_seed_are_refused(tmp_path):
    made_up_sweep(tmp_path / "rates", [run(ADAM, 0, 10), run(ADAM, 1, 10, 0.01)])
    with pytest.raises(UserError, match="best: optimizer.lr: there is no seed that was run with each of 0.1, 0.01"):
        read(tmp_path, {**BEST, "sweep": "rates"})


def test_of_several_sweeps_one_that_has_not_run_leaves_its_methods_open(folder):
    result = read(folder, {**ALL, "sweep": ["newton", "later"], "where": ADAM})
    assert (result.values, result.unavailable) == ({}, "no data")


def test_what_a_sweep_that_has_not_run_would_add_is_not_left_out_in_silence(folder):
    result = read(folder, {**ALL, "sweep": ["newton", "later"], "where": NEWTON})
    assert (result.median, result.unavailable) == (20.0, "without the sweep later")
    other = {**ALL, "sweep": ["newton", "adam_later"], "where": NEWTON}
    result = read(folder, other, adam_later=SweepState(folder / "adam_later", "not_run", "no data"))
    assert (result.median, result.unavailable) == (20.0, None)


@pytest.mark.parametrize(
    ("over", "ratio"),
    [({"where": ADAM, "best": "optimizer.lr"}, 20 / 35), ({"where": ADAM | {"optimizer.lr": 0.01}}, 20 / 30)],
)
def test_a_ratio_is_one_of_medians(folder, over, ratio):
    assert read(folder, {**ALL, "where": NEWTON, "over": over}).values == {0: pytest.approx(ratio)}


def test_the_divisor_of_a_ratio_may_be_of_other_records(folder):
    """90 % are reached as 80 % are; the loss that Adam has after 10 steps is below 0.9 in all its runs."""
    over = {"where": ADAM, "best": "optimizer.lr", "row": {"column": "loss", "fall_to": 0.9}}
    row = {"kind": "test", "column": "loss", "fall_to": 0.4}  # 0.1 + 1 / (1 + epoch): after 30 steps
    assert read(folder, {"sweep": ALL["sweep"], "row": row, "where": NEWTON, "over": over}).values == {0: 3.0}


def test_a_median_that_misses_the_level_is_infinite(tmp_path):
    made_up_sweep(tmp_path / "newton", [run(NEWTON, seed, steps) for seed, steps in enumerate((10, None, None))])
    made_up_sweep(tmp_path / "rates", [run(ADAM, 0, 10)])
    metric = {**ALL, "sweep": ["newton", "rates"]}
    assert read(tmp_path, {**metric, "where": NEWTON}).median == math.inf
    assert read(tmp_path, {**metric, "where": NEWTON, "over": {"where": ADAM}}).values == {0: math.inf}
    assert read(tmp_path, {**metric, "where": ADAM, "over": {"where": NEWTON}}) == MetricResult(
        {0: 0.0}, is_below_any=True
    )
    both = read(tmp_path, {**metric, "where": NEWTON, "over": {"where": NEWTON}})
    assert (both.values, both.unavailable) == ({}, "both medians miss the level")


@pytest.mark.parametrize(("order", "factor"), [("at_most", 1.0), ("below", None)])
def test_a_ratio_whose_divisor_missed_the_level_is_in_words(order, factor):
    """For one seed `below` has no test; a ratio that is measured to be 0 is that number."""
    claim = Claim("a quarter", "goal", order, ["ratio", 0.25], factor=factor, deterministic=True)
    limit = MetricResult({0: 0.25}, is_constant=True)
    for ratio, text in ((MetricResult({0: 0.0}, is_below_any=True), BELOW_ANY), (MetricResult({0: 0.0}), "0")):
        judgement = judge_claim(claim, [ratio, limit])
        assert judgement.verdict == "reproduced"
        shown = claim_text(claim, [ratio, limit], judgement).results
        assert shown.startswith(f"ratio: {text}")
        assert ("0.00" in shown or "difference" in shown) is (text == "0" and order == "below")


@pytest.mark.draws
def test_the_report_has_medians_goals_and_the_figure(folder):
    costs = {"steps": {}, "gradients": {"row": {"axis": "gradients"}}}
    rows = {"Newton": {"where": NEWTON}, "Adam": {"where": ADAM, "best": "optimizer.lr"}}
    over = {"where": ADAM, "best": "optimizer.lr"}
    by_rate = {rate: {"where": ADAM | {"optimizer.lr": float(rate)}} for rate in ("0.01", "0.1")}
    tables = [
        StudyTable("to 80 %", "cost", rows, costs, ALL, digits=None, statistic="median"),
        StudyTable("of Adam's", "ratio", {"Newton": {}}, costs, {**ALL, "where": NEWTON, "over": over},
                   statistic="median"),
        StudyTable("steps", "rates", {**by_rate, "Newton": {"where": NEWTON}}, {"digits": ALL}, digits=0,
                   statistic="median", plot="learning rate"),
    ]  # fmt: skip
    names = ["newton", "adam", "newton's gradients", "adam"]
    claims = [
        Claim("fewer steps", "goal", "at_most", names[:2], factor=1.0),
        Claim("fewer gradients", "goal", "at_most", names[2:], factor=1.0),
        Claim("one of two", "goal", "at_most", names, factor=1.0, pairs=1),
        Claim("both", "goal", "at_most", names, factor=1.0),
        Claim("larger", "goal", "at_most", names, factor=1.0, scales=["paper"]),
    ]
    result = write_study_report(study_of(claims=claims, tables=tables), "smoke", folder, states_of(folder))
    text = (folder / "report.md").read_text()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "## Tables" in lines
    assert "| Newton | 20 (10 to 20); 1 of 3 missed | 40 (20 to 40); 1 of 3 missed |" in lines
    assert "| Adam, lr 0.1 | 35 (10 to 40) | 35 (10 to 40) |" in lines
    assert "| Newton | 0.57 | 1.14 |" in lines
    assert "| 0.01 | 30 (20 to 40) |" in lines
    assert "- **1. ✓ reproduced**: fewer steps (goal)." in lines
    assert "newton: 20 (10 to 20); 1 of 3 missed vs. 35 (10 to 40)" in lines
    assert "- **2. ✗ contradicted**: fewer gradients (goal)." in lines
    assert "- **3. ✓ reproduced** (in 1 of 2): one of two (goal)." in lines
    assert "- **4. ✗ contradicted** (in 1 of 2): both (goal)." in lines
    shown = "\n".join(result.lines)
    assert "2. ✗ contradicted: fewer gradients" in shown
    assert "○ not run (checked at scale paper only): claim 5\n" in shown
    assert "Ratio: of Adam's" in shown
    assert read_result(folder).claims == result.claims
    (drawn,) = folder.glob("figure-*.svg")
    words = drawn.read_text()
    assert all(f"<!-- {word} -->" in words for word in ("by learning rate", "digits", "Newton"))
    with Image.open(drawn.with_suffix(".png")) as image:
        assert image.width > 300
    assert json.loads((folder / "result.json").read_text())["tables"]
