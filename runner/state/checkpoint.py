"""The state of a run as tensors and plain values."""

import pickle
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import torch

from trainopt.optimizers import Optimizer, Regularizer
from trainopt.optimizers.libraries.trial import unsupported

from .rng import rng_state, set_rng_state
from .run import Probe, Run


def run_state(run: Run) -> dict[str, Any]:
    """Returns all that a run needs to go on bitwise as if it had never stopped."""
    return {
        "model": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "batching": run.batching.state_dict(),
        "objective": run.objective.loss.state_dict(),
        "regularizers": states({name: r for name, (r, _) in run.objective.regularizers.items()}),
        "progress": run.progress.state_dict(),
        "early_stopping": run.early_stopping.state_dict(),
        "clocks": run.clocks.state_dict(),
        "probes": states(run.probes),
        "rng": rng_state(run.device),
        **({} if run.scaling is None else {"scaling": run.scaling.state_dict()}),
        **({} if run.averaged is None else {"averaging": run.averaged.state_dict()}),
    }


def load_run_state(run: Run, state: dict[str, Any]) -> None:
    """Sets a freshly built run to a state of `run_state`; a probe without a state in it begins anew."""
    run.network.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    run.batching.load_state_dict(state["batching"])
    run.objective.loss.load_state_dict(state.get("objective", {}))
    for name, (regularizer, _) in run.objective.regularizers.items():
        regularizer.load_state_dict(state["regularizers"].get(name, {}))
    run.progress.load_state_dict(state["progress"])
    run.early_stopping.load_state_dict(state["early_stopping"])
    run.clocks.load_state_dict(state["clocks"])
    probe_states = state.get("probes", {})
    for name in run.probes.keys() & probe_states.keys():
        run.probes[name].load_state_dict(probe_states[name])
    if run.scaling is not None:
        run.scaling.load_state_dict(state["scaling"])
    if run.averaged is not None:
        run.averaged.load_state_dict(state["averaging"])
    set_rng_state(state["rng"], run.device)


def library_of(optimizer: Optimizer) -> str:
    """Returns the name of the package that an optimizer's class comes from."""
    return type(optimizer).__module__.partition(".")[0]


def is_known(optimizer: Optimizer) -> bool:
    """Returns whether an optimizer comes from a library whose optimizers are tried before the run, or known."""
    return library_of(optimizer) in ("trainopt", "torch", "timm", "pytorch_optimizer", "schedulefree")


def check_state(optimizer: Optimizer) -> None:
    """Raises TypeError if a checkpoint cannot hold the state of an optimizer of the user."""
    if is_known(optimizer):
        return
    buffer = BytesIO()
    try:
        torch.save(optimizer.state_dict(), buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError) as error:
        raise TypeError(
            f"the state_dict of {type(optimizer).__name__} must hold tensors and plain values ({unsupported(error)})"
        ) from error


def numbers(optimizer: Optimizer) -> dict[str, float]:
    """Returns the numbers among the attributes of an optimizer, without the one that schedulers of torch set."""
    values = vars(optimizer).items()
    return {name: value for name, value in values if isinstance(value, int | float) and name != "_opt_called"}


def unsaved(optimizer: Optimizer, before: Mapping[str, float]) -> list[str]:
    """Returns the attributes of an optimizer of the user that change with steps and that no checkpoint holds.

    They are tensors that are no parameters, and numbers. An optimizer with a `state_dict` of its own is believed.

    Args:
        optimizer: after some steps.
        before: its `numbers` before them.
    """
    if is_known(optimizer) or getattr(type(optimizer), "state_dict", None) is not torch.optim.Optimizer.state_dict:
        return []
    parameters = {id(p) for group in optimizer.param_groups for p in group["params"]}
    others = {k: v for k, v in vars(optimizer).items() if k not in ("param_groups", "state", "defaults")}
    names = [name for name, value in others.items() if any(id(t) not in parameters for t in tensors_in(value))]
    return [*names, *(name for name, value in numbers(optimizer).items() if before.get(name) != value)]


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yields the tensors in nested mappings and sequences."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for element in value.values():
            yield from tensors_in(element)
    elif isinstance(value, list | tuple):
        for element in value:
            yield from tensors_in(element)


def states(plugins: Mapping[str, Probe | Regularizer]) -> dict[str, Any]:
    """Returns the states of plug-ins by name, without those that are empty."""
    return {name: state for name, plugin in plugins.items() if (state := plugin.state_dict())}
