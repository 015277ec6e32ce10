"""The sum of gradients over the processes of a run."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from .group import Group

BUCKET_BYTES = 25 * 2**20  # as in torch's DistributedDataParallel


class GradientSum:
    """Adds up `p.grad` over the processes, in buckets, while the backward pass computes the others.

        gradient_sum.begin()
        loss.backward()
        gradient_sum.finish()

    A bucket is sent as soon as its gradients are there and those before it are sent, so that all processes send in one
    order (Li et al. 2020, "PyTorch Distributed", arXiv 2006.15704, section 3.2.3).

    Args:
        group: of the processes.
        parameters: the trained ones. Each has a gradient in all processes, or in none.
    """

    def __init__(self, group: Group, parameters: Sequence[Tensor]):
        self._group = group
        self._buckets = in_buckets(list(reversed(parameters)), BUCKET_BYTES)
        for index, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, index))
        self._reset()

    def begin(self) -> None:
        """Lets the backward pass that follows send buckets."""
        self._is_armed = True

    def finish(self) -> None:
        """Sends what was not sent, and waits; `p.grad` is then the sum."""
        self._send(len(self._buckets))
        for gradients, flat, wait in self._sent:
            wait()
            parts = flat.split([g.numel() for g in gradients])
            torch._foreach_copy_(gradients, [v.view_as(g) for v, g in zip(parts, gradients, strict=True)])
        self._reset()

    def _reset(self) -> None:
        self._is_armed = False
        self._missing = [len(bucket) for bucket in self._buckets]
        self._sent: list[tuple[list[Tensor], Tensor, Callable[[], None]]] = []
        self._next = 0

    def _arrived(self, index: int, parameter: Tensor) -> None:
        del parameter
        if not self._is_armed:
            return
        self._missing[index] -= 1
        full = self._next
        while full < len(self._buckets) and self._missing[full] == 0:
            full += 1
        self._send(full)

    def _send(self, stop: int) -> None:
        """Sends the buckets before number `stop` that were not sent yet."""
        for bucket in self._buckets[self._next : stop]:
            gradients = [p.grad for p in bucket if p.grad is not None]
            if gradients:
                flat = torch.cat([g.reshape(-1) for g in gradients])
                self._sent.append((gradients, flat, self._group.all_reduce_later(flat)))
        self._next = stop


def in_buckets(parameters: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    """Returns parameters in buckets of one type, each of at most `size` bytes or of one parameter."""
    buckets: list[list[Tensor]] = []
    room = 0
    for parameter in parameters:
        count = parameter.numel() * parameter.element_size()
        if not buckets or buckets[-1][0].dtype != parameter.dtype or count > room:
            buckets.append([])
            room = size
        buckets[-1].append(parameter)
        room -= count
    return buckets
