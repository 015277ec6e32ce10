"""Loss scaling: against plain loops with torch.amp.GradScaler, on a CPU; skipped steps; checkpoints; refusals."""

import signal
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from helpers.cli import built, refusal
from helpers.runs import check_same_run, equal, rows, state, stop_at, train_run
from trainopt.data import Position, batches
from trainopt.runner.precision.loss_scaling import LossScaling
from trainopt.runner.training import build

RUN = ("model=mlp", "model.hidden=[8]", "data.limit=60", "batching.size=20", "duration=6steps", "logger=[]")
FP16 = (*RUN, "precision=fp16", "device=cpu", "optimizer=adam", "log_every=1steps")
SCALER = {"init_scale": 2.0**18, "growth_interval": 2}


@pytest.fixture
def on_cpu(monkeypatch):
    """Lets a CPU pass for a GPU, with a scale at which gradients overflow at first."""
    monkeypatch.setattr(build, "set_numerics", lambda *_: None)
    monkeypatch.setattr(build, "LossScaling", partial(LossScaling, **SCALER))


def plain_loop(*typed, clip=None, parts=1):
    """The network, the optimizer and the scaler after the steps of a loop as people write it, and the skipped steps."""
    run = built(*FP16, *typed)
    network, optimizer, skipped = run.network.train(), run.optimizer, []
    scaler = torch.amp.GradScaler("cpu", **SCALER)
    stream = batches(run.training_set, run.batching, run.seed, Position())
    for step in range(1, 7):
        inputs, targets, size, _ = next(stream)
        optimizer.zero_grad()
        for x, y in zip(inputs.tensor_split(parts), targets.tensor_split(parts), strict=True):
            with torch.autocast("cpu", torch.float16):
                loss = cross_entropy(network(x), y)
            scaler.scale(loss * (len(x) / size) if parts > 1 else loss).backward()
        if clip is not None:
            scaler.unscale_(optimizer)
            clip_grad_norm_(network.parameters(), clip)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < before:
            skipped.append(step)
    return network, optimizer, scaler, skipped


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        (("optimizer.fused=true",), {}),
        (("gradient.clip_norm=0.1",), {"clip": 0.1}),
        (("gradient.accumulation_steps=2",), {"parts": 2}),
    ],
)
def test_a_run_in_float16_is_a_plain_loop_with_a_scaler(on_cpu, trained, options, plain):
    network, optimizer, scaler, skipped = plain_loop(*options, **plain)
    assert 0 < len(skipped) < 5
    folder = trained(*FP16, *options)
    last = state(folder)
    assert equal(dict(last["model"]), dict(network.state_dict()))
    assert equal(last["optimizer"], optimizer.state_dict())
    assert last["scaling"] == {**scaler.state_dict(), "skipped_steps": len(skipped)}
    counts = [row["skipped_steps"] for row in rows(folder, "train")]
    assert counts == [sum(step <= row for step in skipped) for row in range(1, 7)]
    assert rows(folder, "train")[-1]["loss_scale"] == scaler.get_scale()


def test_a_resumed_run_in_float16_is_the_run(on_cpu, trained, tmp_path, monkeypatch):
    whole, parts = trained(*FP16, name="whole"), tmp_path / "outputs/parts"
    stop_at(monkeypatch, 1, 4)
    for _ in range(2):
        assert train_run(parts, *FP16) == 128 + signal.SIGINT
    assert train_run(parts, *FP16) == 0
    check_same_run(parts, whole)


def test_gradients_that_are_never_finite_end_the_run(on_cpu, trained, monkeypatch):
    monkeypatch.setattr(build, "LossScaling", partial(LossScaling, init_scale=2.0**-14))
    loss = "trainopt.runner.objectives.cross_entropy.cross_entropy"
    monkeypatch.setattr(loss, lambda *a, **k: Overflowing.apply(cross_entropy(*a, **k)))
    folder = trained(*FP16)
    assert rows(folder, "train")[0]["skipped_steps"] == 1
    assert state(folder)["progress"]["step"] == 1


class Overflowing(torch.autograd.Function):
    """Passes a loss on, with an infinite gradient."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


class Twice(torch.optim.SGD):
    """Looks at the loss before and after the update."""

    def step(self, closure):
        super().step(closure)
        return closure()


def test_a_second_gradient_in_a_step_ends_the_run(on_cpu, tmp_path):
    assert train_run(tmp_path / "a", *FP16[:-2], f"optimizer._target_={__name__}.Twice") == 1
    assert "Twice takes gradients at other weights" in (tmp_path / "a/summary.json").read_text()


def test_what_has_gradients_of_its_own_is_refused(on_cpu):
    message = "differentiates the loss itself, which is not scaled; give precision=bf16 or float32"
    run = (*RUN, "precision=fp16")
    assert refusal(*run, "optimizer=ehnewton") == f"precision=fp16: EHNewton {message}"
    assert refusal(*run, "probe=[taylor]") == f"precision=fp16: probe.taylor {message}"


@pytest.mark.parametrize("schedule", ["cosine", "torch"])
def test_a_schedule_is_at_ease_with_a_first_update_that_was_skipped(on_cpu, trained, monkeypatch, schedule):
    """Torch's schedulers warn where no update came before their step; here a warning is an error."""
    monkeypatch.setattr(build, "LossScaling", partial(LossScaling, init_scale=2.0**24))
    name = "schedule.scheduler._target_=torch.optim.lr_scheduler.CosineAnnealingLR"
    options = (name, "+schedule.scheduler.T_max=6", "schedule.per=step") if schedule == "torch" else ()
    folder = trained(*FP16, f"schedule={schedule}", *options)
    assert rows(folder, "train")[0]["skipped_steps"] == 1
