"""All of a run's state as tensors and plain values."""

from typing import Any

from .rng import rng_state, set_rng_state
from .run import Run


def state_of(run: Run) -> dict[str, Any]:
    """Returns everything that a run needs to go on as if it had never stopped."""
    return {
        "model": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "batching": run.batching.state_dict() if hasattr(run.batching, "state_dict") else {},
        "regularizers": {name: r.state_dict() for name, r in remembering(run).items()},
        "progress": run.progress.state_dict(),
        "early_stopping": run.early_stopping.state_dict(),
        "clocks": run.clocks.state_dict(),
        "probes": {name: p.state_dict() for name, p in run.probes.items() if hasattr(p, "state_dict")},
        "rng": rng_state(run.device),
    }


def restore(run: Run, state: dict[str, Any]) -> None:
    """Sets a freshly built run to a state of `state_of`.

    A probe of which the state says nothing, as that of a time when it kept none, begins anew.
    """
    run.network.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    if hasattr(run.batching, "load_state_dict"):
        run.batching.load_state_dict(state["batching"])
    for name, regularizer in remembering(run).items():
        regularizer.load_state_dict(state["regularizers"][name])
    run.progress.load_state_dict(state["progress"])
    run.early_stopping.load_state_dict(state["early_stopping"])
    run.clocks.load_state_dict(state["clocks"])
    for name, kept in state.get("probes", {}).items():
        if hasattr(run.probes.get(name), "load_state_dict"):
            run.probes[name].load_state_dict(kept)
    set_rng_state(state["rng"], run.device)


def remembering(run: Run) -> dict[str, Any]:
    """Returns by name the regularizers that have a state."""
    return {name: r for name, (r, _) in run.objective.regularizers.items() if hasattr(r, "state_dict")}
