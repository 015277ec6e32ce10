"""The closure that optimizers call, and what is due between steps, without a training loop."""

from types import SimpleNamespace

import pytest
import torch

from helpers.cli import built
from trainopt.runner.training.closure import TrainingClosure
from trainopt.runner.training.divergence import Diverged
from trainopt.runner.training.evaluator import Evaluator

RUN = ("model=mlp", "model.hidden=[4]", "data.limit=40", "batching.size=10", "regularizer=[l2]")


@pytest.fixture
def run():
    return built(*RUN)


@pytest.fixture
def closure(run):
    closure = TrainingClosure(run)
    closure.batch = next(run.batches())
    return closure


def gradients(run):
    return [p.grad for p in run.network.parameters()]


def test_it_leaves_gradients_of_the_whole_loss_and_counts(run, closure):
    loss = closure()
    closure()  # gradients are not added up
    expected = torch.autograd.grad(run.objective(*closure.batch[:2])[0], list(run.network.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(gradients(run), expected, strict=True))
    assert (run.progress.gradients, run.progress.samples) == (2, 20)
    values = closure.values()
    assert values["total"] == loss.item() == pytest.approx(values["cross_entropy"] + values["l2"])
    assert closure.output.shape == (10, 10)


def test_for_an_optimizer_that_needs_the_graph_it_leaves_the_gradients_to_it(run):
    run.optimizer.needs_graph = True
    closure = TrainingClosure(run)
    closure.batch = next(run.batches())
    assert closure().requires_grad
    assert gradients(run) == [None] * 4


def test_a_part_of_the_batch_and_a_loss_without_gradients_are_not_counted(run, closure):
    batch = closure.batch
    assert torch.equal(closure(0.5), run.objective(batch.inputs[:5], batch.targets[:5])[0])
    assert torch.equal(closure(0.01), run.objective(batch.inputs[:2], batch.targets[:2])[0])  # batch norm needs two
    with torch.no_grad():
        assert torch.equal(closure(), run.objective(batch.inputs, batch.targets)[0])
    assert (run.progress.gradients, run.progress.samples, gradients(run)) == (0, 0, [None] * 4)


def test_a_loss_that_is_not_finite_ends_the_step_before_the_gradients(run, closure):
    next(run.network.parameters()).data.fill_(torch.inf)
    with pytest.raises(Diverged):
        closure()
    assert (run.progress.gradients, gradients(run)) == (0, [None] * 4)


def test_forward_passes_are_observed_while_asked_for(run, closure):
    seen = []
    with run.objective.observed(lambda inputs: seen.append(len(inputs))):
        closure()
        closure(0.5)
        run.objective.of_samples(*closure.batch[:2])
    closure()
    assert seen == [10, 5, 10]


@pytest.mark.parametrize(
    ("options", "steps", "expected"),
    [
        ((), 3, set()),
        (("log_every=3steps",), 3, {"log"}),
        (("evaluate_every=1epochs", "checkpoint_every=2epochs"), 4, {"evaluate"}),
        (("duration=1epochs",), 4, {"log", "evaluate"}),
        (("schedule=range_test", "schedule.over=4steps"), 4, {"log", "evaluate"}),
    ],
)
def test_what_is_due_after_a_step(options, steps, expected):
    run = built(*RUN, "log_every=1000epochs", "evaluate_every=1000epochs", "checkpoint_every=1000epochs", *options)
    recorder = SimpleNamespace(cycle_ended=False)
    evaluator = Evaluator(run, recorder, SimpleNamespace(), SimpleNamespace(signal=0), SimpleNamespace())
    stream = run.batches()
    for _ in range(steps):
        run.progress.advance(next(stream))
    due = evaluator.due()
    assert expected <= set(due)
    assert set(due) & {"log", "evaluate", "checkpoint"} == expected | ({"log"} if "range_test" in due else set())
