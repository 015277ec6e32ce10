"""Running statistics of batch norm for weights that were not trained as they are."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from trainopt.optimizers.compat_torch import BATCH_NORM

from ..state.evaluation import evaluation_mode


def layers_with_statistics(network: nn.Module) -> list[BATCH_NORM]:
    """Returns the layers of batch norm that are in training mode and have running statistics."""
    layers = [m for m in network.modules() if isinstance(m, BATCH_NORM)]
    return [layer for layer in layers if layer.training and layer.running_mean is not None]


@torch.no_grad()
def recompute_statistics(network: nn.Module, layers: Sequence[BATCH_NORM], passes: Iterable[object]) -> None:
    """Computes running statistics as means over the batches of forward passes.

    Like torch.optim.swa_utils.update_bn, but with dropout and all layers but these in evaluation mode, so that nothing
    is random. Afterwards all layers have the modes that they had.

    Args:
        network: of the layers.
        layers: of batch norm.
        passes: each element follows a forward pass, which adds its batch to the means.
    """
    momenta = [layer.momentum for layer in layers]
    with evaluation_mode(network):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean
            layer.train()
        try:
            for _ in passes:
                pass
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
