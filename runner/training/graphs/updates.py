"""Updates of weights that a graph can hold: what changes from step to step is read from the device.

Torch's optimizers take learning rates as numbers of the host, which a graph would repeat as they were. Where they take
tensors (`capturable`), they compute in another order, so that a graph would be another run than eager steps. The
updates here make the operations of torch's, with their roundings: p + s * x, rounded once, is `addcmul` with a tensor
full of s. Whether they are those of torch's on a device is tried there, bit for bit.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from inspect import unwrap
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam

from trainopt.optimizers import EMA, Optimizer
from trainopt.optimizers.compat_torch import has_step_hooks

Step = Callable[[Callable[[], Tensor]], Any]
Tensors = list[Tensor] | tuple[Tensor, ...]


class Update(Protocol):
    """A part of a step, after the gradients."""

    @abstractmethod
    def prepare(self) -> None:
        """Sets the numbers of the next step on the device, without waiting for it."""

    @abstractmethod
    def apply(self) -> None:
        """Makes the update; a graph can hold it."""

    @abstractmethod
    def finish(self) -> None:
        """Counts a step whose update was made."""

    @abstractmethod
    def eager(self, step: Step, loss: Tensor) -> None:
        """Makes the update as an eager step does; what it counts, `tensors` and `steps` alone know.

        Args:
            step: of the optimizer.
            loss: of the batch, whose gradients are in place.
        """

    @abstractmethod
    def constants(self) -> Any:
        """Returns what `apply` takes from the host, and a graph repeats."""

    @abstractmethod
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields what `apply` changes, by name."""

    def steps(self) -> list[Tensor]:
        """Returns the tensors that count, which `apply` leaves."""
        return []

    def snapshot(self) -> Callable[[], None]:
        """Returns what sets all back that `apply`, `finish` and `eager` change."""
        saved = [(value, value.detach().clone()) for value in (*(t for _, t in self.tensors()), *self.steps())]

        def restore() -> None:
            with torch.no_grad():
                for value, copy in saved:
                    value.copy_(copy)

        return restore


class Number:
    """A number on a device, which is another one from step to step, as tensors of the shapes of others.

    They share the memory of the largest one, so that one kernel serves many tensors.

    Args:
        tensors: of one dtype and device.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        size = max(1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) for t in tensors)
        self._all, self._value = torch.zeros(max(size, 1), dtype=tensors[0].dtype, device=tensors[0].device), 0.0

    def set(self, value: float) -> None:
        """Sets the number."""
        if value != self._value:
            self._all.fill_(value)
            self._value = value

    @property
    def scalar(self) -> Tensor:
        """The number, ()."""
        return self._all[0]

    def like(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Returns the number in the shapes and the memory formats of tensors."""
        return [self._all.as_strided(t.shape, t.stride()) for t in tensors]


class GroupUpdate(Update):
    """The update of a parameter group of one of torch's optimizers.

    Args:
        optimizer: has made a step.
        group: one of its groups.

    Raises:
        ValueError: no graph can hold it.
    """

    changing: tuple[str, ...] = ("lr",)  # keys of the group that may change
    state_keys: tuple[str, ...] = ()

    def __init__(self, optimizer: Any, group: dict[str, Any]):
        self._group = group
        self._params = [p for p in group["params"] if p.grad is not None]
        if len({(p.dtype, p.device) for p in self._params}) != 1 or any(p.grad.is_sparse for p in self._params):
            raise ValueError("the weights of a group are of several types, or their gradients sparse")
        if isinstance(group["lr"], Tensor):
            raise ValueError("the learning rate is a tensor")
        self._lists: dict[str, list[Tensor]] = {}
        for key in self.state_keys:
            states = [optimizer.state.get(p, {}) for p in self._params]  # looking up adds an empty one
            self._lists[key] = [state[key] for state in states if key in state]
            if len(self._lists[key]) not in (0, len(self._params)):
                raise ValueError("some weights have had no gradient before")

    def _numbers(self, count: int) -> list[Number]:
        return [Number(self._params) for _ in range(count)]

    def _gradients(self) -> Tensors:
        """Returns the gradients, negative where the loss is maximized, with the weight decay that is a part of them."""
        gradients: Tensors = [cast(Tensor, p.grad) for p in self._params]
        if self._group["maximize"]:
            gradients = torch._foreach_neg(gradients)
        if self._group["weight_decay"] != 0 and not self._group.get("decoupled_weight_decay", False):
            gradients = torch._foreach_add(gradients, self._params, alpha=self._group["weight_decay"])
        return gradients

    def constants(self) -> Any:
        """Returns the options that a graph repeats."""
        return [value for key, value in self._group.items() if key not in ("params", "initial_lr", *self.changing)]

    def eager(self, step: Step, loss: Tensor) -> None:
        """Does nothing: the step of all groups is one."""

    def finish(self) -> None:
        """Counts nothing."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields weights and state."""
        yield from ((f"weight {k}", p) for k, p in enumerate(self._params))
        for key, tensors in self._lists.items():
            yield from ((f"{key} {k}", value) for k, value in enumerate(tensors))


class SGDUpdate(GroupUpdate):
    """That of torch.optim.SGD, in the order of its operations on many tensors.

    The learning rate and the momentum may change; a momentum of 0 stays 0.
    """

    changing = ("lr", "momentum")
    state_keys = ("momentum_buffer",)

    def __init__(self, optimizer: Any, group: dict[str, Any]):
        super().__init__(optimizer, group)
        self._scale, self._momentum = self._numbers(2)
        if group["momentum"] != 0 and not self._lists["momentum_buffer"]:
            raise ValueError("there is no momentum before the first step")

    def prepare(self) -> None:
        """Sets the learning rate and the momentum."""
        self._scale.set(-self._group["lr"])
        self._momentum.set(self._group["momentum"])

    def constants(self) -> Any:
        """Returns the options, and whether there is momentum."""
        return [*super().constants(), self._group["momentum"] != 0]

    def apply(self) -> None:
        """Makes the update."""
        steps = self._gradients()
        if self._group["momentum"] != 0:
            buffers = self._lists["momentum_buffer"]
            torch._foreach_mul_(buffers, self._momentum.scalar)
            torch._foreach_add_(buffers, steps, alpha=1 - self._group["dampening"])
            if self._group["nesterov"]:
                steps = torch._foreach_addcmul(steps, buffers, self._momentum.like(buffers))
            else:
                steps = buffers
        torch._foreach_addcmul_(self._params, steps, self._scale.like(self._params))


class AdamUpdate(GroupUpdate):
    """That of torch.optim.Adam and AdamW, in the order of their operations on many tensors.

    Args:
        optimizer: has made a step.
        group: one of its groups.
        divides_first: whether p + s * (m / d) is computed, as GPUs do, and not p + (s * m) / d, as CPUs do.
    """

    state_keys = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(self, optimizer: Any, group: dict[str, Any], divides_first: bool):
        super().__init__(optimizer, group)
        self._divides_first = divides_first
        self._steps = [optimizer.state[p]["step"] for p in self._params]
        if any(not step.is_cpu for step in self._steps) or len({step.item() for step in self._steps}) > 1:
            raise ValueError("the steps of Adam are counted by the device, or not the same for all weights")
        self._scale, self._correction, self._decay = self._numbers(3)

    def prepare(self) -> None:
        """Sets the step size, and the bias correction of the second moments."""
        group, count = self._group, self._steps[0].item() + 1  # of the host
        beta1, beta2 = group["betas"]
        self._scale.set(-(group["lr"] / (1 - beta1**count)))
        self._correction.set((1 - beta2**count) ** 0.5)
        self._decay.set(1 - group["lr"] * group["weight_decay"])

    def apply(self) -> None:
        """Makes the update."""
        group, gradients = self._group, self._gradients()
        beta1, beta2 = group["betas"]
        means, squares, largest = self._lists.values()
        if group["weight_decay"] != 0 and group["decoupled_weight_decay"]:
            torch._foreach_mul_(self._params, self._decay.scalar)
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        if group["amsgrad"]:
            torch._foreach_maximum_(largest, squares)
            squares = largest
        divisors = torch._foreach_sqrt(squares)
        torch._foreach_div_(divisors, self._correction.scalar)
        torch._foreach_add_(divisors, group["eps"])
        if self._divides_first:
            quotients = torch._foreach_div(means, divisors)
            torch._foreach_addcmul_(self._params, quotients, self._scale.like(self._params))
        else:
            torch._foreach_addcdiv_(self._params, torch._foreach_mul(means, self._scale.scalar), divisors)

    def finish(self) -> None:
        """Counts the step, as eager steps do: in the state."""
        torch._foreach_add_(self._steps, 1.0)

    def steps(self) -> list[Tensor]:
        """Returns the number of steps, by weight."""
        return self._steps


class EMAUpdate(Update):
    """The average of the weights follows the step.

    Args:
        average: of weights that it has taken before.
    """

    def __init__(self, average: EMA):
        self._average, self._pairs = average, list(average.pairs().values())
        self._numbers = [(Number(a), Number(a)) if a[0].is_floating_point() else floats(a) for a, _ in self._pairs]

    def prepare(self) -> None:
        """Sets the decay."""
        decay = self._average.next_decay
        for keep, take in self._numbers:
            keep.set(decay)
            take.set(1 - decay)

    def apply(self) -> None:
        """Takes weights and buffers into the average."""
        for (averages, values), (keep, take) in zip(self._pairs, self._numbers, strict=True):
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, values, take.like(averages))
                continue
            for average, value in zip(averages, values, strict=True):  # as torch does it with integers
                average.copy_(average * keep.scalar + value * take.scalar)

    def finish(self) -> None:
        """Counts the weights."""
        self._average.follow()

    def eager(self, step: Step, loss: Tensor) -> None:
        """Takes the weights into the average, and does not count them."""
        self._average.mix()

    def constants(self) -> Any:
        """Returns nothing."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields the average."""
        yield from ((f"average {k}", average) for averages, _ in self._pairs for k, average in enumerate(averages))


def floats(tensors: Sequence[Tensor]) -> tuple[Number, Number]:
    """Returns two numbers on the device of tensors of integers."""
    like = [torch.zeros((), device=tensors[0].device)]
    return Number(like), Number(like)


class WholeUpdate(Update):
    """The updates of all groups, and what follows a step.

    Args:
        parts: in their order.
    """

    def __init__(self, parts: Sequence[Update]):
        self._parts = parts
        self.recorded = self.constants()

    def prepare(self) -> None:
        """Sets the numbers of all."""
        for part in self._parts:
            part.prepare()

    def apply(self) -> None:
        """Makes all."""
        for part in self._parts:
            part.apply()

    def finish(self) -> None:
        """Lets all count."""
        for part in self._parts:
            part.finish()

    def eager(self, step: Step, loss: Tensor) -> None:
        """Makes the optimizer's step, and what follows it."""
        step(lambda: loss)
        for part in self._parts:
            part.eager(step, loss)

    def constants(self) -> Any:
        """Returns those of all."""
        return [part.constants() for part in self._parts]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields those of all."""
        for part in self._parts:
            yield from part.tensors()

    def steps(self) -> list[Tensor]:
        """Returns those of all."""
        return [step for part in self._parts for step in part.steps()]

    def snapshot(self) -> Callable[[], None]:
        """Returns what sets all back."""
        restores = [part.snapshot() for part in self._parts]

        def restore() -> None:
            for restore_part in restores:
                restore_part()

        return restore


FORMS: dict[Any, list[Callable[..., GroupUpdate]]] = {  # of the steps of optimizers; the first that equals one is taken
    unwrap(SGD.step): [SGDUpdate],
    unwrap(Adam.step): [partial(AdamUpdate, divides_first=is_first) for is_first in (True, False)],
}


def updates_of(optimizer: Optimizer, average: EMA | None) -> list[WholeUpdate]:
    """Returns the updates that may be those of an optimizer, which has made a step, and of an average.

    Raises:
        ValueError: no graph can hold them.
    """
    forms = FORMS.get(unwrap(type(optimizer).step))
    if forms is None:
        name = type(optimizer).__name__
        raise ValueError(f"a graph can hold the updates of SGD, Adam and AdamW, not those of {name}")
    if has_step_hooks(optimizer):
        raise ValueError("functions are called before or after each step")
    if any(group.get("fused") for group in optimizer.param_groups):
        raise ValueError("optimizer.fused=true: the fused kernels round a learning rate on the device to float32")
    after = [] if average is None else [EMAUpdate(average)]
    groups = [group for group in optimizer.param_groups if any(p.grad is not None for p in group["params"])]
    return [WholeUpdate([*(form(optimizer, group) for group in groups), *after]) for form in forms]
