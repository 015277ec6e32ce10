"""The state of a run as tensors and plain values."""

from collections.abc import Mapping
from typing import Any

from trainopt.optimizers import Regularizer

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


def states(plugins: Mapping[str, Probe | Regularizer]) -> dict[str, Any]:
    """Returns the states of plug-ins by name, without those that are empty."""
    return {name: state for name, plugin in plugins.items() if (state := plugin.state_dict())}
