"""Checks the arguments of the classes of a sweep's jobs, before the first job begins.

conf/allowed.yaml has no rules for these: a class of this package checks its arguments when it is constructed, which a
single run does before it writes anything. Jobs are constructed one after the other; so that none is refused when others
have run, their classes are constructed here with stand-ins for what only a run has. Sections that are as their YAML
file has them, those of jobs that have begun, and classes of others are not; where no others are left, torch is not
imported.
"""

import json
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from inspect import signature
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config.durations import Duration
from ..config.options import CONF, list_groups, shipped
from ..config.validate import as_written

GROUPS = ("model", "augmentation", "optimizer", "schedule", "batching", "probe", "regularizer")
PACKAGE = __package__.partition(".")[0]


class StandIn:
    """In place of the progress of a run: none."""

    def elapsed(self, duration: str) -> Fraction:
        """Returns how often a duration has passed: never."""
        Duration.parse(duration)
        return Fraction(0)


def check_arguments(config: DictConfig, choices: dict[str, Any]) -> None:
    """Raises UserError where a class of this package refuses its arguments.

    Args:
        config: of a job.
        choices: the option of each group that is chosen.
    """
    for section, node, content in sections(config, choices):
        if str(node.get("_target_")).startswith(f"{PACKAGE}.") and not holds(as_written(node), content):
            lr = config.optimizer.get("lr") if section == "schedule" else None
            _construct(section, json.dumps(OmegaConf.to_container(node, resolve=True)), lr)


def holds(node: dict[Any, Any], content: dict[str, Any]) -> bool:
    """Returns whether a section has all values of a YAML file; 1 is none for true."""
    return all(key in node and json.dumps(node[key]) == json.dumps(value) for key, value in content.items())


def sections(config: DictConfig, choices: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted key of each section that names a class, the section, and what our YAML file has there.

    Where an option is not ours, that is what no section has.
    """
    for group in GROUPS:
        several = group in list_groups()
        nodes = (config.get(group) or {}) if several else {choices[group]: config[group]}
        for option, node in nodes.items():
            is_ours = (CONF / group / f"{option}.yaml").is_file()
            content = shipped(f"{group}/{option}.yaml") if is_ours else {"": None}
            if several:
                yield f"{group}.{option}", node, content.get(option, content)
            else:
                yield group, node, content


@cache
def _construct(section: str, arguments: str, lr: Any) -> None:
    """Constructs the class of a section, unless it is a function: those read data, or build networks of timm."""
    import torch

    from ..config.instantiate import construct, find

    group, node = section.partition(".")[0], OmegaConf.create(json.loads(arguments))
    target = find(node, section)
    if not isinstance(target, type):
        return
    takes_tokens = "num_tokens" in signature(target).parameters
    with torch.device("meta"):
        params = [torch.zeros(1, requires_grad=True)]
        stand_ins: dict[str, Any] = {
            "num_classes": 10,
            "in_channels": 3,
            "image_shape": (3, 224, 224),
            "input_shape": (16,) if takes_tokens else (3, 224, 224),
            "num_tokens": 10,
            "progress": StandIn(),
            "duration": Duration.parse("1epochs"),
            "levels": lambda: [Fraction(0)],
            "reference": ([0.0], [1.0], [1.0]),
        }
        if group == "schedule":  # the first optimizer imports torch's compiler
            stand_ins["optimizer"] = torch.optim.SGD(params, lr if isinstance(lr, int | float) else 1.0)
        for key in set(node) & set(stand_ins):
            del node[key]
        common = tuple(shipped("config.yaml").get(group) or ())
        construct(node, section, *([params] if group == "optimizer" else []), common=common, **stand_ins)
