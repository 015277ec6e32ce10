"""The loss of a batch, as an optimizer asks for it."""

from inspect import signature, unwrap
from math import nan
from typing import Any, cast

import torch
from torch import Tensor

from trainopt.data import Batch

from ..state.objective import Output
from ..state.run import Run
from ..system.errors import UserError
from .divergence import Diverged, FiniteCheck

CALLING = "begin step(self, closure) with: with torch.enable_grad(): loss = closure()"


def check_step(optimizer: Any) -> None:
    """Refuses an optimizer whose class has no method `step`, or one that takes no closure."""
    name, step = type(optimizer).__name__, getattr(optimizer, "step", None)
    if not callable(step):
        return
    if unwrap(getattr(step, "__func__", step)) is unwrap(torch.optim.Optimizer.step):
        raise UserError(f"optimizer: {name} has no method step; {CALLING}")
    try:
        signature(step).bind(None)
    except TypeError as error:
        raise UserError(f"optimizer: {name}.step takes no closure ({error}); {CALLING}") from error
    except ValueError:  # a signature that Python cannot tell
        return


class TrainingClosure:
    """Returns the loss of the current batch, with gradients in place unless the optimizer needs the graph.

    The gradients are those of the whole batch, clipped as the run's `gradient` says.

    Calls with gradients on the whole batch are counted. What an optimizer computes beside them, on a part of the
    batch or without gradients, it reports itself.

    Args:
        run: the run that is trained.
        check: of its losses and gradients; None: they are read before each update.

    Attributes:
        finite: the check.
        batch: the current batch; set before every step.
        total: the loss, a scalar, as of the last call that was counted; so are terms and output.
        terms: its terms, by name.
        output: the network's logits (B, classes), or what a network that returns its loss reports.
        gradient_norm: the norm of the gradient before it was clipped; None where it is not.
    """

    batch: Batch
    total: Tensor
    terms: dict[str, Tensor]
    output: Output
    gradient_norm: float | Tensor | None = None

    def __init__(self, run: Run, check: FiniteCheck | None = None):
        self._objective, self._progress, self._gradient = run.objective, run.progress, run.gradient
        self._parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
        self._needs_graph, self._scaling = run.optimizer.needs_graph, run.scaling
        self._backward = Tensor.backward if run.scaling is None else run.scaling.backward
        self._in_parts, self._clips = run.gradient.accumulation_steps > 1, run.gradient.clips
        self.finite = check or FiniteCheck(run.device)

    def __call__(self, fraction: float = 1.0) -> Tensor:
        """Returns the loss, a scalar, of the batch or of its first part.

        Args:
            fraction: of the batch; at least two samples are taken.

        Raises:
            Diverged: the loss is not finite, or its gradient.
            NoticedLate: one before was not.
        """
        batch = self.batch
        if fraction < 1 or not torch.is_grad_enabled():
            return self._value(batch, fraction)
        for parameter in self._parameters:  # what optimizer.zero_grad() does, without its profiling: 10 us a step
            parameter.grad = None
        if self._in_parts:
            total = self._accumulate(batch)
        else:
            total, self.terms, self.output = self._objective(batch.inputs, batch.targets)
        self.total = self._whole(total)
        must_finish = self.finite.begin(self.total)
        if not self._needs_graph and not self._in_parts:
            self._backward(total)
        if must_finish:
            self.finite.finish()
        self._complete_gradients()
        if self._scaling is not None:
            if self._scaling.is_exhausted:
                raise Diverged(loss=self.finite.value, gradient_norm=nan)
            self._scaling.unscale()
        if self._clips:
            norm = self._gradient.clip(self._parameters)
            self.gradient_norm = self.finite.look_at_norm(norm) if self._scaling is None else norm
        elif self._needs_graph:
            self.finite.count()
        elif self._scaling is None:
            self.finite.look_at([p.grad for p in self._parameters if p.grad is not None])
        self._progress.gradients += 1
        self._progress.samples += batch.size
        return self.total

    def _value(self, batch: Batch, fraction: float) -> Tensor:
        """Returns the loss of the first part of a batch, which is not counted."""
        size = max(2, round(fraction * batch.size))
        return self._objective(batch.inputs[:size], batch.targets[:size])[0]

    def _whole(self, total: Tensor) -> Tensor:
        """Returns the loss of the whole batch by that of the samples here, which are all."""
        return total

    def _complete_gradients(self) -> None:
        """Makes gradients those of the whole batch: they are."""

    def predictions(self) -> tuple[Output, Tensor]:
        """Returns the outputs of the whole batch, as `output`, and its targets."""
        return self.output, self.batch.targets

    def _accumulate(self, batch: Batch) -> Tensor:
        """Leaves the gradients of a batch, whose parts are processed one after another; returns its loss, a scalar."""
        losses, self.terms, outputs = [], {}, []
        for part in self._gradient.parts(batch.size):
            fraction = (part.stop - part.start) / batch.size
            total, terms, output = self._objective(batch.inputs[part], batch.targets[part])
            self._backward(fraction * total)
            losses.append(fraction * total.detach())
            outputs.append(cast(Tensor, output).detach())
            for name, term in terms.items():
                self.terms[name] = self.terms.get(name, 0.0) + fraction * term.detach()
        self.output = torch.cat(outputs)
        return torch.stack(losses).sum()

    def values(self) -> dict[str, float]:
        """Returns the terms of the loss, and the loss itself as `total`, as numbers."""
        total = self.finite.value  # of a CPU it was read already; a term alone is the total
        terms = {name: total if term is self.total else term.item() for name, term in self.terms.items()}
        norm = {} if self.gradient_norm is None else {"gradient_norm": float(self.gradient_norm)}
        scaling = {} if self._scaling is None else self._scaling.report()
        return {**terms, "total": total, **norm, **scaling}
