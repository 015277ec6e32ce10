"""What training a last layer costs: steps of EHNewton in closed form, in steps of Adam.

Every figure is the median of ratios of interleaved pairs of ten steps in a row, as training makes them, on one
batch: of processor times on one thread, of times on two. A step is the forward pass, what the optimizer computes, and
the change of the weights; Adam is torch's, with foreach=True. A process keeps its memory, for both: otherwise Adam's
gradient is in fresh pages at every step.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pairs import hardware, processor_seconds, ratios, report, seconds, start
from trainopt.optimizers import L2, EHNewton

FEATURES, CLASSES, BATCH = 2048, 1000, 64  # ResNet-50's and Inception's last layer on ImageNet
PAIRS, STEPS = 15, 10
BOUNDS = {1: {20: 1.1, 1: 0.7}, 2: {20: 1.25, 1: 0.75}}  # by threads and iterations, without the L2 term


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
    """Measures steps of EHNewton against steps of Adam, the L2 term in both or in neither."""
    holds, threads = True, torch.get_num_threads()
    print(f"\n{FEATURES} features, {CLASSES} classes, batch {BATCH}, threads: {threads}; in steps of Adam")
    clock = processor_seconds if threads == 1 else seconds
    for iterations, penalty in ((20, None), (1, None), (20, L2()), (1, L2())):
        ours, peer = LastLayer(penalty), LastLayer(penalty)
        adam = torch.optim.Adam(peer.layer.parameters(), lr=1e-4, foreach=True)
        newton = EHNewton(ours.layer.parameters(), lr=1e-4, cg_max_iter=iterations, cg_tol=0.0)

        def newton_steps(newton: EHNewton = newton, ours: LastLayer = ours) -> None:
            for _ in range(STEPS):
                newton.step(ours.loss)

        def adam_steps(adam: torch.optim.Adam = adam, peer: LastLayer = peer) -> None:
            for _ in range(STEPS):
                adam.zero_grad()
                peer.loss().backward()
                adam.step()

        ratio = ratios(partial(clock, newton_steps), partial(clock, adam_steps), PAIRS)[2]
        made = newton.last_step["cg_iterations"]
        what = f"EHNewton, {made} iteration{'s' * (made > 1)}{', L2' if penalty else ''}"
        if penalty is None:
            holds &= report(what, ratio, BOUNDS[threads][iterations])
        else:
            print(f"{what:<64} {ratio:7.3f}")
    return holds


def main() -> bool:
    """Measures all."""
    print(f"\nLast layers. {hardware()}")
    holds = True
    for threads in (1, 2):
        torch.set_num_threads(threads)
        holds &= closed_form()
    return holds


if __name__ == "__main__":
    start(main)
