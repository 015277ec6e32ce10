"""The rules that values of the configuration keep, in the words of conf/allowed.yaml.

A rule is made of these words:

    [list of [COUNT]] KIND [RANGE] [or another such rule]

with KIND `integer`, `number`, `text`, `true or false`, `duration`, `time`, `section`, `one of A, B` or `null`; RANGE
`>= x`, `> x`, `in [a, b)` (any brackets). A list's KIND and RANGE are those of its elements. Numbers are finite,
integers fit into 64 bits.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from ...system.errors import UserError
from ..durations import Duration, is_time, usual_durations

GRAPHS_OF_INDUCTOR = "its graphs write over the outputs that records take; cuda_graph=auto, without compile, has graphs"
WHY_NOT = {("compile", mode): GRAPHS_OF_INDUCTOR for mode in ("reduce-overhead", "max-autotune")}
RULE_OF_TYPE = {int: "integer", float: "number", bool: "true or false", str: "text", NoneType: "null"}


def yaml_text(value: Any) -> str:
    """Returns a value as YAML has it."""
    if value is None or isinstance(value, bool):
        return str({None: "null", True: "true", False: "false"}[value])
    return "[" + ",".join(map(yaml_text, value)) + "]" if isinstance(value, list) else str(value)


def check_rule(key: str, value: Any, rule: str, text: str | None = None) -> None:
    """Raises UserError if a value does not keep a rule; `text` is how it was typed."""
    if not satisfies(value, rule):
        reason = f" ({why})" if isinstance(value, str) and (why := WHY_NOT.get((key, value))) else ""
        raise UserError(f"{key}={text or yaml_text(value)}: must be {rule_text(rule)}{reason}")


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


def rule_text(rule: str) -> str:
    """Returns a rule in words."""
    return " or ".join(map(_with_article, alternatives(rule)))


def _with_article(rule: str) -> str:
    if rule.startswith("one of"):
        return rule.removeprefix("one of ") if ", " not in rule else rule
    if rule not in ("true or false", "null"):
        rule = f"{'an' if rule[0] == 'i' else 'a'} {rule}"
    rule = rule.replace("list of one of", "list of any of")
    rule = rule.replace("duration", "duration (a positive number with a unit, as in 20epochs or 300steps)")
    return rule.replace("a time", "a time (as 10min, 90s or 2h)")
