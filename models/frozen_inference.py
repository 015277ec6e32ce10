"""A faster form of a frozen network: folded batch norm, and convolutions in the layout of the CPU's kernels."""

import copy
import inspect
import operator
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import batch_norm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .compat_torch import Geometry, has_onednn_convolutions, is_assertion, packed_convolution, packed_weight

# activations that oneDNN computes with a convolution: its name for each, and its parameters
ACTIVATIONS: dict[type, tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
}
# oneDNN's blocks of pixels are wider than the smallest images, where matrix products are up to three times as fast
FEW_PIXELS, MANY_CHANNELS = 9, 256
AFTER_PRODUCTS: dict[str, Callable[[Tensor], Tensor]] = {"none": nn.Identity(), "relu": torch.relu_}


def inference_form(network: nn.Module, bf16: bool = False) -> nn.Module:
    """Returns a module that computes the same as a network in evaluation mode, to rounding, in less time.

    Batch norm is folded into the convolution before it. Weights of convolutions are stored as NHWC, and on a CPU in
    the layout of its kernels, which then compute the activation too. A network that torch.fx cannot trace keeps its
    layers.

    Args:
        network: in evaluation mode; it is changed, and becomes a part of the result.
        bf16: also store the weights of convolutions and linear layers in bfloat16, to which autocast would round
            them for every batch.
    """
    with suppress(Exception):  # torch.fx raises errors of any kind at code that it cannot trace
        network = _fold_batch_norm(network)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
        if bf16 and type(layer) in (nn.Conv2d, nn.Linear):  # a derived class may use its weights in another way
            layer.to(torch.bfloat16)
    on_cpu = all(p.device.type == "cpu" for p in network.parameters())
    if isinstance(network, fx.GraphModule) and on_cpu and has_onednn_convolutions(bf16):
        _pack_convolutions(network)
    return network


class _Tracer(fx.Tracer):
    """Does not trace into convolutions of timm, as torch.fx does not into those of torch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


@torch.no_grad()
def _fold_batch_norm(network: nn.Module) -> fx.GraphModule:
    """Returns a network as a graph in which no batch norm follows a convolution.

    With y = weight * x, batch norm gives s (y - mean) + b, s = gamma / sqrt(var + eps): the convolution's weight
    becomes s * weight, its bias b - s * mean.
    """
    graph = _Tracer().trace(network)
    form = fx.GraphModule(network, graph)
    for node in list(graph.nodes):
        if is_assertion(node.target):  # it would count as a use of a layer's output
            graph.erase_node(node)
        elif node.op == "call_module" and type(form.get_submodule(node.target)) in (nn.Identity, nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code(lambda node: node.op != "get_attr" and node.target not in (getattr, operator.eq))
    for node in list(graph.nodes):
        before = _sole_producer(node)
        if before is None or type(form.get_submodule(str(before.target))).forward is not nn.Conv2d.forward:
            continue
        norm = _batch_norm(form, node)
        if norm is not None:
            conv: Any = copy.deepcopy(form.get_submodule(str(before.target)))  # another layer may share it
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *norm)
            before.target = f"folded_{before.name}"
            form.add_submodule(before.target, conv)
            node.replace_all_uses_with(before)
            graph.erase_node(node)
    form.recompile()
    form.delete_all_unused_submodules()
    return form


def _sole_producer(node: fx.Node) -> fx.Node | None:
    """Returns the layer whose output is a node's first input, if no other node uses that output; else None."""
    before = node.args[0] if node.args else None
    is_layer = isinstance(before, fx.Node) and before.op == "call_module"
    return before if is_layer and len(before.users) == 1 else None  # type: ignore[return-value, union-attr]


def _batch_norm(form: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor, float, Tensor, Tensor] | None:
    """Returns mean, variance, eps, gamma and beta where a node is batch norm with running statistics, else None."""
    if node.op == "call_module":
        layer = form.get_submodule(str(node.target))
        if type(layer) is not nn.BatchNorm2d or layer.running_mean is None or layer.running_var is None:
            return None
        return layer.running_mean, layer.running_var, layer.eps, layer.weight, layer.bias
    if node.op != "call_function" or node.target is not batch_norm:  # as timm's layers call it
        return None
    call = inspect.signature(batch_norm).bind(*node.args, **node.kwargs)
    call.apply_defaults()
    nodes = [call.arguments[name] for name in ("running_mean", "running_var", "weight", "bias")]
    if call.arguments["training"] or not all(isinstance(n, fx.Node) and n.op == "get_attr" for n in nodes):
        return None
    mean, variance, gamma, beta = (_attribute(form, str(n.target)) for n in nodes)
    return mean, variance, call.arguments["eps"], gamma, beta


def _attribute(form: nn.Module, name: str) -> Any:
    owner, _, last = name.rpartition(".")
    return getattr(form.get_submodule(owner), last)


def _pack_convolutions(form: fx.GraphModule) -> None:
    """Replaces convolutions, and the activations after them, by oneDNN's."""
    for node in list(form.graph.nodes):
        conv = form.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        after = next(iter(node.users))
        layer = type(form.get_submodule(str(after.target))) if after.op == "call_module" else nn.Identity
        is_fused = layer in ACTIVATIONS and _sole_producer(after) is node
        node.target = f"packed_{node.name}"
        form.add_submodule(node.target, _PackedConvolution(conv, *ACTIVATIONS[layer] if is_fused else ("none", [])))
        if is_fused:
            after.replace_all_uses_with(node)
            form.graph.erase_node(after)
    form.recompile()
    form.delete_all_unused_submodules()


class _PackedConvolution(nn.Module):
    """A convolution and an activation, computed together by oneDNN, or by matrix products for the smallest images."""

    @torch.no_grad()
    def __init__(self, conv: nn.Conv2d, activation: str, numbers: list[float]):
        super().__init__()
        self.dtype = conv.weight.dtype
        self.bias, self.kernel, self.stride = conv.bias, conv.kernel_size, list(conv.stride)
        self.padding = [int(p) for p in conv.padding]
        self.geometry = Geometry(self.padding, self.stride, list(conv.dilation), conv.groups)
        self.weight = packed_weight(conv.weight, self.geometry)
        self.activation, self.numbers = activation, numbers
        wide = conv.groups == 1 and conv.in_channels >= MANY_CHANNELS and max(conv.kernel_size) > 1
        self.by_products = (
            wide and conv.dilation == (1, 1) and activation in AFTER_PRODUCTS and self.dtype == torch.float32
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.by_products:
            output = [self._taps_of_pixels(axis, x.shape[axis + 2]) for axis in (0, 1)]
            if len(output[0]) * len(output[1]) <= FEW_PIXELS:
                return AFTER_PRODUCTS[self.activation](self._products(x, *output))
        return packed_convolution(
            x.to(self.dtype), self.weight, self.bias, self.geometry, self.activation, self.numbers
        )

    @cached_property
    def taps(self) -> Tensor:
        """Returns the weight as (height, width, in, out)."""
        return self.weight.to_dense().permute(2, 3, 1, 0).contiguous()

    def _taps_of_pixels(self, axis: int, size: int) -> list[tuple[int, int, int]]:
        """Returns for each output pixel along an axis its taps inside the image: first, end, and the first's pixel."""
        kernel, padding = self.kernel[axis], self.padding[axis]
        begins = range(-padding, size + padding - kernel + 1, self.stride[axis])
        return [(max(0, -at), max(0, -at, min(kernel, size - at)), max(0, at)) for at in begins]

    def _products(self, x: Tensor, rows: list[tuple[int, int, int]], columns: list[tuple[int, int, int]]) -> Tensor:
        """Returns the convolution, by a matrix product for each output pixel and each row of taps inside the image."""
        pixels = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        channels = self.taps.shape[3]
        output = pixels.new_zeros(len(x), len(rows), len(columns), channels)
        if self.bias is not None:
            output += self.bias
        for i, (top, bottom, y) in enumerate(rows):
            for j, (left, right, start) in enumerate(columns):
                for row in range(top, bottom):
                    inputs = pixels[:, y + row - top, start : start + right - left].flatten(1)
                    output[:, i, j].addmm_(inputs, self.taps[row, left:right].view(-1, channels))
        return output.permute(0, 3, 1, 2)
