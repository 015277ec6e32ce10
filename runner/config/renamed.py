"""Names that changed since version 0.1.0: of keys, options and classes.

An old name that is typed ends with one line that names the new one. Configurations on disk are read under their
new names. A fingerprint is taken under the names of version 0.1.0, so that no change of a name changes one.
"""

from collections.abc import Callable, Iterable
from typing import Any

from .options import CONF, shipped
from .overrides import split_override

PACKAGE = __package__.partition(".")[0]

# Keys of config.yaml, and of a sweeper.
RENAMED_KEYS = {
    "data.flip": "augmentation.flip",
    "data.shift": "augmentation.crop_padding",
    "data.shift_probability": "augmentation.crop_probability",
    "data.padding": "augmentation.fill",
    "data.cutout": "augmentation.cutout",
    "data.mixup": "augmentation.mixup",
    "early_stopping.metric": "selection_metric",
    "early_stopping.minimum_change": "early_stopping.min_delta",
    "early_stopping.precision": "early_stopping.min_step_norm",
    "hydra.sweeper.widen": "hydra.sweeper.max_extensions",
}

# Keys of a group, by the class of this package that they are arguments of, as in "optimizers.Cyclic": another class
# may have an argument of the same name.
RENAMED_ARGUMENTS: dict[str, dict[str, str]] = {
    "data.image_folder": {"data.crop_share": "data.crop_pct"},
    "optimizers.Multistep": {"schedule.factor": "schedule.gamma"},
    "optimizers.Exponential": {"schedule.rate": "schedule.gamma"},
    "optimizers.CosineRestarts": {"schedule.growth": "schedule.period_mult", "schedule.lowest": "schedule.min_lr"},
    "optimizers.Cyclic": {
        "schedule.low": "schedule.base_lr",
        "schedule.high": "schedule.max_lr",
        "schedule.half_cycle": "schedule.step_up",
        "schedule.form": "schedule.mode",
    },
    "optimizers.RangeTest": {
        "schedule.low": "schedule.base_lr",
        "schedule.high": "schedule.max_lr",
        "schedule.rise": "schedule.mode",
    },
}

# Options, by group.
RENAMED_OPTIONS: dict[str, dict[str, str]] = {
    "batching": {
        "controlled": "growth_control",
        "controlled_norm_test": "norm_test",
        "controlled_reference": "follow_reference",
    },
}

# Classes of this package.
RENAMED_TARGETS = {
    f"trainopt.{old}": f"trainopt.{new}"
    for old, new in {
        "data.ReferenceControl": "data.FollowReference",
        "runner.escape.Escape": "runner.ScheduledCheckpointDistance",
        "runner.fisher_probe.FisherProbe": "runner.probes.FisherProbe",
        "runner.gradient_noise_probe.GradientNoiseProbe": "runner.probes.GradientNoiseProbe",
        "runner.taylor_probe.TaylorProbe": "runner.probes.TaylorProbe",
        "runner.tensorboard.TensorBoard": "runner.TensorBoard",
    }.items()
}

# Defaults of renamed keys that are other values now, which mean the same: by the present name, (old, new).
RENAMED_DEFAULTS: dict[str, tuple[Any, Any]] = {"selection_metric": ("top1", None)}

# Keys and choices that came later, with the value that every run before had.
ADDED_KEYS: dict[str, Any] = {
    "batch_norm": "global",
    "cuda_graph": False,
    "devices_per_job": 1,
    "evaluation_sets": None,
    "data.workers": None,
    "augmentation._target_": "trainopt.data.Augmentation",
    "augmentation.cutmix": 0.0,
    "augmentation.random_erasing": 0.0,
    "augmentation.transforms": [],
    "objective._target_": f"{PACKAGE}.runner.objectives.CrossEntropy",
    "parameter_groups.no_decay": [],
    "parameter_groups.layer_decay": None,
    "parameter_groups.rules": [],
    "gradient.clip_norm": None,
    "gradient.clip_value": None,
    "gradient.accumulation_steps": 1,
    "averaging._target_": None,
}
ADDED_CHOICES = {"augmentation": "none", "averaging": "none", "objective": "cross_entropy"}
ADDED_ARGUMENTS: dict[str, dict[str, Any]] = {  # by the class, as in RENAMED_ARGUMENTS
    "runner.objectives.MeanSquaredError": {"objective.true_class_weight": 1.0, "objective.true_class_target": 1.0},
    "data.arrays": {"data.num_classes": None},
    "optimizers.AdaptiveNesterov": {"optimizer.weight_decay": 0.0},
    "optimizers.EHNewton": {
        "optimizer.preconditioner": "none",
        "optimizer.subspace": "none",
        "optimizer.subspace_every": 1,
        "optimizer.damping_per_output": False,
        "optimizer.loss_floor": None,
        "optimizer.weight_decay": 0.0,
    },
    "optimizers.Newton": {"optimizer.weight_decay": 0.0},
    "runner.probes.FisherProbe": {"probe.fisher.benchmark": False, "probe.fisher.share_gradients": False},
    "runner.probes.GradientNoiseProbe": {
        "probe.gradient_noise.benchmark": False,
        "probe.gradient_noise.share_gradients": False,
    },
    "data.image_folder": {"data.test": None, "data.check": False, "data.on_error": "stop", "data.max_value": None},
}


def new_key(key: str, known: Iterable[str]) -> str | None:
    """Returns the present name of a key that was renamed, or None.

    Args:
        key: as typed, as in `data.flip`.
        known: the keys of the configuration; an argument of a class has a new name only where this is one.
    """
    if key in RENAMED_KEYS:
        return RENAMED_KEYS[key]
    names = {arguments[key] for arguments in RENAMED_ARGUMENTS.values() if key in arguments}
    return next((name for name in known if name in names), None)


def with_new_names(content: dict[str, Any], choices: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the content of a run.yaml, which is changed, and its choices of options under the present names."""
    for section in list(content.values()):
        for node in [section, *(section.values() if isinstance(section, dict) else ())]:
            target = node.get("_target_") if isinstance(node, dict) else None
            if target in RENAMED_TARGETS:
                node["_target_"] = RENAMED_TARGETS[target]
    if "_target_" in _section(content, "logger"):  # before there could be several
        content["logger"] = {str(choices.pop("logger", "logger")): content["logger"]}
    for old, new in RENAMED_KEYS.items():
        _move(content, old, new)
    for new, (old_value, value) in RENAMED_DEFAULTS.items():
        if content.setdefault(new, value) == old_value:
            content[new] = value
    for target, arguments in RENAMED_ARGUMENTS.items():
        for old, new in arguments.items():
            if _section(content, old).get("_target_") == f"trainopt.{target}":
                _move(content, old, new)
    for key, value in _added_arguments(lambda key: _section(content, key).get("_target_")).items():
        _section(content, key).setdefault(key.rpartition(".")[2], value)
    for key, value in ADDED_KEYS.items():
        section, _, name = key.rpartition(".")
        (content.setdefault(section, {}) if section else content).setdefault(name, value)
    return content, ADDED_CHOICES | {group: _new_option(group, option) for group, option in choices.items()}


def with_first_names(values: dict[str, Any]) -> dict[str, Any]:
    """Returns values by dotted key under the names that version 0.1.0 had; keys that came later are left out."""
    keys = {new: old for old, new in RENAMED_KEYS.items()}
    added = {**ADDED_KEYS, **_added_arguments(lambda key: values.get(f"{key.rpartition('.')[0]}._target_"))}
    targets = {new: old for old, new in RENAMED_TARGETS.items()}
    for target, arguments in RENAMED_ARGUMENTS.items():
        for old, new in arguments.items():
            if values.get(f"{old.partition('.')[0]}._target_") == f"trainopt.{target}":
                keys[new] = old
    values |= {key: old for key, (old, new) in RENAMED_DEFAULTS.items() if values.get(key, old) == new}
    return {
        keys.get(key, key): targets.get(str(value), value) if key.endswith("_target_") else value
        for key, value in values.items()
        if key not in added or value != added[key]
    }


def _added_arguments(target_of: Callable[[str], Any]) -> dict[str, Any]:
    """Returns the arguments that came later, with the values that they had before, of the classes in use.

    Args:
        target_of: returns the class of the section that a key lies in.
    """
    return {
        key: value
        for target, arguments in ADDED_ARGUMENTS.items()
        for key, value in arguments.items()
        if target_of(key) == f"trainopt.{target}"
    }


def with_new_overrides(overrides: list[str]) -> list[str]:
    """Returns the overrides of a job, as a sweep.json has them, under the present names.

    >>> with_new_overrides(["schedule=exponential", "schedule.rate=0.9", "data.flip=0.5"])
    ['schedule=exponential', 'schedule.gamma=0.9', 'augmentation.flip=0.5']
    """
    parts = [split_override(override) for override in overrides]
    typed = {key: value for _, key, value in parts}
    names = dict(RENAMED_KEYS)
    for target, arguments in RENAMED_ARGUMENTS.items():
        typed_here = {old: new for old, new in arguments.items() if old in typed}
        names |= {old: new for old, new in typed_here.items() if _may_name(typed, old.partition(".")[0], target)}
    renamed = []
    for sign, key, value in parts:
        new = names.get(key, key) if sign != "+" else key  # what was added is an argument of a class of the user
        option = RENAMED_OPTIONS.get(key, {}).get(value, value)
        renamed.append(f"{sign}{new}={option}" if value else f"{sign}{new}")
    return renamed


def _may_name(typed: dict[str, str], group: str, target: str) -> bool:
    """Returns whether a class of ours can be that of a group, by the options that were typed."""
    option = f"{group}/{typed.get(group)}.yaml"
    is_shipped = (CONF / option).is_file() and shipped(option)["_target_"] == f"trainopt.{target}"
    return f"{group}._target_" not in typed and (group not in typed or is_shipped)


def _new_option(group: str, option: Any) -> Any:
    """Returns the present name of an option, or of each of a list."""
    names = RENAMED_OPTIONS.get(group, {})
    return [names.get(o, o) for o in option] if isinstance(option, list) else names.get(option, option)


def _move(content: dict[str, Any], old: str, new: str) -> None:
    """Gives a key its new name, unless this is taken: the old one is then that of a class of the user."""
    names = old.rpartition(".")[2], new.rpartition(".")[2]
    from_section, to_section = _section(content, old), _section(content, new) if "." in new else content
    if names[0] in from_section and names[1] not in to_section:
        if "." in new:
            to_section = content.setdefault(new.partition(".")[0], {})
        to_section[names[1]] = from_section.pop(names[0])


def _section(content: dict[str, Any], key: str) -> dict[str, Any]:
    """Returns the section that a key lies in, or that it is; empty where there is none."""
    section: Any = content
    for name in key.split(".")[:-1] or [key]:
        section = section.get(name) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else {}
