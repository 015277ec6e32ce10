"""Steps of every optimizer on two processes, and on one that communicates with itself, are those of one process."""

import os
import sys

import pytest
import torch
import torch.distributed as dist

from helpers.cli import built
from helpers.fixtures import lines_of
from helpers.ranks import wait_ranks
from trainopt.runner.cluster.steps import free_port
from trainopt.runner.distributed.group import Group
from trainopt.runner.distributed.ranks import ALONE
from trainopt.runner.training.closure import TrainingClosure
from trainopt.runner.training.sharded import ShardedClosure, share

LINE = "model._target_=helpers.ranks.DoubleMLP data=digits data.limit=100 batching.size=33"
# a product with it rounds to bfloat16, where the last bit of its input may decide
ROUNDED = {"optimizer=muon": 1e-4}


def weights_after(typed, ranks, device="cpu", steps=4):
    """Returns the weights of a run after some steps, as one vector."""
    run = built(*typed.split(), f"device={device}")
    if ranks is not ALONE:
        share(run, ranks, "global")
    run.optimizer.train()
    closure = TrainingClosure(run) if ranks is ALONE else ShardedClosure(run)
    for batch, _ in zip(run.batches(), range(steps), strict=False):
        closure.batch = batch
        run.optimizer.step(closure)
        run.schedule.step()
    return torch.cat([p.detach().flatten() for p in run.network.parameters()])


def share_steps(rank, size, port, lines, file):
    """Is one of several processes that make steps of runs together, one run after another; writes the weights."""
    code = 1
    try:
        torch.set_num_threads(1)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()}
        sys.stderr = open(file.with_suffix(f".{rank}.txt"), "w", buffering=1)  # noqa: SIM115
        with Group.joined("cpu") as group:
            reached = {choice: weights_after(typed, group) for choice, typed in lines.items()}
        if rank == 0:
            torch.save(reached, file)
        code = 0
    finally:
        os._exit(code)


@pytest.mark.slow
def test_every_optimizer_makes_the_steps_of_one_process(tmp_path):
    lines = {choice: f"{typed} {LINE} regularizer=[l2]" for choice, typed in lines_of("optimizer").items()}
    del lines["optimizer=newton"]  # test_ranks has it, for networks as small as it takes
    del lines["optimizer=soap"]  # of itself: where weights begin 4e-16 off, they are 6e-3 off after its second step
    alone = {choice: weights_after(typed, ALONE) for choice, typed in lines.items()}
    port, file = free_port(), tmp_path / "weights.pt"
    processes = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            share_steps(rank, 2, port, lines, file)
        processes.append(pid)
    assert wait_ranks(processes) == [0, 0]
    together = torch.load(file, weights_only=True)
    errors = {choice: float((w - together[choice]).abs().max()) for choice, w in alone.items()}
    assert {c: e for c, e in errors.items() if not e <= ROUNDED.get(c, 1e-10)} == {}


@pytest.mark.parametrize("typed", ["optimizer=adam gradient.clip_norm=0.5", "optimizer=ehnewton"])
@pytest.mark.parametrize(
    ("device", "backend"),
    [
        ("cpu", "gloo"),
        pytest.param(
            "cuda",
            "cpu:gloo,cuda:nccl",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")],
        ),
    ],
)
def test_a_group_of_one_process_makes_the_steps_without_one_bit_for_bit(device, backend, typed):
    line = f"{typed} model=mlp data=digits data.limit=100 batching.size=32 deterministic=true"
    store = dist.HashStore()
    try:
        alone = weights_after(line, ALONE, device, steps=3)
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        group = Group(store, torch.device(device))
        assert torch.equal(weights_after(line, group, device, steps=3), alone)
    finally:
        torch.use_deterministic_algorithms(False)
        if dist.is_initialized():
            dist.destroy_process_group()
