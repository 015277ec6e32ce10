"""On a GPU: the same path, the same twice, and what only a GPU has."""

import json

import pytest
import torch

from helpers.runs import rows, same_weights, stop_at, summary, timeless

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
RUN = (
    "model=resnet8",
    "device=cuda",
    "duration=30steps",
    "augmentation.flip=0.5",
    "augmentation.crop_padding=1",
    "log_every=3steps",
)


@pytest.fixture(autouse=True)
def switches():
    yield
    torch.use_deterministic_algorithms(False)


def test_the_same_command_twice_gives_the_same_metrics(trainopt, tmp_path):
    for name in "ab":
        assert trainopt(*RUN, "deterministic=true", f"run.name={name}").code == 0
    a, b = tmp_path / "outputs/a", tmp_path / "outputs/b"
    assert timeless(rows(a)) == timeless(rows(b))
    assert same_weights(a, b)


def test_a_resumed_run_is_the_run(trainopt, tmp_path, monkeypatch):
    command = (*RUN, "deterministic=true", "model=mlp", "model.dropout=0.3")
    assert trainopt(*command, "run.name=a").code == 0
    stop_at(monkeypatch, 11)
    assert trainopt(*command, "run.name=b").code == 130
    assert trainopt("resume", "outputs/b").code == 0
    a, b = tmp_path / "outputs/a", tmp_path / "outputs/b"
    assert timeless(rows(a)) == timeless(rows(b))
    assert same_weights(a, b)


@pytest.mark.parametrize(
    "option", ["precision=bf16", "precision=fp16", "precision=tf32", "channels_last=true", "compile=true"]
)
def test_options_train(trainopt, tmp_path, option):
    assert trainopt(*RUN, option, "run.name=a").code == 0
    found = summary(tmp_path / "outputs/a")
    assert found["final"]["top1"] > 50
    assert found["peak_memory_bytes"] == torch.cuda.max_memory_allocated()


def test_a_loss_that_is_not_finite_stops_before_the_update(trainopt, tmp_path):
    assert trainopt(*RUN, "optimizer.lr=1e20", "run.name=a").code == 0
    assert summary(tmp_path / "outputs/a")["status"] == "diverged"


def test_the_numbers_are_those_of_the_cpu(trainopt, tmp_path):
    for device in ("cpu", "cuda"):
        trainopt("model=mlp", f"device={device}", "duration=30steps", f"run.name={device}")
    cpu, gpu = (summary(tmp_path / "outputs" / device)["final"]["loss"] for device in ("cpu", "cuda"))
    assert gpu == pytest.approx(cpu, rel=1e-3)  # float32, other order of sums


@pytest.mark.parametrize("iterations", [1, 4])
@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_a_step_of_second_order_is_that_of_the_cpu(iterations, curvature):
    from torch.nn.functional import cross_entropy

    from trainopt.models import ResNet
    from trainopt.optimizers import EHNewton

    reached = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        network = ResNet(in_channels=3, num_classes=5, depth=8).double()
        inputs, targets = torch.randn(8, 3, 16, 16).double(), torch.arange(8) % 5
        network, inputs, targets = network.to(device), inputs.to(device), targets.to(device)
        optimizer = EHNewton(network.parameters(), lr=0.5, damping=1.0, cg_max_iter=iterations, curvature=curvature)
        for _ in range(2):
            optimizer.step(lambda network=network, x=inputs, y=targets: cross_entropy(network(x), y))
        reached.append([p.detach().cpu() for p in network.parameters()])
    for a, b in zip(*reached, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_a_run_of_second_order_is_resumed_bit_for_bit(trainopt, tmp_path, monkeypatch):
    command = (
        *RUN,
        "deterministic=true",
        "optimizer=ehnewton",
        "optimizer.cg_max_iter=2",
        "optimizer.momentum=0.5",
    )
    assert trainopt(*command, "run.name=a").code == 0
    stop_at(monkeypatch, 11)
    assert trainopt(*command, "run.name=b").code == 130
    assert trainopt("resume", "outputs/b").code == 0
    assert same_weights(tmp_path / "outputs/a", tmp_path / "outputs/b")


def test_a_run_on_a_gpu_is_followed_on_the_cpu(trainopt, tmp_path):
    trainopt(*RUN, "checkpoint_every=10steps", "evaluate_every=10steps", "keep_checkpoints.last=3", "run.name=a")
    assert "on cpu" in trainopt("evaluate", "outputs/a", "--follow", "--device", "cpu").out
    folder = tmp_path / "outputs/a"
    found = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    own = [row for row in rows(folder, "test") if row["step"] > 0]
    assert [row["step"] for row in found] == [row["step"] for row in own] == [10, 20, 30]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in own], rel=1e-4)  # float32
