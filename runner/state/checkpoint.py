"""All of a run's state as tensors and plain values."""

from collections.abc import Mapping
from typing import Any

from trainopt.optimizers import Regularizer

from .rng import rng_state, set_rng_state
from .run import Probe, Run


def run_state(run: Run) -> dict[str, Any]:
    """Returns everything that a run needs to go on as if it had never stopped."""
    return {
        "model": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "batching": run.batching.state_dict(),
        "regularizers": states({name: r for name, (r, _) in run.objective.regularizers.items()}),
        "progress": run.progress.state_dict(),
        "early_stopping": run.early_stopping.state_dict(),
        "clocks": run.clocks.state_dict(),
        "probes": states(run.probes),
        "rng": rng_state(run.device),
    }


def load_run_state(run: Run, state: dict[str, Any]) -> None:
    """Sets a freshly built run to a state of `run_state`.

    A probe of which the state says nothing, as that of a time when it kept none, begins anew.
    """
    run.network.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    run.batching.load_state_dict(state["batching"])
    for name, (regularizer, _) in run.objective.regularizers.items():
        regularizer.load_state_dict(state["regularizers"].get(name, {}))
    run.progress.load_state_dict(state["progress"])
    run.early_stopping.load_state_dict(state["early_stopping"])
    run.clocks.load_state_dict(state["clocks"])
    for name, probe_state in state.get("probes", {}).items():
        run.probes[name].load_state_dict(probe_state)
    set_rng_state(state["rng"], run.device)


def states(plugins: Mapping[str, Probe | Regularizer]) -> dict[str, Any]:
    """Returns by name the states of plug-ins, but for those that have none: they leave a checkpoint as it is."""
    return {name: state for name, plugin in plugins.items() if (state := plugin.state_dict())}
