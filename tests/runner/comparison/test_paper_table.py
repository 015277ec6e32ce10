"""The table for papers: its numbers, its rule for bold type, what it says of itself, and that LaTeX takes it."""

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from helpers.fixtures import made_up_run
from trainopt.runner.comparison.figures.target import distance_text, evaluation_distance
from trainopt.runner.comparison.methods import compare_methods
from trainopt.runner.comparison.metrics import Target
from trainopt.runner.comparison.paper_table import column_names, default_columns, paper_table, table_cells
from trainopt.runner.comparison.read import read_comparison
from trainopt.runner.comparison.setting import seeds_text
from trainopt.runner.comparison.significance import methods_in_bold
from trainopt.runner.comparison.table import show_comparison
from trainopt.runner.comparison.tables.details import differences_from_the_best
from trainopt.runner.comparison.tables.layout import POINTS, table_width
from trainopt.runner.comparison.tables.noted_table import NotedTable, as_latex
from trainopt.runner.comparison.tables.text import has_equal_p, interval_text
from trainopt.runner.records.frames import load_runs
from trainopt.runner.reporting.tables import LAYOUTS, latex
from trainopt.runner.system.display import wide_console

TOP1 = {"sgd": [90.0, 91.0, 92.0, 90.5], "adam": [93.0, 94.5, 94.0, 93.5], "muon": [93.5, 94.0, 94.5, 93.0]}


@pytest.fixture
def three(tmp_path):
    """SGD, Adam and Muon, four seeds each; Muon is the best by little, and its first run misses the target."""
    for optimizer, values in TOP1.items():
        for seed, top1 in enumerate(values):
            folder = tmp_path / "runs" / f"{optimizer}{seed}"
            made_up_run(folder, seed, top1, choices={"optimizer": optimizer}, config={"optimizer.lr": 0.1})
    return tmp_path / "runs"


def rows_of(text):
    lines = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")]
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[1:]}


def test_a_line_has_the_mean_and_half_of_its_interval_and_the_test(three):
    comparison = compare_methods(load_runs([three]), baseline="SGD", target=Target(91.0))
    rows = rows_of(paper_table(comparison, "steps", 7.0))
    assert list(rows) == ["Adam", "Muon", "SGD"]
    half = stats.t.interval(0.95, 3, np.mean(TOP1["sgd"]), stats.sem(TOP1["sgd"]))[1] - np.mean(TOP1["sgd"])
    assert rows["SGD"][r"final top-1 (\%)"] == rf"90.88 $\pm$ {half:.2f}"
    p = stats.ttest_rel(TOP1["adam"], TOP1["sgd"]).pvalue
    assert rows["Adam"]["$p$"] == f"{2 * p:.3f}" or rows["Adam"]["$p$"] == f"{p:.3f}"  # Holm's, of two tests
    assert rows["Adam"]["difference"] == f"+{np.mean(TOP1['adam']) - np.mean(TOP1['sgd']):.2f}"
    assert rows["SGD"]["difference"] == "baseline"
    low, high = stats.ttest_rel(TOP1["adam"], TOP1["sgd"]).confidence_interval(0.95)
    assert rows["Adam"][r"95\,\% interval of the difference"] == f"+{low:.2f} to +{high:.2f}"
    assert rows["SGD"][r"steps to 91 \%"].endswith("(2 of 4)")


def test_bold_are_the_best_and_those_that_do_not_differ_from_it(three):
    comparison = compare_methods(load_runs([three]), baseline="SGD")
    rows = rows_of(paper_table(comparison, "epochs", 5.5, ["final_top1"]))
    bold = [name for name, row in rows.items() if r"\textbf" in row[r"final top-1 (\%)"]]
    assert bold == ["Adam", "Muon"]


def test_the_best_is_tested_against_as_by_hand():
    rng = np.random.default_rng(0)
    values = {n: dict(enumerate(rng.normal(shift, 1.0, 5))) for n, shift in (("a", 0.0), ("b", 0.3), ("c", 4.0))}
    best = max(values, key=lambda name: np.mean(list(values[name].values())))
    ps = {
        n: stats.ttest_rel(list(v.values()), list(values[best].values())).pvalue for n, v in values.items() if n != best
    }
    smallest = min(ps, key=ps.get)
    by_hand = {best} | {n for n, p in ps.items() if (2 * p if n == smallest else max(p, 2 * min(ps.values()))) >= 0.05}
    assert methods_in_bold(values, more_is_better=True) == by_hand == {"c"}
    assert methods_in_bold(values, more_is_better=False) == {"a", "b"}


def test_differences_from_the_best_have_intervals_and_equal_p_values_a_reason(three):
    comparison = read_comparison([three], baseline="SGD")
    rows = {row[0]: row for row in differences_from_the_best(comparison).rows}
    (best,) = (label for label, row in rows.items() if row[1] == "best")
    assert best != comparison.baseline_label
    values = {m.label: comparison.runs.summaries.loc[m.runs, "final.top1"].to_numpy() for m in comparison.methods}
    for label in rows.keys() - {best}:
        differences = values[label] - values[best]
        low, high = stats.t.interval(0.95, 3, differences.mean(), stats.sem(differences))
        assert rows[label][1:3] == [f"{differences.mean():+.2f}", f"{low:+.2f} to {high:+.2f}"]
    same = read_comparison([three], baseline=best)
    assert differences_from_the_best(same).rows == []  # the tests against the baseline are these
    assert not has_equal_p(same)
    others = [m for m in same.methods if m.verdict]
    for method, p in zip(others, (0.02, 0.03), strict=True):
        method.verdict = replace(method.verdict, p=p, adjusted=0.04)
    assert has_equal_p(same)
    assert "come from Holm's correction" in paper_table(same, "epochs", 5.5, ["p"])


def test_few_seeds_or_no_spread_make_only_the_best_bold():
    assert methods_in_bold({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0, 1: 2.1}}, more_is_better=True) == {"b"}
    assert methods_in_bold({"a": {0: 1.0}, "b": {0: 1.0}}, more_is_better=True) == set()
    level = {"a": dict.fromkeys(range(4), 1.0), "b": dict.fromkeys(range(4), 2.0)}
    assert methods_in_bold(level, more_is_better=False) == {"a"}
    noisy = {"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {0: 1.5, 1: 1.0, 2: 4.2}}
    assert methods_in_bold(noisy, more_is_better=True) == set()  # {"a"} would say that it is better
    assert methods_in_bold({"a": {0: float("nan")}, "b": {}}, more_is_better=True) == set()


def test_two_seeds_have_no_interval(tmp_path):
    for seed, top1 in enumerate((90.0, 97.0)):
        made_up_run(tmp_path / str(seed), seed, top1)
    comparison = compare_methods(load_runs([tmp_path]))
    assert interval_text(comparison.methods[0].estimates["final_top1"], ".2f") == "n = 2"
    text = paper_table(comparison, "epochs", 5.5, ["final_top1"])
    assert "93.50 \\\\" in text
    assert "interval" not in text


def test_the_caption_says_n_interval_test_and_correction(three):
    comparison = compare_methods(load_runs([three]), baseline="SGD")
    text = paper_table(comparison, "epochs", 5.5)
    caption = re.search(r"\\caption\{(.*)\}\n", text)[1]
    for said in (
        "$n = 4$",
        r"95\,\% interval",
        "a paired $t$-test",
        "Holm's correction for 2 tests",
        "none where no method differs",
    ):
        assert said in caption
    for folder in three.glob("*[23]"):
        shutil.rmtree(folder)
    assert "Bold: the best mean of a metric, without a test." in paper_table(
        compare_methods(load_runs([three])), "epochs", 5.5
    )


def test_seeds_that_a_method_lacks_are_named(trainopt, three, tmp_path):
    (three / "muon0").rename(tmp_path / "left_out")
    made_up_run(three / "adam9", 9, 93.0, choices={"optimizer": "adam"}, config={"optimizer.lr": 0.1})
    text = "Methods have different seeds: Muon lacks 0, 9; SGD lacks 9. If runs were left out for their results, means"
    result = trainopt("compare", str(three), "--out", "out")
    assert text in result.out
    for name in ("table.md", "table.tex", "report.html"):
        assert text in (tmp_path / "out" / name).read_text()
    (tmp_path / "left_out").rename(three / "muon0")
    (three / "adam9").rename(tmp_path / "left_out")
    assert seeds_text(compare_methods(load_runs([three]))) == ""


def test_a_comparison_of_times_says_that_they_depend_on_the_machine(three, capsys):
    rule = "Seconds depend on the machine and on what else ran on it"
    for axis, columns, metric in (
        ("seconds", ["final_top1", "seconds_to_target"], "final_top1"),
        ("epochs", ["train_seconds", "p"], "train_seconds"),
        ("epochs", ["final_top1", "epochs_to_target"], "final_top1"),
    ):
        comparison = compare_methods(load_runs([three]), baseline="SGD", metric=metric)
        is_of_times = "seconds" in " ".join(columns)
        assert (rule in paper_table(comparison, axis, 5.5, columns)) is is_of_times
        show_comparison(comparison, axis, wide_console())
        assert (rule in capsys.readouterr().out) is is_of_times


def test_columns_are_chosen_and_unknown_ones_refused(trainopt, three, tmp_path):
    assert trainopt("compare", str(three), "--columns", "n,p,final_loss", "--out", "out").code == 0
    text = (tmp_path / "out/table.tex").read_text()
    assert r"method & $n$ & $p$ & final loss \\" in text
    result = trainopt("compare", str(three), "--columns", "final_los", "--out", "none")
    assert result.code == 2
    assert "--columns final_los: no such column; did you mean final_loss? there are final_top1" in result.err
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_labels_and_a_style_are_asked_for(trainopt, three, tmp_path):
    words = ("--rename", "optimizer=adam:Adam & Eve", "--style", "paper", "--width", "84mm")
    result = trainopt("compare", str(three), *words, "--out", "out")
    assert result.code == 0, result.err
    assert "Adam & Eve" in result.out
    assert r"Adam \& Eve & " in (tmp_path / "out/table.tex").read_text()
    again = trainopt("compare", str(three), "--out", "out")
    assert "out/ held an earlier comparison, whose files were replaced" in again.out
    assert "of it remain" not in again.out
    for arguments, message in (
        (("--width", "3"), "--width 3: must be a length with its unit"),
        (("--style", "book"), "--style: invalid choice"),
    ):
        result = trainopt("compare", str(three), *arguments)
        assert (result.code, message in result.err) == (2, True), result.err


def test_how_coarse_evaluations_are_is_said(tmp_path):
    for seed in range(2):
        made_up_run(tmp_path / "a" / str(seed), seed, curve=[10.0, 80.0, 85.0, 90.0])
    quick = compare_methods(load_runs([tmp_path / "a"]), target=Target(80.0))
    assert evaluation_distance(quick, "steps") == 10
    assert distance_text(quick, "steps").startswith("evaluations are up to 10 steps apart, too coarse")
    late = compare_methods(load_runs([tmp_path / "a"]), target=Target(90.0))
    assert "too coarse" in distance_text(late, "epochs")
    for seed in range(2):
        made_up_run(tmp_path / "b" / str(seed), seed, curve=[10.0 * n for n in range(1, 9)])
    fine = compare_methods(load_runs([tmp_path / "b"]), target=Target(70.0))
    assert distance_text(fine, "epochs") == "evaluations are up to 1 epoch apart"
    never = compare_methods(load_runs([tmp_path / "b"]), target=Target(99.0))
    assert distance_text(never, "epochs") == "no run reached it: the highest is 80"
    at_once = compare_methods(load_runs([tmp_path / "b"]), target=Target(10.0))
    assert distance_text(at_once, "steps").startswith("the runs reached it at their first evaluation")


def test_no_interval_of_a_cost_is_longer_than_the_runs(tmp_path):
    for seed, curve in enumerate(([10.0, 80.0, 85.0, 90.0], [10.0, 20.0, 30.0, 80.0], [10.0, 20.0, 80.0, 81.0])):
        made_up_run(tmp_path / str(seed), seed, curve=curve)
    (method,) = compare_methods(load_runs([tmp_path]), target=Target(80.0)).methods
    unlimited = stats.t.interval(0.95, 2, 20, stats.sem([10, 20, 30]))
    assert unlimited[1] > 30
    assert unlimited[0] < 0
    assert (method.to_target["steps"].low, method.to_target["steps"].high) == (0, 30)


def test_runs_without_accuracies_have_a_table_and_a_report(trainopt, tmp_path):
    for seed in range(3):
        final = {"final": {"loss": 0.1 + seed, "top1": None, "top5": None}, "best_top1": {"value": None}}
        made_up_run(tmp_path / "runs" / str(seed), seed, loss=0.1 + seed, summary=final)
    result = trainopt("compare", "runs", "--out", "out")
    assert result.code == 0, result.err
    assert "tuning trials" in (tmp_path / "out/report.html").read_text()
    assert r"method & final loss \\" in (tmp_path / "out/table.tex").read_text()


def test_a_narrow_column_gets_the_columns_that_fit_and_the_names_of_the_others(three):
    comparison = compare_methods(load_runs([three]), baseline="SGD", target=Target(91.0))
    wide, narrow = (paper_table(comparison, "steps", width) for width in (7.0, 3.3))
    assert list(rows_of(wide)["SGD"]) == ["method", *map(str, wide_heads(comparison))]
    assert r"\small\setlength" in wide
    assert r"\footnotesize\setlength" in narrow
    assert "% left out, as 3.3 in are too narrow for them: final_loss, steps_to_target\n" in narrow
    assert "--columns final_top1,difference,interval,p,final_loss,steps_to_target" in narrow
    assert r"\begin{table*}" in paper_table(comparison, "steps", 3.3, column_names(comparison))
    assert default_columns(comparison, "steps")[-1] == "steps_to_target"


def wide_heads(comparison):
    header, _ = table_cells(comparison, default_columns(comparison, "steps"))
    return [head.replace(" %", r" \%").replace("(%)", r"(\%)") for head in header[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_width_of_a_table_is_that_of_latex(three, tmp_path, layout):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    comparison = compare_methods(load_runs([three]), baseline="SGD", target=Target(91.0))
    for columns in (["final_top1"], default_columns(comparison, "steps"), column_names(comparison)):
        header, rows = table_cells(comparison, columns)
        text = latex(header, rows, "", "", layout=layout).partition(r"{!}{%")[2].rpartition("%\n}")[0].strip()
        setting = rf"\{layout.size}\setlength{{\tabcolsep}}{{{layout.separation}pt}}"
        body = rf"\newsavebox\w\savebox\w{{{setting}{text}}}\typeout{{width=\the\wd\w}}x"
        document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
        (tmp_path / "paper.tex").write_text(document)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        width = float(re.search(r"width=([\d.]+)pt", done.stdout)[1]) / POINTS
        assert width <= table_width(header, rows, layout) * 1.01
        assert width >= table_width(header, rows, layout) * 0.9


@pytest.mark.slow
@pytest.mark.parametrize("width", ["3.3in", "5.5in"])
def test_latex_takes_the_table_and_it_fits_the_text(three, tmp_path, width):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    comparison = compare_methods(
        load_runs([three]),
        baseline="SGD",
        target=Target(91.0),
        renames=["optimizer=adam:A_d%a&m^$~\\{", "optimizer=muon:β₁, β₂, ε -1e-08"],
    )
    inches = float(width.removesuffix("in"))
    tables = [paper_table(comparison, "steps", inches, columns) for columns in (column_names(comparison), [])]
    searched = f"one of {', '.join(['[0.5,0.999]'] * 9)}"
    row = ["AdamW", "optimizer.weight_decay", "-1e-05", searched, "no"]
    tuned = NotedTable("tuned", "Tuned", ["method", "key", "chosen", "searched", "end"], [row], "", left=range(5))
    wrapped = as_latex([tuned], inches, "tab:comparison")
    assert wrapped.count(r">{\raggedright}p{") == 1  # the column of several words
    assert r"$-$$10^{-5}$" in wrapped
    (tmp_path / "table.tex").write_text("".join([*tables, wrapped]))
    head = rf"\documentclass{{article}}\usepackage[textwidth={width}]{{geometry}}\usepackage{{array,booktabs,graphicx}}"
    (tmp_path / "paper.tex").write_text(head + r"\begin{document}\input{table.tex}\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in (tmp_path / "paper.log").read_text()
