"""The private parts of torch that this package uses, each behind one function here. A release of torch may change them.

`KNOWN_TO_WORK` is the version that tests/optimizers/test_compat_torch.py last passed with; the test tries each part.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional as F
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

KNOWN_TO_WORK = "2.14.1"

# The base classes of all batch norms and of all instance norms have no public name.
BATCH_NORM = nn.modules.batchnorm._BatchNorm
INSTANCE_NORM = nn.modules.instancenorm._InstanceNorm


def without_torch_function() -> AbstractContextManager:
    """Returns a context in which no mode sees a call.

    Inside a mode, it keeps the outer modes from seeing what the inner one asks of a tensor.
    """
    return torch._C.DisableTorchFunction()


def is_transformed() -> bool:
    """Returns whether a transformation of torch.func (grad, vmap, ...) is active, which needs torch's own rules."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def attention_in_parts(*args: Any, **options: Any) -> Any:
    """Computes F.multi_head_attention_forward so that a TorchFunctionMode sees the linear functions inside.

    Torch shows a mode the whole call only. This is torch's code, told that nobody overrides it.
    """
    whole = F.multi_head_attention_forward
    inner = FunctionType(whole.__code__, {**whole.__globals__, "has_torch_function": lambda _: False})
    inner.__defaults__, inner.__kwdefaults__ = whole.__defaults__, whole.__kwdefaults__
    return inner(*args, **options)


def saved_batch_statistics(output: Tensor) -> tuple[Tensor, Tensor] | None:
    """Returns the mean and 1 / sqrt(variance + eps), (C,) each, that batch norm saved for its backward pass.

    Args:
        output: of F.batch_norm in training mode.

    Returns:
        None where the kernel that computed the output does not save them under these names.
    """
    means, scales = (getattr(output.grad_fn, name, None) for name in ("_saved_result1", "_saved_result2"))
    return None if means is None or scales is None else (means, scales)


def softmax_backward(gradient: Tensor, probabilities: Tensor, out: Tensor) -> Tensor:
    """Writes P * (R - rowsum(P * R)) of R = `gradient` to `out`, which may be R, by the kernel of softmax."""
    return torch._softmax_backward_data(gradient, probabilities, 1, gradient.dtype, grad_input=out)


def record_non_finite(gradients: list[Tensor], found: Tensor, one: Tensor) -> None:
    """Sets `found` to 1 where an element of a gradient is not finite; leaves the gradients as they are.

    It is the check of torch.amp.GradScaler, with a scale of 1: one call for all gradients, on a GPU without waiting.

    Args:
        gradients: dense, without a graph, on one device.
        found: a number, float32.
        one: the number 1, float32.
    """
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, one)


def step_without_record(optimizer: Any) -> Callable[..., Any]:
    """Returns a function that does what `optimizer.step` does, without 15 us of records where no profiler is active.

    Hooks of the step are called, also those that are registered later.

    Args:
        optimizer: a torch.optim.Optimizer, or what has a method `step` like it.
    """
    recorded, function, records = optimizer.step, type(optimizer).step, torch.optim.Optimizer.profile_hook_step
    if getattr(function, "__code__", None) is not records(print).__code__ or "step" in vars(optimizer):
        return recorded  # one that somebody else has wrapped, or that makes no record
    plain = function.__wrapped__
    hooks = _step_hooks(optimizer)

    def step(closure: Any) -> Any:
        if any(hooks) or torch.autograd._profiler_enabled():
            return recorded(closure)
        return plain(optimizer, closure)

    return step


def has_step_hooks(optimizer: Any) -> bool:
    """Returns whether other functions are called before or after each step of an optimizer, as of torch.optim."""
    return any(_step_hooks(optimizer))


def _step_hooks(optimizer: Any) -> tuple[Any, ...]:
    """Returns the collections in which torch has these functions; later ones are in them too."""
    return (
        _global_optimizer_pre_hooks,
        _global_optimizer_post_hooks,
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
    )


@contextmanager
def around_compilation(begin: Callable[[], object], end: Callable[[], object]) -> Iterator[None]:
    """A context in which two functions are called before and after torch.compile compiles, which it does when called.

    Torch's handler calls them once for compilations inside of one another, as of forward and backward pass.
    """
    from torch._dynamo.callback import callback_handler  # it imports the compiler

    def on_start(_: object) -> None:
        begin()

    def on_end(_: object) -> None:
        end()

    callback_handler.register_start_callback(on_start)
    callback_handler.register_end_callback(on_end)
    try:
        yield
    finally:
        callback_handler.remove_start_callback(on_start)
        callback_handler.remove_end_callback(on_end)


def version_of(tensor: Tensor) -> int:
    """Returns a number that grows with each change of a tensor in place."""
    return tensor._version


def has_gradient_hooks(tensor: Tensor) -> bool:
    """Returns whether a hook may change the gradient with respect to a tensor."""
    return bool(tensor._backward_hooks)


def base_of(tensor: Tensor) -> Tensor:
    """Returns the tensor that a view is a view of; of another tensor, itself."""
    return tensor if tensor._base is None else tensor._base


def leaf_of(node: Node) -> Tensor | None:
    """Returns the leaf whose gradient a node of the graph accumulates; None for other nodes."""
    leaf = getattr(node, "variable", None)
    return leaf if isinstance(leaf, Tensor) else None


def is_second_backward(error: RuntimeError) -> bool:
    """Returns whether autograd raised an error because the graph was freed by a backward pass before.

    Torch has no class of its own for it, so the text tells.
    """
    return "second time" in str(error)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """A context in which attention takes the kernel with a second derivative, and what was compiled runs as written."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # where dynamo is not imported, nothing is compiled, and importing it takes seconds
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with eager, sdpa_kernel(SDPBackend.MATH):
        yield


def advice_for_second_derivative(error: RuntimeError) -> str | None:
    """Returns what to do where autograd raised an error because something has no second derivative, else None."""
    text = str(error)
    if "does not currently support double backward" in text:
        return (
            "a compiled function (torch.compile) has no second derivative: give step a closure that returns the loss,"
            " or compute the loss with the model that was compiled, model._orig_mod"
        )
    missing = re.search(r"derivative for (\S+) is not implemented", text)
    if missing is None:
        return None
    if "attention" in missing[1]:
        return (
            "the attention kernel has no second derivative: give step a closure that returns the loss, or compute the"
            " loss inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        )
    return f"torch has no second derivative of this loss: that of {missing[1]} is not implemented"


def pass_over_step(optimizer: Any) -> None:
    """Tells torch that an update was left out on purpose: its schedulers warn if none came before their first step."""
    optimizer._opt_called = True
