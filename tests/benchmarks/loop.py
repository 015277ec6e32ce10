"""Our loop, records and TensorBoard events included, against a bare PyTorch loop on the same network and batches.

The bare loop takes its batches from the same pipeline and does what a script does: zero_grad, forward, loss,
backward, step. Both start from the same weights, and must end in the same, bit for bit. The two evaluations of
our loop (before the first and after the last step) are not counted, rows, summary and checkpoints are.

The everyday kit is measured whole: clipping, an exponential moving average, and evaluations with three metrics of the
weights and of their average, against a loop that does the same with torch's own functions.
"""

import copy
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pairs import hardware, ratios, report
from training import built, trained
from trainopt.data import Position, batches
from trainopt.runner.state.run import Run

CASES = {
    "tiny MLP (64-12-12-10, batch 128)": (["model=mlp", "duration=8000steps"], 1.04, 11),
    "small CNN (ResNet-8, 8x8, batch 128)": (["model=resnet8", "duration=300steps"], 1.02, 11),
}


KIT = (
    "gradient.clip_norm=1.0",
    "averaging=ema",
    "averaging.warmup=false",
    "metric=[top1,top5,calibration_error]",
)
KIT_CASES = {
    "the same MLP with clipping, EMA and three metrics": (["model=mlp", "duration=4000steps"], 1.05, 11),
    "the same CNN with clipping, EMA and three metrics": (["model=resnet8", "duration=200steps"], 1.05, 9),
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


def bare_kit(run: Run, start: dict, steps: int) -> tuple[float, dict]:
    """Trains with a bare loop that clips, averages and evaluates; returns seconds and weights."""
    network = run.network
    network.load_state_dict(start)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
    began = perf_counter()
    evaluated(network, run)
    network.train()
    stream = batches(run.training_set, run.batching, run.seed, Position())
    for _ in range(steps):
        inputs, targets, _, _ = next(stream)
        optimizer.zero_grad()
        loss = cross_entropy(network(inputs), targets)
        loss.backward()
        clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
    evaluated(network, run)
    evaluated(average.module, run)
    return perf_counter() - began, copy.deepcopy(network.state_dict())


@torch.no_grad()
def evaluated(network: nn.Module, run: Run) -> tuple[Tensor, ...]:
    """Returns loss, top-1, top-5 and the expected calibration error (15 bins) on the test set."""
    network.eval()
    pairs = [(network(inputs), targets) for inputs, targets in run.evaluation_sets["test"].ordered(256)]
    logits, targets = (torch.cat(part) for part in zip(*pairs, strict=True))
    hits = logits.topk(5).indices == targets[:, None]
    confidence = logits.softmax(1).amax(1)
    bins = (15 * confidence).long().clamp(max=14)
    gaps = torch.zeros(15).index_add_(0, bins, confidence - hits[:, 0].float())
    return cross_entropy(logits, targets), hits[:, 0].float().mean(), hits.any(1).float().mean(), gaps.abs().sum()


def ours_with_kit(run: Run, start: dict) -> tuple[float, dict]:
    """Trains with our loop, evaluations included; returns seconds and weights."""
    run, elapsed = trained(run, start)
    return elapsed, copy.deepcopy(run.network.state_dict())


def main() -> bool:
    """Measures every case."""
    torch.set_num_threads(1)
    print(f"\nLoop against a bare PyTorch loop, seconds of one run. {hardware()}")
    holds = True
    for cases, kit, one_of_ours, peer in ((CASES, (), ours, bare), (KIT_CASES, KIT, ours_with_kit, bare_kit)):
        for name, (overrides, bound, pairs) in cases.items():
            run = built(*overrides, *kit)
            start = copy.deepcopy(run.network.state_dict())
            steps = int(run.duration.removesuffix("steps"))
            one, two = one_of_ours(run, start)[1], peer(run, start, steps)[1]
            assert all(torch.equal(one[key], two[key]) for key in one), "the two loops end in different weights"
            a, b, ratio = ratios(
                lambda run=run, start=start, one=one_of_ours: one(run, start)[0],
                lambda run=run, start=start, steps=steps, two=peer: two(run, start, steps)[0],
                pairs,
            )
            holds &= report(f"{name}: {a:.3f} s / {b:.3f} s", ratio, bound)
    return holds


if __name__ == "__main__":
    raise SystemExit(not main())
