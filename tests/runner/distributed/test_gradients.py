"""The sum of gradients: sent while the backward pass runs, and with the scale of float16 the same on every process."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from helpers.ranks import run_ranks
from helpers.runs import rows, weights
from trainopt.runner.distributed import gradients
from trainopt.runner.distributed.gradients import GradientSum, in_buckets
from trainopt.runner.precision.loss_scaling import LossScaling
from trainopt.runner.training import build


class Recorded:
    """A group whose sum is twice what it gets, and that notes when it gets it."""

    def __init__(self):
        self.events = []

    def all_reduce_later(self, flat):
        self.events.append(f"sent {flat.numel()}")

        def wait():
            flat.mul_(2)
            self.events.append("waited")

        return wait


def test_buckets_are_sent_while_the_backward_pass_computes_others(monkeypatch):
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 4 * 12)
    layers = [nn.Linear(3, 3) for _ in range(3)]
    network, unused = nn.Sequential(*layers), nn.Parameter(torch.ones(2))
    group = Recorded()
    total = GradientSum(group, [unused, *network.parameters()])
    for number, layer in enumerate(layers):
        layer.weight.register_hook(lambda _, number=number: group.events.append(f"layer {number}"))
    for _ in range(2):
        group.events.clear()
        network.zero_grad()
        loss = network(torch.ones(2, 3)).square().sum()
        single = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        group.events.clear()
        total.begin()
        loss.backward()
        before = group.events.copy()
        total.finish()
        # the last layer's is sent before the gradient of the first is computed
        assert before.index("sent 12") < before.index("layer 0")
        assert before.count("sent 12") == 3
        assert group.events[len(before) :] == ["waited"] * 3
        for parameter, gradient in zip(network.parameters(), single, strict=True):
            assert torch.equal(parameter.grad, 2 * gradient)
        assert unused.grad is None


def test_a_bucket_is_of_one_type_and_size():
    parameters = [torch.ones(4), torch.ones(4), torch.ones(9), torch.ones(1).double(), torch.ones(2).double()]
    assert [len(bucket) for bucket in in_buckets(parameters, 32)] == [2, 1, 2]


@pytest.mark.slow
def test_float16_skips_updates_and_scales_on_all_processes_where_one_overflows(tmp_path):
    def before(rank, size):
        """Lets a CPU pass for a GPU; the gradients of the last process overflow once."""
        build.set_numerics = lambda *_: None
        calls = 0

        class Scaling(LossScaling):
            def backward(self, loss):
                nonlocal calls
                calls += 1
                super().backward(loss * math.inf if (rank, calls) == (size - 1, 4) else loss)

        build.LossScaling = partial(Scaling, init_scale=2.0**8, growth_interval=2)

    line = "logger=none model=mlp model.hidden=[8] data.limit=60 batching.size=20 duration=6steps log_every=1steps"
    line += " precision=fp16 device=cpu optimizer=adam gradient.clip_norm=1"
    for size in (1, 2):
        assert run_ranks(size, line, tmp_path / str(size), before=partial(before, size=size)) == size * [0]
        scales = [(row["loss_scale"], row["skipped_steps"]) for row in rows(tmp_path / str(size), "train")]
        assert scales == [(2.0**8, 0), (2.0**9, 0), (2.0**9, 0), (2.0**8, 1), (2.0**8, 1), (2.0**9, 1)]
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert all((one[key] - two[key]).abs().max() < 2e-3 for key in one)  # float16
