"""One run in memory: its components, where it stands, and its batches."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainopt.data import Batch, Batching, Position, Source, batches
from trainopt.optimizers import Optimizer, Schedule

from .clocks import Clocks
from .early_stopping import EarlyStopping
from .evaluation import evaluate, never
from .objective import Objective
from .progress import Progress
from .update_scale import ScaledUpdate

EVALUATION_BATCH = 256


class Probe(Protocol):
    """A diagnostic: what is measured at some steps of a run.

    It leaves weights, gradients, buffers and modes as they are (`Moment` is of help); the random generators are set
    back after each call.

    Attributes:
        every: a duration; the steps that complete it are measured.
        each_epoch: with `every` in steps, n: the steps 1, 1 + n, 1 + 2n, ... of every epoch are measured instead.
        records_step: whether it records the step's own pass. It is then the last to be called before the step and
            the first after it, so that what other probes compute is not taken for that pass.
        needs_graph: whether it differentiates gradients, which compile=true does not allow.
    """

    every: str
    each_epoch: bool = False
    records_step: bool = False
    needs_graph: bool = False

    @abstractmethod
    def before_step(self, run: "Run", batch: Batch, /) -> None:
        """Looks at the run before a step that is measured."""

    @abstractmethod
    def after_step(self, run: "Run", batch: Batch, /) -> dict[str, Any]:
        """Returns what was measured, by name, for a row of metrics.jsonl: numbers, or other values that JSON has."""

    def attach(self, run: "Run", /) -> None:
        """Prepares for a run that is built; a ValueError that it raises ends the run before its first batch."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what it keeps from one measured step to the next, as tensors and plain values, for checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Goes on from what `state_dict` returned."""


@dataclass
class Run:
    """The pieces of a run, as the loop uses them."""

    network: nn.Module
    forward: Callable[[Tensor], Tensor]  # what evaluations call: the network, compiled where asked for
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    batching: Batching
    progress: Progress
    early_stopping: EarlyStopping
    clocks: Clocks
    probes: dict[str, Probe]  # by name
    training_set: Source
    evaluation_sets: dict[str, Source]  # by kind of row: validation (where there is one) and test
    device: torch.device
    autocast: str | None
    seed: int
    duration: str
    evaluate_every: str
    checkpoint_every: str
    log_every: str
    num_classes: int
    image_shape: tuple[int, int, int]
    compiled: bool = False
    range_test: str | None = None  # how long it takes, where the run is one
    notes: list[str] = field(default_factory=list)  # what the start says beside the obvious
    features: str | None = None  # of a frozen backbone: where they come from
    step_grams: dict[str, Any] = field(default_factory=dict)  # what its probes share, by what rows mean

    @cached_property
    def update(self) -> ScaledUpdate:
        """Makes its updates; knows the learning rate of the last one."""
        return ScaledUpdate(self.optimizer, self.batching, self.progress)

    @property
    def cycles(self) -> int:
        """Number of complete cycles of its schedule; 0 also where that has no restarts."""
        return self.schedule.cycles() or 0

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end."""
        return any(self.progress.elapsed(length) >= 1 for length in (self.duration, self.range_test) if length)

    @property
    def durations(self) -> dict[str, str]:
        """After which something is due, by what it is."""
        return {
            "log": self.log_every,
            "evaluate": self.evaluate_every,
            "checkpoint": self.checkpoint_every,
            "range_test": self.range_test or self.duration,
            "end": self.duration,
        }

    @property
    def evaluation_batch_size(self) -> int:
        """Images a batch when evaluating: the same throughout, whatever sizes come and go."""
        return max(EVALUATION_BATCH, self.batching.largest or self.batching.size)

    def batches(self) -> Iterator[Batch]:
        """Yields the batches from where the run stands."""
        if self.batching.needs_probe is not None:
            return controlled_batches(self)
        p = self.progress
        return batches(self.training_set, self.batching, self.seed, Position(p.epoch, p.offset, p.repeat, p.step))

    def evaluate(self, kind: str, stop: Callable[[], object] = never) -> dict[str, Any]:
        """Returns loss and accuracies of the network as it is now on one of the sets, as `evaluation.evaluate`."""
        source, size = self.evaluation_sets[kind], self.evaluation_batch_size
        return evaluate(self.network, self.forward, source, size, self.autocast, stop)

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def trainable_parameters(self) -> int:
        """Number of those that the optimizer moves."""
        return sum(p.numel() for p in self.network.parameters() if p.requires_grad)


def controlled_batches(run: Run) -> Iterator[Batch]:
    """Yields the batches from where a run stands; from where it then stands again, whenever the size is changed."""
    p, batching = run.progress, run.batching
    while True:
        size = batching.size
        for batch in batches(run.training_set, batching, run.seed, Position(p.epoch, p.offset, p.repeat, p.step)):
            yield batch
            if batching.size != size:
                break
