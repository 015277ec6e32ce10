"""Checks of a composed configuration that need nothing but the YAML files: unknown, missing and impossible values."""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..system.errors import UserError, nearest
from .forms.rules import alternatives, check_rule, rule_text, usual_form, yaml_text
from .options import CONF, Vocabulary, list_groups, option_content, rule_of_default, shipped
from .overrides import hint, split_override
from .renamed import new_key

# Functions that take any further key, and compare it with the signature of the class that they make.
OPEN_TARGETS = tuple(f"trainopt.{name}" for name in ("optimizers.timm_optimizer", "optimizers.pytorch_optimizer"))


def check_config(
    config: DictConfig, choices: dict[str, Any], vocabulary: Vocabulary, texts: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Raises UserError for the first key that is unknown, missing, or has a value that is not allowed.

    Parts whose class is not the one of the chosen YAML are left to `build`, which compares them with the
    class's signature.

    Args:
        config: changed where a value is a number in another form than its rule asks for, as 2e3 for an integer.
        choices: the option of each group.
        vocabulary: the options that there are.
        texts: the values that were typed, by key, for messages.
    """
    checked = check_keys(config, choices, vocabulary)
    for key, value in leaves(config):
        if isinstance(value, str) and value == "???":
            raise UserError(f"{key} is missing: give it as {key}=VALUE{_meaning(key, choices, vocabulary)}")
        usual = allowed_form(key, value, checked, choices, texts.get(key))
        if repr(usual) != repr(value):  # of equal numbers, one may be an integer
            OmegaConf.update(config, key, usual)


def allowed_form(key: str, value: Any, checked: set[str], choices: Mapping[str, Any], text: str | None = None) -> Any:
    """Returns a value in the form in which runs are compared.

    Args:
        key: of the value.
        value: as it was read.
        checked: the top-level keys that have rules, as of `check_keys`.
        choices: the option of each group.
        text: as it was typed; None: it was not.

    Raises:
        UserError: the value is not allowed.
    """
    group, _, name = key.partition(".")
    if group not in checked:
        return value
    # regularizer.l2.strength has the rule of regularizer.strength
    named = f"{group}.{name.partition('.')[2]}" if group in list_groups() else key
    usual = usual_form(value, shipped("allowed.yaml").get(named) or rule_of_default(key, choices))
    if usual is not None:
        return usual
    check_value(key, value, named, text)
    return value


def check_value(key: str, value: Any, named: str, text: str | None = None) -> None:
    """Raises UserError if a value does not keep the rule of conf/allowed.yaml that has a name.

    Args:
        key: of the value.
        value: as it was read.
        named: the rule's key.
        text: as it was typed; None: it was not.
    """
    rules = shipped("allowed.yaml")
    if named in rules:
        check_rule(key, value, rules[named], text)
    above = named.rpartition(".")[0]
    if above in rules and "section" not in alternatives(rules[above]):
        raise UserError(f"{key}={yaml_text(value)}: {above} must be {rule_text(rules[above])}")


def drop_replaced_defaults(
    config: DictConfig, choices: dict[str, Any], vocabulary: Vocabulary, overrides: list[str]
) -> None:
    """Drops what the YAML of an option says for its class, where the configuration names another one.

    `optimizer._target_=their.Optimizer` must not be handed the learning rate that is right for SGD. What was
    typed stays.

    Args:
        config: changed.
        choices: the option of each group.
        vocabulary: the options that there are.
        overrides: what was typed.
    """
    typed = {split_override(override)[1] for override in overrides}
    for section, node, content in replaced_classes(config, choices, vocabulary):
        values, common = as_written(node), vocabulary.common_keys(section)
        for key, value in content.items():
            unchanged = key in values and values[key] == value
            if unchanged and key not in common and f"{section}.{key}" not in typed:
                del node[key]


def choices_with_classes(config: DictConfig, choices: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns the choice of each group: its option or, where another class than the option's is named, that class."""
    replaced = replaced_classes(config, choices, vocabulary)
    classes = {section: str(node["_target_"] or "none") for section, node, _ in replaced}
    return {group: classes.get(group, option) for group, option in choices.items()}


def replaced_classes(
    config: DictConfig, choices: Mapping[str, Any], vocabulary: Vocabulary
) -> Iterator[tuple[str, DictConfig, dict[str, Any]]]:
    """Yields (dotted key, section, content of the YAML) where a section names another class than its option's YAML."""
    parts = [(group, config.get(group), group, option) for group, option in choices.items()]
    for group in list_groups():
        nodes = config.get(group)
        parts += [(f"{group}.{name}", nodes[name], group, name) for name in nodes or ()]
    for section, node, group, option in parts:
        path = vocabulary.file(group, str(option))
        content = option_content(path) if path is not None else {}
        if section != group:
            content = content.get(str(option)) or {}
        target = as_written(node).get("_target_", "???")
        if "_target_" in content and target not in ("???", content["_target_"]):
            yield section, node, content


def as_written(node: Any) -> dict[Any, Any]:
    """Returns a section with its interpolations left as text; empty where it is none."""
    return OmegaConf.to_container(node) if isinstance(node, DictConfig) else {}  # type: ignore[return-value]


def leaves(node: DictConfig, prefix: str = "") -> list[tuple[str, Any]]:
    """Returns (dotted key, resolved value) of everything that is no section; a missing value is '???'."""
    pairs: list[tuple[str, Any]] = []
    for name in node:
        key = prefix + str(name)
        if OmegaConf.is_missing(node, name):
            pairs.append((key, "???"))
            continue
        try:
            value = node[name]
        except OmegaConfBaseException as error:
            raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
        if isinstance(value, DictConfig) and value:
            pairs += leaves(value, f"{key}.")
        else:
            pairs.append((key, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value))
    return pairs


def check_keys(config: DictConfig, choices: dict[str, Any], vocabulary: Vocabulary) -> set[str]:
    """Raises UserError for a key that no YAML knows; returns the top-level keys that are as our YAMLs have them.

    What names another class than the chosen YAML of ours is not among these: its keys and values are its own. So are
    those of optimizers of other libraries.
    """
    defaults = shipped("config.yaml")
    groups = vocabulary.groups
    checked = list_groups()
    for name, node in sections(config):
        if name not in groups and name not in defaults:
            inside = leaves(node, f"{name}.")[:1] if isinstance(node, DictConfig) else []
            key, value = (inside or [(name, node)])[0]
            similar = hint(key, yaml_text(value)) or hint(name) or nearest(name, [*groups, *defaults])
            raise UserError(f"{key}: unknown key{similar}")
        if name not in groups:
            checked.add(name)
            if isinstance(defaults[name], dict):
                _check_section(name, node, list(defaults[name]))
            continue
        path = vocabulary.file(name, str(choices.get(name)))
        content = option_content(path) if path is not None and CONF in path.parents else {}
        target = content.get("_target_")
        if "_target_" in content and target not in OPEN_TARGETS and as_written(node).get("_target_") == target:
            checked.add(name)
            _check_section(name, node, [*content, *vocabulary.common_keys(name)])
    for name in groups:
        if name not in {"experiment", "debug", *list_groups()} and name not in config:
            raise UserError(missing_group(name, vocabulary))
    for name in (key for key in defaults if key != "defaults"):
        inside = defaults[name] if isinstance(defaults[name], dict) else {}
        for key in [name, *(f"{name}.{k}" for k in inside)]:
            *above, last = key.split(".")
            if last not in (config[above[0]] if above else config):
                raise UserError(f"{key} is missing: it cannot be left out; give {key}=VALUE")
    return checked


def missing_group(name: str, vocabulary: Vocabulary) -> str:
    """Returns the line that says that no option of a group is chosen."""
    return f"{name} is missing: give {name}=OPTION, one of {', '.join(vocabulary.options(name))}"


def sections(config: DictConfig) -> list[tuple[str, Any]]:
    """Returns (name, value) of the top level; None for what is missing or cannot be resolved: `leaves` says so."""
    pairs = []
    for name in map(str, config):
        try:
            pairs.append((name, config[name]))
        except OmegaConfBaseException:
            pairs.append((name, None))
    return pairs


def _check_section(prefix: str, node: Any, known: list[str]) -> None:
    if not isinstance(node, DictConfig):
        raise UserError(f"{prefix}={node}: is a section; give one of its keys, as in {prefix}.{known[0]}=VALUE")
    for key in map(str, node):
        if key not in known:
            value = yaml_text(as_written(node)[key])
            raise UserError(unknown_key(f"{prefix}.{key}", [f"{prefix}.{k}" for k in known], value))


def unknown_key(key: str, known: list[str], value: str = "VALUE") -> str:
    """Returns the line that says that a key is unknown and what would be right.

    Args:
        key: as typed.
        known: the keys that there are, with a plus where they are typed with one.
        value: as typed.
    """
    renamed = new_key(key, known)
    if renamed:
        return f"{key}: is now {renamed}"
    shown = [k for k in known if not k.endswith("._target_")]
    all_known = f"; known are {', '.join(shown)}" if shown else ""
    return f"{key}: unknown key{hint(key, value, known) or nearest(key, shown) or all_known}"


def _meaning(key: str, choices: dict[str, Any], vocabulary: Vocabulary) -> str:
    """Returns the comment behind a key in the YAML of the chosen option, which leaves it open, as ` (comment)`."""
    group, _, name = key.partition(".")
    path = vocabulary.file(group, str(choices.get(group)))
    text = path.read_text(encoding="utf-8") if path is not None else ""
    comment = re.search(rf"^{re.escape(name)}: \?\?\? # (.*)$", text, re.MULTILINE)
    return f" ({comment[1]})" if comment else ""
