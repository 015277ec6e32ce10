"""A run on several processes: each has a part of every batch, and all of the weights.

Losses are sums over a process's samples, divided by the number of samples of the whole batch; so totals and gradients
of the whole batch are sums over the processes.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from trainopt.data import Batch, Shards
from trainopt.optimizers.compat_torch import BATCH_NORM

from ..averaging.batch_norm import layers_with_statistics
from ..distributed.dropout import LAYERS, has_dropout, rate_of
from ..distributed.gradients import GradientSum
from ..distributed.group import Group
from ..distributed.ranks import Ranks, shard_of
from ..distributed.shard import BatchShard, LocalGraph
from ..objectives.loss import Loss, OwnLoss
from ..state.evaluation import first_predictions
from ..state.run import Run
from ..system.errors import UserError
from .closure import TrainingClosure
from .divergence import FiniteCheck


class ShardedLoss(Loss):
    """A loss whose value of a batch is the sum over this process's samples, divided by the samples of the whole batch.

    Args:
        loss: of a whole batch, a mean over samples.
        shard: says how many samples the batch has.
    """

    def __init__(self, loss: Loss, shard: BatchShard):
        self._loss, self._shard = loss, shard
        self.term, self.is_softmax = loss.term, loss.is_softmax

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns this process's summand of the mean over a batch."""
        return self._loss.of_samples(outputs, targets).sum() / self._shard.batch_size

    def of_samples(self, outputs: Tensor, targets: Tensor, training: bool = True) -> Tensor:
        """Returns the loss of each sample (B,)."""
        return self._loss.of_samples(outputs, targets, training)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Returns the probability of each class (B, classes)."""
        return self._loss.probabilities(outputs)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns what outputs predict of targets that are numbers."""
        return self._loss.predictions(outputs)

    def evaluated_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the sum over the samples of a batch of an evaluation, which is whole."""
        return self._loss.evaluated_sum(outputs, targets)


class ShardedClosure(TrainingClosure):
    """Returns the loss of the current batch, of which this process has a part, with gradients of the whole in place.

    Args:
        run: the run that is trained, after `share`.
        check: as of `TrainingClosure`.
    """

    def __init__(self, run: Run, check: FiniteCheck | None = None):
        super().__init__(run, check)
        self._run, self._ranks, self._shard = run, cast(Group, run.ranks), cast(BatchShard, run.shard)
        self._sum = GradientSum(self._ranks, [p for p in self._parameters if p.requires_grad])
        self._local_statistics = [] if run.batch_norm == "global" else statistics_of(run.network.train())
        self._local_backward = self._backward
        if not self._in_parts:
            self._backward = self._overlapping_backward

    def __call__(self, fraction: float = 1.0) -> Tensor:
        """Returns the loss, a scalar, of the whole batch.

        Raises:
            Diverged: the loss is not finite, or its gradient.
            UserError: the network drew random numbers.
        """
        self._shard.begin(self.batch.size)
        self._shard.dropout.begin()
        total = super().__call__(fraction)
        self._check_randomness()
        if self._local_statistics:
            self._ranks.broadcast(self._local_statistics)
        return total

    def _overlapping_backward(self, total: Tensor, *_: Any) -> None:
        self._sum.begin()
        self._local_backward(total)

    def _accumulate(self, batch: Batch) -> Tensor:
        """Leaves this process's gradients, whose parts are processed one after another; returns its loss, a scalar."""
        totals, outputs, stop = [], [], 0
        self.terms = {}
        parts = self._gradient.parts(batch.size)
        self._objective.regularizer_share = share_of(self._ranks, len(parts))
        for part in parts:
            begin, end = shard_of(part.start, part.stop, self._ranks.rank, self._ranks.size)
            start, stop = stop, stop + end - begin
            self._shard.begin_part(part.stop - part.start)
            total, terms, output = self._objective(batch.inputs[start:stop], batch.targets[start:stop])
            self._backward(total)
            totals.append(total.detach())
            outputs.append(cast(Tensor, output).detach())
            for name, term in terms.items():
                fraction = 1 / len(parts) if name in self._objective.regularizers else 1.0
                self.terms[name] = self.terms.get(name, 0.0) + fraction * term.detach()
        self.output = torch.cat(outputs)
        return torch.stack(totals).sum()

    def _value(self, batch: Batch, fraction: float) -> Tensor:
        if fraction < 1 and self._in_parts:
            raise UserError(
                "gradient.accumulation_steps: the optimizer asks for the loss of a part of a batch, which processes do"
                " not share in parts; give 1, or train on one process"
            )
        count = self._shard.begin(batch.size, max(2, round(fraction * batch.size)))
        summand = self._objective(batch.inputs[:count], batch.targets[:count])[0]
        return self._shard.loss(summand) if fraction == 1 else summand

    def _whole(self, total: Tensor) -> Tensor:
        """Returns the loss of the whole batch, and sets its terms; those of regularizers are the same everywhere."""
        names = [name for name in self.terms if name not in self._objective.regularizers]
        whole, *sums = (
            value.detach().to(total.dtype, copy=True) for value in (total, *(self.terms[name] for name in names))
        )
        self._ranks.sum_([whole, *sums])
        self.terms |= zip(names, [whole] if len(self.terms) == 1 else sums, strict=True)
        return LocalGraph.apply(total, whole) if self._needs_graph else whole

    def _complete_gradients(self) -> None:
        self._sum.finish()

    def predictions(self) -> tuple[Any, Tensor]:
        """Returns the outputs of the whole batch and its targets."""
        return self._ranks.gather(cast(Tensor, self.output).detach()), self._ranks.gather(self.batch.targets)

    def _check_randomness(self) -> None:
        """Refuses random numbers of the network but for masks of dropout: here are parts of a batch."""
        if self._shard.dropout.draws_otherwise():
            raise UserError(
                "model: the network draws random numbers in training that are no masks of nn.Dropout, as stochastic"
                " depth does, and they would not be those of one process; leave that out, or train on one"
            )


def share(run: Run, ranks: Ranks, batch_norm: str) -> None:
    """Gives each process its part of the batches of a run that is built.

    Raises:
        UserError: what the run consists of cannot be shared.
    """
    check_shared(run, batch_norm)
    gradient = run.gradient

    def parts(span: tuple[int, int], rank: int = ranks.rank) -> list[tuple[int, int]]:
        start, stop = span
        pieces = gradient.parts(stop - start)
        return [shard_of(start + p.start, start + p.stop, rank, ranks.size) for p in pieces]

    def lengths(size: int) -> list[int]:
        return [sum(stop - start for start, stop in parts((0, size), rank)) for rank in range(ranks.size)]

    run.ranks, run.batch_norm, run.shard = ranks, batch_norm, BatchShard(cast(Group, ranks), run.device, lengths)
    if run.optimizer.needs_graph:
        run.optimizer.shard = run.shard  # type: ignore[attr-defined]
    run.training_set = Shards(run.training_set, parts)
    run.objective.loss = ShardedLoss(run.objective.loss, run.shard)
    run.objective.regularizer_share = share_of(ranks, 1)


def share_of(ranks: Ranks, parts: int) -> float:
    """Returns a process's factor on the regularizers, in each of some parts of a batch: they count once."""
    return 1 / parts if ranks.leads else 0.0


def statistics_of(network: nn.Module) -> list[Tensor]:
    """Returns the running statistics of batch norm that training changes."""
    layers = layers_with_statistics(network)
    return [s for layer in layers for s in (layer.running_mean, layer.running_var) if s is not None]


def check_shared(run: Run, batch_norm: str) -> None:
    """Refuses, by name, what several processes do not compute together."""
    right = "; train on one process"
    optimizer = type(run.optimizer).__name__
    if run.objective.returns_loss:
        raise UserError(f"data=none: a test function has no batches to share{right}")
    if run.optimizer.needs_graph and not run.optimizer.takes_shard:
        raise UserError(f"optimizer: {optimizer} differentiates the loss of a whole batch itself{right}")
    for name, probe in run.probes.items():
        if not probe.takes_shard:
            raise UserError(f"probe.{name}: measures a whole batch, of which each process has a part{right}")
        if run.gradient.accumulation_steps > 1 and has_dropout(run.network):
            raise UserError(
                f"probe.{name}: with gradient.accumulation_steps={run.gradient.accumulation_steps}, processes do not"
                f" draw the masks of dropout for a whole batch{right}"
            )
    norms = [m for m in run.network.modules() if isinstance(m, BATCH_NORM)]
    if batch_norm == "global" and any(layer.running_mean is None for layer in norms):
        raise UserError(
            "model: batch norm without running statistics takes those of a batch in evaluations too, where each process"
            " has another one; give track_running_stats=True"
        )
    if norms and batch_norm == "global" and run.compiled:
        raise UserError("compile=true: batch_norm=global is not compiled; give batch_norm=local, or compile=false")
    for layer in run.network.modules():
        rate = rate_of(layer)
        if rate > 0 and (run.compiled or not isinstance(layer, LAYERS)):
            why = "compile=true: " if run.compiled else ""
            raise UserError(
                f"{why}model: {type(layer).__name__} with a probability of {rate:g} draws a mask for a whole batch, of"
                " which each process has a part; give 0, or train on one process"
            )
    check_is_mean(run.objective.loss, run)


def check_is_mean(loss: Loss, run: Run) -> None:
    """Refuses a loss of the user that is no mean over samples, as one with weights of classes, or that has a state."""
    if not isinstance(loss, OwnLoss):
        return
    if loss.state_dict():
        raise UserError("objective: the loss has a state, which would differ between processes; train on one process")
    outputs, targets = first_predictions(run.network, run.evaluation_sets["test"], run.autocast)
    is_mean = loss.gives_samples and torch.allclose(loss(outputs, targets), loss.of_samples(outputs, targets).mean())
    if not is_mean:
        raise UserError("objective: the loss is not the mean of the losses of samples; train on one process")
