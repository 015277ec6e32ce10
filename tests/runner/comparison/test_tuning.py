"""How methods were tuned: the best of so many trials, the tables of tuned and untuned values, and what is no run."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.fixtures import made_up_run
from trainopt.runner.comparison.read import read_comparison
from trainopt.runner.comparison.setting import last_change
from trainopt.runner.comparison.tables.details import all_runs, all_trials
from trainopt.runner.comparison.tables.noted_table import as_latex, as_markdown
from trainopt.runner.comparison.tuning.expected_best import best_after, draw_expected_best, expected_best
from trainopt.runner.comparison.tuning.tables import (
    boundary_note,
    one_search_text,
    selection_text,
    tuned_text,
    tuning_tables,
)
from trainopt.runner.system.errors import UserError

SPACES = {"sgd": "tag(log,interval(0.001,1.0))", "adam": "choice(0.001,0.01,0.1)"}
CHOSEN = {"sgd": 0.0011, "adam": 0.1}
VALUES = {"sgd": [0.9, 0.5, None, 0.7], "adam": [0.4, 0.6, 0.6, 0.3]}


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [1.0, 1.0, 4.0, 2.0], [5.0]])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_expected_best_is_that_of_all_draws_with_replacement(values, n):
    lowest = [min(draw) for draw in itertools.product(values, repeat=n)]
    mean, deviation = expected_best(np.array(values), n)
    assert mean == pytest.approx(np.mean(lowest), rel=1e-12)
    assert deviation == pytest.approx(np.std(lowest), rel=1e-7, abs=1e-7)


def tournament(folder: Path, sampler: str = "random", **planned: str) -> Path:
    """A tournament of two methods that were searched, and one of which nothing was; as its sweeper leaves it.

    `planned` are keys of all runs that are in the plan, too.
    """
    sweep, jobs = folder / "sweep", []
    for optimizer in ("sgd", "adam", "lion"):
        choices = {"optimizer": optimizer}
        searched = {"method": f"optimizer={optimizer}"}
        values = VALUES.get(optimizer, [])
        settings = {"search": sampler, "selection": "validation_loss", "duration": "2epochs", "seeds": 1}
        for number in range(len(values)):
            config = {"optimizer.lr": 0.01 * (number + 1), "optimizer.eps": 1e-8, **planned}
            made_up_run(sweep / f"{optimizer}-{number}", 0, choices=choices, config=config)
            trial = {"role": "trial", "search": settings, "trial": number, "searched": ["optimizer.lr"]}
            overrides = [f"optimizer={optimizer}", "data.validation=0.1", "seed=0"]
            jobs.append({"folder": f"{optimizer}-{number}", "overrides": overrides} | trial | searched | planned)
        for seed in (1, 2, 3):
            config = {"optimizer.lr": CHOSEN.get(optimizer, 0.3), "data.validation": 0.0, **planned}
            config |= {"optimizer.eps": 1e-8} if optimizer == "adam" else {}
            made_up_run(sweep / f"{optimizer}-final-{seed}", seed, 90.0 + seed, choices=choices, config=config)
            overrides = [f"optimizer={optimizer}", f"seed={seed}"]
            overrides += [f"optimizer.lr={CHOSEN[optimizer]}"] if values else []
            final = {"role": "final", "trials": len(values)} if values else {"role": "final"}
            jobs.append({"folder": f"{optimizer}-final-{seed}", "overrides": overrides} | final | searched | planned)
        if values:
            write_search(sweep / f"searches/optimizer={optimizer}", optimizer, sampler)
    plan = {"overrides": [], "workers": 1, "jobs": jobs}
    (sweep / "sweep.json").write_text(json.dumps(plan))
    return sweep


def write_search(folder: Path, optimizer: str, sampler: str) -> None:
    states = ["diverged" if value is None else "finished" for value in VALUES[optimizer]]
    trials: list[dict] = []
    for number, (state, value) in enumerate(zip(states, VALUES[optimizer], strict=True)):
        trial = {"state": state, "value": value, "params": {"optimizer.lr": 0.01 * (number + 1)}}
        trials.append(trial | {"runs": [f"{optimizer}-{number}"]})
    content = {"sampler": sampler, "metric": "validation_loss", "direction": "minimize", "seed": 7, "trials": trials}
    content |= {
        "space": {"optimizer.lr": SPACES[optimizer]},
    }
    best = trials[VALUES[optimizer].index(min(v for v in VALUES[optimizer] if v is not None))]
    content |= {"best": best | {"params": {"optimizer.lr": CHOSEN[optimizer]}}}
    content["at_boundary"] = ["optimizer.lr"]
    folder.mkdir(parents=True)
    (folder / "search.json").write_text(json.dumps(content))


def test_the_tables_say_what_was_searched_chosen_and_left(tmp_path):
    comparison = read_comparison([tournament(tmp_path)])
    assert comparison.obstacles == []
    tables = {table.key: table for table in tuning_tables(comparison)}
    assert tables["tuned"].rows == [
        ["SGD", "optimizer.lr", "0.0011", "0.1", "0.001 to 1.0, logarithmic", "yes"],
        ["Adam", "optimizer.lr", "0.1", "0.001", "one of 0.001, 0.01, 0.1", "yes"],
    ]
    assert "With fewer than 8 finished trials" in tables["tuned"].details
    assert [row[:-1] for row in tables["budget"].rows] == [
        ["SGD", "4", "3", "1", "0.5", "0.8"],
        ["Adam", "4", "4", "0", "0.3", "0.5"],
        ["Lion", "0", "", "", "", ""],
    ]
    for text in ("random search", "run of 2 epochs with seed 0"):
        assert text in tables["budget"].note
    for text in (
        "has seed 7",
        "hold out 10 % of the training set",
        "between the best and the median trial",
        "No trial had the default values of all searched keys",
        "higher validation loss than the best: SGD by 0.2, Adam by 0.1.",
        "Nothing of Lion",
    ):
        assert text in tables["budget"].details
    assert tables["untuned"].rows == [
        ["optimizer.lr", "tuned", "tuned", "0.3"],
        ["optimizer.eps", "", "1e-08", ""],
    ]
    worst = expected_best(np.array([0.9, 0.5, 0.9, 0.7]), 2)  # the trial that diverged counts as the highest value
    assert tables["trials"].rows[0][2] == f"{worst[0]:.4g} (SD {worst[1]:.2g})"
    assert [row[0] for row in tables["trials"].rows] == ["SGD", "Adam"]
    assert one_search_text(comparison).startswith("Each method was tuned by one search of ")
    assert selection_text(comparison).startswith("Trials were chosen by validation loss, which is not tested; ")
    assert boundary_note(comparison).startswith(
        "Chosen at an end of the searched range: learning rate of SGD; learning rate of Adam. "
    )
    assert (
        as_markdown(list(tables.values())).count("\n## ")
        == as_latex(list(tables.values()), 5.5, "tab:sweep").count("\\caption")
        == 5
    )


def test_captions_are_short_and_what_they_leave_out_is_a_comment(trainopt, tmp_path):
    tournament(tmp_path)
    assert trainopt("compare", "sweep").code == 0
    text, other = ((tmp_path / "outputs/comparison" / name).read_text() for name in ("table.tex", "table.md"))
    captions = re.findall(r"^\\caption\{(.*)\}$", text, re.MULTILINE)
    assert len(captions) == 6
    labels = re.findall(r"\\label\{(.*)\}", text)
    assert len(set(labels)) == 6
    assert labels[0] == "tab:outputs-comparison"
    assert all(label.startswith(f"{labels[0]}-") for label in labels[1:])
    assert max(map(len, captions)) < 800
    assert max(map(len, captions[1:])) < 300
    details = " ".join(re.findall(r"^% for the text: (.*)$", text, re.MULTILINE))
    for said in (
        "another search may choose other values",
        "Close is within 5",
        "The sampler of every method has seed 7",
        "The best of several trials is partly lucky",
        "near the number of trials it is biased",
    ):
        assert said in details
        assert said in other
        assert not any(said in caption for caption in captions)
    assert "A run may fall below the target again" in details


@pytest.mark.parametrize(("steps", "is_longer"), [(40, False), (20, True)])
def test_final_runs_are_longer_if_they_have_more_steps(tmp_path, steps, is_longer):
    sweep = tournament(tmp_path)
    for run in ("sgd-1", "adam-3"):  # the chosen trials: 2 epochs; final runs are 4 epochs, 40 steps
        summary = json.loads((sweep / run / "summary.json").read_text())
        (sweep / run / "summary.json").write_text(json.dumps(summary | {"steps": steps}))
    tables = {table.key: table for table in tuning_tables(read_comparison([sweep]))}
    assert ("Final runs are longer than the trial" in tables["chosen"].note) is is_longer
    assert ("best after the one duration" in tables["budget"].note) is is_longer


def test_defaults_of_an_optimizer_of_ones_own_are_those_of_its_signature(tmp_path):
    sweep = tournament(tmp_path)
    for path in (*sweep.glob("adam-*/run.yaml"), sweep / "sweep.json"):
        path.write_text(path.read_text().replace("optimizer: adam", "optimizer: mine.Sign"))
    for folder in sweep.glob("adam-*"):
        content = {"defaults": {"optimizer": {"lr": "0.2", "beta": "0.5"}}}
        (folder / "environment.json").write_text(json.dumps(content))
    tables = {table.key: table for table in tuning_tables(read_comparison([sweep]))}
    assert tables["tuned"].rows[1][1:4] == ["optimizer.lr", "0.1", "0.2"]
    assert ["optimizer.beta", "", "0.5", ""] in tables["untuned"].rows


def test_tuned_and_untuned_methods_are_named(trainopt, tmp_path):
    sweep = tournament(tmp_path)
    assert tuned_text(read_comparison([sweep])) == "Tuned: SGD, Adam; not tuned: Lion."
    finals = [str(path) for path in sorted(sweep.glob("adam-final-*"))]
    assert tuned_text(read_comparison(map(Path, finals))) == ""
    for seed in (1, 2, 3):
        made_up_run(tmp_path / "plain" / str(seed), seed, 80.0, config={"data.validation": 0.0})
    assert tuned_text(read_comparison([tmp_path / "plain"])) == ""
    line = "Tuned: Adam; not tuned: SGD (no search is known; --tuning SWEEP names one)."
    assert line in trainopt("compare", *finals, "plain").out
    for name in ("table.md", "report.html"):
        assert line in (tmp_path / "outputs/comparison" / name).read_text()
    assert line[:-1] in (tmp_path / "outputs/comparison/table.tex").read_text().replace("-{}-", "--")


def test_the_change_at_the_end_is_between_the_last_two_evaluations():
    kinds = ["test", "train", "test", "validation", "test"]
    records = pd.DataFrame({"kind": kinds, "step": [0, 1, 2, 4, 4], "loss": [9.0, 5.0, 2.0, 7.0, 1.5]})
    assert last_change(records, "test", "loss") == -0.5
    assert math.isnan(last_change(records, "validation", "loss"))
    assert math.isnan(last_change(records.iloc[:3], "test", "loss"))  # that before the first step is none


def test_the_chosen_trial_is_compared_with_the_final_runs_by_the_same_metric(tmp_path):
    sweep = tournament(tmp_path)
    (table,) = (t for t in tuning_tables(read_comparison([sweep])) if t.key == "chosen")
    assert table.title == "Chosen trials and final runs: test loss"  # final runs hold nothing out
    assert "have no validation loss" in table.note
    losses = {"sgd-1": 0.5, "adam-3": 0.3}  # the chosen trials
    for run, loss in losses.items():
        summary = json.loads((sweep / run / "summary.json").read_text())
        summary["final"]["loss"] = loss
        (sweep / run / "summary.json").write_text(json.dumps(summary))
    (table,) = (t for t in tuning_tables(read_comparison([sweep])) if t.key == "chosen")
    assert [row[:2] for row in table.rows] == [["SGD", "0.5"], ["Adam", "0.3"]]
    for run in sweep.glob("*-final-*"):
        seed = int(run.name[-1])
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        held_out = [row | {"kind": "validation", "loss": seed + 0.25} for row in rows if row["kind"] == "test"]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *held_out]))
    (table,) = (t for t in tuning_tables(read_comparison([sweep])) if t.key == "chosen")
    reach = 4.302653 / 3**0.5  # Student's t of 2 degrees of freedom; the losses are 1.25, 2.25 and 3.25
    interval = f"0 to {2.25 + reach:.4g}"  # no cross-entropy is below 0
    assert table.rows == [
        ["SGD", "0.5", f"2.250 ± {reach:.3f}", interval, "+1.75"],
        ["Adam", "0.3", f"2.250 ± {reach:.3f}", interval, "+1.95"],
    ]
    assert "above 0, the trial was too good" in table.note


def test_a_trial_at_the_default_values_is_shown_and_the_best_quarter_of_enough_trials(tmp_path):
    sweep = tournament(tmp_path)
    path = sweep / "searches/optimizer=sgd/search.json"
    content = json.loads(path.read_text())
    values = [0.5, 0.7, 0.9, 0.52, 0.8, 0.6, 0.65, 0.95]
    for number, value in enumerate(values):
        trial = {"state": "finished", "value": value, "params": {"optimizer.lr": 0.05 * number}, "runs": []}
        content["trials"][number : number + 1] = [trial]
    path.write_text(json.dumps(content))
    comparison = read_comparison([sweep])
    tables = {table.key: table for table in tuning_tables(comparison)}
    row = dict(zip(tables["tuned"].header, tables["tuned"].rows[0], strict=True))
    assert (row["default"], row["in the best quarter"]) == ("0.1", "0 to 0.15")  # of 0.5 and 0.52
    row = dict(zip(tables["budget"].header, tables["budget"].rows[0], strict=True))
    assert row["default values"] == "0.9"  # of lr=0.1
    assert "A trial of SGD (validation loss 0.9) had the default values of all searched keys, none of Adam had." in (
        tables["budget"].details
    )
    assert row["median"] == f"{np.median(values):.4g}"


def test_every_run_and_trial_stands_in_the_details(tmp_path):
    comparison = read_comparison([tournament(tmp_path)])
    assert [row[:4] for row in all_trials(comparison).rows[:3]] == [
        ["SGD", "0", "finished", "0.9"],
        ["SGD", "1", "finished", "0.5"],
        ["SGD", "2", "diverged", ""],
    ]
    assert [row[4] for row in all_trials(comparison).rows[:3]] == ["0.01", "0.02", "0.03"]
    column = all_runs(comparison).header.index("final top-1 (%)")
    assert [row[column] for row in all_runs(comparison).rows[:3]] == ["91.00", "92.00", "93.00"]


def test_trials_of_one_point_share_a_run_and_count_each(tmp_path):
    path = tournament(tmp_path) / "searches/optimizer=sgd/search.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"trials": [*content["trials"], content["trials"][0]]}))
    sgd, adam, lion = read_comparison([tmp_path / "sweep"]).methods
    assert [len(sgd.trials), sgd.trial_count, adam.trial_count, lion.trial_count] == [4, 5, 4, 0]


def test_runs_that_end_by_the_clock_have_equal_budgets_and_other_numbers_of_steps(tmp_path):
    def obstacles_of(sweep: Path) -> list[str]:
        for number, folder in enumerate(sorted(path.parent for path in sweep.glob("*/run.yaml"))):
            for path in (folder / "summary.json", folder / "metrics.jsonl"):
                path.write_text(re.sub(r'("steps?": )40\b', rf"\g<1>{40 + number}", path.read_text()))
        return read_comparison([sweep]).obstacles

    assert any("final runs did" in line for line in obstacles_of(tournament(tmp_path / "epochs")))
    timed = tournament(tmp_path / "minutes", duration="10min")
    assert obstacles_of(timed) == []
    assert read_comparison([timed]).is_timed


@pytest.mark.draws
def test_the_best_of_the_first_trials_stands_for_searches_whose_trials_depend_on_each_other(tmp_path):
    comparison = read_comparison([tournament(tmp_path, "tpe")])
    rows = next(table.rows for table in tuning_tables(comparison) if table.key == "trials")
    assert rows == [["SGD", "0.9", "0.5", "0.5"], ["Adam", "0.4", "0.4", "0.3"]]
    (figure,) = draw_expected_best(comparison, tmp_path)
    assert figure.title == "Best validation loss vs. number of trials"
    search = replace(comparison.searches["optimizer=sgd"], kind="random")
    assert best_after(search, 1, worst=0.9)[0] == pytest.approx(0.75)


def test_a_search_that_went_on_after_the_final_runs_is_left_out_with_the_reason(tmp_path):
    sweep = tournament(tmp_path)
    path = sweep / "searches/optimizer=sgd/search.json"
    path.write_text(path.read_text().replace("0.0011", "0.0022"))
    comparison = read_comparison([sweep])
    assert list(comparison.searches) == ["optimizer=adam"]
    assert ("optimizer=sgd", "its search went on after its final runs; the same command makes new ones") in (
        comparison.runs.problems
    )


def test_trials_of_a_search_are_no_runs(tmp_path):
    made_up_run(tmp_path / "runs/a", 1)
    for number in range(2):
        made_up_run(tmp_path / f"search/{number}", 0, config={"optimizer.lr": 0.1 * (number + 1)})
    jobs = [{"folder": str(n), "overrides": [], "trial": n, "searched": ["optimizer.lr"]} for n in range(2)]
    (tmp_path / "search/sweep.json").write_text(json.dumps({"overrides": [], "workers": 1, "jobs": jobs}))
    with pytest.raises(UserError, match="search: holds only trials of a search"):
        read_comparison([tmp_path / "search"])
    comparison = read_comparison([tmp_path / "runs", tmp_path / "search"])
    assert [len(method.runs) for method in comparison.methods] == [1]
    assert "2 trials of a search, and no runs to compare" in comparison.runs.problems[0][1]


def test_values_that_nobody_searched_are_noted(tmp_path):
    for optimizer, lr in (("sgd", 0.1), ("adam", 0.001)):
        made_up_run(tmp_path / optimizer, 0, choices={"optimizer": optimizer}, config={"optimizer.lr": lr})
    (table,) = tuning_tables(read_comparison([tmp_path]))
    assert (table.title, table.rows) == ("Not tuned", [["optimizer.lr", "0.001", "0.1"]])
