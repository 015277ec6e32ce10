"""A network's loss and error at linear combinations of the weights of checkpoints."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..averaging.batch_norm import layers_with_statistics, recompute_statistics
from ..metrics.accuracy import TopAccuracy
from ..records.checkpoint_files import weights_to_evaluate
from ..state.evaluation import predictions
from ..state.run import Run
from ..system.errors import UserError
from .checkpoints import CheckpointRef
from .evaluate import evaluate_sets, load_weights

KINDS = ("train", "test")


class WeightInterpolation:
    """Evaluates a network at sum_k c_k theta_k, with theta_k the weights of checkpoints and sum_k c_k = 1.

    Args:
        run: whose network is used, with an evaluation set `train`.
        checkpoints: of such networks, the first of them of this run.
        recompute: whether the running statistics of batch norm are recomputed from the set `train`.

    Attributes:
        keys: of the metrics, as `train_loss` and `test_error` (in percent).
        steps: at which the checkpoints were written.
        has_statistics: whether there is batch norm whose statistics are not frozen.

    Raises:
        UserError: a checkpoint cannot be read, or is of another network.
    """

    def __init__(self, run: Run, checkpoints: Sequence[CheckpointRef], recompute: bool):
        if run.num_classes is None:
            raise UserError("landscape: shows the error of classes, and the targets are numbers")
        self.run = run
        run.metrics = {"top1": TopAccuracy(1)}
        self.sets = run.evaluation_sets
        self.keys = [f"{kind}_{quantity}" for kind in KINDS for quantity in ("loss", "error")]
        self.steps: list[int] = []
        self._states: list[dict[str, Tensor]] = []
        for checkpoint in checkpoints:
            state = checkpoint.state()
            try:
                load_weights(run, state, checkpoint.path)  # for its error
            except UserError as error:
                raise UserError(f"{checkpoint.path}: does not fit the network of {checkpoints[0].name}") from error
            self.steps.append(run.progress.step)
            self._states.append(weights_to_evaluate(state))
        self._batch_norms = layers_with_statistics(run.network.train())
        self.has_statistics = bool(self._batch_norms)
        self.recompute = recompute and self.has_statistics
        parameters = {p.data_ptr() for p in run.network.parameters()}
        self._weights = [n for n, value in run.network.state_dict().items() if value.data_ptr() in parameters]

    def distance(self, i: int, j: int) -> float:
        """Returns the Euclidean distance between the weights of two checkpoints, batch norm's scales among them."""
        a, b = self._states[i], self._states[j]
        return math.sqrt(sum(float((a[n].double() - b[n].double()).square().sum()) for n in self._weights))

    def norm(self, i: int) -> float:
        """Returns the Euclidean norm of the weights of a checkpoint."""
        return math.sqrt(sum(float(self._states[i][n].double().square().sum()) for n in self._weights))

    def evaluate(self, coefficients: Sequence[float], recorded_statistics: bool = True) -> dict[str, float]:
        """Returns the metrics named in `keys` at a linear combination of the checkpoints.

        Args:
            coefficients: c_k, of each checkpoint.
            recorded_statistics: whether at a checkpoint itself the statistics of batch norm are those in the file.
        """
        self._set(coefficients)
        at_checkpoint = 1.0 in coefficients and coefficients.count(0.0) == len(coefficients) - 1
        if self.recompute and not (recorded_statistics and at_checkpoint):
            self._recompute()
        metrics = evaluate_sets(self.run, KINDS)
        losses = {f"{kind}_loss": metrics[kind]["loss"] for kind in KINDS}
        errors = {f"{kind}_error": 100 - metrics[kind]["top1"] for kind in KINDS}
        return {key: (losses | errors)[key] for key in self.keys}

    @torch.no_grad()
    def _set(self, coefficients: Sequence[float]) -> None:
        """Sets weights and buffers to a combination of the checkpoints', in float64; equal ones are copied."""
        for name, value in self.run.network.state_dict().items():
            parts = [state[name] for state in self._states]
            if not value.is_floating_point() or all(torch.equal(part, parts[0]) for part in parts):
                value.copy_(parts[0])
            else:
                used = [c * part.double() for c, part in zip(coefficients, parts, strict=True) if c != 0]
                value.copy_(torch.stack(used).sum(0))
        for layer in self._batch_norms:
            if layer.running_var is not None:  # beyond the checkpoints an interpolated one may be negative
                layer.running_var.clamp_(min=0)

    def _recompute(self) -> None:
        """Computes the statistics of batch norm as means over batches of training images.

        The batches are of (nearly) equal size, which have equal weights in the mean.
        """
        source, network = self.sets["train"], self.run.network
        size = self.run.evaluation_batch_size
        size = math.ceil(len(source) / math.ceil(len(source) / size))
        recompute_statistics(network, self._batch_norms, predictions(network, source, size, self.run.autocast))
