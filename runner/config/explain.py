"""Hydra's and YAML's errors about a command line, each as one line that says what would be right."""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ..system.errors import cannot_write, nearest, one_line
from .options import Vocabulary, list_groups
from .overrides import chosen, split_override
from .renamed import RENAMED_OPTIONS, new_key
from .validate import missing_group, unknown_key


def explain(error: Exception, overrides: list[str], vocabulary: Vocabulary) -> str:
    """Returns one line about an error of composing a configuration.

    Args:
        error: what Hydra raised.
        overrides: what was typed, as in `optimizer.lr=0.1`.
        vocabulary: the options that there are.
    """
    if isinstance(error, yaml.YAMLError):
        return _broken_yaml(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(str(error.missing_cfg_file), error.options or (), vocabulary)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value ({one_line(error.message)[:160]})"
    if isinstance(error, ConfigCompositionException):
        return _composition(error, overrides, vocabulary)
    if isinstance(error, OmegaConfBaseException):  # the lines after the first are for its developers
        return (f"{error.full_key}: " if error.full_key else "") + str(error).splitlines()[0]
    if isinstance(error, UnicodeDecodeError):
        return _not_utf8(overrides, vocabulary)
    if isinstance(error, OSError) and error.strerror:
        return cannot_write(error)
    return one_line(error)


def _broken_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a YAML file"
    return f"{place}: is no valid YAML ({one_line(getattr(error, 'problem', None) or error)})"


def _not_utf8(overrides: list[str], vocabulary: Vocabulary) -> str:
    """Names the file of a chosen option that is no text in UTF-8."""
    for group, choice in chosen(overrides, vocabulary).items():
        for option in choice if isinstance(choice, list) else [choice]:
            path = vocabulary.file(group, str(option))
            if path is not None:
                try:
                    path.read_text(encoding="utf-8")
                except UnicodeDecodeError as error:
                    return f"{path}: is no text in UTF-8 (byte {error.start + 1}); save it in UTF-8"
    return "a YAML file in the configuration folders is no text in UTF-8"


def _missing_option(path: str, known: Sequence[str], vocabulary: Vocabulary) -> str:
    """Explains a choice that there is not; `known` are those that Hydra found, its own among them."""
    group, _, option = path.partition("/")
    if group == "hydra":
        group, _, option = path.rpartition("/")
    option = option.removesuffix(".yaml")
    renamed = RENAMED_OPTIONS.get(group, {}).get(option)
    if renamed:
        return f"{group}={option}: is now {group}={renamed}"
    options = known if group.startswith("hydra/") else vocabulary.options(group)
    if not options:
        return f"{path}: there is no such file in the configuration folders"
    hint = nearest(option, options)
    return f"{group}={option}: no such option{hint or ';'} there are {', '.join(options)}"


def _composition(error: ConfigCompositionException, overrides: list[str], vocabulary: Vocabulary) -> str:
    """Explains an override that does not fit what is there."""
    text = one_line(error)
    choices = chosen(overrides, vocabulary)
    for override in overrides:
        sign, key, _ = split_override(override)
        if sign == "~" and key in vocabulary.groups and text.startswith("Error resolving interpolation"):
            return missing_group(key, vocabulary)
        is_named = re.search(rf"'[+~]*{re.escape(key)}(?![\w.])", text)  # and not only what is above the one named
        if not is_named and f"{key}=" not in text:
            continue
        renamed = new_key(key, vocabulary.keys(choices))
        if renamed:
            return f"{key}: is now {renamed}"
        if "No match in the defaults list" in text or text.startswith("Could not override"):
            return _unknown(key, choices, overrides, vocabulary)
        if sign == "+" and "already at" in text:
            return f"{override}: the key is already there; write {override[1:]}"
        if sign == "~":
            return f"{override}: there is nothing to delete{nearest(key, vocabulary.keys(choices))}"
        return f"{override}: {text}"
    return text


def _unknown(key: str, choices: dict[str, Any], overrides: list[str], vocabulary: Vocabulary) -> str:
    group, _, name = key.partition(".")
    known = vocabulary.keys(choices)
    if group == "hydra":
        hint = nearest(key, [k for k in known if k.startswith("hydra.")])
        return f"{key}: Hydra has no such key{hint or '; trainopt --cfg hydra shows all'}"
    if group in vocabulary.groups and name:
        if any(split_override(o)[1] == f"{group}._target_" for o in overrides):
            return f"{key}: is no key of {group}={choices.get(group)}; for a class of your own write +{key}=VALUE"
        mine = [k for k in known if k.startswith(f"{group}.")]
        option, those = name.partition(".")[0], choices[group]
        if group in list_groups() and option in vocabulary.options(group) and option not in (those, *those):
            return f"{key}: {option} is not among the choices; give {group}=[{option}]"
        holders = vocabulary.holders(group, name)
        if holders:
            return f"{key}: {group}={choices.get(group)} has no such key; it is one of {', '.join(holders)}"
        return unknown_key(key, mine)
    hint = nearest(key, [*vocabulary.groups, *known])
    return f"{key}: unknown key{hint or '; trainopt --help shows all keys and groups'}"
