"""Parameter groups: which parameters get which hyperparameters."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .arguments import check_choice

KINDS = ("bias", "norm")
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(
    network: nn.Module,
    lr: float | None = None,
    no_decay: Sequence[str] = (),
    layer_decay: float | None = None,
    rules: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Returns the trained parameters of a network in groups, as every optimizer of torch takes them.

    Args:
        network: its parameters that require a gradient are taken.
        lr: the optimizer's learning rate, which `layer_decay` scales.
        no_decay: of `bias` and `norm`: the parameters that get weight_decay=0.
        layer_decay: the learning rate of the layer at depth i of 0, ..., n - 1 is lr * layer_decay^(n - 1 - i) (Clark
            et al. 2020, arXiv 2003.10555, section 3.1). Layers are those of `layer_depths`. None: they are equal.
        rules: dicts of `match`, a regular expression, and hyperparameters: these are for the parameters whose names it
            is found in. The first rule that matches a name holds for it, and goes before the other arguments; only
            `layer_decay` scales its learning rate too.

    Returns:
        Dicts of `params` and of the hyperparameters that differ from the optimizer's own, in the order in which the
        network has their first parameters.

    Raises:
        ValueError: a kind is unknown, a rule matches no parameter, has no hyperparameters or is no regular expression.
    """
    for kind in no_decay:
        check_choice("no_decay", kind, KINDS)
    if layer_decay is not None and lr is None:
        raise ValueError(f"layer_decay={layer_decay}: the optimizer has no lr")
    patterns = [_compiled(rule) for rule in rules]
    depths = layer_depths(network) if layer_decay is not None else {}
    last, matched = max(depths.values(), default=0), set()
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        options: dict[str, Any] = {}
        if kind_of(network, name) in no_decay:
            options["weight_decay"] = 0.0
        for index, pattern in enumerate(patterns):
            if pattern.search(name):
                matched.add(index)
                options |= {key: value for key, value in rules[index].items() if key != "match"}
                break
        if layer_decay is not None and lr is not None:
            options["lr"] = options.get("lr", lr) * layer_decay ** (last - depths[name])
        groups.setdefault(repr(sorted(options.items())), {"params": [], **options})["params"].append(parameter)
    for index, rule in enumerate(rules):
        if index not in matched:
            raise ValueError(f"rules: {rule['match']} matches no parameter that an earlier rule leaves to it")
    return list(groups.values())


def kind_of(network: nn.Module, name: str) -> str | None:
    """Returns `norm` for a parameter of a normalization layer, `bias` for another bias, else None.

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> [kind_of(network, name) for name, _ in network.named_parameters()]
    [None, 'bias', 'norm', 'norm']
    """
    layer, _, last = name.rpartition(".")
    module = network.get_submodule(layer)
    if isinstance(module, NORMS) or "Norm" in type(module).__name__:  # those of timm derive from none of torch's
        return "norm"
    return "bias" if last.endswith("bias") or last.startswith("bias_") else None  # in_proj_bias, bias_ih_l0


def layer_depths(network: nn.Module) -> dict[str, int]:
    """Returns the depth of the layer of each parameter, 0 for those next to the input.

    The layers of a network of timm are those of its `group_matcher`. Of another network each weight of two or more
    dimensions begins a layer, in the order of definition; its bias and the normalization after it belong to it.

    >>> layer_depths(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)))
    {'0.weight': 0, '0.bias': 0, '1.weight': 0, '1.bias': 0, '2.weight': 1, '2.bias': 1}
    """
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is not None:
        from timm.models import group_parameters

        return group_parameters(network, matcher(coarse=False), reverse=True)
    depths, depth = {}, -1
    for name, parameter in network.named_parameters():
        depth += parameter.ndim >= 2 and kind_of(network, name) is None
        depths[name] = max(depth, 0)
    return depths


def _compiled(rule: Mapping[str, Any]) -> re.Pattern[str]:
    if not isinstance(rule.get("match"), str) or len(rule) < 2:
        raise ValueError(f"rules: {dict(rule)} must have `match` and hyperparameters, as in {{match: ^fc, lr: 0.1}}")
    try:
        return re.compile(rule["match"])
    except re.error as error:
        raise ValueError(f"rules: {rule['match']} is no regular expression ({error})") from error
