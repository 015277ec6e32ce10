"""What pushing away from snapshots costs: a step of SGD on ResNet-20 with one and without, and the term by itself.

Medians of interleaved pairs on one batch and one thread. A step is: gradients cleared, forward, backward, update.
The term by itself is its value and its gradient, for 1, 2 and 4 snapshots: at most linear in their number.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from pairs import KEEP_MEMORY, hardware, ratios, report, seconds
from trainopt.models import ResNet
from trainopt.optimizers import CheckpointDistance

BATCH, BOUND, MORE = 128, 1.05, 1.1
STEP_PAIRS, TERM_PAIRS, TERMS = 15, 41, 10


class Training:
    """ResNet-20 with one batch of CIFAR's shape, the same tensors with snapshots and without."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = ResNet(in_channels=3, num_classes=10, depth=20).train()
        self.params = list(self.network.parameters())
        self.optimizer = torch.optim.SGD(self.params, lr=1e-3, momentum=0.9)
        self.inputs, self.targets = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))

    def penalty(self, snapshots: int) -> CheckpointDistance:
        """Returns the term, with snapshots beside the weights."""
        penalty = CheckpointDistance(strength=0.1, sigma=1.0, keep=None)
        for _ in range(snapshots):
            penalty.snapshot([p + 1e-3 * torch.randn_like(p) for p in self.params])
        return penalty

    def step(self, penalty: CheckpointDistance | None) -> None:
        """Makes a step."""
        self.optimizer.zero_grad()
        loss = cross_entropy(self.network(self.inputs), self.targets)
        if penalty is not None:
            loss = loss + penalty(self.params)
        loss.backward()
        self.optimizer.step()

    def terms(self, penalty: CheckpointDistance) -> None:
        """Computes the term and its gradient, a few times."""
        for _ in range(TERMS):
            torch.autograd.grad(penalty(self.params), self.params)


def timed(function: Callable[..., None], *arguments: object) -> Callable[[], float]:
    """Returns what calls a function and returns its seconds."""
    return partial(seconds, partial(function, *arguments))


def main() -> bool:
    """Measures all."""
    torch.set_num_threads(1)
    print(f"\nCheckpoint distance on ResNet-20, batch {BATCH}. {hardware()}")
    run = Training()
    a, b, ratio = ratios(timed(run.step, run.penalty(1)), timed(run.step, None), STEP_PAIRS)
    holds = report(f"a step with a snapshot: {1e3 * a:.1f} ms / {1e3 * b:.1f} ms", ratio, BOUND)
    one = timed(run.terms, run.penalty(1))
    for count in (2, 4):
        a, b, ratio = ratios(timed(run.terms, run.penalty(count)), one, TERM_PAIRS)
        name = f"the term with {count} snapshots: {1e3 * a / TERMS:.2f} ms / {1e3 * b / TERMS:.2f} ms with 1"
        holds &= report(name, ratio, MORE * count)
    return holds


if __name__ == "__main__":
    if "MALLOC_MMAP_MAX_" not in os.environ:
        raise SystemExit(subprocess.run([sys.executable, __file__], env={**os.environ, **KEEP_MEMORY}).returncode)
    raise SystemExit(not main())
