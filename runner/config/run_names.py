"""The names of runs that were given none, and of sweeps: what was chosen and what was typed."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from .options import CONF, Vocabulary, following_groups
from .validate import choices_with_classes

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
    choices, vocabulary = option_choices(hydra)
    return run_name(choices_with_classes(_root_, choices, vocabulary), as_typed(hydra.overrides.task))


def option_choices(hydra: Any) -> tuple[dict[str, Any], Vocabulary]:
    """Returns the option of each group that Hydra chose, and the options that there are.

    Args:
        hydra: Hydra's own node of a configuration.
    """
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    choices = {str(group): option for group, option in hydra.runtime.choices.items()}
    left_out = {group for group in choices if group.startswith("hydra/")} | following_groups()
    return {k: v for k, v in choices.items() if k not in left_out}, Vocabulary([*folders, CONF])


def run_name(choices: dict[str, Any], overrides: list[str]) -> str:
    """Returns model-data-optimizer and the other overrides, sorted; long names end in a hash instead.

    >>> choices = {"model": "mlp", "data": "digits", "optimizer": "sgd"}
    >>> run_name(choices, ["model=mlp", "seed=1", "optimizer.lr=0.1"])
    'mlp-digits-sgd,optimizer.lr=0.1,seed=1'
    >>> run_name(choices | {"optimizer": "torch.optim.AdamW"}, ["optimizer._target_=torch.optim.AdamW"])
    'mlp-digits-torch.optim.AdamW'
    """
    front = "-".join(str(choices.get(group)) for group in IN_FRONT)
    keys = {text: key_of(text).lstrip("+") for text in telling(overrides)}
    said = {*IN_FRONT, *(f"{group}._target_" for group in IN_FRONT)}
    said |= {key.removesuffix("._target_") for key in keys.values() if key.endswith("._target_")}  # as schedule=cyclic
    return folder_name([front, *(text for text, key in keys.items() if key not in said)])


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
