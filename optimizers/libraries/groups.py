"""Parameters in groups, and which of them are hidden weights, which Muon orthogonalizes."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

MATRICES = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase)


def as_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Returns parameters, or groups of them, as groups."""
    members = list(params)
    return [dict(group) for group in members] if isinstance(members[0], dict) else [{"params": members}]


def split_hidden(
    groups: Sequence[dict[str, Any]], network: nn.Module, hidden: dict[str, Any], others: dict[str, Any]
) -> list[dict[str, Any]]:
    """Returns groups in which hidden weights and other parameters lie apart.

    Args:
        groups: of parameters of the network.
        network: says which parameters are hidden weights, as `hidden_weights`.
        hidden: what the groups of hidden weights get.
        others: what the other groups get. In both, what a group says itself goes first.

    Raises:
        ValueError: there are no hidden weights.
    """
    names = {id(p) for p in hidden_weights(network)}
    parts = []
    for group in groups:
        for is_hidden, options in ((True, hidden), (False, others)):
            params = [p for p in group["params"] if (id(p) in names) == is_hidden]
            if params:
                parts.append({**options, **group, "params": params})
    if not any(id(p) in names for part in parts for p in part["params"]):
        raise ValueError("Muon is for hidden weights, and the network has none that are trained")
    return parts


def hidden_weights(network: nn.Module) -> list[Tensor]:
    """Returns the weights of linear, convolution, attention and recurrent layers, without the classifier's.

    The classifier is what the network's `get_classifier` returns, as networks of timm have it; of a network without
    it, the last linear layer.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4), nn.Linear(4, 2))
    >>> [tuple(weight.shape) for weight in hidden_weights(network)]
    [(8, 3, 3, 3), (4, 8)]
    """
    classifier = {id(p) for module in classifiers(network) for p in module.parameters()}
    layers = [module for module in network.modules() if isinstance(module, MATRICES)]
    weights = [p for layer in layers for p in layer.parameters(recurse=False) if p.ndim >= 2]
    return [p for p in weights if id(p) not in classifier and p.requires_grad]


def classifiers(network: nn.Module) -> Sequence[nn.Module]:
    """Returns the layers that make a network's outputs."""
    get_classifier: Any = getattr(network, "get_classifier", None)
    if get_classifier is not None:
        layers = get_classifier()
        return list(layers) if isinstance(layers, tuple | list) else [layers]
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
