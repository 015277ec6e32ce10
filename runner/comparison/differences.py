"""The keys of a configuration in which runs differ, and the names that methods have from them. Needs no torch."""

import math
from collections.abc import Iterable, Mapping
from string import Template
from typing import Any

import pandas as pd

from ..config.options import COMMON, component_of, dotted, following_groups, shipped_option
from ..records.run_folder import KEYS_WITHOUT_EFFECT
from ..system.errors import UserError, nearest

CHOICES_WITH_KEYS = ("choices.logger", "choices.experiment", "choices.debug")  # their keys are compared instead
KEYS_APART = (*KEYS_WITHOUT_EFFECT, "metric.", "evaluation_sets")  # what is measured makes no other method


def typed_text(value: Any) -> str:
    """Returns a value of a configuration as one types it on the command line."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else str(value).replace(" ", "")


def configs_as_text(configs: pd.DataFrame) -> pd.DataFrame:
    """Returns configurations with all values as text."""
    return configs.map(typed_text)


def varied_keys(text: pd.DataFrame) -> list[str]:
    """Returns the keys that differ, without the seed and those without effect on a run's results."""
    keys = [key for key in text if key not in ("seed", *CHOICES_WITH_KEYS) and not key.startswith(KEYS_APART)]
    return [key for key in keys if text[key].nunique() > 1]


def differing_keys(configs: pd.DataFrame) -> list[str]:
    """Returns the keys in which methods differ: choices, and keys that do not follow from these alone.

    That Adam's learning rate is not SGD's follows from `optimizer=adam`, and is no key of its own. Duration and batch
    size follow from no optimizer: they are keys wherever they differ. The keys of a diagnostic or a regularizer that
    some runs lack follow from its class.
    """
    text = configs_as_text(configs)
    varied = varied_keys(text)
    choices = [key for key in varied if key.startswith("choices.")]
    recipes = recipe_keys(text)

    def differs(key: str) -> bool:
        causes = [choice for choice in choices if follows_from(key, choice, text, recipes)]
        component = component_of(key)
        if component and key != f"{component}._target_" in varied:
            causes.append(f"{component}._target_")
        return not causes or bool((text.groupby(causes, sort=False)[key].nunique() > 1).any())

    return [*choices, *(key for key in varied if key not in choices and differs(key))]


def follows_from(key: str, choice: str, text: pd.DataFrame, recipes: Mapping[str, list[str]]) -> bool:
    """Returns whether a choice says the value of a key: its YAML does, or the recipe of an experiment for it.

    Diagnostics change no result, and may be those that a choice needs.

    Args:
        key: as in `optimizer.lr`.
        choice: as in `choices.optimizer`.
        text: configurations as text.
        recipes: as of `recipe_keys`.
    """
    group, _, name = key.partition(".")
    option_group = choice.removeprefix("choices.")
    if group == "probe" or option_group in recipes.get(key, ()):
        return True
    if group != option_group:
        return False
    return name not in COMMON.get(group, ()) or any(
        name in shipped_option(group, option) for option in set(text[choice])
    )


def recipe_keys(text: pd.DataFrame) -> dict[str, list[str]]:
    """Returns the keys that recipes of experiments set, each with the groups that choose the recipe."""
    keys: dict[str, list[str]] = {}
    for group, template in following_groups().items():
        groups = Template(template).get_identifiers()
        columns = [f"choices.{name}" for name in groups]
        if not set(columns) <= set(text):
            continue
        for values in text[columns].drop_duplicates().itertuples(index=False):
            option = Template(template).substitute(dict(zip(groups, values, strict=True)))
            keys |= dict.fromkeys(dotted("", shipped_option(group, option)), groups)
    return keys


def selected_keys(configs: pd.DataFrame, by: Iterable[str], option: str = "--by") -> list[str]:
    """Returns the columns of keys as people type them; UserError, about `option`, for a key that no run has."""
    columns = []
    for key in by:
        column = f"choices.{key}" if f"choices.{key}" in configs else key
        if column not in configs:
            keys = [c.removeprefix("choices.") for c in configs]
            raise UserError(f"{option} {key}: none of the runs has such a key{nearest(key, keys)}")
        columns.append(column)
    return columns


def method_name(keys: list[str], values: Iterable[str]) -> str:
    """Returns the name of a method, from keys and their values; without a `name` that the option has too.

    >>> method_name(["choices.optimizer", "optimizer.name"], ["timm", "adopt"])
    'optimizer=timm optimizer.name=adopt'
    >>> method_name(["choices.optimizer", "optimizer.name"], ["lion", "lion"])
    'optimizer=lion'
    >>> method_name(["probe.fisher._target_"], [""]), method_name([], [])
    ('without probe.fisher', 'all runs')
    """
    pairs = dict(zip((key.removeprefix("choices.") for key in keys), values, strict=True))
    repeated = {
        key for key, value in pairs.items() if pairs.get(key.removesuffix(".name")) == value and key.endswith(".name")
    }
    name = " ".join(f"{key}={value}" for key, value in pairs.items() if value and key not in repeated)
    if name or not pairs:
        return name or "all runs"
    return f"without {', '.join(dict.fromkeys(component_of(key) or key for key in pairs))}"
