"""The Gram matrix of per-sample gradients, from the passes that a training step makes itself.

    G = J J^T (B, B),  row_i = B times sample i's part of the gradient of the batch's mean loss

While `GramRecorder` records, each layer's call in the network's forward pass leaves a hook on its output. When
the backward pass arrives there, the layer's part of G is added up from its input and the gradient that arrived,
and both are let go. So J never stands in memory, and the step computes what it computes without.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from .accumulator import GramSum
from .functional import CALLS, LAYERS, PARAMETERS, attention, projection
from .layers import Call

Key = tuple[int, int]  # of a parameter, or of a part of it that is used as one: its id, and where it begins


class GramRecorder:
    """Records the Gram matrix of per-sample gradients in a forward and backward pass that somebody else makes.

        with recorder.recording():
            loss_function(network(inputs), targets).backward()
        gram = recorder.gram()

    row_i is B times sample i's part of the gradient of the loss, which is a mean over the batch. The rows add up
    to B times that gradient, so gram.sum() / B^2 is its squared norm, and gram.trace() / B the mean of the rows'
    squared norms. Without batch norm in training mode a row is the gradient of its sample's loss. With it, a row
    holds what its sample does to the losses of all, through the statistics of the batch. What does not pass
    through a layer, as a regularizer, is not in it. Liao et al. 2018, section 3; J is their J_k, transposed.

    All of the network's trained parameters count. Of several forward passes, the last that a backward pass follows
    counts, and of several backward passes through one forward pass the first. Rows of a layer that is called more
    than once are kept until the end. Half precision is computed with in float32. The network is not compiled.

    Args:
        network: takes a batch (B, ...) as its first tensor. Its trained parameters are those of linear layers,
            convolutions, torch's attention, and batch, layer, group and instance norm.

    Raises:
        ValueError: a trained parameter is one of another layer.
    """

    def __init__(self, network: nn.Module):
        for name, module in network.named_modules():
            own = {n for n, p in module.named_parameters(recurse=False) if p.requires_grad}
            if own and not (isinstance(module, LAYERS) and own <= PARAMETERS):
                raise ValueError(
                    f"{name or 'the network'} ({type(module).__name__}): per-sample gradients of its"
                    f" {', '.join(sorted(own))} cannot be computed; only those of linear layers, convolutions,"
                    " attention, and batch, layer, group and instance norm"
                )
        self._network = network
        self._hooks: list[RemovableHandle] = []
        self._modes: list[_Watch] = []
        self._done: _Pass | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records what is computed while entered."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """Records from here on; what was recorded before is forgotten."""
        self.end()
        self._done = None
        self._hooks = [
            self._network.register_forward_pre_hook(self._enter, with_kwargs=True),
            self._network.register_forward_hook(self._leave, always_call=True),
        ]

    def end(self) -> None:
        """Records no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def gram(self) -> Tensor:
        """Returns G (B, B), in float64 where the pass was, otherwise in float32.

        Raises:
            ValueError: nothing was recorded, or a trained parameter was in no call that was.
        """
        if self._done is None:
            raise ValueError("no forward and backward pass of the network was recorded")
        used = {key for key, _ in self._done.uses}
        for name, param in self._network.named_parameters():
            if param.requires_grad and id(param) not in used:
                raise ValueError(
                    f"{name}: no layer was called with it and a batch of {self._done.samples} as first dimension;"
                    " per-sample gradients are not known"
                )
        return self._done.gram()

    def _enter(self, network: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs = next((t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)), None)
        mode = _Watch(_Pass(0 if inputs is None else len(inputs), self._arrived))
        self._modes.append(mode)
        mode.__enter__()

    def _leave(self, network: nn.Module, args: tuple, output: Any) -> None:
        self._modes.pop().__exit__(None, None, None)

    def _arrived(self, found: "_Pass") -> bool:
        """Returns whether a pass is still recorded, at which a gradient arrived; it is then the one that counts."""
        if self._hooks:
            self._done = found
        return bool(self._hooks)


class _Watch(TorchFunctionMode):
    """A context in which calls of layers are noticed."""

    def __init__(self, made: "_Pass"):
        super().__init__()
        self._pass = made
        self._calls = CALLS

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attended(*args, **kwargs)
        outputs = func(*args, **kwargs)
        if func in self._calls and outputs.requires_grad:
            self._pass.called(self._calls[func](outputs, *args, **kwargs), outputs)
        return outputs

    def _attended(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Notices the linear functions in attention, to which positions come before samples."""
        self._calls = {F.linear: projection(query.shape[1] if query.dim() == 3 else 1)}
        try:
            with self:
                return attention(query, *args, **kwargs)
        finally:
            self._calls = CALLS


class _Pass:
    """One forward pass, and what its backward pass has added up.

    Args:
        samples: B.
        arrived: told of each gradient; says whether it is wanted.
    """

    def __init__(self, samples: int, arrived: Callable[["_Pass"], bool]):
        self.samples, self._arrived = samples, arrived
        self.uses: Counter[Key] = Counter()  # calls of each parameter
        self._sum: GramSum | None = None
        self._shared: dict[Key, list[Tensor]] = {}  # rows of parameters that are used more than once

    def called(self, call: Call, outputs: Tensor) -> None:
        """Takes up a call of a layer, if it has parameters that are trained."""
        params = call.parameters()
        if params and self.samples == len(call.inputs) == len(call.arranged(outputs)):
            for param in params:
                self.uses[_key(param)] += 1
            left = [call]
            outputs.register_hook(lambda dy: self._take(left.pop(), dy) if left and self._arrived(self) else None)

    def gram(self) -> Tensor:
        """Returns G."""
        assert self._sum is not None  # a gradient has arrived
        for blocks in self._shared.values():
            for rows in blocks:
                self._sum.add(rows)
        self._shared = {}
        return self._sum.total() * self.samples**2

    def _take(self, call: Call, dy: Tensor) -> None:
        """Adds a call's part of G."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(dy.device.type):
            with torch.no_grad(), torch.autocast(dy.device.type, enabled=False):
                self._take(call, dy)
            return
        if self._sum is None:
            dtype = torch.promote_types(torch.promote_types(dy.dtype, call.inputs.dtype), torch.float32)
            self._sum = GramSum(self.samples, dtype, dy.device)
        x, dy, dtype = call.inputs, call.arranged(dy), self._sum.dtype
        if x.dtype is not dtype or dy.dtype is not dtype:
            x, dy = x.to(dtype), dy.to(dtype)
        self._add(self._sum, call, x, dy)

    def _add(self, total: GramSum, call: Call, x: Tensor, dy: Tensor) -> None:
        params = call.parameters()
        once = all(self.uses[_key(p)] == 1 for p in params)
        if once and call.add_to(total, x, dy):
            return
        blocks: dict[Key, list[Tensor]] = {}
        for param, rows in call.rows(x, dy):
            if once or self.uses[_key(param)] == 1:
                total.add(rows)
            else:
                blocks.setdefault(_key(param), []).append(rows)
        for key, new in blocks.items():
            if key in self._shared:
                for rows, more in zip(self._shared[key], new, strict=True):
                    rows.add_(more)
            else:
                self._shared[key] = new


def _key(param: Tensor) -> Key:
    return id(param if param._base is None else param._base), int(param.storage_offset())
