"""Tables on narrow terminals and in files; figures of few rows and of long names; what a resumed run shows."""

import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from helpers.runs import rows, stop_at
from trainopt.runner.reporting.style import MARGINS, plot_set, save_png
from trainopt.runner.system.display import LONG_TABLE, Display, plain_table, print_table

LONG = "optimizer.lr=0.1 optimizer.momentum=0.95 model.hidden=[100,100]"


def printed(width: int, *names: str, markup: bool = True, is_terminal: bool = True) -> list[str]:
    """Returns the lines of a job table with these names."""
    table = plain_table("job", "state", "step", "progress", "loss", left=2)
    for name in names:
        table.add_row(name, "[green]done[/]", "20", "100%", "0.1234")
    console = Console(file=io.StringIO(), width=width, force_terminal=is_terminal, no_color=True)
    print_table(console, table, markup=markup)
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_no_row_of_a_table_is_wider_than_the_terminal(width):
    lines = printed(width, "seed=1 " + LONG, "seed=2 " + LONG)
    assert max(map(len, map(str.rstrip, lines))) <= width
    for value in ("seed=1", "seed=2", "done", "20", "100%", "0.1234"):
        assert value in " ".join(lines)


def test_names_are_cut_where_they_stay_different():
    lines = printed(80, "seed=1 " + LONG, "seed=2 " + LONG)
    assert len(lines) == 3
    assert lines[1].startswith("seed=1 optimizer.lr=0.1")
    assert "…" in lines[1]
    assert lines[1].endswith("0.1234  ")


def test_names_that_would_be_the_same_are_whole():
    lines = printed(80, LONG + " seed=1", LONG + " seed=2")
    assert lines[0] == f"{LONG} seed=1"
    assert lines[1] == "  state done  step 20  progress 100%  loss 0.1234"


def test_where_the_output_is_wide_enough_nothing_is_cut():
    assert printed(200, LONG)[1].startswith(f"{LONG}  done")


def test_where_the_output_is_no_terminal_each_row_is_one_whole_line():
    lines = printed(40, LONG * 9, is_terminal=False)
    assert len(lines) == 2
    assert lines[1].startswith(f"{LONG * 9}  done")


def test_names_with_brackets_are_shown():
    text = "\n".join(printed(40, "model.hidden=[8] " + LONG, markup=False))
    assert "model.hidden=[8]" in text


@pytest.mark.parametrize("width", [40, 80])
def test_the_summary_of_a_run_fits(width, tmp_path):
    display = Display(Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None))
    best = {"value": 91.5, "step": 1000, "epoch": 2.5, "train_seconds": 4.0}
    final = {"top1": 90.0, "top5": 99.0, "loss": 0.25, "step": 1200, "epoch": 3.0}
    about = {"best_on": "validation", "train_seconds": 5000.0}
    display.show_summary({"final": final, "best_top1": best, "lowest_loss": best, **about}, tmp_path)
    lines = display.console.file.getvalue().splitlines()
    assert max(map(len, map(str.rstrip, lines[:-1]))) <= width
    assert "final test top-1" in lines[0] + lines[1]
    assert "90.00 %" in "".join(lines)


def test_one_row_alone_is_seen():
    axis = Figure().subplots()
    plot_set(axis, "train", np.array([1.0]), np.array([0.5]))
    assert axis.get_lines()[-1].get_marker() == "o"


def test_long_titles_are_broken(tmp_path):
    figure = Figure(figsize=(10, 4))
    figure.subplots(gridspec_kw=MARGINS)
    save_png(figure, tmp_path / "a.png", "$x" + LONG.replace(" ", ",") * 4)
    text = figure._suptitle
    assert text.get_text().count("\n") >= 1
    assert max(map(len, text.get_text().split("\n"))) <= 132  # characters that ten inches take
    assert figure.subplotpars.top < MARGINS["top"]


def test_the_loss_beside_an_evaluation_is_that_of_its_step(finished, tmp_path):
    words = ("model=mlp", "data.limit=60", "batching.size=10", "duration=7steps", "evaluate_every=3steps")
    every, few = (finished(*words, "logger=none", f"run.name={n}", f"log_every={n}steps") for n in (1, 5))
    losses = {row["step"]: row["total"] for row in rows(tmp_path / "outputs/1") if row["kind"] == "train"}
    for out in (every.out, few.out):
        shown = dict(re.findall(r"step +(\d+)  batch loss ([\d.]+)", out))
        assert shown == {str(step): f"{losses[step]:.4f}" for step in (3, 6, 7)}


def test_a_resumed_run_shows_the_training_loss_at_once(finished, monkeypatch):
    words = ("model=mlp", "model.hidden=[4]", "data.limit=60", "batching.size=10", "run.name=a", "log_every=2steps")
    words += ("duration=6steps", "evaluate_every=3steps", "logger=none")
    stop_at(monkeypatch, 3)
    assert finished(*words).code == 130
    monkeypatch.undo()
    result = finished("resume", "outputs/a")
    lines = [line for line in result.out.splitlines() if line.startswith("epoch")]
    assert lines
    assert all("batch loss" in line for line in lines), result.out


def test_a_long_table_is_printed_as_rich_prints_it():
    table = plain_table("job", "state", "step", left=2)
    for number in range(LONG_TABLE + 1):
        table.add_row(f"seed={number},x=ü", "[green]done[/]" if number % 2 else r"\[x]", str(number**2))
    texts = []
    for print_it in (print_table, Console.print):
        console = Console(file=io.StringIO(), width=100, highlight=False)
        print_it(console, table)
        texts.append(console.file.getvalue().splitlines())
    assert texts[0] == texts[1]


def test_the_start_is_not_folded_where_the_output_is_no_terminal():
    display = Display(Console(file=io.StringIO(), width=40))
    display.show_start([("folder", "outputs/" + LONG), ("data", "digits")], [])
    lines = display.console.file.getvalue().splitlines()
    assert [" ".join(line.split()) for line in lines] == [f"folder outputs/{LONG}", "data digits"]
