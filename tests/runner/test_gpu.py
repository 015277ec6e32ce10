"""On a GPU: the same path, the same twice, and what only a GPU has."""

import pytest
import torch

from runs import rows, same_weights, stop_at, summary, timeless

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
RUN = ("model=resnet8", "device=cuda", "duration=30steps", "data.flip=0.5", "data.shift=1", "log_every=3steps")


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
    "options", [["precision=bf16"], ["precision=tf32"], ["channels_last=true"], ["compile=true"]]
)
def test_options_train(trainopt, tmp_path, options):
    assert trainopt(*RUN, *options, "run.name=a").code == 0
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
