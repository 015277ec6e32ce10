"""A network's loss and error at weights between those of checkpoints."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..state.evaluation import predictions
from ..state.run import Run
from ..system.errors import UserError
from .checkpoints import Member
from .evaluate import figures, set_state

KINDS = ("train", "test")


class Surface:
    """What a network is worth at sum_k c_k theta_k, with theta_k the weights of checkpoints and sum_k c_k = 1.

    Args:
        run: whose network is used, with a set `train`.
        members: checkpoints of such networks, the first of them of this run.
        recompute: whether running statistics of batch norm are computed anew from the set `train`.

    Attributes:
        keys: of what is found, as `train_loss` and `test_error` (in percent).
        steps: those that the checkpoints' runs had made.
        has_statistics: whether there is batch norm whose statistics are not frozen.

    Raises:
        UserError: a checkpoint cannot be read, or is of another network.
    """

    def __init__(self, run: Run, members: Sequence[Member], recompute: bool):
        self.run = run
        self.sets = run.evaluation_sets
        self.keys = [f"{kind}_{quantity}" for kind in KINDS for quantity in ("loss", "error")]
        self.steps: list[int] = []
        self._states: list[dict[str, Tensor]] = []
        for member in members:
            state = member.state()
            try:
                set_state(run, state, member.path)  # which says what does not fit
            except UserError as error:
                raise UserError(f"{member.path}: does not fit the network of {members[0].name}") from error
            self.steps.append(run.progress.step)
            self._states.append(state["model"])
        self._batch_norms = with_statistics(run.network.train())
        self.has_statistics = bool(self._batch_norms)
        self.recompute = recompute and self.has_statistics
        parameters = {p.data_ptr() for p in run.network.parameters()}
        self._weights = [n for n, value in run.network.state_dict().items() if value.data_ptr() in parameters]

    def distance(self, i: int, j: int) -> float:
        """Returns the Euclidean distance between the weights of two checkpoints, batch norm's scales among them."""
        a, b = self._states[i], self._states[j]
        return math.sqrt(sum(float((a[n].double() - b[n].double()).square().sum()) for n in self._weights))

    def norm(self, i: int) -> float:
        """Returns the length of the weights of a checkpoint."""
        return math.sqrt(sum(float(self._states[i][n].double().square().sum()) for n in self._weights))

    def at(self, shares: Sequence[float], own: bool = True) -> dict[str, float]:
        """Returns what `keys` say of a point.

        Args:
            shares: c_k, of each checkpoint.
            own: whether a checkpoint itself is taken with its own statistics of batch norm.
        """
        self._set(shares)
        if self.recompute and not (own and 1.0 in shares and shares.count(0.0) == len(shares) - 1):
            self._recompute()
        found = figures(self.run, KINDS)
        quantities = ((kind, found[kind]) for kind in KINDS)
        return {
            key: value
            for kind, row in quantities
            for key, value in ((f"{kind}_loss", row["loss"]), (f"{kind}_error", 100 - row["top1"]))
        }

    @torch.no_grad()
    def _set(self, shares: Sequence[float]) -> None:
        """Sets weights and buffers to a combination of the checkpoints', in float64; what is equal stays."""
        for name, value in self.run.network.state_dict().items():
            parts = [state[name] for state in self._states]
            if not value.is_floating_point() or all(torch.equal(part, parts[0]) for part in parts):
                value.copy_(parts[0])
            else:
                used = [c * part.double() for c, part in zip(shares, parts, strict=True) if c != 0]
                value.copy_(torch.stack(used).sum(0))
        for layer in self._batch_norms:
            if layer.running_var is not None:  # beyond the checkpoints an interpolated one may be negative
                layer.running_var.clamp_(min=0)

    @torch.no_grad()
    def _recompute(self) -> None:
        """Computes the statistics of batch norm as means over batches of training images.

        As torch.optim.swa_utils.update_bn does, but with dropout and all else in evaluation mode, so that nothing
        is random, and in batches of (nearly) equal size, which count the same.
        """
        source, network = self.sets["train"], self.run.network.eval()
        size = self.run.evaluation_batch_size
        size = math.ceil(len(source) / math.ceil(len(source) / size))
        momenta = [layer.momentum for layer in self._batch_norms]
        for layer in self._batch_norms:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean
            layer.train()
        try:
            for _ in predictions(network, source, size, self.run.autocast):
                pass  # each forward pass adds its batch to the means
        finally:
            for layer, momentum in zip(self._batch_norms, momenta, strict=True):
                layer.momentum = momentum
                layer.eval()


def with_statistics(network: nn.Module) -> list[_BatchNorm]:
    """Returns the layers of batch norm that are in training mode and keep running statistics."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    return [layer for layer in layers if layer.training and layer.running_mean is not None]
