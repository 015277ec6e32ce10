"""The form in which a frozen network is computed fastest."""

import copy
import inspect
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import batch_norm
from torch.nn.utils.fusion import fuse_conv_bn_weights


def inference_form(network: nn.Module, bf16: bool = False) -> nn.Module:
    """Return a module that computes what a network in evaluation mode does, to rounding, in less time.

    Batch norm is folded into the convolution before it; weights of convolutions are kept as NHWC. A network that
    torch.fx cannot follow keeps its batch norm.

    Args:
        network: in evaluation mode; it becomes a part of what is returned, changed.
        bf16: also keep the weights of convolutions and linear layers in bfloat16, to which autocast would round
            them for every batch.
    """
    with suppress(Exception):  # whatever torch.fx raises at what it cannot follow
        network = _folded(network)
    network = network.to(memory_format=torch.channels_last)
    if bf16:
        for layer in network.modules():
            if type(layer) in (nn.Conv2d, nn.Linear):  # what derives from them may use its weights otherwise
                layer.to(torch.bfloat16)
    return network


class _Tracer(fx.Tracer):
    """Takes convolutions of timm whole, as those of torch are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


@torch.no_grad()
def _folded(network: nn.Module) -> fx.GraphModule:
    """Return a network as a graph in which no batch norm follows a convolution.

    With y = weight * x, batch norm gives s (y - mean) + b, s = gamma / sqrt(var + eps): the convolution's weight
    becomes s * weight, its bias b - s * mean.
    """
    graph = _Tracer().trace(network)
    form = fx.GraphModule(network, graph)
    for node in list(graph.nodes):
        norm = _batch_norm(form, node)
        if norm is None or node.args[0].op != "call_module" or len(node.args[0].users) > 1:
            continue
        before = node.args[0]
        conv: Any = copy.deepcopy(form.get_submodule(before.target))  # another layer may share it
        if type(conv).forward is not nn.Conv2d.forward:
            continue
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *norm)
        before.target = f"folded_{before.name}"
        form.add_submodule(before.target, conv)
        node.replace_all_uses_with(before)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    form.recompile()
    form.delete_all_unused_submodules()
    return form


def _batch_norm(form: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor, float, Tensor, Tensor] | None:
    """Return mean, variance, eps, gamma and beta where a node is batch norm with running statistics, else None."""
    if node.op == "call_module":
        layer = form.get_submodule(str(node.target))
        if type(layer) is not nn.BatchNorm2d or layer.running_mean is None or layer.running_var is None:
            return None
        return layer.running_mean, layer.running_var, layer.eps, layer.weight, layer.bias
    if node.op != "call_function" or node.target is not batch_norm:  # as timm's layers call it
        return None
    given = inspect.signature(batch_norm).bind(*node.args, **node.kwargs)
    given.apply_defaults()
    names = ("running_mean", "running_var", "weight", "bias")
    places = [given.arguments[name] for name in names]
    if given.arguments["training"] or not all(isinstance(p, fx.Node) and p.op == "get_attr" for p in places):
        return None
    mean, variance, gamma, beta = (_attribute(form, str(place.target)) for place in places)
    return mean, variance, given.arguments["eps"], gamma, beta


def _attribute(form: nn.Module, name: str) -> Any:
    owner, _, last = name.rpartition(".")
    return getattr(form.get_submodule(owner), last)
