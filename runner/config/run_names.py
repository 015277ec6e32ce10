"""The names of runs that were given none, and of sweeps: what was chosen and what was typed."""

import hashlib
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from .options import CONF, Vocabulary, following_groups, list_groups
from .validate import choices_with_classes

LEADING_GROUPS = ("model", "data", "optimizer")
MAX_BYTES = 180


def register_resolvers() -> None:
    """Makes `${trainopt.run_name:}` and `${trainopt.sweep_name:OVERRIDES,CHOICES}` known to OmegaConf."""
    OmegaConf.register_new_resolver("trainopt.run_name", resolve_run_name, replace=True)
    # kept once it was resolved: every job of a sweep, whose own overrides are others, lies in the same folder
    OmegaConf.register_new_resolver("trainopt.sweep_name", sweep_name, replace=True, use_cache=True)


def resolve_run_name(*, _root_: Any) -> str:
    """Returns the name of the run of a configuration, from what was chosen and typed."""
    hydra = OmegaConf.select(_root_, "hydra")
    if hydra is None:
        if not HydraConfig.initialized():
            return "run"
        hydra = HydraConfig.get()
    choices, vocabulary = option_choices(hydra)
    return run_name(choices_with_classes(_root_, choices, vocabulary), as_typed(hydra.overrides.task))


def option_choices(hydra: Any) -> tuple[dict[str, Any], Vocabulary]:
    """Returns the option of each group of which one is chosen, and the options that there are.

    Args:
        hydra: Hydra's own node of a configuration.
    """
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    choices = {str(group): option for group, option in hydra.runtime.choices.items()}
    left_out = {group for group in choices if group.startswith("hydra/")} | following_groups() | list_groups()
    return {k: v for k, v in choices.items() if k not in left_out}, Vocabulary([*folders, CONF])


def run_name(choices: dict[str, Any], overrides: list[str]) -> str:
    """Returns model-data-optimizer and the other overrides, sorted; long names end in a hash instead.

    >>> choices = {"model": "mlp", "data": "digits", "optimizer": "sgd"}
    >>> run_name(choices, ["model=mlp", "seed=1", "optimizer.lr=0.1"])
    'mlp-digits-sgd,optimizer.lr=0.1,seed=1'
    >>> run_name(choices | {"optimizer": "torch.optim.AdamW"}, ["optimizer._target_=torch.optim.AdamW"])
    'mlp-digits-torch.optim.AdamW'
    """
    front = "-".join(str(choices.get(group)) for group in LEADING_GROUPS)
    keys = {text: key_of(text).lstrip("+") for text in identifying_overrides(overrides)}
    said = {*LEADING_GROUPS, *(f"{group}._target_" for group in LEADING_GROUPS)}
    said |= {key.removesuffix("._target_") for key in keys.values() if key.endswith("._target_")}  # as schedule=cyclic
    return folder_name([front, *(text for text, key in keys.items() if key not in said)], choices)


def sweep_name(overrides: Iterable[str], choices: Mapping[str, Any]) -> str:
    """Returns what was typed, sorted, after the sweeper where it is not Hydra's own: its runs are others.

    >>> sweep_name(["seed=0,1", "optimizer=sgd,adam"], {"hydra/sweeper": "basic"})
    'optimizer=sgd,adam,seed=0,1'
    """
    typed = as_typed(overrides) if OmegaConf.is_list(overrides) else overrides
    sweeper = choices["hydra/sweeper"]
    return (
        folder_name([*([] if sweeper == "basic" else [sweeper]), *identifying_overrides(typed)], choices) or "defaults"
    )


def as_typed(overrides: Any) -> list[str]:
    """Returns Hydra's list of overrides as text; what looks like an interpolation there is none."""
    return OmegaConf.to_container(overrides, resolve=False)  # type: ignore[return-value]


def identifying_overrides(overrides: Iterable[str]) -> list[str]:
    """Returns the overrides that make a run another run, sorted."""
    identifying = (text for text in overrides if key_of(text).partition(".")[0] not in ("run", "logger"))
    return sorted(re.sub(r"""=(["'])([^"'\\]*)\1$""", r"=\2", text) for text in identifying)  # without quotes


def key_of(override: str) -> str:
    """Returns what stands before the equals sign."""
    return override.partition("=")[0]


def folder_name(parts: list[str], slashes: Container[str] = ()) -> str:
    """Returns the parts in one name that every file system takes.

    A part with other characters ends in a hash of it, so that `a b` and `a_b` have two names; so does a long name.

    Args:
        parts: as `key=value`.
        slashes: keys whose values have slashes, which no hash needs to tell from others: those of groups.

    >>> folder_name(["data.path=a_b", "data.path=a b", "experiment=x/y"], ["experiment"])
    'data.path=a_b,data.path=a_b-6ad4e521,experiment=x_y'
    """
    name = ",".join(folder_part(part.replace("/", "_") if key_of(part) in slashes else part) for part in parts)
    if len(name.encode()) > MAX_BYTES:
        start = name.encode()[: MAX_BYTES - 13].decode(errors="ignore")
        name = f"{start}-{hash_of(name, 12)}"
    return name


def folder_part(part: str) -> str:
    """Returns a part of a folder's name, with a hash of it where characters are replaced."""
    name = re.sub(r"[^\w.,=+~@\[\]-]", "_", part)
    return name if name == part else f"{name}-{hash_of(part, 8)}"


def hash_of(text: str, digits: int) -> str:
    """Returns so many hexadecimal digits of the hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
