"""The figures of a study: from where they are drawn, and why one is missing."""

import re

import pytest

from helpers.studies import report_of, study_of
from trainopt.runner.studies import figures as study_figures
from trainopt.runner.studies.schema import StudyFigure

pytestmark = pytest.mark.draws


@pytest.mark.slow
def test_curves_begin_where_the_study_says_and_are_drawn_at_its_scales(tmp_path, monkeypatch):
    drawn = []

    def draw(curves, *rest):
        drawn.append(curves)
        return draw_curve_panels(curves, *rest)

    draw_curve_panels = study_figures.draw_curve_panels
    monkeypatch.setattr(study_figures, "draw_curve_panels", draw)
    about = ("methods", "epochs", {"kind": "test", "column": "top1"})
    figures = [
        StudyFigure("A", "figure 1", *about),
        StudyFigure("B", "figure 2", *about, since="2epochs"),
        StudyFigure("C", "figure 3", *about, since="1000epochs"),
        StudyFigure("D", "figure 4", *about, scales=["paper"]),
    ]
    result, text = report_of(tmp_path, study_of(claims=[], tables=[], figures=figures))
    assert result.problems == []
    whole, later = ({n: c.x for n, c in curves["test top-1 accuracy (%)"].items()} for curves in drawn)
    assert whole.keys() == later.keys()
    for name, epochs in whole.items():
        assert min(epochs) < 2
        assert list(later[name]) == [e for e in epochs if e >= 2] != []
    assert "- its runs have no such records: plot of figure 3\n" in text
    assert "- drawn at scale paper only: plot of figure 4\n" in text


def test_a_logarithmic_axis_shows_means_whose_interval_goes_below_zero(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(study_figures, "save_figure", lambda figure, *about: drawn.append(figure) or "drawn")
    few = [{"seed": seed, "top1": top1} for seed, top1 in enumerate((1.0, 60.0))]
    value = {"value": "final.top1"}
    figure = StudyFigure("A", "figure 1", "methods", value, value, log=["x", "y"])
    report_of(tmp_path, study_of(claims=[], tables=[], figures=[figure]), few)
    for limits in (drawn[0].axes[0].get_xlim(), drawn[0].axes[0].get_ylim()):
        assert 0 < limits[0] < 30.5 < limits[1]


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"by": ["optimzer"]}, "by optimzer: none of the runs .* mean optimizer"),
        ({"where": {"optimzer": "adam"}}, "where: optimzer: none of the runs"),
        ({"where": {"optimizer": "adma"}}, "where: no run of the sweep methods"),
        ({"y": {"kind": "tst", "column": "top1"}}, "y: kind: tst: no such records; there are test, train"),
        (
            {"y": {"kind": "test", "column": "top"}},
            "y: column: top: records of kind test have no such column; did you mean top",
        ),
        ({"y": {"kind": "test"}}, "y: column: is missing"),
        (
            {"x": {"value": "final.top"}, "y": {"value": "final.top1"}},
            "value: final.top: no such value in summary.json",
        ),
        ({"since": "soon"}, "since: must be as 300steps"),
        ({"x": {"value": "final.top1"}, "y": {"value": "final.top1"}, "since": "1steps"}, "since: belongs to"),
    ],
)
def test_figures_that_cannot_be_drawn_say_why(tmp_path, parts, says):
    about = {"x": "steps", "y": {"kind": "test", "column": "top1"}, "by": ["optimizer"], **parts}
    result, _ = report_of(tmp_path, study_of(figures=[StudyFigure("A", "figure 1", "methods", **about)], tables=[]))
    (problem,) = result.problems
    assert re.search(rf"figures\[0\]: .*{says}", problem)


def test_a_figure_of_runs_that_are_still_missing_is_no_mistake(tmp_path):
    y = {"kind": "test", "column": "top1"}
    figure = StudyFigure("A", "figure 1", "methods", "steps", y, {"optimizer.steps": 20})
    study = study_of(claims=[], tables=[], figures=[figure])
    result, text = report_of(tmp_path, study, state="incomplete")
    assert result.problems == []
    assert "- 8 of 8 runs are not done: plot of figure 1\n" in text
