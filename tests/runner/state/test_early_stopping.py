"""Early stopping looks at the validation set or at the length of steps, and is part of what a run goes on from."""

import itertools

import pytest
import torch

from helpers.cli import refusal
from helpers.runs import check_same_run, rows, same_weights, stop_at, summary, timeless, train_run
from trainopt.runner.metrics.selection import Selection
from trainopt.runner.state.early_stopping import EarlyStopping
from trainopt.runner.system.errors import UserError

LOSS = Selection("loss", higher_is_better=False)
RUN = (
    "model=mlp",
    "data.validation=0.2",
    "duration=200epochs",
    "optimizer.lr=0.5",
    "logger=none",
    "early_stopping.patience=3",
    "early_stopping.min_delta=0.5",
)


def waited(values, **options) -> list[int]:
    """How many evaluations it has waited after each of a list of values of its metric."""
    stopping = EarlyStopping(**options)
    found = []
    for value in values:
        stopping.observe({"validation": {stopping.selection.metric: value}, "test": {stopping.selection.metric: 0.0}})
        found.append(stopping.waited)
    return found


def test_it_counts_evaluations_without_an_improvement():
    assert waited([50, 60, 60, 59, 61], patience=2) == [0, 0, 1, 2, 0]
    assert waited([1.0, 0.5, 0.5, 0.6, 0.4], patience=2, selection=LOSS) == [0, 0, 1, 2, 0]


def test_an_improvement_must_exceed_the_minimum_on_the_best_that_counted():
    assert waited([50, 50.4, 50.8, 51.5], patience=5, min_delta=0.5) == [0, 1, 0, 0]
    assert waited([50, 50.5, 50.6], patience=5, min_delta=0.5) == [0, 1, 0]


def test_what_is_not_finite_is_no_improvement():
    assert waited([float("nan"), 1.0, float("-inf"), 0.5], patience=9, selection=LOSS) == [1, 0, 1, 0]


def test_without_patience_it_never_ends():
    stopping = EarlyStopping()
    for _ in range(100):
        stopping.observe({"validation": {"top1": 1.0}})
    assert not stopping.ends


def test_it_needs_held_out_images():
    with pytest.raises(UserError, match=r"early_stopping.patience=3: needs a validation set"):
        EarlyStopping(patience=3).check({"test": None})


def test_a_run_stops_where_the_figures_say(trainopt, tmp_path):
    result = trainopt(*RUN, "run.name=a")
    assert result.code == 0
    found = summary(tmp_path / "outputs/a")
    top1 = [row["top1"] for row in rows(tmp_path / "outputs/a", "validation")]
    counts = waited(top1, patience=3, min_delta=0.5)
    assert counts[-1] == 3
    assert 3 not in counts[:-1]
    assert found["status"] == "finished"
    assert found["stopped_early"] is True
    assert found["epochs"] == len(top1) - 1 < 200
    assert "stopped early" in result.out
    assert "already finished" in trainopt(*RUN, "run.name=a").out


def test_without_a_validation_split_it_is_refused():
    line = refusal("model=mlp", "early_stopping.patience=3")
    assert "needs a validation set, as with data.validation=0.1" in line


QUADRATIC = ("model=function", "data=none", "model.function=quadratic", "logger=none", "duration=400steps")
DESCENT = (*QUADRATIC, "optimizer.momentum=0", "optimizer.lr=0.02", "log_every=7steps", "evaluate_every=50steps")


def steps_of_descent(precision, lr):
    """At which step gradient descent on 5 + 3 |theta|^2 is shorter; a step scales theta, (5, 3), by 1 - 6 lr."""
    lengths = (6 * lr * 34**0.5 * abs(1 - 6 * lr) ** k for k in itertools.count())
    return next(k for k, length in enumerate(lengths, start=1) if length < precision)


@pytest.mark.parametrize("precision", [0.3, 1e-3, 1e-6])
def test_gradient_descent_ends_at_the_step_of_the_closed_form(trainopt, tmp_path, precision):
    result = trainopt(*DESCENT, f"early_stopping.min_step_norm={precision}", "run.name=a")
    steps = steps_of_descent(precision, 0.02)
    found = summary(tmp_path / "outputs/a")
    assert (found["status"], found["steps"], found["stopped_early"]) == ("finished", steps, True)
    assert f"stopped early: {steps} steps; the last step was shorter than early_stopping.min_step_norm" in result.out
    last = [rows(tmp_path / "outputs/a", kind)[-1] for kind in ("train", "test")]
    assert [row["step"] for row in last] == [steps, steps]
    assert last[1]["theta"] == pytest.approx([5 * 0.88**steps, 3 * 0.88**steps], rel=1e-9)
    state = torch.load(tmp_path / "outputs/a/checkpoints/last.pt", weights_only=True)
    assert state["progress"]["step"] == steps
    assert "already finished" in trainopt(*DESCENT, f"early_stopping.min_step_norm={precision}", "run.name=a").out


def test_newton_ends_where_the_optimum_was_found(trained, tmp_path):
    trained(*QUADRATIC, "optimizer=newton", "early_stopping.min_step_norm=0.1")
    found = summary(tmp_path / "outputs/a")
    assert (found["steps"], found["final"]["loss"], found["stopped_early"]) == (2, 5.0, True)


def test_a_run_that_never_takes_a_short_step_is_the_same_bit_for_bit(trained, tmp_path):
    command = ("model=mlp", "duration=2epochs", "logger=none", "log_every=1steps")
    trained(*command)
    trained(*command, "early_stopping.min_step_norm=1e-30", name="b")
    a, b = tmp_path / "outputs/a", tmp_path / "outputs/b"
    assert timeless(rows(a)) == timeless(rows(b))
    assert same_weights(a, b)
    assert summary(b)["stopped_early"] is False


def test_signals_do_not_change_where_a_run_ends_by_precision(trained, tmp_path, monkeypatch):
    command = (*DESCENT, "early_stopping.min_step_norm=0.01")
    last = steps_of_descent(0.01, 0.02)
    whole, parts = trained(*command), tmp_path / "parts"
    stop_at(monkeypatch, 20, last)  # the second one cuts the last evaluation short
    for _ in range(2):
        assert train_run(parts, *command) == 130
    assert train_run(parts, *command) == 0
    check_same_run(parts, whole)


def test_patience_and_precision_go_together_and_the_first_ends_the_run(trained):
    patient = trained(*RUN, "early_stopping.min_step_norm=1e-30", name="patient")
    assert "no improvement on the validation set" in summary(patient)["stopped_because"]
    short = trained(*RUN, "early_stopping.min_step_norm=1e9", name="short")
    assert summary(short)["steps"] == 1
    assert "the last step was shorter" in summary(short)["stopped_because"]
    plain = trained(*RUN, name="plain")
    assert summary(patient)["steps"] == summary(plain)["steps"] > 1
    assert timeless(rows(patient)) == timeless(rows(plain))


class Cautious(torch.optim.SGD):
    """A subclass whose step calls its parent's, in two halves: both are hooked."""

    def step(self, closure=None):
        super().step()
        super().step()


def test_the_length_is_that_of_the_whole_step_over_all_trained_parameters():
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)  # torch hooks its step only now
    a, b = torch.nn.Parameter(torch.tensor([0.0, 0.0])), torch.nn.Parameter(torch.tensor([[0.0]]))
    frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    optimizer = Cautious([{"params": [a, frozen]}, {"params": [b], "lr": 2.0}], lr=1.0)
    a.grad, b.grad = torch.tensor([1.0, 2.0]), torch.tensor([[1.0]])  # moves by (2, 4) and (4): 6
    for precision, is_short in ((6.01, True), (5.99, False)):
        stopping = EarlyStopping(min_step_norm=precision)
        stopping.watch(optimizer)
        optimizer.step()
        assert stopping.step_is_short is is_short
        again = EarlyStopping(min_step_norm=precision)
        again.load_state_dict(stopping.state_dict())
        assert again.ends is is_short


def test_what_is_no_optimizer_of_torch_cannot_be_measured():
    EarlyStopping().watch(object())
    with pytest.raises(UserError, match=r"early_stopping.min_step_norm=0.1: needs a torch.optim.Optimizer"):
        EarlyStopping(min_step_norm=0.1).watch(object())


class Unwatched(torch.optim.SGD):
    """Takes no hooks."""

    register_step_pre_hook = register_step_post_hook = None


def test_nothing_is_measured_where_nobody_asked():
    optimizer = Unwatched([torch.nn.Parameter(torch.zeros(1))])
    EarlyStopping(patience=3).watch(optimizer)
    with pytest.raises(TypeError):
        EarlyStopping(min_step_norm=0.1).watch(optimizer)
