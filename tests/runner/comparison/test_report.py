"""The figures and the page of a comparison: complete, self-contained, and working in a browser."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.fixtures import made_up_run
from helpers.pages import faults, in_a_browser, violations
from trainopt.runner.comparison.figures.curves import (
    DASH,
    MEAN_TIME,
    Curve,
    comparison_figures,
    draw_comparison_figures,
    draw_curve_panels,
    method_curves,
)
from trainopt.runner.comparison.figures.target import UNITS
from trainopt.runner.comparison.methods import compare_methods, exclusion_reason
from trainopt.runner.comparison.metrics import METRICS, Target
from trainopt.runner.comparison.report import shared_settings, write_comparison_report
from trainopt.runner.comparison.table import table_sections
from trainopt.runner.records.frames import load_runs
from trainopt.runner.reporting.html import data_uri
from trainopt.runner.reporting.method_styles import method_styles
from trainopt.runner.reporting.style import PALETTE

pytestmark = pytest.mark.draws

LEARNING_RATES = {"sgd": 0.1, "adam": 0.001, "<b>shampoo&co": 0.01}  # as optimizers may not, but could be called

# what a reader may do, done by the page itself: its results are read from the page's source afterwards
PROBE = """
const found = {widths: [...document.images].map((image) => image.naturalWidth), sorted: {}};
document.querySelectorAll("table.sortable").forEach((table) => {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const cells = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim());
    found.sorted[head.textContent] = [0, 1].map(() => {
      head.querySelector("button").click();
      return [head.getAttribute("aria-sort"), cells()];
    });
  });
});
found.scrolled = [...document.querySelectorAll(".results")].map((part) => part.scrollWidth > part.clientWidth);
found.wide = document.documentElement.scrollWidth > innerWidth;
done(found);
"""


def write_run(folder: Path, optimizer: str, seed: int, evaluations: int = 21, status: str = "finished") -> None:
    """A run with a rising, noisy curve; Adam's is the better one, and has a further term of the loss."""
    number, extra = list(LEARNING_RATES).index(optimizer), optimizer == "adam"
    noise = np.random.default_rng([seed, number]).random(evaluations)
    curve = [float(10 + 80 * (1 - np.exp(-n / 5)) + 3 * extra + noise[n]) for n in range(evaluations)]
    made_up_run(
        folder,
        seed,
        curve[-1],
        curve=curve,
        status=status,
        choices={"optimizer": optimizer},
        config={"optimizer.lr": LEARNING_RATES[optimizer], **({"regularizer.l2.strength": 0.1} if extra else {})},
        environment={"commit": "0" * 40},
        terms={"l2": 0.1} if extra else None,
        reports={"power": 1.0},
        hvps=20 * extra,
        seconds=0.1 * (1 + number) * (1 + 0.1 * seed),
    )


def write_runs(folder: Path, seeds: int = 3) -> None:
    for number, optimizer in enumerate(LEARNING_RATES):
        for seed in range(seeds):
            write_run(folder / f"{number}-{seed}", optimizer, seed)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(comparison, figures, the report's path) of three methods with three seeds each, and a run that goes on."""
    folder = tmp_path_factory.mktemp("report")
    write_runs(folder / "runs")
    write_run(folder / "runs" / "going-on", "sgd", 9, status="running")
    comparison = compare_methods(load_runs([folder / "runs"], exclusion_reason), target=Target(90.0))
    comparison.obstacles.append("different data: data.size")
    figures = draw_comparison_figures(comparison, "epochs", folder)
    table = table_sections(comparison, ["epochs"], METRICS)
    write_comparison_report(comparison, table, "epochs", figures, folder / "report.html")
    return comparison, figures, folder / "report.html"


@pytest.mark.slow
def test_there_is_a_figure_of_everything_in_all_formats(made):
    _, figures, report = made
    names = {"test_top1", "end", "test_loss", "train_top1", "train_loss", "loss_terms", "lr", "time_to_target"}
    assert {figure.name for figure in figures} == names
    for figure in figures:
        assert figure.svg == report.parent / f"{figure.name}.svg"
        assert "</svg>" in figure.svg.read_text()
        with Image.open(figure.png) as image:
            assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 10
        pdf = figure.pdf.read_bytes()
        assert b"/Subtype /Type0" in pdf  # fonts of TrueType, which are embedded
        assert b"/Type3" not in pdf


def test_a_method_has_the_same_colour_in_all_figures(made):
    comparison, figures, _ = made
    colours = [colour.lower() for colour, _ in method_styles(m.name for m in comparison.methods).values()]
    assert len(set(colours)) == len(comparison.methods)
    others = {colour.lower() for colour in PALETTE} - {*colours, "#000000"}  # black is the text's as well
    for figure in figures:
        text = figure.svg.read_text().lower()
        if figure.name != "time_to_target":
            assert all(colour in text for colour in colours)
        assert not any(colour in text for colour in others)


def test_what_all_runs_have_in_common_is_in_the_report(tmp_path):
    for seed, width in enumerate((8, 16)):
        config = {
            "batching.size": width,
            "duration": "2epochs",
            "data.limit": None,
            "model.hidden": [12],
            "gradient.x": 0.0,
        }
        made_up_run(tmp_path / str(seed), seed, 90.0, choices={"model": "mlp"}, config=config)
    comparison = compare_methods(load_runs([tmp_path], exclusion_reason), by=["batching.size"])
    rows = dict(shared_settings(comparison))
    assert {"model": "mlp", "model.hidden": "[12]", "duration": "2epochs"}.items() <= rows.items()
    assert not {"batching.size", "data.limit", "gradient.x"} & rows.keys()
    write_comparison_report(comparison, [], "epochs", [], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert '<th scope="row">duration</th><td class="value">2epochs</td>' in text


@pytest.mark.slow
def test_equal_runs_make_equal_figures(made, tmp_path):
    comparison, figures, _ = made
    for first, second in zip(figures, draw_comparison_figures(comparison, "epochs", tmp_path), strict=True):
        assert first.svg.read_bytes() == second.svg.read_bytes()
        assert first.pdf.read_bytes() == second.pdf.read_bytes()


@pytest.mark.parametrize("x_axis", ["steps", "samples", "gradients", "seconds"])
def test_every_axis_can_be_drawn(made, x_axis):
    comparison, figures, _ = made
    drawn = {name: (title, figure) for name, title, figure in comparison_figures(comparison, x_axis)}
    assert list(drawn) == [figure.name for figure in figures]
    for name, (title, figure) in drawn.items():
        assert x_axis in title.lower()
        label = UNITS[x_axis]
        if x_axis == "seconds" and name != "time_to_target":
            label += MEAN_TIME
        label += " to 90 % test top-1 accuracy" if name == "time_to_target" else ""
        assert figure.axes[-1].get_xlabel().replace("\n", " ") == label
    assert [axes.get_title(loc="left") for axes in figure.axes] == [""]  # what the bars are is in the report


def test_curves_that_cover_each_other_have_dashes_that_take_turns(made):
    comparison, _, _ = made
    first, second = comparison.methods[:2]
    x = np.arange(5.0)
    low, lower = (Curve(x, y, y, y) for y in (0.1 + 0 * x, 0.1 - 0.02 * x))
    longer = Curve(np.arange(9.0), 0.1 + np.zeros(9), 0.1 + np.zeros(9), 0.1 + np.zeros(9))

    def dashes(one, other):
        curves = {first.name: one, second.name: other}
        lines = draw_curve_panels({"learning rate": curves}, [first, second], "steps").axes[0].get_lines()
        return [line._unscaled_dash_pattern for line in lines]

    assert dashes(low, lower) == [(0, None), (0.0, (3.7, 1.6))]  # the optimizers' own
    assert dashes(low, longer) == [(0.0, (DASH, DASH)), (DASH, (DASH, DASH))]


def test_one_run_is_no_mean(made):
    comparison, _, _ = made
    single = replace(comparison, methods=[replace(m, runs=m.runs[:1], seeds=m.seeds[:1]) for m in comparison.methods])
    for _, _, figure in comparison_figures(single, "seconds"):
        assert "mean" not in "".join(axis.get_title(loc="left") + axis.get_xlabel() for axis in figure.axes)


def test_lines_are_means_and_bands_the_range_of_the_seeds(made):
    comparison, _, _ = made
    method = comparison.methods[1]
    rows = comparison.runs.metrics
    ends = rows[rows["run"].isin(method.runs) & (rows["kind"] == "test") & (rows["step"] == 200)]
    curve = method_curves(comparison, "test", "top1", "train_seconds")[method.name]
    assert curve.x[-1] == pytest.approx(ends["train_seconds"].mean())
    assert curve.mean[-1] == pytest.approx(ends["top1"].mean())
    assert (curve.low[-1], curve.high[-1]) == (ends["top1"].min(), ends["top1"].max())
    dear = method_curves(comparison, "test", "top1", "gradient_equivalents")[method.name]
    assert dear.x[-1] == 200 + 2 * 400  # a Hessian-vector product counts as two gradients


def test_a_run_that_ended_early_never_turns_the_axis_back(tmp_path):
    write_run(tmp_path / "0", "sgd", 0)
    write_run(tmp_path / "1", "sgd", 8, evaluations=11)  # the slower one
    comparison = compare_methods(load_runs([tmp_path]))
    (curve,) = method_curves(comparison, "test", "top1", "train_seconds").values()
    assert len(curve.x) == 21
    assert (np.diff(curve.x) > 0).all()


def test_what_is_not_there_is_not_drawn(tmp_path):
    for seed in range(2):
        write_run(tmp_path / "runs" / str(seed), "sgd", seed, evaluations=1)
    comparison = compare_methods(load_runs([tmp_path / "runs"]), target=Target(99.0))
    figures = draw_comparison_figures(comparison, "steps", tmp_path / "out")
    assert [figure.name for figure in figures] == ["test_top1", "test_loss"]
    report = tmp_path / "report.html"
    write_comparison_report(comparison, table_sections(comparison, ["steps"], METRICS), "steps", figures, report)
    assert "nothing to compare it with" in report.read_text()


def test_the_report_loads_nothing_from_elsewhere(made):
    text = made[2].read_text()
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", text)
    assert len(addresses) > len(made[1])
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "@import" not in text
    assert "url(" not in text


def test_the_report_says_all_there_is_to_say(made):
    comparison, figures, report = made
    text = report.read_text()
    for method in comparison.methods:
        assert method.label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in text
    assert "<b>" not in text
    for said in (
        "is better than",
        "mean over the runs that reached it; a run may fall below the target again; evaluations are up to 1 epoch",
        "In the figure, a bar is the mean over the runs that reached it, a whisker its 95 % interval",
        "different data: data.size",
        "is still running",
        "A diverged run counts as",
    ):
        assert said in text
    for figure in figures:
        assert f'<span>{figure.title}</span>\n<a href="{data_uri(figure.pdf)}" download="{figure.name}.pdf"' in text
    assert "0" * 40 in text
    assert "9 runs)" not in text  # the environments are equal: no need to say of how many runs


def test_the_report_can_be_read_by_all(made):
    text = made[2].read_text()
    assert faults(text) == []
    for good, bad in (
        (' scope="col"', ""),
        (' lang="en"', ""),
        (' alt="', ' title="'),
        ("<h2", "<h3"),
        ('id="figures"', 'id="table"'),
        ("--soft: #57606a", "--soft: #8b949e"),
    ):
        assert faults(text.replace(good, bad)), good


@pytest.mark.slow
def test_the_report_violates_no_rule_of_axe(made, tmp_path):
    assert violations(made[2], tmp_path) == []


def test_environments_that_differ_are_counted(tmp_path):
    write_runs(tmp_path / "runs", seeds=1)
    other = {"versions": {"torch": "2.10.0"}, "device": "cuda"}
    (tmp_path / "runs" / "0-0" / "environment.json").write_text(json.dumps(other))
    comparison = compare_methods(load_runs([tmp_path / "runs"]))
    table = table_sections(comparison, ["steps"], METRICS)
    write_comparison_report(comparison, table, "steps", [], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "2.15.0 (2 of 3 runs); 2.10.0 (1 of 3 runs)" in text


@pytest.mark.slow
def test_the_report_works_in_a_browser(made, tmp_path):
    _, figures, report = made
    found = in_a_browser(report, tmp_path, PROBE, 390)
    assert len(found["widths"]) == len(figures)
    assert min(found["widths"]) > 0
    assert not found["wide"], "the page itself scrolls sideways"
    assert not any(found["scrolled"]), "a table of results is a list on a phone"
    (up, rising), (down, falling) = found["sorted"][METRICS["train_seconds"][1]]
    numbers = [float(cell.split()[0]) for cell in rising]
    assert (up, down) == ("ascending", "descending")
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(LEARNING_RATES)
    assert falling == rising[::-1]
    both_ways = [cells[-1] for _, cells in found["sorted"]["difference"]]
    assert both_ways == ["", ""]  # the baseline's, which is empty, stays last


@pytest.mark.slow
def test_no_table_scrolls_sideways_on_a_usual_screen(made, tmp_path):
    comparison, _, _ = made
    table = table_sections(comparison, ["epochs", "steps", "gradients", "seconds"], METRICS)
    write_comparison_report(comparison, table, "epochs", [], tmp_path / "report.html")
    assert in_a_browser(tmp_path / "report.html", tmp_path, PROBE, 1400)["scrolled"] == [False, False, False]
