"""Each private part of torch that the optimizers use, with the installed version."""

import inspect
import math
from functools import wraps

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from helpers.references import numbers
from trainopt.optimizers import compat_torch


class Calls(TorchFunctionMode):
    """Records the functions that are called."""

    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


def base_classes_of_norms():
    assert isinstance(nn.BatchNorm1d(2), compat_torch.BATCH_NORM)
    assert isinstance(nn.SyncBatchNorm(2), compat_torch.BATCH_NORM)
    assert isinstance(nn.InstanceNorm3d(2), compat_torch.INSTANCE_NORM)
    assert not isinstance(nn.GroupNorm(1, 2), (compat_torch.BATCH_NORM, compat_torch.INSTANCE_NORM))


def without_torch_function():
    with Calls() as calls:
        with compat_torch.without_torch_function():
            torch.ones(2).sum()
        assert calls.functions == []
        torch.ones(2)
    assert calls.functions == [torch.ones]


def is_transformed():
    inside = []

    def function(x):
        inside.append(compat_torch.is_transformed())
        return x.sum()

    torch.func.grad(function)(torch.ones(2))
    torch.func.vmap(function)(torch.ones(2, 2))
    function(torch.ones(2))
    assert inside == [True, True, False]


def attention_in_parts():
    layer, x = nn.MultiheadAttention(4, 2).double(), numbers(3, 2, 4)
    shapes = (4, 2, layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0)
    arguments = (x, x, x, *shapes, layer.out_proj.weight, layer.out_proj.bias)
    expected, _ = F.multi_head_attention_forward(*arguments, need_weights=False)
    with Calls() as calls:
        actual, _ = compat_torch.attention_in_parts(*arguments, need_weights=False)
    assert torch.equal(actual, expected)
    assert calls.functions.count(F.linear) == 2
    assert F.multi_head_attention_forward not in calls.functions


def saved_batch_statistics():
    x = numbers(4, 3, 5)
    y = F.batch_norm(x.clone().requires_grad_(), None, None, training=True, eps=0.1)
    mean, scale = compat_torch.saved_batch_statistics(y)
    torch.testing.assert_close(mean, x.mean((0, 2)))
    torch.testing.assert_close(scale, (x.var((0, 2), correction=0) + 0.1).rsqrt())
    assert compat_torch.saved_batch_statistics(y.exp()) is None


def pass_over_step():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    compat_torch.pass_over_step(optimizer)
    scheduler.step()  # its warning would be an error here


def softmax_backward():
    P, R = numbers(3, 4).softmax(1), numbers(3, 4, seed=1)
    expected = P * (R - (P * R).sum(1, keepdim=True))
    assert compat_torch.softmax_backward(R, P, out=R) is R
    torch.testing.assert_close(R, expected)


def version_of():
    x = torch.zeros(2)
    before = compat_torch.version_of(x)
    assert compat_torch.version_of(x) == before
    assert compat_torch.version_of(x.add_(1)) > before


def has_gradient_hooks():
    x = torch.zeros(2, requires_grad=True)
    assert not compat_torch.has_gradient_hooks(x)
    x.register_hook(lambda g: 2 * g)
    assert compat_torch.has_gradient_hooks(x)


def base_of():
    x = nn.Parameter(torch.zeros(4))
    assert compat_torch.base_of(x) is compat_torch.base_of(x[1:3]) is x


def leaf_of():
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    (after, _), _ = y.grad_fn.next_functions
    assert compat_torch.leaf_of(after) is x
    assert compat_torch.leaf_of(y.grad_fn) is None


def is_second_backward():
    loss = torch.ones(2, requires_grad=True).exp().sum()
    loss.backward()
    with pytest.raises(RuntimeError) as raised:
        loss.backward()
    assert compat_torch.is_second_backward(raised.value)
    assert not compat_torch.is_second_backward(RuntimeError("out of memory"))


def record_non_finite():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for value in (1e-30, -0.0, torch.nan, torch.inf, -torch.inf):
            gradients = [torch.full((2, 3), 2.0, dtype=dtype), torch.tensor([1.0, value], dtype=dtype)]
            before, found = [g.view(torch.uint8).clone() for g in gradients], torch.zeros(())
            compat_torch.record_non_finite(gradients, found, torch.ones(()))
            assert bool(found) != math.isfinite(value)
            assert all(torch.equal(g.view(torch.uint8), b) for g, b in zip(gradients, before, strict=True))


def step_without_record():
    optimizer, calls = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), []
    step = compat_torch.step_without_record(optimizer)
    assert "profile_hook_step" not in frames_of(step)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step(lambda: None)
    assert "Optimizer.step#SGD.step" in {event.key for event in profiler.key_averages()}
    for register in (
        optimizer.register_step_pre_hook,
        optimizer.register_step_post_hook,
        register_optimizer_step_pre_hook,
        register_optimizer_step_post_hook,
    ):
        handle = register(lambda *_: calls.append(1))
        step(lambda: None)
        handle.remove()
    assert len(calls) == 4
    optimizer.step = lambda closure: closure()
    assert compat_torch.step_without_record(optimizer)(lambda: 3.0) == 3.0

    class Wrapped(torch.optim.SGD):
        step = wraps(torch.optim.SGD.step)(lambda self, closure: calls.append(2))

    wrapped = Wrapped([nn.Parameter(torch.ones(1))], lr=1.0)
    compat_torch.step_without_record(wrapped)(lambda: None)
    assert calls[4:] == [2]


def has_step_hooks():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    assert not compat_torch.has_step_hooks(optimizer)
    for hook in (
        optimizer.register_step_pre_hook(lambda *_: None),
        optimizer.register_step_post_hook(lambda *_: None),
        register_optimizer_step_pre_hook(lambda *_: None),
        register_optimizer_step_post_hook(lambda *_: None),
    ):
        assert compat_torch.has_step_hooks(optimizer)
        hook.remove()
    assert not compat_torch.has_step_hooks(optimizer)


def around_compilation():
    from torch._dynamo.callback import CallbackTrigger, callback_handler

    calls = []
    with compat_torch.around_compilation(lambda: calls.append("begin"), lambda: calls.append("end")):
        for _ in range(2):
            with callback_handler.install_callbacks(CallbackTrigger.DYNAMO, "0"):
                calls.append("compiles")
                with callback_handler.install_callbacks(CallbackTrigger.DYNAMO, "1"):
                    calls.append("inside")
    with callback_handler.install_callbacks(CallbackTrigger.DYNAMO, "2"):
        calls.append("later")
    assert calls == [*2 * ("begin", "compiles", "inside", "end"), "later"]


def frames_of(step):
    """Returns the qualified names of the functions that a step with a closure runs in."""
    stack = []
    step(lambda: stack.extend(frame.frame.f_code.co_qualname for frame in inspect.stack()))
    return " ".join(stack)


@pytest.mark.parametrize(
    "part",
    [
        base_classes_of_norms,
        without_torch_function,
        is_transformed,
        attention_in_parts,
        saved_batch_statistics,
        pass_over_step,
        softmax_backward,
        record_non_finite,
        step_without_record,
        has_step_hooks,
        around_compilation,
        version_of,
        has_gradient_hooks,
        base_of,
        leaf_of,
        is_second_backward,
    ],
    ids=lambda part: part.__name__,
)
def test_private_parts_of_torch_work_as_in_the_known_version(part):
    try:
        part()
    except Exception as error:
        known = f"optimizers/compat_torch.py is known to work with torch {compat_torch.KNOWN_TO_WORK}"
        raise AssertionError(f"{part.__name__} fails with torch {torch.__version__}; {known}") from error
