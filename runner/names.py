"""The name of a run that was given none: what was chosen and what was typed."""

import hashlib
import re
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

IN_FRONT = ("model", "data", "optimizer")
LONGEST = 180


def register_resolver() -> None:
    """Make `${trainopt.run_name:}` known to OmegaConf."""
    OmegaConf.register_new_resolver("trainopt.run_name", _resolve, replace=True)


def _resolve(*, _root_: Any) -> str:
    hydra = OmegaConf.select(_root_, "hydra")
    if hydra is None:
        if not HydraConfig.initialized():
            return "run"
        hydra = HydraConfig.get()
    return run_name(dict(hydra.runtime.choices), list(hydra.overrides.task))


def run_name(choices: dict[str, Any], overrides: list[str]) -> str:
    """Return model-data-optimizer and the other overrides, sorted; long names end in a hash instead.

    >>> choices = {"model": "mlp", "data": "digits", "optimizer": "sgd"}
    >>> run_name(choices, ["model=mlp", "seed=1", "optimizer.lr=0.1"])
    'mlp-digits-sgd,optimizer.lr=0.1,seed=1'
    """
    front = "-".join(str(choices.get(group)) for group in IN_FRONT)
    keys = {text: text.partition("=")[0] for text in overrides}
    rest = sorted(
        text
        for text, key in keys.items()
        if key not in IN_FRONT and key.partition(".")[0] not in ("run", "logger")
    )
    name = ",".join([front, *rest])
    name = re.sub(r"[^\w.,=+~@\[\]-]", "_", name)
    if len(name) > LONGEST:
        mark = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name[: LONGEST - 13]}-{mark}"
    return name
