"""Labels, colours and sizes: the same in all figures, for colour-blind readers; wrong ones are refused."""

import json
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure

from trainopt.runner.config.options import CONF, Vocabulary, shipped
from trainopt.runner.reporting.curves import draw_learning_curves
from trainopt.runner.reporting.figure_style import figure_style, legend_width, points
from trainopt.runner.reporting.method_styles import FILE, method_labels, method_styles, optimizer_styles
from trainopt.runner.reporting.style import (
    COLOURS,
    LINE_STYLES,
    OFF_AXIS,
    PALETTE,
    fit_percentages,
    label_log_axes,
    new_figure,
)
from trainopt.runner.system.errors import UserError

# Machado et al. 2009, severity 1: what a reader without one kind of cone sees, in linear RGB
CONES = {
    "all": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def linear_rgb(colour):
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear RGB (sRGB's primaries, D65)."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one, other, cones):
    return float(np.linalg.norm(lab(cones @ linear_rgb(one)) - lab(cones @ linear_rgb(other))))


@pytest.mark.parametrize("cones", CONES)
def test_colours_are_no_closer_than_okabe_and_itos_green_and_pink(cones):
    closest = min(distance(COLOURS["green"], COLOURS["pink"], matrix) for matrix in CONES.values())
    assert min(distance(one, other, CONES[cones]) for one, other in combinations(PALETTE, 2)) >= closest


def test_every_optimizer_has_a_label_and_a_pair_of_colour_and_line_of_its_own():
    entries = shipped(FILE)["optimizer"]
    options = set(Vocabulary([CONF]).options("optimizer"))
    assert options - {"timm", "pytorch_optimizer"} <= entries.keys()
    pairs = [(entry["colour"], entry["line"]) for entry in entries.values()]
    assert len(set(pairs)) == len(pairs)
    assert all(colour in COLOURS and line in LINE_STYLES for colour, line in pairs)
    assert len({entry["label"] for entry in entries.values()}) == len(entries)
    for group in ("model", "data"):
        assert shipped(FILE)[group].keys() <= set(Vocabulary([CONF]).options(group))


def test_an_optimizer_has_its_colour_whatever_it_is_compared_with():
    adam = method_styles(["optimizer=adam", "optimizer=sgd"])["optimizer=adam"]
    others = ["optimizer=muon optimizer.lr=0.1", "optimizer=adam optimizer.lr=0.1", "optimizer=theirs"]
    assert method_styles(others)["optimizer=adam optimizer.lr=0.1"] == adam
    assert adam == (COLOURS["vermillion"], "dashed")


def test_optimizers_with_the_same_line_can_be_told_apart_in_greyscale():
    first = {entry["colour"]: entry["line"] for entry in reversed(shipped(FILE)["optimizer"].values())}
    lightness = {colour: lab(linear_rgb(COLOURS[colour]))[0] for colour in first}
    for one, other in combinations(first, 2):
        assert first[one] != first[other] or abs(lightness[one] - lightness[other]) > 20


def test_a_class_of_torch_has_the_colour_of_its_option():
    typed = ["optimizer=torch.optim.NAdam", "optimizer=sgd"]
    assert method_styles(typed)[typed[0]] == optimizer_styles(["nadam"])["nadam"]
    assert method_labels(typed)[typed[0]] == "NAdam"


def test_other_peoples_optimizers_get_free_colours_in_any_order():
    names = ["sgd", "adam", "adamw", "their.First", "their.Second", "timm adopt"]
    styles = optimizer_styles(names)
    assert styles == optimizer_styles(reversed(names))
    assert len({colour for colour, _ in styles.values()}) == len(names)
    assert len(set(optimizer_styles([f"their.Optimizer{n}" for n in range(40)]).values())) == 40


@pytest.mark.parametrize("count", [1, 8, 20, 80])
def test_methods_can_be_told_apart(count):
    one = [f"optimizer=sgd optimizer.lr={n}" for n in range(count)]
    assert len(set(method_styles(one).values())) == count
    two = [*one, "optimizer=schedulefree_sgd"]
    assert len(set(method_styles(two).values())) == count + 1


def test_labels_are_those_of_papers():
    assert method_labels(["optimizer=sgd", "optimizer=ehnewton"]) == {
        "optimizer=sgd": "SGD",
        "optimizer=ehnewton": "EHNewton",
    }
    same = ["optimizer=sgd schedule=cosine", "optimizer=adam schedule=cosine"]
    assert list(method_labels(same).values()) == ["SGD", "Adam"]  # what all have is not written
    twice = ["optimizer._target_=a.Lion", "optimizer._target_=b.Lion"]
    assert list(method_labels(twice).values()) == twice
    renamed = method_labels([*same, "optimizer=adam schedule=linear"], ["optimizer=adam schedule=linear:ours"])
    assert list(renamed.values()) == ["SGD, schedule cosine", "Adam, schedule cosine", "ours"]
    probes = ["probe.fisher._target_=a.FisherProbe probe.fisher.every=10steps", "without probe.fisher"]
    assert list(method_labels(probes).values()) == ["probe fisher, every 10 steps", "without probe.fisher"]
    assert list(method_labels(probes, ["without probe.fisher:plain"]).values())[1] == "plain"
    assert method_labels(["all runs"]) == {"all runs": "all runs"}


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ("adam", "must be NAME:LABEL, as optimizer=adam:Adam"),
        ("optimizer=adm:A", "no method has optimizer=adm; did you mean optimizer=adam. there are "),
        ("optimizer=adam:SGD", "several methods would be called SGD"),
    ],
)
def test_labels_that_cannot_be_are_refused(rename, message):
    with pytest.raises(UserError, match=message):
        method_labels(["optimizer=sgd", "optimizer=adam"], [rename])


def test_a_style_gives_width_and_font_and_ends():
    assert (new_figure(3.6, 0.6).get_size_inches() == [7.2, 4.2]).all()
    usual = legend_width()
    with figure_style("paper", "84mm"):
        assert new_figure(3.6).get_figwidth() == pytest.approx(84 / 25.4)
        assert points(10) == 8
        assert legend_width() < usual
    assert (points(10), legend_width()) == (10, usual)


@pytest.mark.parametrize("width", ["3.3", "wide", "0in", "-3in", "900mm", "3.3 inches"])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(UserError, match=rf"--width {width}: must be"), figure_style("paper", width):
        pass


def test_the_point_before_the_first_step_does_not_take_the_axis():
    axis = new_figure(3).subplots()
    x, accuracy = np.array([0.0, 1.0, 2.0]), np.array([10.0, 95.0, 97.0])
    assert fit_percentages(axis, [(x, accuracy, accuracy)])
    assert axis.get_ylim() == pytest.approx((94.9, 97.1))
    assert not fit_percentages(axis, [(x[:2], accuracy[:2], accuracy[:2])])  # a point alone makes no line
    assert axis.get_ylim()[0] < 10
    lost = np.array([10.0, np.nan, np.nan])  # of a run that diverged
    assert not fit_percentages(axis, [(x, lost, lost)])
    assert not fit_percentages(axis, [(x[1:], accuracy[1:], accuracy[1:])])


@pytest.mark.parametrize("steps", [3, 2])
def test_curves_of_a_run_note_a_value_that_is_off_the_axis(steps, tmp_path, monkeypatch):
    tests = [{"kind": "test", "step": k, "epoch": k, "loss": 1.0, "top1": top1} for k, top1 in enumerate((10, 95, 97))]
    rows = [*tests[:steps], {"kind": "train", "step": 1, "epoch": 1, "cross_entropy": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (drawn.append(figure), path.touch()))
    draw_learning_curves(tmp_path, "run")
    (figure,) = drawn
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["", OFF_AXIS if steps > 2 else ""]
    figure.draw_without_rendering()
    title, *panels = (figure._suptitle, *figure.axes)
    notes = [text for axis in panels for text in (axis._left_title,) if text.get_text()]
    assert all(note.get_window_extent().y1 < title.get_window_extent().y0 for note in notes)


def test_a_run_that_diverged_at_once_is_no_function(tmp_path, monkeypatch):
    row = {"kind": "test", "step": 0, "epoch": 0.0, "loss": 2.3, "top1": 9.7}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(row)}\n")
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (drawn.append(figure), path.touch()))
    draw_learning_curves(tmp_path, "run")
    assert [axis.get_ylabel() for axis in drawn[0].axes] == ["cross-entropy", "top-1 accuracy (%)"]


@pytest.mark.parametrize("bounds", [(2.0, 50.0), (0.3, 0.5), (0.2, 1.5), (11.0, 95.0), (9.0, 11.0)])
def test_a_logarithmic_axis_has_at_least_two_labelled_ticks(bounds):
    figure = new_figure(3)
    axis = figure.subplots()
    axis.plot(bounds, bounds)
    axis.set_yscale("log")
    axis.set_ylim(bounds)
    label_log_axes(figure)
    figure.draw_without_rendering()
    ticks = [tick for tick in axis.yaxis.get_major_ticks() if bounds[0] <= tick.get_loc() <= bounds[1]]
    assert len([tick for tick in ticks if float(tick.label1.get_text()) == tick.get_loc()]) >= 2
