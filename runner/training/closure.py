"""The loss of a batch, as an optimizer asks for it."""

import torch
from torch import Tensor

from trainopt.data import Batch

from ..state.objective import Output
from ..state.run import Run
from .divergence import finite_check


class TrainingClosure:
    """Returns the loss of the current batch, with gradients in place unless the optimizer needs the graph.

    Calls with gradients on the whole batch are counted. What an optimizer computes beside them, on a part of the
    batch or without gradients, it reports itself.

    Args:
        run: the run that is trained.

    Attributes:
        batch: the current batch; set before every step.
        total: the loss, a scalar, as of the last call that was counted; so are terms and output.
        terms: its terms, by name.
        output: the network's logits (B, classes), or what a network that returns its loss reports.
    """

    batch: Batch
    total: Tensor
    terms: dict[str, Tensor]
    output: Output

    def __init__(self, run: Run):
        self._objective, self._progress = run.objective, run.progress
        self._parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
        self._needs_graph = run.optimizer.needs_graph
        self._finite = finite_check(run.device)

    def __call__(self, fraction: float = 1.0) -> Tensor:
        """Returns the loss, a scalar, of the batch or of its first part.

        Args:
            fraction: of the batch; at least two samples are taken.

        Raises:
            Diverged: the loss is not finite.
        """
        batch = self.batch
        if fraction < 1 or not torch.is_grad_enabled():
            size = max(2, round(fraction * batch.size))
            return self._objective(batch.inputs[:size], batch.targets[:size])[0]
        for parameter in self._parameters:  # what optimizer.zero_grad() does, without its profiling: 10 us a step
            parameter.grad = None
        total, self.terms, self.output = self._objective(batch.inputs, batch.targets)
        self.total = total
        must_finish = self._finite.begin(total)
        if not self._needs_graph:
            total.backward()
        if must_finish:
            self._finite.finish()
        self._progress.gradients += 1
        self._progress.samples += batch.size
        return total

    def values(self) -> dict[str, float]:
        """Returns the terms of the loss, and the loss itself as `total`, as numbers."""
        total = self._finite.value  # was read already; a term alone is the total
        terms = {name: total if term is self.total else term.item() for name, term in self.terms.items()}
        return {**terms, "total": total}
