"""Comparing a plug-in with the contract of its group: what it must have, and what it is taken to have.

A contract is a Protocol. Members that are abstract, or annotated without a value, are required. The others are
optional: their values in the contract are the defaults.
"""

import types
from difflib import get_close_matches
from inspect import getattr_static
from typing import Any, TypeVar, cast

from ..system.errors import UserError

T = TypeVar("T")

SIMILAR = 0.8  # difflib's ratio from which on a name is taken for a misspelt one
SHORT = 4  # a name of so many letters is similar to too many others


def complete(plugin: object, contract: type[T], key: str, one_of: tuple[str, ...] = ()) -> T:
    """Returns a plug-in with all members of its contract: what it leaves out has the contract's default.

    For this it gets a class of its own, derived from the class that it had. As attributes of the instance the
    defaults would be saved with the state of torch's schedules, which is all of their attributes; as attributes of
    its class they would be everybody's.

    Args:
        plugin: an object that a configuration names.
        contract: the Protocol of its group.
        key: the plug-in's dotted key, for messages.
        one_of: optional members of which it must have one.

    Raises:
        UserError: a required member is missing; or an optional one, while another has nearly its name; or it takes no
            members.
    """
    required, optional = members(contract)
    name = type(plugin).__name__
    missing = [member for member in (*required, *optional) if not has(plugin, contract, member)]
    needed = [member for member in missing if member in required]
    if one_of and set(one_of) <= set(missing):
        needed.append(one_of[0])
    if needed:
        kinds = {what: [m for m in needed if kind_of(m, contract) == what] for what in ("attribute", "method")}
        lacks = [f"no {what} {' or '.join(names)}" for what, names in kinds.items() if names]
        raise UserError(f"{key}: {name} is no {contract.__name__.lower()}; it has {' and '.join(lacks)}")
    for member in missing:
        what = kind_of(member, contract)
        if misspelt := similar(plugin, member, what == "method", {*required, *optional}):
            raise UserError(f"{key}: {name} has a misspelt {what} {misspelt}; did you mean {member}?")
    defaults = {member: optional[member] for member in missing if not hasattr(plugin, member)}
    try:
        if defaults:
            extend(plugin, defaults)
    except AttributeError as error:  # as of a class with __slots__
        raise UserError(f"{key}: {name} takes no further attributes; let it derive from {contract.__name__}") from error
    return cast(T, plugin)


def kind_of(member: str, contract: type) -> str:
    """Returns `attribute` or `method`."""
    return "attribute" if member in contract.__annotations__ else "method"


def complete_each(plugins: dict[str, Any], contract: type[T], group: str) -> dict[str, T]:
    """Returns by name the plug-ins of a group of which any number is chosen, each as of `complete`."""
    return {name: complete(plugin, contract, f"{group}.{name}") for name, plugin in plugins.items()}


def members(contract: type) -> tuple[list[str], dict[str, Any]]:
    """Returns the names of a contract's required members, and its optional ones with their defaults."""
    values = {name: value for name, value in vars(contract).items() if name == "__call__" or not name.startswith("_")}
    optional = {name: value for name, value in values.items() if not getattr(value, "__isabstractmethod__", False)}
    return [name for name in {**values, **contract.__annotations__} if name not in optional], optional


def has(plugin: object, contract: type, name: str) -> bool:
    """Returns whether a plug-in has a member from elsewhere than the contract."""
    classes = [cls for cls in type(plugin).__mro__ if cls is not contract]
    if any(name in vars(cls) for cls in classes):  # also a property that has no value yet
        return True
    return name in getattr(plugin, "__dict__", ()) or (contract not in type(plugin).__mro__ and hasattr(plugin, name))


def similar(plugin: object, name: str, is_method: bool, known: set[str]) -> str | None:
    """Returns the public member of a plug-in that has nearly a name and is a method where that is one, or None."""

    def is_alike(other: str) -> bool:
        value = getattr_static(plugin, other, None)
        return (callable(value) or isinstance(value, classmethod)) == is_method

    names = [other for other in dir(plugin) if not other.startswith("_") and other not in known and is_alike(other)]
    return next(iter(get_close_matches(name, names, n=1, cutoff=SIMILAR)), None) if len(name) > SHORT else None


def extend(plugin: object, members: dict[str, Any]) -> None:
    """Gives an object members that its class does not have."""
    cls = type(plugin)
    try:
        extended = types.new_class(cls.__name__, (cls,), exec_body=lambda namespace: namespace.update(members))
        extended.__module__, extended.__qualname__ = cls.__module__, cls.__qualname__
        object.__setattr__(plugin, "__class__", extended)
    except TypeError:  # no class derives from a function's; but a function takes attributes
        for name, value in members.items():
            setattr(plugin, name, types.MethodType(value, plugin) if callable(value) else value)
