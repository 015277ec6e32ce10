"""The processes that torchrun started, as a group of torch.distributed."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainopt.optimizers.vectors import flatten, unflatten

from ..system.environment import local_rank
from ..system.errors import UserError
from .ranks import TIMEOUT, RankError, Ranks, describe_error, for_others, kind_of

Result = TypeVar("Result")

BUILD_TIME = timedelta(hours=24)  # that processes wait while a run is built: data sets are read, features computed
LAST_WORDS = timedelta(seconds=3)  # that a process waits for the message of one whose connection is lost
ERROR = "error"  # key in the store: the first error of a process


class Group(Ranks):
    """Several processes: NCCL on GPUs, one for each process, and gloo on CPUs.

    Args:
        store: shared by the processes.
        device: of this process.
    """

    def __init__(self, store: Any, device: torch.device):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store, self._device = store, device
        self._patient: Any = dist.new_group(backend="gloo", timeout=BUILD_TIME)

    @classmethod
    @contextmanager
    def joined(cls, device: str) -> Iterator["Group"]:
        """Joins the group that torchrun describes while entered.

        Raises:
            UserError: a device is named, or there are more processes than GPUs here.
        """
        here = device_of_rank(device)
        # a store of its own for each attempt of torchrun --max-restarts
        attempt = f"trainopt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        base, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        store = dist.PrefixStore(attempt, base)
        backend = "cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        try:
            yield cls(store, here)
        finally:
            with suppress(RuntimeError):  # of a connection that is lost
                dist.destroy_process_group()

    def describe(self) -> str:
        """Returns the number of processes, their devices, the backend, and how long they wait for one another."""
        kind = "nccl" if self._device.type == "cuda" else "gloo"
        devices = "GPUs" if self._device.type == "cuda" else "CPU"
        return f"{self.size} on {devices}, {kind}, timeout {TIMEOUT.total_seconds() / 60:.0f} min"

    def lead(self, work: Callable[[], Result], patient: bool = False) -> Result:
        """Returns what `work` returns on rank 0, where it is called alone; an error of it is that of all."""
        outcome: list[Any] = [None, None]
        error: Exception | None = None
        if self.leads:
            try:
                outcome[0] = work()
            except Exception as raised:  # noqa: BLE001 - raised again below, after the others know
                error, outcome[1] = raised, for_others(raised, self.rank)
        with self._connection(BUILD_TIME if patient else TIMEOUT):
            group = self._patient if patient else None
            dist.broadcast_object_list(outcome, 0, group=group, device=torch.device("cpu"))
        if error is not None:
            raise error
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def each(self, work: Callable[[], Result]) -> Result:
        """Returns what `work` returns here; all do it at the same time, and an error is that of all."""
        result: Any = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:  # noqa: BLE001 - raised again below, after the others know
            error = raised
        errors: list[Any] = [None] * self.size
        with self._connection(BUILD_TIME):
            dist.all_gather_object(errors, error and for_others(error, self.rank), group=self._patient)
        error = error or next(filter(None, errors), None)
        if error is not None:
            raise error
        return result

    def together(self, work: Callable[[], Result]) -> Result:
        """Returns what `work` returns here; rank 0 is done before the others begin, and an error is that of all."""
        results: list[Result] = []
        self.lead(lambda: results.append(work()), patient=True)
        return self.each(lambda: results[0] if self.leads else work())

    def sum_(self, tensors: list[Tensor]) -> None:
        """Adds up tensors of one type over the processes, in place, in one reduction."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._connection():
            dist.all_reduce(flat)
        for tensor, values in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        """Returns the tensors (n, ...) of all processes, whose n may differ, one after another."""
        lengths = torch.zeros(self.size, dtype=torch.int64, device=tensor.device)
        lengths[self.rank] = len(tensor)
        with self._connection():
            dist.all_reduce(lengths)
            counts = lengths.tolist()
            padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
            padded[: len(tensor)] = tensor.detach()
            parts = [torch.empty_like(padded) for _ in counts]
            # as bytes: there are types that backends do not send
            dist.all_gather([part.view(-1).view(torch.uint8) for part in parts], padded.view(-1).view(torch.uint8))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Sets tensors to those of rank 0, by one message for each type."""
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        with self._connection(), torch.no_grad():
            for alike in by_type.values():
                flat = flatten(alike)
                dist.broadcast(flat, 0)
                torch._foreach_copy_(alike, unflatten(flat, alike))

    def all_reduce_later(self, flat: Tensor) -> Callable[[], None]:
        """Begins to add up a tensor over the processes, in place; returns what waits for the end of that."""
        with self._connection():
            work = dist.all_reduce(flat, async_op=True)

        def wait() -> None:
            with self._connection():
                work.wait()

        return wait

    def fail(self, error: Exception) -> None:
        """Lets the others know by which error this process ends; the first such error stands."""
        if isinstance(error, RankError):
            return
        with suppress(RuntimeError):  # the store may be gone
            text = f"rank {self.rank}: {describe_error(error)}"
            self._store.compare_set(ERROR, "", f"{kind_of(error)} {text}")

    def cause(self, error: Exception) -> Exception:
        """Returns the error of another process, where `error` is that the connection to it was lost; else `error`."""
        if not isinstance(error, RankError):
            return error
        with suppress(RuntimeError):  # also where there is no message in time
            self._store.wait([ERROR], LAST_WORDS)
            kind, _, text = self._store.get(ERROR).decode().partition(" ")
            return RankError(text, kind)
        return error

    @contextmanager
    def _connection(self, timeout: timedelta = TIMEOUT) -> Iterator[None]:
        """Turns an error of torch.distributed into a RankError."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RankError(
                "the connection to another rank was lost: it was killed, or did not answer within"
                f" {timeout.total_seconds() / 60:.0f} min"
            ) from error


def device_of_rank(device: str) -> torch.device:
    """Returns the device of this process: a GPU for each process of a machine, where it has any.

    Raises:
        UserError: a GPU is named, or there are too few.
    """
    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if ":" in device:
        raise UserError(f"device={device}: torchrun gives each process a GPU of its own; give device=cuda")
    if device == "cpu" or (device == "auto" and count == 0):
        return torch.device("cpu")
    if local_rank() >= count:
        raise UserError(
            f"device={device}: this machine has {count} GPUs, and torchrun started more processes on it;"
            f" give --nproc-per-node={count}" + ("" if count else ", or device=cpu")
        )
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", local_rank())
