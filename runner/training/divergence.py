"""Whether loss, gradient and weights are finite.

On a CPU both are read before every update. On a GPU that would make each step wait for the device; there a run reads
them some steps later. Where one was not finite, it goes back to the last position that it has kept, and makes the steps
from there again, reading before every update: so it ends as it would have ended without the delay.
"""

import io
import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from trainopt.optimizers import EHNewton, Optimizer, Regularizer
from trainopt.optimizers.compat_torch import record_non_finite

from ..objectives.loss import OwnLoss
from ..state.checkpoint import library_of, load_run_state, run_state
from ..state.run import Run

DEFERRED_ON = ("cuda",)  # types of devices that steps do not wait for
KEEP_EVERY = 200  # gradients: a position is kept at the first record after so many, and at every evaluation
MOST_PENDING = 1000  # steps whose numbers are kept
RESTORED = ("trainopt", "torch", "timm")  # libraries whose optimizers replace all of their state in load_state_dict


class Diverged(FloatingPointError):
    """What makes the next update is not finite.

    Args:
        values: the loss, its `gradient_norm`, or `weights`, by name.
    """

    def __init__(self, **values: float):
        super().__init__(", ".join(f"{name} is {value}" for name, value in values.items()))
        self.values = {name: str(value) for name, value in values.items()}


class FiniteCheck:
    """Reads loss and gradient before the update.

    Args:
        device: where losses and gradients are computed.

    Attributes:
        follows_update: whether it takes losses and gradients after the update, too.
    """

    follows_update = False

    def __init__(self, device: torch.device):
        self._found, self._one = torch.zeros((), device=device), torch.ones((), device=device)
        self._reads_late = device.type == "cuda"
        self._loss = torch.tensor(math.nan)
        self._value = math.nan

    @property
    def value(self) -> float:
        """The last loss."""
        return self._value

    def begin(self, loss: Tensor) -> bool:
        """Checks a loss; returns whether `finish` must be called after the backward pass.

        A GPU is given the backward pass before the host waits for the loss.

        Raises:
            Diverged: it is not finite.
        """
        if self._reads_late:
            self._loss = loss.detach()
            return True
        self._read(loss)
        return False

    def finish(self) -> None:
        """Checks the loss of `begin`, if that did not.

        Raises:
            Diverged: it is not finite.
        """
        self._read(self._loss)

    def _read(self, loss: Tensor) -> None:
        self._value = value = loss.item()
        if value - value != 0:  # infinite, or not a number
            raise Diverged(loss=value)

    def look_at(self, gradients: list[Tensor]) -> None:
        """Checks the gradients of the loss.

        Raises:
            Diverged: an element is not finite.
        """
        self._record(gradients)
        if self._found.item():
            raise Diverged(loss=self.value, gradient_norm=non_finite_norm(gradients))

    def look_at_norm(self, norm: Tensor) -> float | Tensor:
        """Checks the norm of the gradients of the loss, a scalar, and returns it.

        Raises:
            Diverged: it is not finite.
        """
        value = norm.item()
        if not math.isfinite(value):
            raise Diverged(loss=self.value, gradient_norm=value)
        return value

    def count(self) -> None:
        """Counts a gradient that the optimizer itself checks before its update."""

    def later(self, numbers: Tensor, use: Callable[[list[float]], None]) -> None:
        """Calls a function with numbers (n,) of a step, once they are read."""
        use(numbers.tolist())

    def _record(self, gradients: list[Tensor]) -> None:
        if any(g.requires_grad or g.is_sparse for g in gradients):
            gradients = [g.detach().coalesce().values() if g.is_sparse else g.detach().clone() for g in gradients]
        record_non_finite(gradients, self._found, self._one)

    def wait(self) -> None:
        """Checks what was recorded and not yet read: nothing.

        Raises:
            NoticedLate: a gradient was not finite.
        """

    def keep(self, evaluated: bool) -> None:
        """Keeps the position of the run, to go back to, where it is time to; call `wait` before.

        Args:
            evaluated: whether the run was evaluated there.
        """


class NoticedLate(Exception):
    """A loss or a gradient was not finite, and updates were made since.

    Args:
        run: the run.
        state: of the run, before that.
        count: how many gradients from there on were finite.
    """

    def __init__(self, run: Run, state: bytes, count: int):
        super().__init__(f"not finite after {count} gradients")
        self._run, self._state, self._count = run, state, count

    def go_back(self) -> "RepeatedCheck":
        """Sets the run to its state before; returns the check for the steps from there on."""
        state = torch.load(io.BytesIO(self._state), map_location="cpu", weights_only=True)
        load_run_state(self._run, {**state, "clocks": {}})  # the time has passed
        return RepeatedCheck(self._run.device, self._count)


class DeferredCheck(FiniteCheck):
    """Records on the device whether losses and gradients are finite, and reads that once it is known.

    A copy to the host is begun after an update, and looked at in the updates that follow, without waiting.

    Args:
        run: the run; a position that it goes back to is kept in the memory of the host, as a checkpoint.
    """

    follows_update = True

    def __init__(self, run: Run):
        super().__init__(run.device)
        self._run, self._state = run, b""
        self._finite = torch.zeros((), device=run.device)  # gradients since the position, up to the first that is not
        self._made = 0  # gradients since the position
        self._readout = _Readout(run.device)
        self._pending: list[tuple[Tensor, Callable[[list[float]], None]]] = []

    @property
    def value(self) -> float:
        """The last loss, which is read here."""
        return self._loss.item()

    def begin(self, loss: Tensor) -> bool:
        """Takes a loss, which `look_at` checks, or `finish` where the optimizer reads numbers of its step."""
        self._loss = loss.detach()
        return self._run.optimizer.needs_graph

    def finish(self) -> None:
        """Waits for what was recorded, and checks the loss of `begin`.

        Raises:
            Diverged: it is not finite.
            NoticedLate: one before was not, or a gradient.
        """
        self.wait()
        super().finish()

    def count(self) -> None:
        """Counts a gradient that the optimizer itself checks before its update."""
        self._made += 1
        self._finite.add_(self._one)

    def later(self, numbers: Tensor, use: Callable[[list[float]], None]) -> None:
        """Keeps a copy of numbers (n,) until `wait`, which calls a function with them."""
        self._pending.append((numbers.clone(), use))
        if len(self._pending) == MOST_PENDING:
            self.wait()

    def look_at(self, gradients: list[Tensor]) -> None:
        """Records whether the loss and its gradients are finite.

        Raises:
            NoticedLate: one before was not, and that is known by now.
        """
        self._record([self._loss.clone(), *gradients])
        self._finite.add_(self._one).sub_(self._found)
        self._made += 1
        known = self._readout.poll(self._finite, self._made)
        if known is not None:
            self._judge(*known)

    def look_at_norm(self, norm: Tensor) -> float | Tensor:
        """Records whether the loss and the norm of its gradients are finite; returns the norm."""
        self.look_at([norm.clone()])
        return norm

    def wait(self) -> None:
        """Waits for what was recorded.

        Raises:
            NoticedLate: a gradient was not finite.
        """
        self._judge(self._finite.item(), self._made)
        if self._pending:
            pending, self._pending = self._pending, []
            values = iter(torch.cat([numbers for numbers, _ in pending]).tolist())
            for numbers, use in pending:
                use(list(islice(values, len(numbers))))

    def _judge(self, finite: float, made: int) -> None:
        if finite < made:
            raise NoticedLate(self._run, self._state, int(finite))

    def keep(self, evaluated: bool) -> None:
        """Keeps the position after each evaluation, and after `KEEP_EVERY` gradients."""
        if not evaluated and self._made < KEEP_EVERY:
            return
        with self._run.clocks.running("other"):
            buffer = io.BytesIO()
            torch.save({**run_state(self._run), "clocks": {}}, buffer)
            self._state = buffer.getvalue()
        self._made = 0
        self._finite.zero_()
        self._readout.drop()


class _Readout:
    """A number on a GPU that is copied to the host without waiting; on other devices it is never there in time."""

    def __init__(self, device: torch.device):
        self._device, self._is_gpu = device, device.type == "cuda"
        self._tag: int | None = None  # of the copy that is under way
        if self._is_gpu:
            self._host, self._event = torch.zeros((), pin_memory=True), torch.cuda.Event()

    def poll(self, number: Tensor, tag: int) -> tuple[float, int] | None:
        """Returns the number and the tag of a copy that has arrived; begins one where none is under way."""
        if not self._is_gpu:
            return None
        if self._tag is None:
            self._host.copy_(number, non_blocking=True)
            self._event.record(torch.cuda.current_stream(self._device))
            self._tag = tag
            return None
        if not self._event.query():
            return None
        known, self._tag = (float(self._host), self._tag), None
        return known

    def drop(self) -> None:
        """Forgets the copy that is under way; call it after waiting for the device."""
        self._tag = None


class RepeatedCheck(FiniteCheck):
    """Reads loss and gradient before the update, in steps that are made again.

    Kernels that are not deterministic may give finite numbers this time. The run ends all the same, at the step that it
    ended with before.

    Args:
        device: where losses and gradients are computed.
        count: how many gradients were finite.
    """

    def __init__(self, device: torch.device, count: int):
        super().__init__(device)
        self._left = count

    def look_at(self, gradients: list[Tensor]) -> None:
        """Checks the gradients of the loss."""
        super().look_at(gradients)
        self.count()

    def look_at_norm(self, norm: Tensor) -> float | Tensor:
        """Checks the norm of the gradients of the loss, and returns it."""
        value = super().look_at_norm(norm)
        self.count()
        return value

    def count(self) -> None:
        """Counts a gradient.

        Raises:
            Diverged: it was not finite before.
        """
        if self._left == 0:
            raise Diverged(loss=self.value, gradient_norm=math.nan)
        self._left -= 1


def finite_check(run: Run) -> FiniteCheck:
    """Returns the check for a run."""
    if run.device.type not in DEFERRED_ON or reason_to_wait(run) is not None:
        return FiniteCheck(run.device)
    return DeferredCheck(run)


def reason_to_wait(run: Run) -> str | None:
    """Returns why each step of a run must wait for a GPU, or None if it need not.

    It must where a step reads numbers anyway, and where going back would not set all that a step has changed.
    """
    optimizer, averaged = run.optimizer, run.averaged
    name = type(optimizer).__name__
    follows: list[Any] = [r for r, _ in run.objective.regularizers.values()]
    reasons = {
        f"{name} reads numbers of its step": optimizer.sets_lr
        or (optimizer.needs_graph and not (run.cuda_graph and reason_to_read(optimizer) is None)),
        f"whether {name} can be set back in the middle of a run is not known": library_of(optimizer) not in RESTORED,
        "probes read numbers of their steps": bool(run.probes),
        "a regularizer follows the steps": any(type(r).after_step is not Regularizer.after_step for r in follows),
        "the loss is your own, and may take no outputs that are not finite": isinstance(run.objective.loss, OwnLoss),
        "a test function reports numbers of each step": run.objective.returns_loss,
        "the scale of the loss in float16 depends on the gradient": run.scaling is not None,
        "early_stopping.min_step_norm measures each step": run.early_stopping.min_step_norm is not None,
        "an average with statistics of batch norm costs an evaluation": bool(averaged and averaged.needs_passes),
        "processes agree about each step": run.ranks.size > 1,
        f"duration={run.duration} is a time, and a clock is read after each step": run.is_timed,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def reason_to_read(optimizer: Optimizer) -> str | None:
    """Returns why no step of an optimizer that differentiates the loss can do without reading numbers, or None."""
    if not isinstance(optimizer, EHNewton):
        return f"{type(optimizer).__name__} differentiates the loss itself"
    reason = optimizer.reason_to_read()
    return None if reason is None else f"optimizer.{reason}"


def waiting_notes(run: Run) -> list[str]:
    """Returns a note for the start of a run on a GPU whose steps wait for it, or none."""
    reason = reason_to_wait(run) if run.device.type in DEFERRED_ON else None
    return [] if reason is None else [f"each step waits for the GPU: {reason}"]


def non_finite_norm(gradients: Iterable[Tensor]) -> float:
    """Returns the norm of gradients of which an element is not finite: nan or infinity."""
    return math.nan if any(g.isnan().any() for g in gradients) else math.inf


def check_weights(parameters: Iterable[Tensor]) -> None:
    """Raises Diverged if a weight is not finite, as after an update that is too large for the weights' type."""
    if are_finite(parameters):
        return
    raise Diverged(weights=non_finite_norm(parameters))


def are_finite(parameters: Iterable[Tensor]) -> bool:
    """Returns whether all elements of some parameters are finite."""
    checks = [p.detach().isfinite().all() for p in parameters]
    return not checks or bool(torch.stack(checks).all())
