"""One run in memory: its components, its position, and its batches."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainopt.data import Batch, Batching, Position, Source, batches
from trainopt.optimizers import Averaging, Optimizer, Schedule, Shard
from trainopt.optimizers.shard import WHOLE

from ..config.durations import is_time
from ..distributed.ranks import ALONE, Ranks
from ..distributed.shard import BatchShard
from ..metrics.metric import Metric
from ..metrics.selection import Selection
from ..precision.loss_scaling import LossScaling
from .clocks import Clocks
from .early_stopping import EarlyStopping
from .evaluation import evaluate, never
from .gradient import GradientOptions
from .objective import Objective
from .progress import Progress
from .update_scale import ScaledUpdate

EVALUATION_BATCH_SIZE = 256  # unless batches are larger


class Probe(Protocol):
    """A diagnostic: what is measured at some steps of a run.

    It leaves weights, gradients, buffers and modes unchanged (`RunSnapshot` helps); the states of the random number
    generators are restored after each call.

    Attributes:
        every: a duration; the steps that complete it are measured.
        each_epoch: with `every` in steps, n: the steps 1, 1 + n, 1 + 2n, ... of every epoch are measured instead.
        records_step: whether it records the step's own forward and backward pass. It is then called last before the
            step and first after it, so that no pass of another probe is recorded.
        needs_graph: whether it differentiates gradients, which compile=true does not allow.
        takes_shard: whether it measures a batch of which this process has a part, `run.shard`; on several processes
            other probes are refused.
        training_samples: how many training samples `run.training_sample` must hold for it; 0: it needs none.
    """

    every: str
    each_epoch: bool = False
    records_step: bool = False
    needs_graph: bool = False
    takes_shard: bool = False
    training_samples: int = 0

    @abstractmethod
    def before_step(self, run: "Run", batch: Batch, /) -> None:
        """Prepares to measure the step that follows."""

    @abstractmethod
    def after_step(self, run: "Run", batch: Batch, /) -> dict[str, Any]:
        """Returns the measurements of the step by name, numbers or other values of JSON: a row of metrics.jsonl."""

    def attach(self, run: "Run", /) -> None:
        """Prepares for a run that is built; a ValueError that it raises ends the run before its first batch."""

    def state_dict(self) -> dict[str, Any]:
        """Returns its state as tensors and plain values: a part of checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Goes on from what `state_dict` returned."""


class EvaluatedWeights(Protocol):
    """The weights that evaluations are of, where these are not the ones that are trained.

    Attributes:
        averaging: of the weights that are trained.
    """

    averaging: Averaging

    @property
    @abstractmethod
    def needs_passes(self) -> bool:
        """Whether statistics of batch norm are recomputed for them, by passes over training batches."""

    @abstractmethod
    def after_step(self) -> None:
        """Follows a step."""

    @abstractmethod
    def active(self) -> AbstractContextManager[bool]:
        """Lets the network have them while entered; yields whether there are any yet."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns them, as `model`, and what the next ones depend on: a part of checkpoints."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Goes on from what `state_dict` returned."""


@dataclass
class Run:
    """The components of a run.

    `batches`, `update` and `evaluate` are what the training loop does with them.
    """

    network: nn.Module
    forward: Callable[[Tensor], Tensor]  # what evaluations call: the network or its compiled form
    objective: Objective
    metrics: dict[str, Metric]
    selection: Selection
    optimizer: Optimizer
    schedule: Schedule
    batching: Batching
    progress: Progress
    early_stopping: EarlyStopping
    clocks: Clocks
    probes: dict[str, Probe]
    training_set: Source
    evaluation_sets: dict[str, Source]  # by kind of row: validation (where there is one) and test
    device: torch.device
    autocast: torch.dtype | None
    seed: int
    duration: str
    evaluate_every: str
    checkpoint_every: str
    log_every: str
    gradient: GradientOptions
    num_classes: int | None  # None: targets are no classes
    num_outputs: int  # of the network
    input_shape: tuple[int, ...]  # (C, H, W) of images
    input_dtype: torch.dtype = torch.float32
    ranks: Ranks = ALONE  # the processes that make the run
    shard: Shard = WHOLE  # the part of a batch that this one has
    batch_norm: str = "global"  # of several: statistics of the whole batch, or `local`, of each process's part
    scaling: LossScaling | None = None  # of the loss, in float16
    num_tokens: int | None = None  # of a network whose inputs are sequences of tokens
    training_sample: Source | None = None  # for probes: training samples, class-balanced and not augmented
    averaged: EvaluatedWeights | None = None  # None: evaluations are of the weights that are trained
    compiled: bool = False
    cuda_graph: bool | str = False  # whether passes are replayed as CUDA graphs: always, never, or `auto`
    range_test: str | None = None  # its duration, where the run is a learning-rate range test
    main_group: int = 0  # index of the parameter group whose learning rate is recorded
    pause_after: int | None = None  # times `evaluate_every`, after which a search decides whether it goes on
    notes: list[str] = field(default_factory=list)  # printed at the start
    code_changes: list[dict[str, Any]] = field(default_factory=list)  # of the user's code: {step, files}
    decisions: dict[str, Any] | None = None  # about the data, by a look at it, which hold while the run goes on
    data_checksum: dict[str, str] | None = None  # of the data set that it is trained on
    features: str | None = None  # of a frozen backbone: where they come from
    step_grams: dict[str, Any] = field(default_factory=dict)  # matrices that probes share, by the meaning of rows

    @cached_property
    def update(self) -> ScaledUpdate:
        """What makes an update, and knows the learning rate of the last one."""
        return ScaledUpdate(self.optimizer, self.batching, self.progress, self.scaling, self.main_group)

    @property
    def cycles(self) -> int:
        """Number of complete cycles of the schedule; 0 also where it has no restarts."""
        return self.schedule.cycles() or 0

    @cached_property
    def is_timed(self) -> bool:
        """Whether it ends by the time of the clock `train`."""
        return is_time(self.duration)

    def read_clock(self) -> None:
        """Lets the progress know the training time; of several processes, that of the first counts for all."""
        self.progress.nanoseconds = self.ranks.lead(lambda: round(1e9 * self.clocks.read("train")))

    @property
    def is_over(self) -> bool:
        """Whether it has reached its duration."""
        return any(self.progress.elapsed(length) >= 1 for length in (self.duration, self.range_test) if length)

    @property
    def is_paused(self) -> bool:
        """Whether it waits for a search to decide whether it goes on."""
        return self.pause_after is not None and self.progress.elapsed(self.evaluate_every) >= self.pause_after

    @property
    def durations(self) -> dict[str, str]:
        """How often what is due in the loop, as durations."""
        return {
            "log": self.log_every,
            "evaluate": self.evaluate_every,
            "checkpoint": self.checkpoint_every,
            "range_test": self.range_test or self.duration,
            "end": self.duration,
        }

    @property
    def evaluation_batch_size(self) -> int:
        """Images a batch in evaluations: constant, also where the size of training batches varies."""
        return max(EVALUATION_BATCH_SIZE, self.batching.largest or self.batching.size)

    def batches(self) -> Iterator[Batch]:
        """Yields the batches from the run's position on."""
        if self.batching.needs_probe is not None:
            return controlled_batches(self)
        p = self.progress
        return batches(self.training_set, self.batching, self.seed, Position(p.epoch, p.offset, p.repeat, p.step))

    def loss(self, batch: Batch) -> Tensor:
        """Returns the loss of a whole batch with its regularizers, a scalar with its graph; see `Shard` for that."""
        self.begin(batch)
        return self.shard.loss(self.objective(batch.inputs, batch.targets)[0])

    def begin(self, batch: Batch) -> None:
        """Lets the losses that follow be of a batch, of which this process may have a part."""
        if isinstance(self.shard, BatchShard):
            self.shard.begin(batch.size)

    def evaluate(self, kind: str, stop: Callable[[], object] = never) -> dict[str, Any]:
        """Returns the present loss and metrics on one of the sets, as of `evaluation.evaluate`."""
        source, size = self.evaluation_sets[kind], self.evaluation_batch_size
        loss, metrics = self.objective.loss, self.metrics
        return evaluate(self.network, self.forward, source, size, loss, metrics, self.autocast, stop, self.ranks)

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def trainable_parameters(self) -> int:
        """Number of parameters that are trained."""
        return sum(p.numel() for p in self.network.parameters() if p.requires_grad)


def controlled_batches(run: Run) -> Iterator[Batch]:
    """Yields the batches from a run's position on; the stream begins anew whenever the size was changed."""
    p, batching = run.progress, run.batching
    while True:
        size = batching.size
        for batch in batches(run.training_set, batching, run.seed, Position(p.epoch, p.offset, p.repeat, p.step)):
            yield batch
            if batching.size != size:
                break
