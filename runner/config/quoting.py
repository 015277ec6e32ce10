"""Values that Hydra's grammar does not take as they were typed: quoted, or refused, before Hydra reads them."""

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from ..system.errors import UserError
from ..system.hydra_compat import parse_override
from .forms.rules import yaml_text
from .options import shipped
from .overrides import split_override

HYDRA_PATHS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
# a number on its own or in a list, and not a part of a word
NUMBER = re.compile(r"(?<![\w.'\"-])[+-]?((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.'\"])")


def quoted_overrides(overrides: list[str], in_sweep: bool) -> list[str]:
    """Returns overrides of which Hydra reads every value as it was typed.

    The value of a key that takes a text is that text: `model.weights=a,b=1/last.pt`, `run.name=42`. So is one that is
    the path of a file or folder, of any key. In a sweep a comma separates values.

    Raises:
        UserError: in a sweep, a value must be quoted; the line has the command to paste. Or a number is too small or
            too large for a floating-point number.
    """
    return [quoted(override, in_sweep) for override in overrides]


def quoted(override: str, in_sweep: bool) -> str:
    """Returns one override as `quoted_overrides` does."""
    sign, key, value = split_override(override)
    if not value or sign == "~":
        return override
    is_text, start = takes_text(key), f"{sign}{key}="
    if not is_text:
        check_numbers(override, value)
    try:
        parsed = parse_override(override)
    except HydraException:
        if not is_text and not is_path(value):
            return override  # Hydra's error is explained
        if in_sweep:
            raise UserError(must_be_quoted(start, value)) from None
        return start + in_quotes(value)
    if not parsed.is_sweep_override():
        return start + element(value, parsed.value(), is_text, sign)
    return start + several(parsed, value, is_text, in_sweep)


def several(parsed: Override, value: str, is_text: bool, in_sweep: bool) -> str:
    """Returns values with commas between, or a function as `range(1,3)`, as Hydra has to read them."""
    start = parsed.get_key_element() + "="
    is_whole = is_path(value)
    parts = value.split(",")
    elements = list(parsed.sweep_iterator()) if parsed.is_choice_sweep() and "(" not in value else []
    if not in_sweep and (is_whole or (is_text and elements)):
        return in_quotes(value)
    if in_sweep and is_whole and not all(map(is_path, parts)):
        raise UserError(must_be_quoted(start, value))
    if len(elements) != len(parts):
        return value
    texts = [e.text if isinstance(e, QuotedString) else e for e in elements]
    sign = start[: len(start) - len(start.lstrip("+"))]
    return ",".join(element(part, text, is_text, sign) for part, text in zip(parts, texts, strict=True))


def element(typed: str, value: Any, is_text: bool, sign: str) -> str:
    """Returns one value as Hydra has to read it.

    Args:
        typed: as typed.
        value: as Hydra reads that.
        is_text: whether the key takes a text.
        sign: of the key; one with a sign may be of a class of the user's, of which nothing is known.
    """
    if is_text and value is not None and (not isinstance(value, str) or (value != typed and is_path(typed))):
        return in_quotes(typed)
    is_number = isinstance(value, str) and typed[:1] in "'\"" and NUMBER.fullmatch(value)
    return str(value) if is_number and not is_text and not sign else typed


def takes_text(key: str) -> bool:
    """Returns whether a key takes a text: a name or a path."""
    is_set = key.startswith("evaluation_sets.") and key.endswith(".path")
    return is_set or key in HYDRA_PATHS or shipped("allowed.yaml").get(key) in ("text", "text or null")


def is_path(value: str) -> bool:
    """Returns whether a value is the path of a file or a folder."""
    return os.path.lexists(Path(value).expanduser())


def in_quotes(value: str) -> str:
    """Returns a text in the quotes of Hydra's grammar."""
    return QuotedString(value, Quote.double).with_quotes()


def literal(value: Any) -> str:
    """Returns a value as Hydra's grammar has it; a text is in quotes where it would be read as something else.

    >>> print(literal("a/last.pt"), literal("42"), literal(["x,y", 0.1, None]))
    a/last.pt "42" ["x,y",0.1,null]
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{literal(element)}" for key, element in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(literal, value)) + "]"
    if not isinstance(value, str):
        return yaml_text(value)
    try:
        is_read_as_text = parse_override(f"key=[{value}]").value() == [value]
    except HydraException:
        is_read_as_text = False
    return value if is_read_as_text else in_quotes(value)


def must_be_quoted(start: str, value: str) -> str:
    """Returns the line that says how a value with commas or other signs is typed in a sweep.

    Args:
        start: the key with its equals sign.
        value: as typed; several paths with commas between are told apart where they exist.
    """
    values, parts = [], value.split(",")
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((n for n in ends if is_path(",".join(parts[:n]))), len(parts))
        values.append(",".join(parts[:end]))
        parts = parts[end:]
    paste = shlex.quote(start + ",".join(map(in_quotes, values)))
    return f"{start}{value}: a value with such characters is quoted in a sweep; write {paste}"


def check_numbers(override: str, value: str) -> None:
    """Raises UserError for a number that would become zero or infinity as a floating-point number."""
    for match in NUMBER.finditer(value):
        number = float(match[1])
        if math.isinf(number) or (number == 0 and re.search("[1-9]", re.split("[eE]", match[1])[0])):
            bound = "larger than 1.8e308" if number else "smaller than 4.9e-324"
            raise UserError(f"{override}: {match[0]} is {bound}, which is no floating-point number")
