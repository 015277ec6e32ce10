"""Names and arguments of another library's optimizers, compared with those that there are."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

REQUIRED = "<required parameter>"  # the default of an argument in old optimizers of torch, which is none


def check_name(key: str, name: str, names: Collection[str], library: str) -> None:
    """Raises ValueError if a library has no optimizer of a name, which is the value of a key."""
    if name not in names:
        raise ValueError(f"{key}={name}: {library} has no such optimizer{nearest(name, names)}")


def check_arguments(arguments: Mapping[str, Any], known: Iterable[str], owner: str) -> None:
    """Raises ValueError if an argument is none of those that an optimizer takes."""
    known = list(known)
    for key, value in arguments.items():
        if key not in known:
            choices = nearest(key, known, most=1) or f"; there are {', '.join(known)}"
            raise ValueError(f"{key}={value}: {owner} has no such argument{choices}")


def check_required(arguments: Mapping[str, Any], cls: Callable[..., Any]) -> None:
    """Raises ValueError if an argument that an optimizer needs is missing."""
    for parameter in argument_list(cls)[1:]:
        is_required = parameter.default is parameter.empty or repr(parameter.default) == REQUIRED
        if is_required and parameter.name not in arguments:
            sign = "" if parameter.name == "lr" else "+"
            raise ValueError(f"needs {parameter.name}; give it as {sign}optimizer.{parameter.name}=VALUE")


def argument_list(cls: Callable[..., Any]) -> list[inspect.Parameter]:
    """Returns the arguments of an optimizer's class that have names."""
    signature = inspect.signature(cls).parameters.values()
    return [p for p in signature if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def argument_names(cls: Callable[..., Any]) -> list[str]:
    """Returns the names of the arguments of an optimizer's class; the first are its parameters, or what has these."""
    return [parameter.name for parameter in argument_list(cls)]


def with_tuples(value: Any) -> Any:
    """Returns a value with tuples in place of lists, as libraries annotate betas."""
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def nearest(word: str, choices: Iterable[str], most: int = 3) -> str:
    """Returns `; did you mean A, B?` for the nearest choices, or an empty string.

    >>> nearest("adop", ["adopt", "sgd"]), nearest("xyz", ["adopt"])
    ('; did you mean adopt?', '')
    """
    matches = get_close_matches(word, list(choices), n=most, cutoff=0.6)
    return f"; did you mean {', '.join(matches)}?" if matches else ""
