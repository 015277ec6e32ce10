"""What training a last layer costs: steps of EHNewton in closed form, in steps of Adam.

Every figure is the median of ratios of interleaved pairs on one batch. A step is the forward pass, what the
optimizer computes, and the change of the weights; Adam is torch's, with foreach=True. Memory that a process was
given stays with it, for both: otherwise Adam's gradient is in fresh pages at every step.
"""

import os
import subprocess
import sys

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pairs import KEEP_MEMORY, hardware, ratios, report, seconds
from trainopt.optimizers import L2, EHNewton

FEATURES, CLASSES, BATCH = 2048, 1000, 64  # ResNet-50's and Inception's last layer on ImageNet
PAIRS = 31


class LastLayer:
    """A linear classifier with one batch of features, not negative as those of a network."""

    def __init__(self, penalty: L2 | None = None):
        torch.manual_seed(0)
        self.inputs, self.targets = torch.randn(BATCH, FEATURES).relu(), torch.randint(CLASSES, (BATCH,))
        self.layer, self.penalty = nn.Linear(FEATURES, CLASSES), penalty

    def loss(self) -> Tensor:
        loss = cross_entropy(self.layer(self.inputs), self.targets)
        return loss if self.penalty is None else loss + self.penalty([self.layer.weight])


def closed_form() -> bool:
    """Measure steps of EHNewton against steps of Adam, the L2 term in both or in neither."""
    kept = True
    print(f"\nA linear layer of {FEATURES} features and {CLASSES} classes, batch {BATCH}: in steps of Adam")
    for iterations, penalty, bound in ((20, None, 1.1), (1, None, 0.7), (20, L2(), None), (1, L2(), None)):
        ours, peer = LastLayer(penalty), LastLayer(penalty)
        adam = torch.optim.Adam(peer.layer.parameters(), lr=1e-4, foreach=True)
        newton = EHNewton(ours.layer.parameters(), lr=1e-4, cg_max_iter=iterations, cg_tol=0.0)

        def adam_step(adam: torch.optim.Adam = adam, peer: LastLayer = peer) -> None:
            adam.zero_grad()
            peer.loss().backward()
            adam.step()

        ratio = ratios(
            lambda o=newton, c=ours: seconds(lambda: o.step(c.loss)), lambda a=adam_step: seconds(a), PAIRS
        )[2]
        made = newton.last_step["cg_iterations"]
        what = f"EHNewton, {made} iteration{'s' * (made > 1)}{', L2' if penalty else ''}"
        if bound is None:
            print(f"{what:<64} {ratio:7.3f}")
        else:
            kept &= report(what, ratio, bound)
    return kept


def main() -> bool:
    """Measure all."""
    torch.set_num_threads(2)
    print(f"\nLast layers. {hardware()}")
    return closed_form()


if __name__ == "__main__":
    if "MALLOC_MMAP_MAX_" not in os.environ:
        raise SystemExit(subprocess.run([sys.executable, __file__], env={**os.environ, **KEEP_MEMORY}).returncode)
    raise SystemExit(not main())
