"""Batches that are prepared on a stream of their own: which stream waits for which, and the same run."""

from contextlib import contextmanager

import pytest
import torch

from helpers.gpu import on_gpu
from helpers.runs import check_same_run, rows, same_weights, timeless
from trainopt.data import Batch, Position
from trainopt.runner.training.graphs import beside
from trainopt.runner.training.graphs.beside import AHEAD, beside_steps

RUN = ("model=resnet8", "data.limit=50", "batching.size=20", "augmentation.flip=0.5", "augmentation.crop_padding=1")


@pytest.fixture
def calls(monkeypatch):
    """Stands in for CUDA's streams; yields what is asked of them, in order."""
    calls = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            calls.append(f"{self.name} waits for {other.name}")

    class Event:
        def record(self, stream):
            calls.append(f"event on {stream.name}")

        def synchronize(self):
            calls.append("host waits")

    @contextmanager
    def entered(stream):
        calls.append(f"on {stream.name}")
        yield
        calls.append(f"off {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("present"))
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: calls.append(f"used on {stream.name}"), raising=False
    )
    return calls


def test_a_step_waits_for_its_batch_and_preparing_for_no_step(calls):
    def made():
        for k in range(AHEAD + 2):
            calls.append(f"makes {k}")
            yield Batch(torch.full((2, 1), float(k)), torch.zeros(2), 2, Position())

    seen = []
    for batch in beside_steps(made(), torch.device("cpu")):
        calls.append("step")
        seen.append(batch.inputs[0].item())
    assert seen == list(range(AHEAD + 2))
    after = ["off side", "present waits for side", "used on present", "used on present", "event on present", "step"]
    expected = ["side waits for present"]
    for k in range(AHEAD + 2):
        expected += [*(["host waits"] if k >= AHEAD else []), "on side", f"makes {k}", *after]
    assert calls == [*expected, "host waits", "on side", "off side"]


@pytest.mark.slow
def test_the_run_is_the_same(trained, calls, monkeypatch):
    run = (*RUN, "model=resnet8", "duration=7steps", "logger=[]")
    one = trained(*run, name="one")
    assert not calls
    monkeypatch.setattr(beside, "BESIDE_ON", ("cpu",))
    other = trained(*run, name="other")
    assert calls.count("present waits for side") == 7
    check_same_run(one, other)


@on_gpu
@pytest.mark.parametrize("graph", ["false", "auto"])
def test_the_run_is_the_same_on_a_gpu(trained, monkeypatch, graph):
    run = (*RUN, "duration=40steps", "logger=[]", "device=cuda", "deterministic=true", f"cuda_graph={graph}")
    one = trained(*run, name="one")
    monkeypatch.setattr(beside, "BESIDE_ON", ())
    other = trained(*run, name="other")
    torch.use_deterministic_algorithms(False)
    assert timeless(rows(one)) == timeless(rows(other))
    assert same_weights(one, other)
