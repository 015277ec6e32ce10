"""The contracts of sources of batches and of rules for batch sizes.

A rule that a configuration names need not derive from `Batching`. What it leaves out has the default of `Batching`. A
run is refused where a member is missing or misspelt.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor


class Position(NamedTuple):
    """A position of a run in the stream of batches."""

    epoch: int = 0  # complete epochs
    offset: int = 0  # samples of the current epoch that are used up
    repeat: int = 0  # updates made on the current batch (batch reuse)
    step: int = 0  # updates made


class Progress(Protocol):
    """The position of a run in time, as far as a decision depends on it."""

    step: int  # updates made
    repeat: int  # of these, on the current batch; 0: it is used up

    @property
    def epochs(self) -> float:
        """Epochs so far."""

    def elapsed(self, duration: str) -> float:
        """Returns how many such durations have passed since the run began."""


class Source(Protocol):
    """A set of samples that yields batches.

    Attributes:
        device: of the batches.
    """

    device: torch.device

    @property
    @abstractmethod
    def targets(self) -> Tensor:
        """Targets of all samples, (N, ...), of any type; classes are (N,) int64."""

    @property
    @abstractmethod
    def is_random(self) -> bool:
        """Whether the inputs of a sample differ from epoch to epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of samples."""

    @abstractmethod
    def digest(self) -> str:
        """Returns a digest of all that the inputs of `ordered` depend on; features of a backbone are kept by it."""

    @abstractmethod
    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (inputs (B, ...), targets) of the batches that `spans` name as (start, stop) in the epoch's order.

        Order and augmentation are functions of (seed, epoch, index). Targets are as the source has them, or, where
        classes are mixed, probabilities (B, classes) float32.
        """

    @abstractmethod
    def ordered(self, batch_size: int, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (inputs (B, ...), targets (B, ...)) of every sample once, in order, without augmentation.

        Args:
            batch_size: samples a batch; the last may have fewer.
            first: number of the first batch that is read and yielded.
            every: of the batches from there on, each that comes so many after another is.
        """


class Batching(Protocol):
    """A rule for batches: their size, the number of updates on each, and the factor on the learning rate.

    It may take the arguments `duration` (`duration.passed(step, epochs)`: how many durations of the run have passed)
    and `levels` (`levels()`: where levels of the learning rate begin, as increasing fractions of the run, or None).
    Either `spans` or `spans_from` is needed. A resumed run calls the methods again, so all are functions of their
    arguments, and of what `state_dict` returns.

    Attributes:
        size: samples a batch; 0: unknown.
        smallest: lower bound of the size, but at the end of an epoch; 0: unknown.
        largest: upper bound of the size; 0: unknown.
        most_repeats: largest number of updates on a batch.
        drop_last: whether the smaller last batch of an epoch is left out.
        repeat_lr_factor: factor on the learning rate from one update on a batch to the next.
        changes_lr: KEY=VALUE by which the learning rate follows the batch size (see `lr_factor`); None: it does not.
        needs_probe: name of the probe whose rows `observe` gets; None: none.
        every: with `needs_probe`, a duration: the time between decisions.
        follows_duration: whether it depends on the duration of the run, which then cannot change; None: if it takes
            `duration` or `levels`.
    """

    size: int = 0
    smallest: int = 0
    largest: int = 0
    most_repeats: int = 1
    drop_last: bool = False
    repeat_lr_factor: float = 1.0
    changes_lr: str | None = None
    needs_probe: ClassVar[str | None] = None
    every: str = ""
    follows_duration: bool | None = None

    def spans(self, epoch_size: int, offset: int, /) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) of the batches of an epoch of `epoch_size` samples, from `offset` on."""
        raise NotImplementedError

    def spans_from(self, begun: Position, epoch_size: int, /) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) of the batches of an epoch, from the one on that begins at a position."""
        return self.spans(epoch_size, begun.offset)

    def repeats(self, begun: Position, epoch_size: int, /) -> int:
        """Returns the number of updates on the batch that begins at a position."""
        return 1

    def lr_factor(self, begun: Position, epoch_size: int, /) -> float:
        """Returns the factor on the schedule's learning rate for the batch that begins at a position."""
        return 1.0

    def describe(self) -> str:
        """Returns a description of sizes that change, for the start of a run; empty where they do not."""
        return ""

    def observe(self, values: Mapping[str, Any], progress: Progress, /) -> dict[str, Any] | None:
        """Decides about the batches to come, by what the probe measured at the last update.

        Args:
            values: the probe's row.
            progress: of the run, after the update.

        Returns:
            A row of kind `control`: `batch_size`, `lr_factor`, both also as `..._before`, and `reason`; None: it was
            not time to decide.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Returns its state as plain values: a part of checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restores what `state_dict` returned."""
