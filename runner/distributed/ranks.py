"""The processes that make one run together. Imports torch only where there are several."""

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from ..system.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")

TIMEOUT = timedelta(minutes=10)  # that a process waits for the others, as torch.distributed does for NCCL


class RankError(RuntimeError):
    """Another process of the run failed, or the connection to it was lost.

    Args:
        text: of the error.
        kind: the name of the class of the other process's error; empty: the connection was lost.
    """

    def __init__(self, text: str, kind: str = ""):
        super().__init__(text)
        self.kind = kind


class Ranks:
    """A group of processes: here of one, for which nothing needs to be done.

    Every method but `fail` and `cause` is called by all processes, in the same order.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def describe(self) -> str:
        """Returns a line on the processes for the start of the run; empty where there is one."""
        return ""

    def lead(self, work: Callable[[], Result], patient: bool = False) -> Result:
        """Returns what `work` returns on rank 0, where it is called alone; an error of it is that of all.

        Args:
            work: what is to be done.
            patient: whether it may take longer than processes wait otherwise.
        """
        return work()

    def each(self, work: Callable[[], Result]) -> Result:
        """Returns what `work` returns here; all do it at the same time, and an error is that of all."""
        return work()

    def together(self, work: Callable[[], Result]) -> Result:
        """Returns what `work` returns here; rank 0 is done before the others begin, and an error is that of all."""
        return work()

    def sum_(self, tensors: "list[Tensor]") -> None:
        """Adds up tensors over the processes, in place."""

    def gather(self, tensor: "Tensor") -> "Tensor":
        """Returns the tensors (n, ...) of all processes, whose n may differ, one after another."""
        return tensor

    def broadcast(self, tensors: "list[Tensor]") -> None:
        """Sets tensors to those of rank 0."""

    def fail(self, error: Exception) -> None:
        """Lets the others know by which error this process ends."""

    def cause(self, error: Exception) -> Exception:
        """Returns the error of another process, where `error` is that the connection to it was lost; else `error`."""
        return error


ALONE = Ranks()


def shard_of(start: int, stop: int, rank: int, size: int) -> tuple[int, int]:
    """Returns the part of (start, stop) that a process has: parts differ by at most one sample, and may be empty.

    >>> [shard_of(10, 15, rank, 3) for rank in range(3)]
    [(10, 11), (11, 13), (13, 15)]
    """
    count = stop - start
    return start + count * rank // size, start + count * (rank + 1) // size


def kind_of(error: Exception) -> str:
    """Returns the name of the class of an error; of a RankError, that of the other process's error."""
    return error.kind if isinstance(error, RankError) else type(error).__name__


def describe_error(error: Exception) -> str:
    """Returns an error as a line."""
    return str(error) if isinstance(error, UserError | RankError) else f"{type(error).__name__}: {one_line(error)}"


def for_others(error: Exception, rank: int) -> Exception:
    """Returns what an error of a process raises in the others: an error of the same kind, where they may go on."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, f"rank {rank}: {error.strerror}", error.filename)
    text = f"rank {rank}: {describe_error(error)}"
    return UserError(text) if isinstance(error, UserError) else RankError(text, kind_of(error))
