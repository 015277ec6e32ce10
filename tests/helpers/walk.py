"""The learning rates that a schedule sets, step by step."""

import torch
from torch import nn

from trainopt.runner.state.progress import Progress


class Walk:
    """A run that makes `per_epoch` equal steps an epoch, with a parameter group for each learning rate."""

    def __init__(self, per_epoch=4, lrs=(0.5,), optimizer=torch.optim.SGD):
        self.progress = Progress(epoch_size=10 * per_epoch)
        self.parameters = [nn.Parameter(torch.ones(1)) for _ in lrs]
        groups = [{"params": [p], "lr": lr} for p, lr in zip(self.parameters, lrs, strict=True)]
        self.optimizer = optimizer(groups, lr=0.5)

    def closure(self):
        """A loss, with its graph and with gradients."""
        loss = sum((p**2).sum() for p in self.parameters)
        for p, gradient in zip(
            self.parameters, torch.autograd.grad(loss, self.parameters, retain_graph=True), strict=True
        ):
            p.grad = gradient
        return loss

    def rates(self, schedule, steps, group=0):
        """The learning rate of each step, of one group or, with None, of all."""
        rates = []
        for _ in range(steps):
            lrs = [g["lr"] for g in self.optimizer.param_groups]
            rates.append(lrs if group is None else lrs[group])
            self.optimizer.step(self.closure)
            self.progress.step += 1
            self.progress.samples_passed += 10
            schedule.step()
        return rates
