"""The figures of the Fisher measures: where rows hold them, with what the rows say."""

import json
from itertools import combinations, pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from helpers.fixtures import made_up_run
from trainopt.runner.comparison.figures.fisher import draw_fisher_figures
from trainopt.runner.comparison.figures.fisher_plane import (
    draw_end_points,
    draw_error_contours,
    draw_trajectories,
    method_trajectories,
    plane_styles,
    set_scales,
)
from trainopt.runner.comparison.figures.point_labels import write_labels
from trainopt.runner.comparison.figures.point_styles import PointStyle, point_legend
from trainopt.runner.comparison.methods import compare_methods
from trainopt.runner.records.frames import load_runs
from trainopt.runner.reporting.fisher_curves import draw_fisher_curves, fisher_figure

pytestmark = pytest.mark.draws

GRID = [(size, lr) for size in (16, 32, 64) for lr in (0.05, 0.1)]


def fisher_run(folder, sizes, c, l_, seed=0, top1=90.0, lr=0.1, batching="constant", status="finished"):
    """A run of 20 epochs, half an epoch a row: C_K rises to c, L_K to l_; sizes follow one another."""
    config = {"optimizer.lr": lr, "batching.size": sizes[-1]}
    made_up_run(folder, seed, top1, curve=[top1] * 21, status=status, choices={"batching": batching}, config=config)
    lines = []
    for n in range(1, 41):
        share = n / 40
        values = {"c_k": c * share, "l_k": l_ * 0.1, "C_K": c * share, "L_K": l_ * share**0.5}
        values["batch_size"] = 7 if n % 2 == 0 else sizes[(n - 1) * len(sizes) // 40]  # what an epoch leaves
        counts = {"kind": "probe", "probe": "fisher", "step": 5 * n, "epoch": n / 2}
        counts |= {"samples": 50 * n, "gradients": 5 * n, "hvps": 0, "train_seconds": 0.1 * n}
        lines.append(json.dumps(counts | values) + "\n")
    with open(folder / "metrics.jsonl") as file:  # its training rows speak of batches of 10
        rows = [row for row in map(json.loads, file) if row["kind"] != "train" or row.pop("batch_size")]
    (folder / "metrics.jsonl").write_text("".join([json.dumps(row) + "\n" for row in rows] + lines))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A grid of sizes and rates with two seeds each, a run whose size grows, and one that diverged."""
    folder = tmp_path_factory.mktemp("plane")
    for size, lr in GRID:
        for seed in range(2):
            c, l_ = size * (1 + lr + 0.1 * seed), 100 * lr * 16 / size
            fisher_run(folder / f"{size}-{lr}-{seed}", [size], c, l_, seed, 80 + size / 8 + 50 * lr, lr)
    fisher_run(folder / "grows", [16, 32, 64], 50.0, 4.0, top1=91.0, batching="dynamic")
    fisher_run(folder / "lost", [64], 900.0, 800.0, lr=9.0, status="diverged")
    return compare_methods(load_runs([folder]))


def axis_of():
    return Figure().subplots()


@pytest.mark.slow
def test_there_are_figures_of_everything_in_all_formats(made, tmp_path):
    figures = draw_fisher_figures(made, "steps", tmp_path)
    assert [p.name for p in figures] == ["fisher", "errors", "fisher_plane", "fisher_ways"]
    for figure in figures:
        assert "</svg>" in figure.svg.read_text()
        assert figure.png.stat().st_size > 10_000
        assert figure.pdf.stat().st_size > 5_000
    text = (tmp_path / "fisher_plane.svg").read_text()
    assert "<!-- point: mean over seeds at the end; s: batch size;" in text
    assert "grey: contours of the test error (%)" in text


def test_rows_without_the_measures_make_no_figure(tmp_path):
    made_up_run(tmp_path / "run")
    assert draw_fisher_curves(tmp_path / "run", "run") is None
    assert draw_fisher_figures(compare_methods(load_runs([tmp_path / "run"])), "steps", tmp_path) == []


def test_a_point_is_the_mean_of_the_seeds_at_the_end_with_its_size(made):
    axis, ways = axis_of(), method_trajectories(made)
    note, texts = draw_end_points(axis, made, ways, plane_styles(made, ways))
    points = [line.get_xydata()[0] for line in axis.get_lines() if line.get_linestyle() == "None"]
    assert len(points) == len(texts) == len(GRID) + 1  # a run that diverged ends nowhere
    for size, lr in GRID:
        (point,) = (p for text, p in texts if text == f"s{size}" and p[0] == pytest.approx(size * (1 + lr + 0.05)))
        assert point[1] == pytest.approx(100 * lr * 16 / size)
    assert sorted(text for text, _ in texts if text) == sorted(f"s{size}" for size, _ in GRID)
    assert "error" not in note  # contours show it


def test_colours_are_learning_rates_and_markers_are_plans(made):
    ways = method_trajectories(made)
    styles = plane_styles(made, ways)
    assert len({style.colour for style in styles.values()}) == len({lr for _, lr in GRID})
    for name, style in styles.items():
        assert style.rate == f"lr {name.rpartition('optimizer.lr=')[2].split()[0]}"
        assert (style.marker == "o") == ("batching=constant" in name)
    handles, columns = point_legend(styles.values())
    assert list(handles) == ["lr 0.05", "lr 0.1", "constant batch size s", "batching dynamic, batch size 64"]
    assert columns == 2


@pytest.mark.parametrize(("rates", "plans"), [(3, 1), (3, 4), (1, 5), (5, 2)])
def test_learning_rates_have_a_column_of_the_legend_for_themselves(rates, plans):
    styles = [PointStyle("k", "o", f"lr {n + 1}", f"plan {m}") for n in range(rates) for m in range(plans)]
    handles, columns = point_legend(styles)
    first, *others = (list(part) for part in np.array_split(list(handles), columns))
    assert [label for label in first if label.strip()] == [f"lr {n + 1}" for n in range(rates)]
    assert [label for part in others for label in part if label.strip()] == [f"plan {m}" for m in range(plans)]


def test_few_points_have_their_errors_beside_them(tmp_path):
    fisher_run(tmp_path / "run", [16], 30.0, 5.0, top1=91.25)
    comparison = compare_methods(load_runs([tmp_path / "run"]))
    ways = method_trajectories(comparison)
    note, ((text, _),) = draw_end_points(axis_of(), comparison, ways, plane_styles(comparison, ways))
    assert text == "s16, 8.75 %"
    assert note.endswith("; %: test error")


def test_texts_cover_neither_one_another_nor_points():
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axis = figure.subplots()
    rng = np.random.default_rng(0)
    points = np.array([1.0, 1.0]) + rng.random((12, 2)) * 0.3  # texts at one side of each would run into one another
    axis.plot(*points.T, "o", markersize=2)
    axis.set(xlim=(0.5, 2), ylim=(0.5, 2))
    write_labels(figure, axis, [(f"s{2**n}", point) for n, point in enumerate(points)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == 12
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    places = axis.transData.transform(points)
    assert not any(box.contains(*place) for box in boxes for place in places)


def test_points_that_differ_by_the_batch_size_alone_are_joined_by_size(made):
    axis, ways = axis_of(), method_trajectories(made)
    draw_end_points(axis, made, ways, plane_styles(made, ways))
    joined = [line.get_xdata() for line in axis.get_lines() if line.get_linestyle() == "-"]
    assert len(joined) == 2
    for line in joined:
        assert len(line) == 3
        assert (np.diff(line) > 0).all()


def test_runs_of_one_size_are_dotted_and_others_solid_through_points_at_shares_of_the_epochs(made):
    axis, ways = axis_of(), method_trajectories(made)
    _, texts = draw_trajectories(axis, made, ways, plane_styles(made, ways))
    shares = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 1.0])
    solid = [line for line in axis.get_lines() if line.get_linestyle() == "-"]
    assert [line.get_linestyle() for line in axis.get_lines()].count(":") == len(GRID)
    (line,) = solid
    assert line.get_xdata() == pytest.approx(50 * shares)
    assert line.get_ydata() == pytest.approx(4 * shares**0.5)
    assert line.get_marker() != "None"
    assert len(texts) == len(GRID)
    dotted = next(line for line in axis.get_lines() if line not in solid)
    assert texts[0][1] == pytest.approx(dotted.get_xydata()[0])  # written where the way begins


def test_level_lines_need_six_points_that_are_not_in_a_line(made):
    ways = list(method_trajectories(made).values())
    assert draw_error_contours(axis_of(), ways)
    assert draw_error_contours(axis_of(), ways[:6])
    assert not draw_error_contours(axis_of(), ways[:5])
    in_line = [type(w)(w.points, np.array([2.0**i, 4.0**i]), float(i), w.size) for i, w in enumerate(ways)]
    assert not draw_error_contours(axis_of(), in_line)
    flat = [type(w)(w.points, w.end, 3.0, w.size) for w in ways]
    assert not draw_error_contours(axis_of(), flat)


@pytest.mark.parametrize("largest", [9.0, 100.0, 3000.0])
def test_numbers_at_an_axis_do_not_run_into_one_another(largest):
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axis = figure.subplots()
    axis.plot([3.0, largest], [3.0, largest])
    set_scales(axis)
    figure.draw_without_rendering()
    low, high = axis.get_xlim()
    labels = [label for label in axis.get_xticklabels() if low <= label.get_position()[0] <= high]
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) >= 3
    assert all(one.x1 < following.x0 for one, following in pairwise(boxes))


@pytest.mark.slow
def test_a_run_leaves_its_measures_over_epochs_and_steps(tmp_path):
    fisher_run(tmp_path / "run", [16], 30.0, 5.0)
    assert draw_fisher_curves(tmp_path / "run", "run") == tmp_path / "run/fisher.png"
    axes = fisher_figure(tmp_path / "run").axes
    assert [axis.get_ylabel() for axis in axes[::2]] == ["$c_k$", "$l_k$", r"$\bar{C}_K$", "$L_K$"]
    assert [axis.get_xlabel() for axis in axes[-2:]] == ["epoch", "step"]
    assert "measured step (faint; solid: running mean)\n" in axes[0].get_title(loc="left")
    for axis, places in zip(axes[-2:], (np.arange(1, 41) / 2, 5 * np.arange(1, 41)), strict=True):
        (line,) = axis.get_lines()
        assert line.get_xdata() == pytest.approx(places)
        assert line.get_ydata() == pytest.approx(5 * (np.arange(1, 41) / 40) ** 0.5)


def test_few_measured_steps_have_no_running_mean_in_the_note(tmp_path):
    fisher_run(tmp_path / "run", [16], 30.0, 5.0)
    path = tmp_path / "run/metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert "of a measured step\n" in fisher_figure(tmp_path / "run").axes[0].get_title(loc="left")


@pytest.mark.slow
def test_measures_that_are_null_leave_gaps(tmp_path):
    fisher_run(tmp_path / "run", [16], 30.0, 5.0)
    path = tmp_path / "run/metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["kind"] == "probe" and row["step"] < 50:
            row |= {"c_k": None, "C_K": None}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert draw_fisher_curves(tmp_path / "run", "run").exists()
    (way,) = method_trajectories(compare_methods(load_runs([tmp_path / "run"]))).values()
    assert np.isnan(way.points[:3]).any(axis=1).tolist() == [True, True, False]
