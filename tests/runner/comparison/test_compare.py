"""From synthetic runs, whose metrics are known, to a table and a verdict."""

import csv
import json
import math
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers.comparisons import ADAM, SGD, methods
from helpers.fixtures import made_up_run
from trainopt.runner import load_run, load_runs
from trainopt.runner.comparison.figures.curves import comparison_figures
from trainopt.runner.comparison.figures.target import CUT, draw_target_costs
from trainopt.runner.comparison.metrics import Target
from trainopt.runner.comparison.read import read_comparison
from trainopt.runner.comparison.table import show_comparison, write_csv
from trainopt.runner.comparison.tables.text import conclusion_text
from trainopt.runner.system.display import wide_console
from trainopt.runner.system.errors import UserError
from trainopt.runner.system.files import shown


def test_runs_are_read_as_frames(two):
    run = load_run(two / "adam0")
    assert run.config["optimizer.lr"] == 0.001
    assert run.choices["optimizer"] == "adam"
    assert list(run.metrics[run.metrics["kind"] == "test"]["top1"]) == [
        10.0,
        46.5,
        74.4,
        pytest.approx(83.7),
        93.0,
    ]
    runs = load_runs([two, two / "adam0"])
    assert isinstance(runs.summaries, pd.DataFrame)
    assert len(runs.summaries) == len(runs.configs) == 8
    assert set(runs.metrics["run"]) == set(runs.summaries.index)
    assert len(runs.metrics) == 8 * 9
    assert runs.problems == []


def test_what_differs_makes_the_methods_and_seeds_do_not(two):
    comparison, found = methods(two, baseline="sgd")
    assert set(found) == {"optimizer=sgd", "optimizer=adam"}  # the rate follows from the choice
    assert comparison.differing == ["choices.optimizer"]
    assert found["optimizer=sgd"].seeds == [0, 1, 2, 3]


def test_a_key_that_differs_within_a_choice_is_part_of_the_method(two):
    for seed in range(2):
        made_up_run(two / f"slow{seed}", seed, 80.0, config={"optimizer.lr": 0.01})
    comparison, found = methods(two)
    assert comparison.differing == ["choices.optimizer", "optimizer.lr"]
    assert set(found) == {
        "optimizer=adam optimizer.lr=0.001",
        "optimizer=sgd optimizer.lr=0.1",
        "optimizer=sgd optimizer.lr=0.01",
    }
    with pytest.raises(UserError, match=r"runs of optimizer=sgd differ in more than their seed: optimizer.lr"):
        methods(two, by=["optimizer"])


def two_with(folder, sgd, adam):
    """Writes runs of SGD and of Adam, two seeds each, with further keys; Adam's learning rate is its own default."""
    for seed in range(2):
        made_up_run(folder / f"sgd{seed}", seed, config=sgd)
        adam_lr = {"optimizer.lr": 0.001}
        made_up_run(folder / f"adam{seed}", seed, choices={"optimizer": "adam"}, config={**adam_lr, **adam})
    return folder


def test_what_follows_from_no_choice_is_part_of_the_method(trainopt, tmp_path):
    runs = two_with(
        tmp_path / "runs",
        {"duration": "1epochs", "batching.size": 128, "schedule.warmup": None, "gradient.clip_norm": None},
        {"duration": "4epochs", "batching.size": 32, "schedule.warmup": "1epochs", "gradient.clip_norm": 1.0},
    )
    keys = ("duration", "batching.size", "schedule.warmup", "gradient.clip_norm")
    comparison, by_name = methods(runs)
    assert set(comparison.differing) == {"choices.optimizer", *keys}
    assert all(f"{key}=" in name for name in by_name for key in keys)
    assert comparison.obstacles == ["different duration: 4epochs, 1epochs"]
    # names by one key hide none of the others
    comparison, by_name = methods(runs, by=["optimizer"])
    assert set(by_name) == {"optimizer=sgd", "optimizer=adam"}
    assert set(comparison.unnamed) == set(keys)
    assert comparison.obstacles == ["different duration: 4epochs, 1epochs"]
    forced = trainopt("compare", str(runs), "--by", "optimizer", "--force")
    (line,) = [line for line in forced.out.splitlines() if line.startswith("The methods differ in more than --by")]
    assert all(key in line for key in keys)


def test_a_key_that_differs_with_the_same_option_is_part_of_the_method_whatever_else_is_chosen(tmp_path):
    for schedule, lr in (("constant", 0.1), ("cosine", 0.5)):
        made_up_run(tmp_path / schedule, choices={"schedule": schedule}, config={"optimizer.lr": lr})
    _, by_name = methods(tmp_path)
    assert set(by_name) == {"schedule=constant optimizer.lr=0.1", "schedule=cosine optimizer.lr=0.5"}


def test_what_the_recipe_of_an_experiment_sets_follows_from_the_optimizer(tmp_path):
    choices = {"experiment": "zorca2020/resnet50"}
    runs = {"sgd": {"schedule.every": "0.1epochs"}, "adam": {"schedule.every": "0.05epochs", "optimizer.lr": 0.0006}}
    for optimizer, config in runs.items():
        made_up_run(tmp_path / optimizer, choices={**choices, "optimizer": optimizer}, config=config)
    assert set(methods(tmp_path)[1]) == {"optimizer=sgd", "optimizer=adam"}
    slow = {"schedule.every": "0.2epochs"}
    made_up_run(tmp_path / "slow", choices={**choices, "optimizer": "sgd"}, config=slow)
    assert "optimizer=sgd schedule.every=0.2epochs" in methods(tmp_path)[1]


def test_the_diagnostics_that_an_option_needs_follow_from_it(tmp_path):
    probe = {"probe.fisher.every": "2steps", "batching.epsilon": 0.1}
    made_up_run(tmp_path / "a", choices={"batching": "growth_control"}, config=probe)
    made_up_run(tmp_path / "b", choices={"batching": "constant"})
    assert set(methods(tmp_path)[1]) == {"batching=growth_control", "batching=constant"}


def test_a_diagnostic_or_a_regularizer_that_some_runs_lack_is_named_once(tmp_path):
    l2 = {"regularizer.l2._target_": "l2_penalty", "regularizer.l2.strength": 0.1, "regularizer.l2.decay": True}
    made_up_run(tmp_path / "a", config=l2)
    made_up_run(tmp_path / "b")
    comparison, by_name = methods(tmp_path)
    assert set(by_name) == {"regularizer.l2._target_=l2_penalty", "without regularizer.l2"}
    assert {method.label for method in comparison.methods} == {"regularizer l2", "without regularizer.l2"}
    made_up_run(tmp_path / "c", config=l2 | {"regularizer.l2.strength": 0.2})
    assert {method.label for method in methods(tmp_path)[0].methods} == {
        "regularizer l2, strength 0.1",
        "regularizer l2, strength 0.2",
        "without regularizer.l2",
    }


def test_what_changes_no_number_tells_no_methods_apart(two):
    made_up_run(two / "quiet", 7, 90.0, choices={"logger": "none"}, config={"checkpoint_every": "2epochs"})
    _, found = methods(two)
    assert set(found) == {"optimizer=sgd", "optimizer=adam"}
    assert 7 in found["optimizer=sgd"].seeds


def test_a_seed_counts_once_though_its_second_run_measured_more(two):
    for seed, top1 in enumerate(SGD):
        made_up_run(two / f"with{seed}", seed, top1, config={"evaluation_sets.fog.path": "fog.npz"})
    comparison, found = methods(two, baseline="sgd")
    sgd = found["optimizer=sgd"]
    assert (sgd.seeds, sgd.estimates["final_top1"].n) == ([0, 1, 2, 3], 4)
    assert sgd.estimates["final_top1"].std == pytest.approx(np.std(SGD, ddof=1))
    first = f"of which {shown(two / 'sgd0')} counts"
    assert (shown(two / "with0"), f"is another run of optimizer=sgd with seed 0, {first}") in comparison.runs.problems


def test_figures_and_verdict_are_those_computed_by_hand(two):
    comparison, found = methods(two, baseline="sgd")
    sgd, adam = found["optimizer=sgd"].estimates["final_top1"], found["optimizer=adam"].estimates["final_top1"]
    assert (sgd.mean, adam.mean, sgd.n) == (np.mean(SGD), np.mean(ADAM), 4)
    assert sgd.std == pytest.approx(np.std(SGD, ddof=1))
    verdict = found["optimizer=adam"].verdict
    assert verdict.kind == "paired"
    assert verdict.p == verdict.adjusted == pytest.approx(stats.ttest_rel(ADAM, SGD).pvalue)
    assert verdict.difference == pytest.approx(np.mean(ADAM) - np.mean(SGD))
    assert found["optimizer=sgd"].verdict is None
    assert comparison.baseline == "optimizer=sgd"


def test_seeds_that_do_not_match_are_not_paired(two):
    shutil.rmtree(two / "adam3")
    _, found = methods(two, baseline="sgd")
    verdict = found["optimizer=adam"].verdict
    assert verdict.kind == "Welch"
    assert verdict.p == pytest.approx(stats.ttest_ind(ADAM[:3], SGD, equal_var=False).pvalue)


def test_the_way_to_a_target_is_counted_on_every_axis(tmp_path):
    for seed in range(2):
        made_up_run(tmp_path / f"a{seed}", seed, curve=[10.0, 50.0, 70.0, 90.0], hvps=5)
    made_up_run(tmp_path / "a2", 2, top1=60.0, curve=[10.0, 30.0, 50.0, 60.0], hvps=5)
    _, found = methods(tmp_path, target=Target(70.0))
    (method,) = found.values()
    assert method.reached == 2
    means = {axis: e.mean for axis, e in method.to_target.items()}
    # a Hessian-vector product counts as two gradients
    assert means == {"steps": 20, "epochs": 2, "samples": 200, "gradients": 20 + 2 * 10, "seconds": 4}
    comparison, found = methods(tmp_path)
    assert comparison.target == Target(60.0)  # what all of them reached
    assert next(iter(found.values())).reached == 3


def test_the_way_to_a_loss_is_counted_too(trainopt, two):
    for run in sorted(two.iterdir()):  # a measurement after each training record, with half of its loss
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in [row for row in rows if row["kind"] == "train"]:
            measured = {"kind": "probe", "probe": "training_loss", "loss": row["total"] / 2}
            rows.append({key: row[key] for key in row if key not in ("total", "cross_entropy", "top1")} | measured)
        rows.append({**rows[0], "kind": "probe", "probe": "another", "loss": 0.0})
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # evaluations: 1.1, 0.6, 0.43, 0.35, 0.3; training records: 3, 1.5, 1, 0.75
    for metric, value, steps in (("loss", 0.45, 20), ("train_loss", 1.5, 20), ("training_loss", 0.5, 30)):
        _, found = methods(two, target=Target(value, metric))
        assert [(m.to_target["steps"].mean, m.reached) for m in found.values()] == [(steps, 4)] * 2
    typed = ("compare", str(two), "--x", "steps", "--out", "out", "--target")
    result = trainopt(*typed, "training_loss=0.5")
    assert "steps to training loss 0.5: until the first measurement with at most this training loss; mean" in result.out
    with open(two.parent / "out/table.csv") as file:
        rows = list(csv.DictReader(file))
    assert {(row["target"], row["target_metric"], row["steps_to_target_mean"]) for row in rows} == {
        ("0.5", "training_loss", "30.0")
    }
    assert "Steps to training loss 0.5: until" in (two.parent / "out/table.tex").read_text()
    titles = {
        name: title for name, title, _ in comparison_figures(methods(two, target=Target(0.45, "loss"))[0], "steps")
    }
    assert titles["time_to_target"] == "Steps to loss 0.45"
    label = draw_target_costs(methods(two, target=Target(0.45, "loss"))[0], "steps").axes[0].get_xlabel()
    assert label == "steps to test loss 0.45"


@pytest.mark.parametrize(("epochs", "note"), [((1, 2, 4), CUT), ((2, 2, 2), ""), ((2, 3), "")])
def test_the_figure_says_where_its_whiskers_are_cut(tmp_path, epochs, note):
    for seed, epoch in enumerate(epochs):
        curve = [90.0 if i >= epoch else 10.0 for i in range(5)]
        made_up_run(tmp_path / f"{seed}", seed, curve=curve)
    (axes,) = draw_target_costs(methods(tmp_path, target=Target(80.0))[0], "epochs").axes
    assert axes.get_title(loc="left").replace("\n", " ") == note


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("0.00086", "is an accuracy in percent, and guessing reaches 10 %; for a loss give --target loss=0.00086"),
        ("loss=5%", "must be a number, as loss=0.05"),
        ("200", "must be an accuracy in percent, or a loss as loss=0.05"),
        ("los=1", "los: no such metric; did you mean loss? there are top1, loss, train_loss, training_loss,"),
        ("training_loss=1", "adam0 has no records of probe=[training_loss], which measures this loss"),
    ],
)
def test_a_target_that_cannot_be_meant_is_refused(trainopt, two, target, message):
    result = trainopt("compare", str(two), f"--target={target}")
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1


def test_an_accuracy_is_no_target_of_runs_without_one(tmp_path):
    made_up_run(tmp_path / "a", summary={"final": {"loss": 0.3, "top1": None, "top5": None}, "best_top1": None})
    rows = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("top1")
    (tmp_path / "a/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"--target 90: is an accuracy in percent, and .*a has none"):
        methods(tmp_path, target=Target(90.0))
    assert methods(tmp_path)[0].target is None
    assert methods(tmp_path, target=Target(0.45, "loss"))[0].methods[0].to_target["steps"].mean == 20


def test_a_diverged_run_counts_as_one_that_knows_nothing(two):
    shutil.rmtree(two / "adam3")
    nothing = {"final": {"loss": None, "top1": 55.0, "top5": 80.0}}
    made_up_run(
        two / "adam3",
        3,
        55.0,
        status="diverged",
        choices={"optimizer": "adam"},
        config={"optimizer.lr": 0.001},
        summary=nothing,
    )
    _, found = methods(two, baseline="sgd", target=Target(20.0))
    adam = found["optimizer=adam"]
    assert adam.diverged == 1
    assert adam.estimates["final_top1"].mean == pytest.approx(np.mean([*ADAM[:3], 10.0]))
    assert adam.estimates["final_top5"].mean == pytest.approx(np.mean([99.0, 99.0, 99.0, 50.0]))
    assert adam.estimates["best_top5"].mean == adam.estimates["final_top5"].mean
    assert adam.estimates["final_loss"].mean == pytest.approx(np.mean([0.3, 0.3, 0.3, math.log(10)]))
    assert adam.reached == 3


def test_a_loss_that_was_not_finite_is_no_figure(two):
    shutil.rmtree(two / "sgd3")
    made_up_run(two / "sgd3", 3, SGD[3], summary={"final": {"loss": None, "top1": SGD[3], "top5": 99.0}})
    _, found = methods(two, baseline="sgd", metric="final_loss")
    assert math.isnan(found["optimizer=sgd"].estimates["final_loss"].mean)
    assert found["optimizer=adam"].verdict.kind == "a value is not finite"
    assert found["optimizer=sgd"].estimates["final_top1"].mean == np.mean(SGD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", "top7"), "--metric top7: no such metric"),
        (("--by", "optimzer"), "--by optimzer: none of the runs has such a key; did you mean optimizer?"),
        (("--baseline", "newton"), "--baseline newton: means no method; there are optimizer=adam; optimizer=sgd"),
        (("--baseline", "opt"), "--baseline opt: means several methods"),
    ],
)
def test_bad_options_are_named(trainopt, two, arguments, message):
    result = trainopt("compare", str(two), *arguments)
    assert result.code == 2
    assert result.err.startswith(f"trainopt: {message}")
    assert result.err.count("\n") == 1


def test_folders_without_runs_are_named(trainopt, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (
        ("nowhere", "nowhere: no such folder"),
        ("empty", "none of the folders holds a run that has ended"),
    ):
        result = trainopt("compare", folder)
        assert result.code == 2
        assert message in result.err


def test_the_terminal_says_what_the_tests_say(two, capsys):
    def printed(baseline: str | None = "sgd") -> str:
        show_comparison(methods(two, baseline=baseline)[0], "epochs", wide_console())
        return capsys.readouterr().out

    text = printed()
    assert "93.75 0.65 92.72 to 94.78" in " ".join(text.split())
    assert "On final top-1 (%): Adam is better than SGD by 2.88 (95 % interval of the difference: " in text
    assert re.search(r"SD +95 % interval of the mean +difference", text)
    shutil.rmtree(two / "adam3")
    shutil.rmtree(two / "adam2")
    few = printed()
    assert "No test: fewer than 3 seeds." in few
    assert "corrected by Holm's method" in text
    assert "Holm's method" not in few
    for seed in range(2):
        shutil.rmtree(two / f"adam{seed}")
    alone = printed(None)
    assert "There is one method" in alone
    assert not any(word in alone for word in ("Holm", "effect", "difference"))


def test_tables_are_written(trainopt, two, tmp_path):
    assert trainopt("compare", str(two), "--baseline", "sgd", "--out", "out").code == 0
    with open(tmp_path / "out/table.csv") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    adam = rows["optimizer=adam"]
    assert float(adam["final_top1_mean"]) == np.mean(ADAM)
    assert float(adam["final_top1_high"]) == pytest.approx(stats.t.interval(0.95, 3, np.mean(ADAM), stats.sem(ADAM))[1])
    assert float(adam["p_holm"]) == pytest.approx(stats.ttest_rel(ADAM, SGD).pvalue)
    assert (adam["seeds"], adam["test"], rows["optimizer=sgd"]["test"]) == ("0 1 2 3", "paired", "baseline")
    text = (tmp_path / "out/table.md").read_text()
    assert text.startswith("MLP on digits, ")
    assert "half of the 95 % interval" in text
    markdown = [line for line in text.splitlines() if line.startswith("|")]
    assert len(markdown) == 4
    assert len({line.count("|") for line in markdown}) == 1
    tex = (tmp_path / "out/table.tex").read_text()
    assert r"\label{tab:out}" in tex
    half = stats.t.ppf(0.975, 3) * stats.sem(ADAM)
    assert rf"Adam & \textbf{{93.75}} $\pm$ {half:.2f} &" in tex
    assert len({line.count("&") for line in tex.splitlines() if line.endswith(r"\\")}) == 1


def test_columns_without_values_are_left_out(tmp_path):
    for optimizer in ("sgd", "adam"):
        summary = {"selected": None}  # as of runs without a validation set
        made_up_run(tmp_path / optimizer, choices={"optimizer": optimizer}, summary=summary)
    comparison, _ = methods(tmp_path, baseline="sgd")
    assert "selected_" not in comparison.metrics
    write_csv(comparison, tmp_path / "table.csv")
    with open(tmp_path / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert {"final_top1_mean", "final_top1_n", "difference", "test"} <= set(rows[0])
    assert not [name for name in rows[0] if name.startswith(("selected_", "p", "effect"))]
    assert all(any(row[name] for row in rows) for name in rows[0])


def test_real_runs_compare(trained):
    optimizers = ("sgd", "adam")
    runs = [trained("model=mlp", f"optimizer={o}", "duration=2steps", "logger=none", name=o) for o in optimizers]
    comparison = read_comparison(runs)
    assert [method.name for method in comparison.methods] == ["optimizer=sgd", "optimizer=adam"]
    assert comparison.obstacles == []
    names = [name for name, _, _ in comparison_figures(comparison, "steps")]
    assert len(names) == 5
    assert "lr" not in names  # it does not change


@pytest.mark.parametrize(
    ("added", "ending"),
    [
        ([0.3, -0.2, 0.3, -0.2], " RMSprop has the best mean, from which Adam does not differ significantly."),
        ([1.0, 1.01, 1.02, 1.03], ")."),
        ([-8.0, -8.01, -8.02, -8.03], ")."),
    ],
)
def test_the_conclusion_names_those_that_are_as_good_as_the_best(two, added, ending):
    for seed, top1 in enumerate(np.add(ADAM, added)):
        choices, config = {"optimizer": "rmsprop"}, {"optimizer.lr": 0.001}
        made_up_run(two / f"rmsprop{seed}", seed, float(top1), choices=choices, config=config)
    assert conclusion_text(methods(two, baseline="sgd")[0]).endswith(ending)
