"""The terms of the loss: drawn where there are several, with the numbers of the rows."""

import numpy as np
import pytest

from helpers.fixtures import made_up_run
from helpers.runs import rows
from trainopt.runner.comparison.figures.curves import comparison_figures, method_curves, with_loss_terms
from trainopt.runner.comparison.methods import compare_methods
from trainopt.runner.records.frames import load_runs
from trainopt.runner.reporting.loss_terms import draw_loss_terms, loss_terms_figure, terms_drawn

RUN = ("model=mlp", "duration=60steps", "log_every=1steps", "logger=none", "hydra.run.dir=run")
NAN = float("nan")


def lines_of(axis) -> dict[str, np.ndarray]:
    """What the faint lines of a panel hold, by the label of the strong ones after them."""
    lines = axis.get_lines()
    return {strong.get_label(): faint.get_ydata() for faint, strong in zip(lines[::2], lines[1::2], strict=True)}


@pytest.mark.slow
@pytest.mark.draws
def test_a_run_with_a_regularizer_leaves_a_figure_of_its_terms(trainopt, tmp_path):
    result = trainopt(*RUN, "regularizer=[l2]")
    assert "curves.png, losses.png, checkpoints/" in result.out
    assert (tmp_path / "run/losses.png").stat().st_size > 10_000
    found = rows(tmp_path / "run", "train")
    terms, total = loss_terms_figure(tmp_path / "run").axes
    assert list(terms.get_lines()[0].get_xdata()) == [row["step"] for row in found] == list(range(1, 61))
    shown = lines_of(terms)
    assert shown.keys() == {"cross-entropy", "regularization: l2"}
    assert list(shown["cross-entropy"]) == [row["cross_entropy"] for row in found]
    assert list(shown["regularization: l2"]) == [row["l2"] for row in found]
    assert [list(values) for values in lines_of(total).values()] == [[row["total"] for row in found]]
    assert terms.get_yscale() == "log"  # L2 is some thousandths


def test_a_run_with_a_single_term_leaves_none(trainopt, tmp_path):
    assert "losses.png" not in trainopt(*RUN).out
    assert not (tmp_path / "run/losses.png").exists()


def test_a_run_without_a_step_leaves_none(tmp_path):
    folder = made_up_run(tmp_path / "run", curve=[10.0], config={"regularizer.l2.strength": 0.1})
    assert draw_loss_terms(folder, "run") is None


def test_sums_are_drawn_beside_their_parts(tmp_path):
    terms = {"auxiliary": 0.5, "l2": 0.25, "distance": 0.0}
    chosen = {"regularizer.l2.strength": 0.1, "regularizer.distance.strength": 0.1}
    folder = made_up_run(tmp_path / "run", terms=terms, config=chosen, reports={"power": 1.0})
    assert draw_loss_terms(folder, "run") == folder / "losses.png"
    main = np.array([3.0 / epoch for epoch in range(1, 5)])
    shown = lines_of(loss_terms_figure(folder).axes[0])
    expected = {
        "cross-entropy with auxiliary": main + 0.5,
        "cross-entropy": main,
        "auxiliary cross-entropy, weighted": np.full(4, 0.5),
        "regularization, all": np.full(4, 0.25),
        "regularization: l2": np.full(4, 0.25),
        "regularization: distance": np.zeros(4),
    }
    assert shown.keys() == expected.keys()
    for label, values in expected.items():
        assert list(shown[label]) == list(values)


def test_the_legend_lies_beside_the_curves(tmp_path):
    terms = {"auxiliary": 0.5, "l2": 0.25, "distance": 0.1}
    chosen = {"regularizer.l2.strength": 0.1, "regularizer.distance.strength": 0.1}
    figure = loss_terms_figure(made_up_run(tmp_path / "run", terms=terms, config=chosen))
    figure.draw_without_rendering()  # computes the layout
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert not any(box.overlaps(axis.get_window_extent()) for axis in figure.axes)
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert len(legend.get_texts()) == 6


def test_a_run_that_lacks_a_term_counts_in_the_sums_with_what_it_has():
    """Each column: a row of a network with an auxiliary classifier, and one without regularizers."""
    columns = {
        "cross_entropy": np.array([1.0, 2.0, NAN]),  # the last is an evaluation
        "auxiliary": np.array([0.5, NAN, NAN]),
        "l2": np.array([0.25, NAN, NAN]),
        "distance": np.array([NAN, NAN, NAN]),
    }
    found = terms_drawn(columns, ["l2", "distance"])
    assert np.array_equal(found["cross-entropy with auxiliary"], [1.5, 2.0, NAN], equal_nan=True)
    assert np.array_equal(found["regularization, all"], [0.25, NAN, NAN], equal_nan=True)
    assert terms_drawn({"cross_entropy": np.ones(2)}, ["l2"]) == {}


def test_a_comparison_draws_each_term_of_the_runs_that_have_it(tmp_path):
    for seed in range(3):
        made_up_run(tmp_path / f"runs/plain-{seed}", seed)
        terms, chosen = {"l2": 0.1 * (1 + seed)}, {"regularizer.l2.strength": 0.1}
        made_up_run(tmp_path / f"runs/l2-{seed}", seed, terms=terms, config=chosen)
    comparison, labels = with_loss_terms(compare_methods(load_runs([tmp_path / "runs"])))
    assert labels == ["cross-entropy", "regularization: l2"]
    both = method_curves(comparison, "train", "cross-entropy", "step")
    assert len(both) == 2
    for curve in both.values():
        assert list(curve.x) == [10, 20, 30, 40]
        assert curve.mean == pytest.approx([3.0, 1.5, 1.0, 0.75])
    (penalty,) = method_curves(comparison, "train", "regularization: l2", "step").values()
    assert penalty.mean == pytest.approx([0.2] * 4)
    assert (penalty.low, penalty.high) == (pytest.approx([0.1] * 4), pytest.approx([0.3] * 4))
    titles = {name: title for name, title, _ in comparison_figures(comparison, "steps")}
    assert titles["loss_terms"] == "Terms of the training loss vs. steps"
    assert titles["train_loss"] == "Training loss vs. steps"


def test_a_comparison_of_single_terms_has_no_such_figure(tmp_path):
    for seed in range(2):
        made_up_run(tmp_path / f"runs/{seed}", seed)
    figures = comparison_figures(compare_methods(load_runs([tmp_path / "runs"])), "steps")
    assert "loss_terms" not in {name for name, _, _ in figures}
