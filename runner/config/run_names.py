"""The names of runs that were given none, and of sweeps: what was chosen and what was typed."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

IN_FRONT = ("model", "data", "optimizer")
LONGEST = 180


def register_resolvers() -> None:
    """Makes `${trainopt.run_name:}` and `${trainopt.sweep_name:OVERRIDES,CHOICES}` known to OmegaConf."""
    OmegaConf.register_new_resolver("trainopt.run_name", _resolve, replace=True)
    # kept once it was resolved: every job of a sweep, whose own overrides are others, lies in the same folder
    OmegaConf.register_new_resolver("trainopt.sweep_name", sweep_name, replace=True, use_cache=True)


def _resolve(*, _root_: Any) -> str:
    hydra = OmegaConf.select(_root_, "hydra")
    if hydra is None:
        if not HydraConfig.initialized():
            return "run"
        hydra = HydraConfig.get()
    return run_name(dict(hydra.runtime.choices), as_typed(hydra.overrides.task))


def run_name(choices: dict[str, Any], overrides: list[str]) -> str:
    """Returns model-data-optimizer and the other overrides, sorted; long names end in a hash instead.

    >>> choices = {"model": "mlp", "data": "digits", "optimizer": "sgd"}
    >>> run_name(choices, ["model=mlp", "seed=1", "optimizer.lr=0.1"])
    'mlp-digits-sgd,optimizer.lr=0.1,seed=1'
    """
    front = "-".join(str(choices.get(group)) for group in IN_FRONT)
    return folder_name([front, *(text for text in telling(overrides) if key_of(text) not in IN_FRONT)])


def sweep_name(overrides: Iterable[str], choices: Mapping[str, Any]) -> str:
    """Returns what was typed, sorted, after the sweeper where it is not Hydra's own: its runs are others.

    >>> sweep_name(["seed=0,1", "optimizer=sgd,adam"], {"hydra/sweeper": "basic"})
    'optimizer=sgd,adam,seed=0,1'
    """
    typed = as_typed(overrides) if OmegaConf.is_list(overrides) else overrides
    sweeper = choices["hydra/sweeper"]
    return folder_name([*([] if sweeper == "basic" else [sweeper]), *telling(typed)]) or "defaults"


def as_typed(overrides: Any) -> list[str]:
    """Returns Hydra's list of overrides as text; what looks like an interpolation there is none."""
    return OmegaConf.to_container(overrides, resolve=False)  # type: ignore[return-value]


def telling(overrides: Iterable[str]) -> list[str]:
    """Returns the overrides that make a run another run, sorted."""
    return sorted(text for text in overrides if key_of(text).partition(".")[0] not in ("run", "logger"))


def key_of(override: str) -> str:
    """Returns what stands before the equals sign."""
    return override.partition("=")[0]


def folder_name(parts: list[str]) -> str:
    """Returns the parts in one name that every file system takes; long ones end in a hash instead."""
    name = ",".join(parts)
    name = re.sub(r"[^\w.,=+~@\[\]-]", "_", name)
    if len(name) > LONGEST:
        mark = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name[: LONGEST - 13]}-{mark}"
    return name
