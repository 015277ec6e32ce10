"""Runs on several processes of this machine, which are copies of this one, and a network in float64."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.cli import prepared
from helpers.runs import train_run
from trainopt.runner.cluster.steps import free_port
from trainopt.runner.distributed import batch_norm, group, interrupt  # noqa: F401 - once, for all copies
from trainopt.runner.sweeps.run_job import import_once
from trainopt.runner.system.errors import exit_code_of


class DoubleNet(nn.Module):
    """Two convolutions with batch norm, dropout, and a linear layer, in float64.

    With the variable FAULT, as in FAULT="1:5:9", rank 1 gets the signal 9 in its fifth training pass; without a signal
    it raises an error.
    """

    passes = 0

    def __init__(self, num_classes: int, in_channels: int, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2),
            nn.BatchNorm2d(6),
            nn.Softplus(),
            nn.Dropout2d(dropout),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(6, num_classes),
        ).double()

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits (B, classes), float64."""
        self.passes += self.training
        rank, at, number = os.environ.get("FAULT", "::").split(":")
        if self.training and (rank, at) == (os.environ.get("RANK"), str(self.passes)):
            if not number:
                raise ValueError("no more")
            os.kill(os.getpid(), int(number))
        return self.layers(images.double())


class DoubleLinear(nn.Linear):
    """A linear softmax classifier of images in float64, 4x4 pixels after pooling."""

    def __init__(self, num_classes: int):
        super().__init__(16, num_classes, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits (B, classes), float64."""
        return super().forward(nn.functional.avg_pool2d(images.double(), 2).flatten(1))


class DoubleMLP(nn.Sequential):
    """Two linear layers for images in float64, 4x4 pixels after pooling."""

    def __init__(self, num_classes: int):
        layers = nn.Linear(16, 6), nn.Softplus(), nn.Linear(6, num_classes)
        super().__init__(nn.AvgPool2d(2), nn.Flatten(), *layers)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits (B, classes), float64."""
        return super().forward(images.double())


class BatchStatistics(nn.Module):
    """A linear layer after batch norm without running statistics."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits (B, classes)."""
        return self.linear(self.norm(images).flatten(1))


class SelfNormalizing(nn.Sequential):
    """A linear layer after alpha dropout."""

    def __init__(self, num_classes: int):
        super().__init__(nn.Flatten(), nn.AlphaDropout(0.2), nn.Linear(64, num_classes))


class Noisy(SelfNormalizing):
    """A linear layer of noisy images."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self[1] = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits (B, classes)."""
        return super().forward(images + 0.1 * torch.randn_like(images) if self.training else images)


class WeightedLoss(nn.CrossEntropyLoss):
    """Cross-entropy with weights of classes, whose mean over a batch is weighted too."""

    def __init__(self):
        super().__init__()
        self.weights = torch.linspace(1, 2, 10)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the weighted mean, or the losses of the samples (B,)."""
        return nn.functional.cross_entropy(input, target, self.weights, reduction=self.reduction)


DOUBLE = "model._target_=helpers.ranks.DoubleNet"


def start_ranks(
    size: int, line: str, folder: Path, fault: str = "::", before: Callable[[int], None] = lambda rank: None
) -> list[int]:
    """Starts the run of a command line in a folder on so many processes, as torchrun does; returns their numbers.

    Args:
        size: number of processes.
        line: what is typed.
        folder: of the run.
        fault: as of `DoubleNet`.
        before: called first in each process, with its rank.
    """
    import_once()
    prepared(*line.split())  # once, for all copies
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    return [_forked(rank, size, port, line, folder, fault, before) for rank in range(size)]


def _forked(rank: int, size: int, port: int, line: str, folder: Path, fault: str, before: Callable[[int], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        before(rank)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ["FAULT"] = fault
        os.environ |= {name: str(value) for name, value in place.items()}
        sys.stdout = sys.stderr = open(folder / f"rank{rank}.txt", "w", buffering=1, encoding="utf-8")  # noqa: SIM115
        code = exit_code_of(lambda: train_run(folder, *line.split()), False)
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait_ranks(processes: list[int], seconds: float = 120.0) -> list[int]:
    """Returns the exit codes of processes, negative where a signal ended one; all are killed after so many seconds."""
    until = time.monotonic() + seconds
    codes: dict[int, int] = {}
    while len(codes) < len(processes):
        for pid in set(processes) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                os.kill(pid, 9)
        time.sleep(0.01)
    return [codes[pid] for pid in processes]


def run_ranks(
    size: int, line: str, folder: Path, fault: str = "::", before: Callable[[int], None] = lambda rank: None
) -> list[int]:
    """Runs a command line in a folder on so many processes; returns their exit codes."""
    return wait_ranks(start_ranks(size, line, folder, fault, before))
