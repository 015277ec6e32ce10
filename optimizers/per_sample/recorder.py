"""The Gram matrix of per-sample gradients, from the forward and backward pass of a training step.

    G = J J^T (B, B),  row_i = B times sample i's part of the gradient of the batch's mean loss

While `GramRecorder` records, each layer's call in the network's forward pass registers a hook on its output. When the
backward pass reaches the hook, the layer's term of G is computed from its input and the gradient of its output, and
both are released. So J is never in memory as a whole, and the step computes the same numbers as without.

Or the step takes the gradients of convolutions from there, as sums of rows, in place of computing them a second time.
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

from ..compat_torch import attention_in_parts, base_of
from ..functional_signatures import SIGNATURES, ConvolutionArguments
from ..shard import WHOLE, Shard
from .accumulator import GramAccumulator
from .convolution import Convolution
from .form_benchmark import FormBenchmark
from .functional import CALLS, LAYERS, PARAMETERS, projection
from .layers import BLOCK, LayerCall
from .shared_gradient import SharedGradient

Key = tuple[int, int]  # of a parameter, or of a part of it that is used as one: its id and its offset


class GramRecorder:
    """Records the Gram matrix of per-sample gradients in the caller's forward and backward pass.

        with recorder.recording():
            loss_function(network(inputs), targets).backward()
        gram = recorder.gram()

    row_i is B times sample i's part of the gradient of the loss, which is a mean over the batch. The rows add up
    to B times that gradient, so gram.sum() / B^2 is its squared norm, and gram.trace() / B the mean of the rows'
    squared norms. Without batch norm in training mode a row is the gradient of its sample's loss. With it, a row
    contains the sample's effect on the losses of all, through the statistics of the batch. Terms of the loss that do
    not pass through a layer, as regularizers, do not enter. Liao et al. 2018, section 3; J is their J_k, transposed.

    All of the network's trained parameters count. Of several forward passes, the last that a backward pass follows
    counts, and of several backward passes through one forward pass the first. Rows of a layer that is called more
    than once are stored until the end. Half precision is computed with in float32. The network is not compiled.

    Args:
        network: takes a batch (B, ...) as its first tensor. Its trained parameters are those of linear layers,
            embeddings, convolutions, torch's attention, and batch, layer, group and instance norm.
        block: entries of rows that are in memory at a time, about.
        benchmark: chooses in which form each layer's term is computed; None: a fixed table of shapes does, so that the
            same pass gives the same bits.
        shard: the part of the batch that the passes are of. G is that of the whole batch: inputs of layers and
            gradients at their outputs are gathered, one layer after another.
        share_gradients: the caller's backward pass takes the gradients of convolutions' weights from their rows. They
            are the same up to rounding, and cannot be differentiated. Not for a part of a batch.

    Raises:
        ValueError: a trained parameter is one of another layer.
    """

    def __init__(
        self,
        network: nn.Module,
        block: int = BLOCK,
        benchmark: FormBenchmark | None = None,
        shard: Shard = WHOLE,
        share_gradients: bool = False,
    ):
        for name, module in network.named_modules():
            trained = {n for n, p in module.named_parameters(recurse=False) if p.requires_grad}
            is_known = isinstance(module, LAYERS) and trained <= PARAMETERS
            if trained and (not is_known or getattr(module, "scale_grad_by_freq", False)):
                raise ValueError(
                    f"{name or 'the network'} ({type(module).__name__}): per-sample gradients of its"
                    f" {', '.join(sorted(trained))} cannot be computed; only those of linear layers, embeddings,"
                    " convolutions, attention, and batch, layer, group and instance norm"
                )
        self._network = network
        self._block, self._benchmark, self._shard = block, benchmark, shard
        self._share_gradients = share_gradients
        self._hooks: list[RemovableHandle] = []
        self._modes: list[_LayerCallMode] = []
        self._last_pass: _Pass | None = None
        self._ends: list[Tensor] | None = None  # in `record`: the outputs at which its backward pass ends

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records inside the context."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def record(self, loss: Callable[[], Tensor]) -> None:
        """Records a forward pass, and a backward pass that computes what G needs, and no gradient of a weight.

        Args:
            loss: makes the forward pass and returns a scalar.
        """
        self._ends = []
        try:
            with self.recording():
                value = loss()
                if self._ends:
                    torch.autograd.grad(value, self._ends, allow_unused=True)
        finally:
            self._ends = None

    def begin(self) -> None:
        """Begins to record; discards what was recorded before."""
        self.end()
        self._last_pass = None
        self._hooks = [
            self._network.register_forward_pre_hook(self._enter, with_kwargs=True),
            self._network.register_forward_hook(self._leave, always_call=True),
        ]

    def end(self) -> None:
        """Ends the recording."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def gram(self) -> Tensor:
        """Returns G (B, B), in float64 where the pass was, otherwise in float32.

        Raises:
            ValueError: nothing was recorded, or no recorded call used a trained parameter.
        """
        if self._last_pass is None:
            raise ValueError("no forward and backward pass of the network was recorded")
        used = {key for key, _ in self._last_pass.uses}
        for name, param in self._network.named_parameters():
            if param.requires_grad and id(param) not in used:
                raise ValueError(
                    f"{name}: no layer was called with it and a batch of {self._last_pass.samples} as first dimension;"
                    " per-sample gradients are not known"
                )
        return self._last_pass.gram()

    def _enter(self, network: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs = next((t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)), None)
        samples = 0 if inputs is None else len(inputs)
        forward_pass = _Pass(samples, self._block, self._benchmark, self._accept, self._ends, self._shard)
        mode = _LayerCallMode(forward_pass, self._share_gradients and self._ends is None)
        self._modes.append(mode)
        mode.__enter__()

    def _leave(self, network: nn.Module, args: tuple, output: Any) -> None:
        self._modes.pop().__exit__(None, None, None)

    def _accept(self, forward_pass: "_Pass") -> bool:
        """Returns whether this still records; a forward pass that a gradient reaches is then the one that counts."""
        if self._hooks:
            self._last_pass = forward_pass
        return bool(self._hooks)


class _LayerCallMode(TorchFunctionMode):
    """A context that gives calls of layers to a `_Pass`."""

    def __init__(self, forward_pass: "_Pass", share_gradients: bool):
        super().__init__()
        self._pass, self._share_gradients = forward_pass, share_gradients
        self._calls = CALLS

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attention(*args, **kwargs)
        if func not in self._calls:
            return func(*args, **kwargs)
        arguments = SIGNATURES[func](*args, **kwargs)
        if self._share_gradients and self._pass.is_convolution(arguments):
            return self._pass.convolve(func, arguments)
        outputs = func(*args, **kwargs)
        if outputs.requires_grad:
            self._pass.record(self._calls[func](outputs, arguments), outputs)
        return outputs

    def _attention(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Records the linear functions in attention, whose inputs have positions before samples."""
        self._calls = {F.linear: projection(query.shape[1] if query.dim() == 3 else 1)}
        try:
            with self:
                return attention_in_parts(query, *args, **kwargs)
        finally:
            self._calls = CALLS


class _Pass:
    """One forward pass, and the terms of G from its backward pass.

    Args:
        samples: B.
        block: entries of rows that are in memory at a time, about.
        benchmark: chooses the form of each call; None: the fixed table does.
        accept: called with the pass at each gradient; returns whether the gradient is recorded.
        ends: gets the outputs at which a backward pass may end that is to reach each recorded call; None: not needed.
    """

    def __init__(
        self,
        samples: int,
        block: int,
        benchmark: FormBenchmark | None,
        accept: Callable[["_Pass"], bool],
        ends: list[Tensor] | None,
        shard: Shard,
    ):
        self._shard = shard
        self.samples, self._block, self._benchmark, self._accept = samples, block, benchmark, accept
        self._ends, self._is_complete = ends, True
        self.uses: Counter[Key] = Counter()  # calls by parameter
        self._accumulator: GramAccumulator | None = None
        self._shared: dict[Key, list[Tensor]] = {}  # rows of parameters that are used more than once

    def record(self, call: LayerCall, outputs: Tensor) -> None:
        """Records a call of a layer, if it has trained parameters."""
        params = call.parameters()
        if params and self.samples == len(call.inputs) == len(call.batch_first(outputs)):
            for param in params:
                self.uses[_key(param)] += 1
            if self._ends is not None and (call.is_first or not self._is_complete):
                self._ends.append(outputs)
            calls = [call]  # empty once its gradient was recorded
            outputs.register_hook(
                lambda dy: self._record_gradient(calls.pop(), dy) if calls and self._accept(self) else None
            )
        elif params:
            self._is_complete = False  # what follows may depend on trained parameters through this call alone

    def is_convolution(self, arguments: Any) -> bool:
        """Returns whether these are the arguments of a convolution with trained weights and the whole batch."""
        if not (isinstance(arguments, ConvolutionArguments) and torch.is_grad_enabled()):
            return False
        x, weight = arguments.input, arguments.weight
        return weight.requires_grad and weight.is_leaf and x.dim() == weight.dim() and len(x) == self.samples

    def convolve(self, func: Callable[..., Tensor], arguments: ConvolutionArguments) -> Tensor:
        """Returns the outputs of a convolution, and records its call; its weights get their gradient from the rows."""
        inputs, weight = arguments.input, arguments.weight
        outputs = func(*arguments._replace(weight=weight.detach()))
        self.uses.update(map(_key, CALLS[func](outputs, arguments).parameters()))
        arguments = arguments._replace(input=weight)  # the inputs are not to be kept after the backward pass
        pending = [True]  # empty once the rows were recorded

        def gradient_of(x: Tensor, dy: Tensor) -> Tensor:
            call, gradient = CALLS[func](dy, arguments._replace(input=x)), None
            assert isinstance(call, Convolution)
            if pending and self._accept(self):
                pending.clear()
                call.returns_sum = not call.has_few_pairs(dy)
                gradient = self._record_gradient(call, dy)
            return call.weight_gradient(dy) if gradient is None else gradient

        return SharedGradient.apply(outputs, weight, inputs.detach(), gradient_of)

    def gram(self) -> Tensor:
        """Returns G."""
        assert self._accumulator is not None  # as a gradient was recorded
        for blocks in self._shared.values():
            for rows in blocks:
                self._accumulator.add(rows)
        self._shared = {}
        return self._accumulator.total() * len(self._accumulator.matrix) ** 2

    def _record_gradient(self, call: LayerCall, dy: Tensor) -> Tensor | None:
        """Adds a call's term of G; returns the sum of its weights' rows if it has `returns_sum`."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(dy.device.type):
            with torch.no_grad(), torch.autocast(dy.device.type, enabled=False):
                return self._record_gradient(call, dy)
        if self._accumulator is None:
            dtype = torch.promote_types(torch.promote_types(dy.dtype, call.inputs.dtype), torch.float32)
            self._accumulator = GramAccumulator(self._shard.span(self.samples)[1], dtype, dy.device)
        dy, dtype = self._shard.gather(call.batch_first(dy)), self._accumulator.dtype
        x = call.inputs = self._shard.gather(call.inputs)
        if x.dtype is not dtype or dy.dtype is not dtype:
            x, dy = x.to(dtype), dy.to(dtype)
        return self._add(self._accumulator, call, x, dy)

    def _add(self, total: GramAccumulator, call: LayerCall, x: Tensor, dy: Tensor) -> Tensor | None:
        if all(self.uses[_key(p)] == 1 for p in call.parameters()):
            forms = call.forms(x, dy, self._block)
            if self._benchmark is None:
                return next(iter(forms.values()))(total)
            return self._benchmark.add(total, call.describe(x, dy), forms)
        blocks: dict[Key, list[Tensor]] = {}
        for param, rows in call.rows(x, dy, self._block):
            if self.uses[_key(param)] == 1:
                total.add(rows)
            else:
                blocks.setdefault(_key(param), []).append(rows)
        for key, new in blocks.items():
            if key in self._shared:
                for rows, more in zip(self._shared[key], new, strict=True):
                    rows.add_(more)
            else:
                self._shared[key] = new
        return None


def _key(param: Tensor) -> Key:
    return id(base_of(param)), int(param.storage_offset())
