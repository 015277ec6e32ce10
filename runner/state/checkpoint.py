"""All of a run's state as tensors and plain values."""

import random
from typing import Any

import numpy as np
import torch

from ..training.build import Run


def state_of(run: Run) -> dict[str, Any]:
    """Return everything that a run needs to go on as if it had never stopped."""
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
    """Set a freshly built run to a state of `state_of`.

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
    """Return by name the regularizers that have a state."""
    return {name: r for name, (r, _) in run.objective.regularizers.items() if hasattr(r, "state_dict")}


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the state of every global generator that a network or an optimizer may draw from."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    mersenne = numpy_state["state"]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": [version, list(words), gauss],
        "numpy": {
            "key": torch.from_numpy(mersenne["key"].astype(np.int64)),
            "pos": int(mersenne["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
    }


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Set the generators to a state of `rng_state`."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    saved = state["numpy"]
    key = saved["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, saved["pos"], saved["has_gauss"], saved["gauss"]))
