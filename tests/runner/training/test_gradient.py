"""Clipping and accumulation against a plain PyTorch loop: the same weights bit for bit; records; refusals."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from helpers.cli import built, refusal
from helpers.runs import rows, summary, weights
from trainopt.data import Position, batches

RUN = ("model=mlp", "model.hidden=[8]", "data.limit=100", "batching.size=25", "duration=6steps", "logger=none")
SMALL_NORM = "gradient.clip_norm=0.3"
SMALL_VALUE = "gradient.clip_value=0.01"


def plain(*typed: str, parts: int = 1, clip=lambda parameters: torch.tensor(0.0)) -> tuple[dict, list[float]]:
    """The weights after six steps of a loop as people write it, and what `clip` returned at each."""
    run = built(*RUN, *typed)
    network, optimizer, norms = run.network.train(), run.optimizer, []
    stream = batches(run.training_set, run.batching, run.seed, Position())
    for _ in range(6):
        inputs, targets, size, _ = next(stream)
        optimizer.zero_grad()
        for x, y in zip(inputs.tensor_split(parts), targets.tensor_split(parts), strict=True):
            (cross_entropy(network(x), y) * (len(x) / size)).backward()
        norms.append(clip(list(network.parameters())))
        optimizer.step()
    return network.state_dict(), [float(norm) for norm in norms]


def same(folder, expected) -> bool:
    trained = weights(folder)
    return all(torch.equal(trained[name], value) for name, value in expected.items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_norm_is_clipped_as_torch_does_it(trained, optimizer):
    choice = f"optimizer={optimizer}"
    folder = trained(*RUN, choice, SMALL_NORM, "log_every=1steps")
    expected, norms = plain(choice, clip=lambda parameters: clip_grad_norm_(parameters, 0.3))
    assert same(folder, expected)
    assert [row["gradient_norm"] for row in rows(folder, "train")] == norms
    assert min(norms) > 0.3


def test_values_are_clipped_as_torch_does_it(trained):
    folder = trained(*RUN, SMALL_VALUE, "log_every=1steps")
    expected, _ = plain(clip=lambda parameters: clip_grad_value_(parameters, 0.01) or 0)
    assert same(folder, expected)
    assert rows(folder, "train")[0]["gradient_norm"] > 0.3  # of the whole gradient, before


@pytest.mark.parametrize("parts", [2, 3, 25])
def test_parts_are_added_up_as_in_a_plain_loop(trained, parts):
    folder = trained(*RUN, f"gradient.accumulation_steps={parts}", "log_every=1steps")
    expected, _ = plain(parts=parts)
    assert same(folder, expected)
    whole, _ = plain()
    for name, value in weights(folder).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6)
    last = summary(folder)
    assert (last["gradients"], last["samples"]) == (6, 150)
    assert all(row["total"] == pytest.approx(row["cross_entropy"]) for row in rows(folder, "train"))


def test_records_of_parts_are_those_of_the_whole_batch(trained):
    options = ("regularizer=[l2]", "objective.label_smoothing=0.1", "augmentation.mixup=0.4", "log_every=1steps")
    whole = rows(trained(*RUN, *options), "train")
    parts = rows(trained(*RUN, *options, "gradient.accumulation_steps=4", name="parts"), "train")
    for one, other in zip(whole, parts, strict=True):
        for key in ("total", "cross_entropy", "l2", "top1"):
            assert other[key] == pytest.approx(one[key], rel=1e-4)


def test_a_gradient_that_is_not_finite_ends_the_run_before_the_update(trained, monkeypatch):
    def broken(gradients, *_):
        return torch.tensor(float("nan")) if len(seen) == 2 else seen.append(1) or torch.tensor(1.0)

    seen: list[int] = []
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", broken)
    folder = trained(*RUN, "gradient.clip_norm=10")
    end = json.loads((folder / "summary.json").read_text())
    assert end["status"] == "diverged"
    assert (end["diverged_at"]["step"], end["diverged_at"]["gradient_norm"]) == (2, "nan")
    assert all(value.isfinite().all() for value in weights(folder).values())


class NoGradient:
    """A term of the loss that is 0 and whose gradient is finite in two steps and then not."""

    def __init__(self):
        self.calls = 0

    def covers(self, layer, name) -> bool:
        """Covers everything."""
        return True

    def __call__(self, params):
        """Returns 0."""
        self.calls += 1
        zero = 0.0 * params[0].sum()
        return zero.square() if self.calls <= 2 else zero.abs().sqrt()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "ehnewton"])
def test_a_gradient_that_is_not_finite_ends_the_run_also_where_nothing_is_clipped(trained, optimizer):
    term = "+regularizer.none._target_=runner.training.test_gradient.NoGradient"
    folder = trained(*RUN, f"optimizer={optimizer}", term)
    end = summary(folder)
    assert end["status"] == "diverged"
    assert (end["diverged_at"]["step"], end["diverged_at"]["gradient_norm"]) == (2, "nan")
    two = trained(*RUN, f"optimizer={optimizer}", "duration=2steps", name="two")
    assert all(torch.equal(value, weights(two)[name]) for name, value in weights(folder).items())


def test_weights_that_are_not_finite_are_neither_evaluated_nor_written(trained):
    """Without eps Adam divides 0 by 0 where a pixel is always black, with a gradient that is finite."""
    folder = trained(*RUN, "optimizer=adam", "optimizer.eps=0", "data.mean=[0]", "evaluate_every=1steps")
    end = summary(folder)
    assert end["status"] == "diverged"
    assert (end["diverged_at"]["step"], end["diverged_at"]["weights"]) == (1, "inf")
    assert [row["step"] for row in rows(folder, "test")] == [0]
    assert not (folder / "checkpoints/last.pt").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("gradient.clip_norm=0", "gradient.clip_norm=0: must be a number > 0"),
        ("gradient.clip_value=-1", "gradient.clip_value=-1: must be a number > 0"),
        ("gradient.accumulation_steps=0", "gradient.accumulation_steps=0: must be an integer >= 1"),
        ("gradient.clip_norm=1 gradient.clip_value=1", "give one of the two"),
        ("optimizer=ehnewton gradient.clip_value=1", "gradient.clip_value=1: EHNewton differentiates the loss itself"),
        ("optimizer=ehnewton gradient.accumulation_steps=2", "accumulation_steps=2: EHNewton differentiates"),
        ("optimizer=adaptive_nesterov gradient.clip_norm=1", "gradient.clip_norm=1: AdaptiveNesterov computes"),
        ("optimizer=newton gradient.clip_norm=1 optimizer.max_parameters=9999", "clip_norm=1: Newton differentiates"),
        ("optimizer._target_=torch.optim.LBFGS gradient.clip_norm=1", "clip_norm=1: LBFGS learns the curvature"),
        ("model=function data=none batching.size=1 gradient.accumulation_steps=2", "a test function has no batches"),
        ("model=resnet8 data.size=4 gradient.accumulation_steps=30 batching.size=30", "parts of one image"),
    ],
)
def test_what_cannot_go_together_is_refused(command, message):
    assert message in refusal("model=mlp", *command.split())


def test_a_probe_measures_whole_batches(trained):
    probe = ("probe=[fisher]", "probe.fisher.every=3steps", "optimizer.lr=0")
    whole = rows(trained(*RUN, *probe), "probe")
    parts = rows(trained(*RUN, *probe, "gradient.accumulation_steps=2", name="parts"), "probe")
    assert [row["C_K"] for row in parts] == pytest.approx([row["C_K"] for row in whole], rel=1e-4)


def test_batch_norm_in_parts_is_said():
    run = built("model=resnet8", "gradient.accumulation_steps=4")
    assert "batch norm takes its statistics from each of 4 parts of a batch" in run.notes
    assert built("model=mlp", "gradient.accumulation_steps=4").notes == []
