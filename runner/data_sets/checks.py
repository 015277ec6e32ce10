"""Checks that the keys of a configuration apply to its data."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from trainopt.data import DataSet

from ..config.options import shipped
from ..system.errors import UserError

IMAGE_KEYS = ("mean", "std", "pad", "size", "channels")  # of data


def changed_keys(config: DictConfig, section: str) -> Iterator[tuple[str, Any]]:
    """Yields the keys of a section of config.yaml, or of an option, that have not their defaults, and the values."""
    option = {"augmentation": "augmentation/none.yaml", "objective": "objective/cross_entropy.yaml"}.get(section)
    for key, default in (shipped(option) if option else shipped("config.yaml")[section]).items():
        value = config[section].get(key, default)
        if value != default:
            yield key, value


def check_image_keys(config: DictConfig, data: DataSet) -> None:
    """Refuses keys about images where inputs are none, and mixed classes where targets are none."""
    changed = [("augmentation", *item) for item in changed_keys(config, "augmentation")]
    if not data.is_images:
        changed += [("data", *item) for item in changed_keys(config, "data") if item[0] in IMAGE_KEYS]
        for section, key, value in changed:
            shape = list(data.input_shape)
            raise UserError(f"{section}.{key}={value}: is for images, and inputs have the shape {shape}; leave it out")
        if config.channels_last:
            raise UserError("channels_last=true: is for images, and there are none; leave it out")
        if config.model.trainable == "last_layer":
            raise UserError("model.trainable=last_layer: is for networks of images, and there are none; give all")
    for _, key, value in changed:
        if data.num_classes is None and key in ("mixup", "cutmix"):
            raise UserError(f"augmentation.{key}={value}: mixes classes, and the targets are real numbers; give 0")


def check_targets(config: DictConfig, data: DataSet) -> None:
    """Refuses cross-entropy of targets that are no classes."""
    if (
        data.num_classes is None
        and config.objective.get("_target_") == shipped("objective/cross_entropy.yaml")["_target_"]
    ):
        raise UserError("objective=cross_entropy: needs classes, and the targets are numbers; give objective=mse")
