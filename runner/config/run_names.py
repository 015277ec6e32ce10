"""The names of runs that were given none, and of sweeps: what was chosen and what was typed."""

import hashlib
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from .durations import Duration, usual_durations
from .options import CONF, Vocabulary, following_groups, list_groups
from .overrides import chosen
from .validate import choices_with_classes

LEADING_GROUPS = ("model", "data", "optimizer")
MAX_BYTES = 180
NO_OVERRIDES = "defaults"  # the name of a sweep of which nothing was typed


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
    left_out = {group for group in choices if group.startswith("hydra/")} | set(following_groups()) | list_groups()
    return {k: v for k, v in choices.items() if k not in left_out}, Vocabulary([*folders, CONF])


def typed_keys(keys: Iterable[str]) -> list[str]:
    """Returns the keys of a class as they are typed: with a plus where the chosen options do not have them."""
    if not HydraConfig.initialized():
        return list(keys)
    choices, vocabulary = option_choices(HydraConfig.get())
    typed = as_typed(HydraConfig.get().overrides.task)
    known = vocabulary.keys(chosen(typed, vocabulary) | choices)
    return [key if key in known else f"+{key}" for key in keys]


def run_name(choices: dict[str, Any], overrides: list[str]) -> str:
    """Returns model-data-optimizer and the other overrides, sorted; long names end in a hash instead.

    >>> choices = {"model": "mlp", "data": "digits", "optimizer": "sgd"}
    >>> run_name(choices, ["model=mlp", "seed=1", "optimizer.lr=0.1"])
    'mlp-digits-sgd,optimizer.lr=0.1,seed=1'
    >>> run_name(choices | {"optimizer": "torch.optim.AdamW"}, ["optimizer._target_=torch.optim.AdamW"])
    'mlp-digits-torch.optim.AdamW'
    """
    return folder_name(run_parts(choices, identifying_overrides(overrides)), choices)


def former_run_name(choices: dict[str, Any], overrides: list[str], name: str) -> str | None:
    """Returns the name that a run had in version 0.1.0; None where it was the same, or where `name` is another.

    That version had names with what was typed as it was, and without hashes.

    >>> choices = {"model": "mlp", "data": "digits", "optimizer": "sgd"}
    >>> former_run_name(choices, ["duration=2epoch"], "mlp-digits-sgd,duration=2epochs")
    'mlp-digits-sgd,duration=2epoch'
    """
    former = folder_name(run_parts(choices, identifying_overrides(overrides, usual=False)), choices, hashes=False)
    return former if former != name == run_name(choices, overrides) else None


def run_parts(choices: Mapping[str, Any], identifying: list[str]) -> list[str]:
    """Returns the parts of the name of a run, from its choices and the overrides that identify it."""
    front = "-".join(str(choices.get(group)) for group in LEADING_GROUPS)
    keys = {text: key_of(text).lstrip("+") for text in identifying}
    said = {*LEADING_GROUPS, *(f"{group}._target_" for group in LEADING_GROUPS)}
    said |= {key.removesuffix("._target_") for key in keys.values() if key.endswith("._target_")}  # as schedule=cyclic
    return [front, *(text for text, key in keys.items() if key not in said)]


def sweep_name(overrides: Iterable[str], choices: Mapping[str, Any]) -> str:
    """Returns what was typed, sorted, after the sweeper where it is not Hydra's own: its runs are others.

    >>> sweep_name(["seed=0,1", "optimizer=sgd,adam"], {"hydra/sweeper": "basic"})
    'optimizer=sgd,adam,seed=0,1'
    """
    typed = as_typed(overrides) if OmegaConf.is_list(overrides) else overrides
    return folder_name([*sweeper_part(choices), *identifying_overrides(typed)], choices) or NO_OVERRIDES


def former_sweep_name(overrides: list[str], choices: Mapping[str, Any], name: str) -> str | None:
    """Returns the name that a sweep had in version 0.1.0, as `former_run_name` does for a run."""
    parts = [*sweeper_part(choices), *identifying_overrides(overrides, usual=False)]
    former = folder_name(parts, choices, hashes=False) or NO_OVERRIDES
    return former if former != name == sweep_name(overrides, choices) else None


def sweeper_part(choices: Mapping[str, Any]) -> list[str]:
    """Returns the sweeper where it is not Hydra's own, as the first part of the name of a sweep."""
    return [] if choices["hydra/sweeper"] == "basic" else [choices["hydra/sweeper"]]


def as_typed(overrides: Any) -> list[str]:
    """Returns Hydra's list of overrides as text; what looks like an interpolation there is none."""
    return OmegaConf.to_container(overrides, resolve=False)  # type: ignore[return-value]


def identifying_overrides(overrides: Iterable[str], usual: bool = True) -> list[str]:
    """Returns the overrides that make a run another run, sorted.

    Args:
        overrides: as typed.
        usual: whether values that mean the same are written in the same way.
    """
    left_out = ("run", "logger", "devices_per_job")
    identifying = (text for text in overrides if key_of(text).partition(".")[0] not in left_out)
    forms = map(usual_override, identifying) if usual else identifying
    return sorted(re.sub(r"""=(["'])([^"'\\]*)\1$""", r"=\2", text) for text in forms)  # without quotes


def usual_override(override: str) -> str:
    """Returns an override with its durations, or the only option of a list, as they are usually written.

    >>> usual_override("duration=2epoch"), usual_override("regularizer=l2"), usual_override("probe=fisher,taylor")
    ('duration=2epochs', 'regularizer=[l2]', 'probe=fisher,taylor')
    """
    key, equals, value = override.partition("=")
    if key in list_groups() and re.fullmatch(r"\w+", value):
        return f"{key}=[{value}]"
    inner = value.strip("[]").split(",")
    if all(map(Duration.is_valid, inner)):
        value = value.replace(",".join(inner), ",".join(usual_durations(inner)))
    return key + equals + value


def key_of(override: str) -> str:
    """Returns what stands before the equals sign."""
    return override.partition("=")[0]


def folder_name(parts: list[str], slashes: Container[str] = (), hashes: bool = True) -> str:
    """Returns the parts in one name that every file system takes.

    A part with other characters ends in a hash of it, so that `a b` and `a_b` have two names; so does a long name.

    Args:
        parts: as `key=value`.
        slashes: keys whose values have slashes, which no hash needs to tell from others: those of groups.
        hashes: whether parts with other characters get one.

    >>> folder_name(["data.path=a_b", "data.path=a b", "experiment=x/y"], ["experiment"])
    'data.path=a_b,data.path=a_b-6ad4e521,experiment=x_y'
    """
    name = ",".join(folder_part(p.replace("/", "_") if key_of(p) in slashes else p, hashes) for p in parts)
    if len(name.encode()) > MAX_BYTES:
        start = name.encode()[: MAX_BYTES - 13].decode(errors="ignore")
        name = f"{start}-{hash_of(name, 12)}"
    return name


def folder_part(part: str, hashes: bool) -> str:
    """Returns a part of a folder's name, with a hash of it where characters are replaced and hashes are asked for."""
    name = re.sub(r"[^\w.,=+~@\[\]-]", "_", part)
    return name if name == part or not hashes else f"{name}-{hash_of(part, 8)}"


def hash_of(text: str, digits: int) -> str:
    """Returns so many hexadecimal digits of the hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
