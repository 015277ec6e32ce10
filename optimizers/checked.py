"""What the optimizers of this package check for those who call them."""

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .shard import WHOLE, Shard

# What may stand in a group beside the options: names, and what schedulers of torch and of timm note there.
ANNOTATIONS = ("params", "param_names", "name", "initial_lr", "lr_scale")
# Options that schedulers change, so that each step checks them: the bound that they stay below, and the rule.
SCHEDULED = {
    "lr": (math.inf, ">= 0 and finite"),
    "momentum": (1.0, "in [0, 1)"),
    "weight_decay": (math.inf, ">= 0 and finite"),
}

# State that has the shape of its parameter.
LIKE_PARAMETERS = ("v", "direction", "momentum_buffer", "last_step", "exp_avg_sq", "sampled_curvature")


class CheckedOptimizer(Optimizer):
    """An optimizer that refuses what it would ignore or could not use, at the call that is wrong.

    That is an unknown option of a parameter group, a value out of its range (also one that a scheduler set), and the
    state of another optimizer. An option that a state of an earlier version lacks has the value of the constructor.

    Attributes:
        last_step: what the last step says of itself; empty before a step, and where a state was loaded.
    """

    last_step: dict[str, Any]

    def __init__(self, params: Any, defaults: dict[str, Any]):
        self.last_step = {}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.last_step = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters.

        Raises:
            ValueError: an option is unknown or out of its range; the groups are then as they were.
        """
        for key in param_group:
            if key not in self.defaults and key not in ANNOTATIONS:
                near = difflib.get_close_matches(key, self.defaults, n=1)
                right = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.defaults)}"
                raise ValueError(f"{key}={param_group[key]}: unknown option of a parameter group; {right}")
        self._check_scheduled({**self.defaults, **param_group})
        super().add_param_group(param_group)
        try:
            self.check_parameters(self.param_groups[-1]["params"])
        except ValueError:
            self.param_groups.pop()
            raise

    def check_parameters(self, params: list[Tensor]) -> None:
        """Raises ValueError if the optimizer cannot train the parameters of its last group."""

    def check_step(self) -> None:
        """Raises ValueError if an option has got a value out of its range since the last step."""
        for group in self.param_groups:
            self._check_scheduled(group)

    def _check_scheduled(self, options: dict[str, Any]) -> None:
        for name, (limit, rule) in SCHEDULED.items():
            if name in self.defaults and not 0 <= options[name] < limit:
                raise ValueError(f"{name}={options[name]}: must be {rule}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned.

        Raises:
            ValueError: it is the state of another optimizer, of other groups, or of parameters of other shapes.
        """
        groups = []
        for group in state_dict["param_groups"]:
            unknown = [key for key in group if key not in self.defaults and key not in (*ANNOTATIONS, "lr")]
            if unknown and not group.keys() >= self.defaults.keys():
                name = type(self).__name__
                raise ValueError(f"the state is that of another optimizer: {name} has no {', '.join(unknown)}")
            groups.append({**self.defaults, **group})
        ids = [index for group in groups for index in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(ids, params, strict=False):  # torch refuses another number of them
            of_parameter = state_dict["state"].get(index, {})
            for name in LIKE_PARAMETERS:
                if name in of_parameter and of_parameter[name].shape != p.shape:
                    shapes = f"{tuple(of_parameter[name].shape)}, and the parameter {tuple(p.shape)}"
                    raise ValueError(f"the state is that of another network: {name} has the shape {shapes}")
        super().load_state_dict({**state_dict, "param_groups": groups})


class SecondOrderOptimizer(CheckedOptimizer):
    """A checked optimizer that differentiates gradients: of a closure's loss, or those in `.grad`, with their graph.

    Attributes:
        shard: the part of the batch that this process has, where several share it.
    """

    needs_graph = True
    takes_shard = True
    shard: Shard = WHOLE
    is_second_order = True  # timm's training script then calls backward(create_graph=True)
    # torch.amp.GradScaler then sets `grad_scale` and `found_inf`, and leaves `.grad` as it is: it would divide the
    # gradients by its factor, but not their graph
    _step_supports_amp_scaling = True

    grad_scale: Tensor | None
    found_inf: Tensor

    def __getstate__(self) -> dict[str, Any]:
        """Returns what copies have; of torch's optimizers, these are state, groups and defaults only."""
        return super().__getstate__() | ({} if self.shard.is_whole else {"shard": self.shard})

    def loss_scale(self, closure: Callable[..., Any] | None) -> float | None:
        """Returns the factor that a GradScaler multiplied the loss by; None: it found a gradient that is not finite.

        Args:
            closure: of the step.

        Raises:
            ValueError: `unscale_` was called, or there is a closure, whose loss is not multiplied.
        """
        if not hasattr(self, "found_inf"):
            return 1.0
        if closure is not None:
            raise ValueError("a GradScaler scales gradients in .grad; give no closure, or step without the scaler")
        if self.grad_scale is None:
            raise ValueError(
                "scaler.unscale_(optimizer) divides the gradients, but not their graph: leave it out, as"
                " scaler.step(optimizer) does both; clip before at max_norm * scaler.get_scale()"
            )
        return None if float(self.found_inf) > 0 else float(self.grad_scale)

    def decays(self, params: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Returns the parameters that decay, each with what it changes by: -lr * weight_decay times itself.

        Args:
            params: of which these are; one may be among them several times.
        """
        decayed = [group for group in self.param_groups if group["weight_decay"] != 0]
        factor_of = {p: -group["lr"] * group["weight_decay"] for group in decayed for p in group["params"]}
        return [(p, factor_of[p] * p) for p in dict.fromkeys(params) if p in factor_of]

    def release_graphs(self) -> None:
        """Detaches the gradients in `.grad` from their graph, which holds the parameters, which hold the gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.requires_grad:
                    p.grad.detach_()


def has_graph(params: list[Tensor]) -> bool:
    """Returns whether a gradient in `.grad` has a graph."""
    return any(p.grad is not None and p.grad.requires_grad for p in params)


def check_types(params: Sequence[Tensor], options: dict[str, Any]) -> None:
    """Raises ValueError if parameters are of several types or devices, or in half precision where options need more."""
    if len({(p.dtype, p.device) for p in params}) > 1:
        raise ValueError("parameters must be of one dtype and device; make several optimizers, or convert them")
    for name in ("preconditioner", "subspace"):
        if options[name] != "none" and any(p.dtype in (torch.bfloat16, torch.float16) for p in params):
            raise ValueError(
                f"{name}={options[name]}: needs weights in float32 or float64; give these, and compute in autocast"
            )


def refuse_complex(params: list[Tensor], name: str) -> None:
    """Raises ValueError if parameters are complex."""
    if any(p.is_complex() for p in params):
        raise ValueError(f"{name}: takes no complex parameters; train view_as_real of them")
