"""A trial of an optimizer on a small problem, before a run: what it needs, and whether it can be resumed."""

import copy
import io
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .adapted import adapt

STEPS = 12  # beyond the periods of most optimizers: every 5, 6 or 10 steps
INTERRUPTED = 3  # the trial is resumed after so many steps
LARGEST = 8  # of a trial's tensors have this length in each dimension

Subject = nn.Module | list[dict[str, Any]]  # what an optimizer is built with: a network, or groups of parameters
Create = Callable[[Any], torch.optim.Optimizer]


def tried(create: Create, subject: Subject) -> Any:
    """Returns an optimizer of a subject that passed a trial, with what the trial says that it needs.

    Args:
        create: builds the optimizer for a subject.
        subject: the network, or the groups of its parameters.

    Raises:
        ValueError: it cannot be built, a step fails or changes nothing, or it does not go on as it was from a
            checkpoint.
    """
    with isolated():
        trial = Trial(create, subject)
        needs_graph = trial.find_needs_graph()
        sets_lr = trial.find_sets_lr()
        trial.check_resume()
    return adapt(create(subject), needs_graph, sets_lr)


class Trial:
    """Steps of an optimizer on small copies of its parameters, with a loss that is a function of these alone.

    Args:
        create: builds the optimizer for a subject.
        subject: the network, or the groups of its parameters.
    """

    def __init__(self, create: Create, subject: Subject):
        self._create = create
        self._subject = small_copy(subject)
        self._needs_graph = False
        self._reached: list[Tensor] = []  # the weights after all steps
        self._checkpoint = io.BytesIO()  # of step INTERRUPTED

    def find_needs_graph(self) -> bool:
        """Returns whether the optimizer differentiates gradients; makes the steps that are compared with others.

        Raises:
            ValueError: steps fail, or change no weight.
        """
        try:
            self._reached = self.run(range(STEPS), save=True)
        except Exception as error:  # noqa: BLE001 - whatever the library raises: the gradients may lack their graph
            self._needs_graph = True
            try:
                self._reached = self.run(range(STEPS), save=True)
            except Exception:  # noqa: BLE001 - the first one says more
                raise ValueError(said_by(error)) from error
        if same(self._reached, weights_of(self._subject)):
            raise ValueError("its steps change no weight")
        return self._needs_graph

    def find_sets_lr(self) -> bool:
        """Returns whether the learning rate of the parameter groups has no effect on the steps."""
        diverged = not all(weight.isfinite().all() for weight in self._reached)
        return not diverged and same(self._reached, self.run(range(STEPS), lr_factor=0.5))

    def check_resume(self) -> None:
        """Raises ValueError if the optimizer does not go on bitwise as it was from a checkpoint."""
        self._checkpoint.seek(0)
        try:
            state = torch.load(self._checkpoint, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"checkpoints cannot hold its state ({unsupported(error)})") from error
        try:
            reached = self.run(range(INTERRUPTED, STEPS), state)
        except Exception as error:
            raise ValueError(f"its state cannot be loaded from a checkpoint ({said_by(error)})") from error
        if not same(self._reached, reached):
            raise ValueError("it cannot be resumed: its state_dict leaves out a part of its state")

    def run(
        self,
        steps: range,
        state: dict[str, Any] | None = None,
        lr_factor: float = 1.0,
        save: bool = False,
    ) -> list[Tensor]:
        """Returns the weights after steps of a new optimizer on a new copy of the subject.

        Args:
            steps: their numbers.
            state: of the checkpoint to go on from; None: begin.
            lr_factor: a factor on the learning rates.
            save: whether a checkpoint is written at step INTERRUPTED.
        """
        seed_everything(0)
        subject = copy.deepcopy(self._subject)
        optimizer = adapt(self._create(subject), self._needs_graph)
        if hasattr(optimizer, "train"):  # of one with an evaluation mode
            optimizer.train()
        weights = parameters_of(subject)
        for group in optimizer.param_groups:
            if isinstance(group.get("lr"), int | float):
                group["lr"] *= lr_factor
        if state is not None:
            for weight, saved in zip(weights, state["weights"], strict=True):
                weight.data.copy_(saved)
            optimizer.load_state_dict(state["optimizer"])
        for step in steps:
            if step == INTERRUPTED:
                seed_everything(1)  # stands for the generators' states, which checkpoints hold
                if save:
                    self._checkpoint = io.BytesIO()
                    torch.save({"optimizer": optimizer.state_dict(), "weights": weights}, self._checkpoint)
            optimizer.step(TrialLoss(weights, step, self._needs_graph))
        return [weight.detach() for weight in weights]


class TrialLoss:
    """A closure: (c.w^2 / 2 + w^4 / 4 + d.w + (e.w)^2 / 2n) / 50 of n weights, with random c, d, e for each step.

    Its gradient and its Hessian, which is not diagonal, depend on all weights; its gradients of one step and the next
    are alike. It is so small that steps of SGD with large learning rates do not diverge.

    Args:
        weights: tensors.
        step: another loss for each.
        needs_graph: whether the loss is returned without gradients in place.
    """

    def __init__(self, weights: list[Tensor], step: int, needs_graph: bool):
        self._weights, self._needs_graph = weights, needs_graph
        generator = torch.Generator().manual_seed(step)
        self._factors = [torch.randn(3, *w.shape, generator=generator).to(w) for w in weights]

    def __call__(self) -> Tensor:
        """Returns the loss, a scalar."""
        total, product = torch.zeros(()), torch.zeros(())
        for w, (c, d, e) in zip(self._weights, self._factors, strict=True):
            total = total + ((1 + c.abs()) * w.square() / 2 + w.pow(4) / 4 + 0.02 * d * w).sum().cpu()
            product = product + (e * w).sum().cpu()
        total = (total + product.square() / (2 * sum(w.numel() for w in self._weights))) / 50
        if torch.is_grad_enabled() and not self._needs_graph:
            for w in self._weights:
                w.grad = None
            total.backward()
        return total


def small_copy(subject: Subject) -> Subject:
    """Returns a copy of a network, or of groups in which each shape of a parameter is cut, and occurs once."""
    if isinstance(subject, nn.Module):
        return copy.deepcopy(subject)
    generator = torch.Generator().manual_seed(0)
    groups = []
    for group in subject:
        shapes = dict.fromkeys(tuple(min(size, LARGEST) for size in p.shape) for p in group["params"])
        like = group["params"][0]
        small = [nn.Parameter((0.1 * torch.randn(shape, generator=generator)).to(like)) for shape in shapes]
        for parameter in small:
            parameter.data.view(-1)[0] = 0.0  # so that a step of any length changes it
        groups.append({**group, "params": small})
    return groups


def parameters_of(subject: Subject) -> list[Any]:
    """Returns the trained parameters of a network, or those of groups."""
    if isinstance(subject, nn.Module):
        return [p for p in subject.parameters() if p.requires_grad]
    return [p for group in subject for p in group["params"]]


def weights_of(subject: Subject) -> list[Tensor]:
    """Returns the values of the trained parameters."""
    return [p.detach() for p in parameters_of(subject)]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    """Returns whether tensors are bitwise equal; not-a-number is equal to itself."""
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(some, others, strict=True))


def said_by(error: Exception) -> str:
    """Returns the message of an error in one line, or its class where it has none."""
    return " ".join(str(error).split()) or f"it raises {type(error).__name__}"


def unsupported(error: Exception) -> str:
    """Returns the class that a checkpoint may not hold, from what torch.load says of it."""
    _, _, rest = str(error).partition("Unsupported global: GLOBAL ")
    return rest.split()[0] if rest else said_by(error)[:100]


def seed_everything(seed: int) -> None:
    """Seeds the generators that an optimizer may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def isolated() -> Iterator[None]:
    """Sets the global random number generators back at the end; compiled functions run uncompiled meanwhile."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), torch.compiler.set_stance("force_eager"):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
