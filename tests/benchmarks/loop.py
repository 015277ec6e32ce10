"""Our loop, records and TensorBoard events included, against a bare PyTorch loop on the same network and batches.

The bare loop takes its batches from the same pipeline and does what a script does: zero_grad, forward, loss,
backward, step. Both start from the same weights, and must end in the same, bit for bit. The two evaluations of
our loop (before the first and after the last step) are not counted, rows, summary and checkpoints are.
"""

import copy
from time import perf_counter

import torch
from torch.nn.functional import cross_entropy

from pairs import hardware, ratios, report
from training import built, trained
from trainopt.data import Position, batches
from trainopt.runner.state.run import Run

CASES = {
    "tiny MLP (64-12-12-10, batch 128)": (["model=mlp", "duration=8000steps"], 1.04, 11),
    "small CNN (ResNet-8, 8x8, batch 128)": (["model=resnet8", "duration=300steps"], 1.02, 11),
}


def ours(run: Run, start: dict) -> tuple[float, dict]:
    """Trains with our loop from a state; returns seconds and weights."""
    run, elapsed = trained(run, start)
    return elapsed - run.clocks.seconds["evaluation"], copy.deepcopy(run.network.state_dict())


def bare(run: Run, start: dict, steps: int) -> tuple[float, dict]:
    """Trains with a bare loop from a state; returns seconds and weights."""
    network = run.network
    network.load_state_dict(start)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network.train()
    began = perf_counter()
    stream = batches(run.training_set, run.batching, run.seed, Position())
    for _ in range(steps):
        inputs, targets, _, _ = next(stream)
        optimizer.zero_grad()
        loss = cross_entropy(network(inputs), targets)
        loss.backward()
        optimizer.step()
    return perf_counter() - began, copy.deepcopy(network.state_dict())


def main() -> bool:
    """Measures every case."""
    torch.set_num_threads(1)
    print(f"\nLoop against a bare PyTorch loop, seconds of one run. {hardware()}")
    holds = True
    for name, (overrides, bound, pairs) in CASES.items():
        run = built(*overrides)
        start = copy.deepcopy(run.network.state_dict())
        steps = int(run.duration.removesuffix("steps"))
        one, two = ours(run, start)[1], bare(run, start, steps)[1]
        assert all(torch.equal(one[key], two[key]) for key in one), "the two loops end in different weights"
        a, b, ratio = ratios(
            lambda run=run, start=start: ours(run, start)[0],
            lambda run=run, start=start, steps=steps: bare(run, start, steps)[0],
            pairs,
        )
        holds &= report(f"{name}: {a:.3f} s / {b:.3f} s", ratio, bound)
    return holds


if __name__ == "__main__":
    raise SystemExit(not main())
