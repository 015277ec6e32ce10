"""Hydra's and YAML's errors about a command line, each as one line that says what would be right."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ..system.errors import cannot_write, continued, nearest, one_line
from .options import CONF, Vocabulary, default_choices, list_groups, option_content, read
from .overrides import (
    NO_CLASSES,
    OTHER_OPTIONS,
    PLUGINS,
    chosen,
    hint,
    is_dotted,
    no_override,
    option_of_name,
    own_target,
    split_override,
)
from .renamed import RENAMED_OPTIONS, new_key
from .validate import OPEN_TARGETS, missing_group, unknown_key

# What Hydra says of an override (a pattern), and what the user is told.
LINES = {
    "already at": "the key is already there; write {bare}",
    "^Ambiguous value": "several values are a sweep: trainopt -m {key}={value}; a list is {key}=[{value}]",
    "requires --multirun$": "several values are a sweep: trainopt -m {key}={value}",
    "^Sweeping over Hydra": "a sweep cannot change what Hydra itself is told",
    "^Error merging override": "the key takes no such value",
    "^Could not delete from config. The value of": "the key has another value",
    "^Override .* looks like a config group": "there is no such group",
}

NO_NAMES = ("true", "false")  # what Hydra takes for another value than a name


def explain(error: Exception, overrides: list[str], vocabulary: Vocabulary) -> str:
    """Returns one line about an error of composing a configuration.

    Args:
        error: what Hydra raised.
        overrides: what was typed, as in `optimizer.lr=0.1`.
        vocabulary: the options that there are.
    """
    if isinstance(error, yaml.YAMLError):
        return broken_yaml(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(str(error.missing_cfg_file), error.options or (), vocabulary)
    if isinstance(error, OverrideParseException):
        key = split_override(error.override)[1]
        if key and not key.isascii():
            return f"{key}: unknown key{nearest(key, vocabulary.keys(chosen(overrides, vocabulary)))}"
        if "=" not in error.override and not error.override.startswith("~"):
            return no_override(error.override, [*vocabulary.groups, *vocabulary.keys(chosen(overrides, vocabulary))])
        message = one_line(error.message).partition(" See https:")[0]  # of Hydra's grammar
        return f"{error.override}: cannot be read as key=value ({message[:160]})"
    if isinstance(error, ConfigCompositionException):
        return wrong_choice(overrides, vocabulary) or _composition(error, overrides, vocabulary)
    missing = re.search(r"Missing mandatory value: (\S+)", str(error))
    if missing and isinstance(error, OmegaConfBaseException):
        return f"{missing[1]} is missing: it cannot be left out; give {missing[1]}=VALUE"
    if isinstance(error, OmegaConfBaseException):  # the lines after the first are for its developers
        without_keys = [path for path in vocabulary.files_of(chosen(overrides, vocabulary)) if not read(path)]
        if without_keys:
            return no_keys(without_keys[0])
        return (f"{error.full_key}: " if error.full_key else "") + str(error).splitlines()[0]
    if isinstance(error, UnicodeDecodeError):
        return _not_utf8(overrides, vocabulary)
    if isinstance(error, OSError) and error.strerror:
        return cannot_write(error)
    return wrong_choice(overrides, vocabulary) or one_line(error)


def no_keys(path: Path) -> str:
    """Returns the line about the YAML file of an option that is empty, or a list."""
    return f"{path}: holds no keys; an option is a section of keys, as in _target_: package.Class"


def broken_yaml(error: Exception) -> str:
    """Returns the line about a file that cannot be parsed, with the place in it."""
    mark = getattr(error, "problem_mark", None)
    place = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a YAML file"
    return f"{place}: is no valid YAML ({one_line(getattr(error, 'problem', None) or error)})"


def not_utf8(path: Path, error: UnicodeDecodeError) -> str:
    """Returns the line about a file that is no text in UTF-8."""
    return f"{path}: is no text in UTF-8 (byte {error.start + 1}); save it in UTF-8"


def _not_utf8(overrides: list[str], vocabulary: Vocabulary) -> str:
    """Names the file of a chosen option that is no text in UTF-8."""
    for path in vocabulary.files_of(chosen(overrides, vocabulary)):
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            return not_utf8(path, error)
    return "a YAML file in the configuration folders is no text in UTF-8"


def _missing_option(path: str, hydras: Sequence[str], vocabulary: Vocabulary) -> str:
    """Explains a choice that there is not.

    Args:
        path: of the option's YAML, below a configuration folder.
        hydras: the options of the group that Hydra lists.
        vocabulary: the options of other groups than Hydra's.
    """
    group, _, option = path.partition("/")
    if group == "hydra":
        group, _, option = path.rpartition("/")
    option = option.removesuffix(".yaml")
    options = hydras if group.startswith("hydra/") else vocabulary.options(group)
    return no_such_option(group, option, options) if options else f"{path}: there is no such file in --config-dir"


def no_such_option(group: str, option: str, options: Sequence[str]) -> str:
    """Returns the line that says that a group has no such option, and what would be right."""
    renamed = RENAMED_OPTIONS.get(group, {}).get(option)
    if renamed:
        return f"{group}={option}: is now {group}={renamed}"
    package = PLUGINS.get(f"{group}={option}")
    if package:
        return f"{group}={option}: is not installed; pip install {package}"
    others = f"; {OTHER_OPTIONS[group]}" if group in OTHER_OPTIONS else ""
    if is_dotted(option) and group not in NO_CLASSES and not group.startswith("hydra/"):
        right = f"a class or function of your own is {own_target(group, option)}"
        return f"{group}={option}: no such option; {right}{others}"
    here = option_of_name(group, option, options)
    similar = f"; did you mean {here}?" if here else nearest(option, options)
    if not similar and not group.startswith("hydra/"):
        others += f"; one of your own is a file DIR/{group}/{option}.yaml, with --config-dir DIR"
    return continued(f"{group}={option}: no such option{similar}", f"there are {', '.join(options)}{others}")


def wrong_choice(overrides: list[str], vocabulary: Vocabulary) -> str | None:
    """Returns the line about the first override that chooses no option of its group; None where there is none.

    Hydra merges the options of a list, for which only some groups are made.
    """
    defaults = default_choices()
    for override in overrides:
        sign, group, value = split_override(override)
        if not group:
            return f"{override}: cannot be read as key=value"
        if group not in vocabulary.groups:
            continue
        if sign.startswith("+") and group in defaults:
            return f"{override}: the group is already there; write {group}={value}"
        options = vocabulary.options(group)
        example = defaults.get(group) or (f"[{options[0]}]" if group in list_groups() else options[0])
        names = [name.strip() for name in value.strip("[]").split(",")]
        if sign == "~" and group in list_groups():
            return f"{override}: no option of {group} is chosen by {group}=[]"
        if sign == "~":
            wrong = bool(value)
        elif value.startswith("["):
            wrong = group not in list_groups() or len(set(names)) < len(names)
        else:
            wrong = value.startswith("{") or (value == "null" and defaults.get(group, "") is not None)
        if wrong:
            right = f"~{group}" if sign == "~" else f"{group}={example}"
            several = ", each once" if group in list_groups() else ""
            return f"{override}: takes the name of an option{several}, as in {right}"
        if value in NO_NAMES or re.fullmatch(r"[-+]?[\d.]+", value):
            return no_such_option(group, value, options)
    return None


def _composition(error: Exception, overrides: list[str], vocabulary: Vocabulary) -> str:
    """Explains an override that does not fit the configuration."""
    text = one_line(error)
    choices = chosen(overrides, vocabulary)
    for override in overrides:
        sign, key, value = split_override(override)
        if sign == "~" and key in vocabulary.groups and text.startswith("Error resolving interpolation"):
            return missing_group(key, vocabulary)
        is_named = re.search(rf"'[+~]*{re.escape(key)}(?![\w.])", text)  # and not only what is above the one named
        if not is_named and f"{key}=" not in text:
            continue
        renamed = new_key(key, vocabulary.keys(choices))
        if renamed:
            return f"{key}: is now {renamed}"
        not_taken = None if sign == "~" else _not_taken(key, choices, overrides, vocabulary)
        if not_taken is not None:
            return not_taken
        if "No match in the defaults list" in text or text.startswith("Could not override"):
            return _unknown(key, value, choices, overrides, vocabulary)
        for pattern, line in LINES.items():
            if re.search(pattern, text):
                return f"{override}: " + line.format(bare=override.lstrip("+"), key=key, value=value)
        if sign == "~":
            return f"{override}: there is nothing to delete{nearest(key, vocabulary.keys(choices))}"
        return f"{override}: {text}"
    return text


def _not_taken(key: str, choices: dict[str, Any], overrides: list[str], vocabulary: Vocabulary) -> str | None:
    """Returns the line about a key of a group that the class of the user's own does not take; None where it may."""
    group, _, name = key.rpartition(".")
    target = _own_class(group, choices, overrides, vocabulary)
    if target is None or name in ("_target_", *vocabulary.common_keys(group)):
        return None
    from .instantiate import arguments_of, takes_any  # imports torch

    arguments, known = arguments_of(target, group), vocabulary.keys(choices)
    if name in arguments or takes_any(target):
        return None
    keys = [k if k in known else f"+{k}" for k in (f"{group}.{argument}" for argument in arguments)]
    right = nearest(key, keys) or f"; its arguments are {', '.join(keys) or 'none'}"
    return f"{key}: {target} takes no {name}{right}"


def _own_class(group: str, choices: dict[str, Any], overrides: list[str], vocabulary: Vocabulary) -> str | None:
    """Returns the class that is typed for a group, or that an option of the user's own names; None where none is."""
    if group not in vocabulary.groups or group in list_groups():
        return None
    typed = next((value for _, key, value in map(split_override, overrides) if key == f"{group}._target_"), None)
    path = vocabulary.file(group, str(choices.get(group)))
    return typed if typed or path is None or CONF in path.parents else option_content(path).get("_target_")


def _unknown(key: str, value: str, choices: dict[str, Any], overrides: list[str], vocabulary: Vocabulary) -> str:
    group, _, name = key.partition(".")
    known = vocabulary.keys(choices)
    if key == "hydra.launcher.n_jobs":
        return f"{key}: is a key of hydra/launcher=joblib, which makes several runs at a time; give both"
    if group == "hydra":
        similar = nearest(key, [k for k in known if k.startswith("hydra.")])
        return f"{key}: Hydra has no such key{similar or '; trainopt --cfg hydra shows all'}"
    if group in vocabulary.groups and name:
        if group in list_groups() and name == "_target_":
            return f"{key}: one of your own has a name; write {own_target(group, value)}"
        if _own_class(group, choices, overrides, vocabulary):
            return f"{key}: is no key of {group}={choices.get(group)}; for a class of your own write +{key}={value}"
        of_group = [k for k in known if k.startswith(f"{group}.")]
        option, choice = name.partition(".")[0], choices[group]
        if group in list_groups() and option not in (choice, *choice):
            if option in vocabulary.options(group):
                return f"{key}: {option} is not among the choices; give {group}=[{option}]"
            of_choice = next((k for k in known if k.startswith(f"{group}.") and k.endswith(f".{name}")), None)
            if of_choice is not None:
                return f"{key}: unknown key; did you mean {of_choice}={value}?"
            target = value if key.endswith("._target_") else "package.Class"
            return f"{key}: there is no {group} {option}; one of your own is +{group}.{option}._target_={target}"
        path = vocabulary.file(group, str(choices.get(group)))
        content = option_content(path) if path is not None else {}
        if content.get("_target_") in OPEN_TARGETS and content.get("name") == "???":
            return f"{key}: is not in {group}={choices[group]}; if its class takes it, write +{key}={value}"
        meant = option_of_name(group, value, vocabulary.options(group)) if name == "name" else None
        if meant:
            return f"{key}: {group}={choices.get(group)} has no such key; did you mean {group}={meant}?"
        holders = vocabulary.holders(group, name)
        if holders:
            return f"{key}: {group}={choices.get(group)} has no such key; it is one of {', '.join(holders)}"
        return unknown_key(key, of_group, value)
    of_section = [k for k in known if k.startswith(f"{group}.")]
    if of_section and name:
        return unknown_key(key, of_section, value)
    right = hint(key, value) or hint(group) or held_by(key, known, vocabulary)
    if name == "_target_":  # which every group has
        similar = nearest(group, vocabulary.groups).replace("?", "._target_?")
    else:
        similar = nearest(key, [*vocabulary.groups, *known])
    return f"{key}: unknown key{right or similar or '; trainopt --help shows all keys and groups'}"


def held_by(key: str, known: Sequence[str], vocabulary: Vocabulary) -> str | None:
    """Returns which options of a group have a key that was typed without its group; None where none has.

    Args:
        key: as typed.
        known: the keys of the options that are chosen: where one of them ends so, it is the nearest.
        vocabulary: the options that there are.
    """
    if any(name.endswith(f".{key}") for name in known):
        return None
    for group in vocabulary.groups:
        options = vocabulary.holders(group, key)
        if options and group not in ("experiment", "debug"):
            return f"; did you mean {group}.{key}? it is a key of {group}={', '.join(options)}"
    return None
