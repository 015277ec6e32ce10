"""Checks of a composed configuration that need nothing but the YAML files: unknown, missing and impossible values.

A rule of conf/allowed.yaml is made of these words:

    [list of [COUNT]] KIND [RANGE] [or another such rule]

with KIND `integer`, `number`, `text`, `true or false`, `duration`, `time`, `section`, `one of A, B` or `null`; RANGE
`>= x`, `> x`, `in [a, b)` (any brackets). A list's KIND and RANGE are those of its elements. Numbers are finite,
integers fit into 64 bits.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..system.errors import UserError, nearest
from .durations import Duration, is_time, usual_durations
from .options import CONF, Vocabulary, list_groups, option_content, rule_of_default, shipped
from .overrides import hint, split_override
from .renamed import new_key

# Functions that take any further key, and compare it with the signature of the class that they make.
OPEN_TARGETS = tuple(f"trainopt.{name}" for name in ("optimizers.timm_optimizer", "optimizers.pytorch_optimizer"))

GRAPHS_OF_INDUCTOR = "its graphs write over the outputs that records take; cuda_graph=auto, without compile, has graphs"
WHY_NOT = {("compile", mode): GRAPHS_OF_INDUCTOR for mode in ("reduce-overhead", "max-autotune")}
RULE_OF_TYPE = {int: "integer", float: "number", bool: "true or false", str: "text", NoneType: "null"}


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


def usual_form(value: Any, rule: str) -> Any:
    """Returns a value in the form in which runs are compared, or None where it does not keep its rule.

    >>> usual_form("2epoch", "duration"), usual_form(2e3, "integer >= 1"), usual_form(2e3, "duration")
    ('2epochs', 2000, None)
    """
    if "duration" in rule and isinstance(value, str | list) and satisfies(value, rule):
        return usual_durations(value)
    return number_for(value, rule)


def number_for(value: Any, rule: str) -> Any:
    """Returns the number that keeps a rule where a value in another form does not; None where there is none.

    >>> number_for(2e3, "integer >= 1"), number_for("1e-3", "number > 0"), number_for(2.5, "integer >= 1")
    (2000, 0.001, None)
    >>> number_for([2e1, 8], "list of integer >= 1 or null")
    [20, 8]
    """
    if not rule or not isinstance(value, str | float | list) or satisfies(value, rule):
        return None
    if isinstance(value, list):
        rules = [of_elements(part)[1] for part in alternatives(rule)]
        lists = ([v if (n := number_for(v, element)) is None else n for v in value] for element in rules)
        return next((numbers for numbers in lists if satisfies(numbers, rule)), None)
    try:
        number = float(value)
    except ValueError:
        return None
    forms = [int(number), number] if number.is_integer() else [number]
    return next((form for form in forms if satisfies(form, rule)), None)


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
        raise UserError(f"{key}={yaml_text(value)}: {above} must be {_rule_text(rules[above])}")


def check_rule(key: str, value: Any, rule: str, text: str | None = None) -> None:
    """Raises UserError if a value does not keep a rule; `text` is how it was typed."""
    if not satisfies(value, rule):
        reason = f" ({why})" if isinstance(value, str) and (why := WHY_NOT.get((key, value))) else ""
        raise UserError(f"{key}={text or yaml_text(value)}: must be {_rule_text(rule)}{reason}")


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
        known: the keys that there are.
        value: as typed.
    """
    renamed = new_key(key, known)
    if renamed:
        return f"{key}: is now {renamed}"
    shown = [k for k in known if not k.endswith("._target_")]
    all_known = f"; known are {', '.join(shown)}" if shown else ""
    return f"{key}: unknown key{hint(key, value, known) or nearest(key, shown) or all_known}"


def satisfies(value: Any, rule: str) -> bool:
    """Returns whether a value keeps a rule of conf/allowed.yaml.

    >>> satisfies(0.9, "number in [0, 1)"), satisfies(1, "number in [0, 1)")
    (True, False)
    >>> satisfies([16, 32], "list of integer >= 1"), satisfies("32", "integer >= 1")
    (True, False)
    >>> satisfies([5, 2, 1], "integer >= 1 or list of integer >= 1"), satisfies(None, "integer >= 1 or null")
    (True, True)
    """
    if len(parts := alternatives(rule)) > 1:
        return any(satisfies(value, part) for part in parts)
    if rule == "null":
        return value is None
    if rule == "section":
        return isinstance(value, dict)
    if rule.startswith("list of "):
        count, element = of_elements(rule)
        right = isinstance(value, list) and (count is None or len(value) == int(count))
        return right and all(satisfies(v, element) for v in value)
    if rule.startswith("one of "):
        return any(type(value) is type(c) and value == c for c in map(yaml_scalar, rule[7:].split(", ")))
    if rule == "true or false":
        return isinstance(value, bool)
    kind, _, bounds = rule.partition(" ")
    if kind == "text":
        return isinstance(value, str) and bool(value.strip())
    if kind in ("duration", "time"):
        return Duration.is_valid(value) and is_time(value) == (kind == "time")
    number = isinstance(value, int) if kind == "integer" else isinstance(value, int | float)
    fits = number and not isinstance(value, bool) and (isinstance(value, float) or abs(value) < 2**63)
    return fits and math.isfinite(value) and _within(value, bounds)


def of_elements(rule: str) -> tuple[str | None, str]:
    """Returns the number of elements that the rule of a list asks for, or None, and their rule; of other rules ""."""
    match = re.fullmatch(r"list of (?:(\d+) )?(.*)", rule)
    return (match[1], match[2]) if match else (None, "")


def rule_of(annotation: Any) -> str | None:
    """Returns the rule that the type of an argument is; None where there is no such rule.

    >>> rule_of(int | Sequence[float] | None), rule_of(tuple[float, float])
    ('integer or list of number or null', 'list of 2 number')
    """
    if annotation in RULE_OF_TYPE:
        return RULE_OF_TYPE[annotation]
    origin = get_origin(annotation)
    if origin is Callable:
        return None
    parts = [rule_of(part) for part in get_args(annotation) if part is not Ellipsis]
    if None in parts:
        return None
    if origin in (Union, UnionType):
        return " or ".join(map(str, parts))
    if origin is tuple and Ellipsis not in get_args(annotation):
        return f"list of {len(parts)} {parts[0]}"
    return f"list of {parts[0]}" if origin in (list, tuple, Sequence, Iterable) else None


def alternatives(rule: str) -> list[str]:
    """Returns what a rule allows, one by one.

    >>> alternatives("true or false or null")
    ['true or false', 'null']
    """
    return re.split(r" or (?!false)", rule)


def yaml_scalar(word: str) -> str | bool:
    """Returns the value that a word stands for in YAML: true and false are no text."""
    return {"true": True, "false": False}.get(word, word)


def _within(value: float, bounds: str) -> bool:
    if not bounds:
        return True
    if bounds.startswith("in "):
        low, high = (float(x) for x in bounds[4:-1].split(", "))
        above = value >= low if bounds[3] == "[" else value > low
        return above and (value <= high if bounds[-1] == "]" else value < high)
    sign, limit = bounds.split(" ")
    return value >= float(limit) if sign == ">=" else value > float(limit)


def _rule_text(rule: str) -> str:
    return " or ".join(map(_with_article, alternatives(rule)))


def _with_article(rule: str) -> str:
    if rule.startswith("one of"):
        return rule.removeprefix("one of ") if ", " not in rule else rule
    if rule not in ("true or false", "null"):
        rule = f"{'an' if rule[0] == 'i' else 'a'} {rule}"
    rule = rule.replace("list of one of", "list of any of")
    rule = rule.replace("duration", "duration (a positive number with a unit, as in 20epochs or 300steps)")
    return rule.replace("a time", "a time (as 10min, 90s or 2h)")


def yaml_text(value: Any) -> str:
    """Returns a value as YAML has it."""
    if value is None or isinstance(value, bool):
        return str({None: "null", True: "true", False: "false"}[value])
    return "[" + ",".join(map(yaml_text, value)) + "]" if isinstance(value, list) else str(value)


def _meaning(key: str, choices: dict[str, Any], vocabulary: Vocabulary) -> str:
    """Returns the comment behind a key in the YAML of the chosen option, which leaves it open, as ` (comment)`."""
    group, _, name = key.partition(".")
    path = vocabulary.file(group, str(choices.get(group)))
    text = path.read_text(encoding="utf-8") if path is not None else ""
    comment = re.search(rf"^{re.escape(name)}: \?\?\? # (.*)$", text, re.MULTILINE)
    return f" ({comment[1]})" if comment else ""
