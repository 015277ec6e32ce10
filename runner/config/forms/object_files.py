"""YAML files of conf/ that hold an object, as a study or a suite: read as dataclasses, whose fields are their keys."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ...system.errors import UserError, continued, nearest, one_line
from ..options import CONF, read

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TYPES: dict[Any, tuple[str, tuple[type, ...]]] = {  # of the file: how a message names one, and Python's types for it
    str: ("text", (str,)),
    bool: ("true or false", (bool,)),
    int: ("an integer", (int,)),
    float: ("a number", (int, float)),
    NoneType: ("null", (NoneType,)),
    dict: ("keys and values", ()),
    list: ("a list", ()),
}

Content = TypeVar("Content", bound="DataclassInstance")


def find_files(kind: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Returns the YAML files of a folder of conf/ by name; a user's replaces a shipped one of the same name.

    Args:
        kind: the name of the folder.
        folders: of the user, the first one first.
    """
    return {path.stem: path for above in (CONF, *reversed(folders)) for path in sorted((above / kind).glob("*.yaml"))}


def read_file(
    path: Path, kind: type[Content], check_content: Callable[[dict[str, Any]], None], check: Callable[[Content], None]
) -> Content:
    """Returns what is in a YAML file as an object.

    Args:
        path: of the file; its name is the object's.
        kind: the object's class, a dataclass with a field `name`.
        check_content: raises UserError for content that no object can be.
        check: raises UserError for an object that contradicts itself.

    Raises:
        UserError: the file is none of this kind; the line names file and key, and says what would be right.
    """
    try:
        content = read(path)  # with Hydra's numbers: 1e-4 is one
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)[:200]}") from error
    try:
        check_content(content)
        names = [one.name for one in fields(kind) if one.name != "name"]
        reject_unknown("", content, names)
        result: Content = parse("", {**content, "name": path.stem}, kind)
        check(result)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from error
    return result


def parse(key: str, value: Any, kind: Any) -> Any:
    """Returns a part of the file, checked; where its type is a dataclass, an object of it.

    Args:
        key: of the part, dotted; empty for the whole file.
        value: the part.
        kind: the type that it should have, as dataclasses annotate their fields.

    Raises:
        UserError: it has another type; the line begins with the key.
    """
    if kind is Any:
        return value
    alternatives = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    for alternative in alternatives:
        origin, inner = get_origin(alternative) or alternative, get_args(alternative)
        if is_dataclass(origin) and isinstance(value, dict):
            return parse_fields(f"{key}." if key else "", value, origin)
        if origin is dict and isinstance(value, dict):
            return {name: parse(f"{key}.{name}", part, inner[1]) for name, part in value.items()}
        if origin is list and isinstance(value, list):
            return [parse(f"{key}[{i}]", part, inner[0]) for i, part in enumerate(value)]
        if type(value) in TYPES.get(origin, TYPES[dict])[1]:  # its very type: True is no number
            return value
    expected = " or ".join(TYPES.get(get_origin(one) or one, TYPES[dict])[0] for one in alternatives)
    raise UserError(f"{key}: must be {expected}, and is {one_line(value)[:80]}")


def parse_fields(prefix: str, part: dict[str, Any], kind: Any) -> Any:
    """Returns a dataclass's object from a part of the file, whose keys have this prefix."""
    known = {f.name: f for f in fields(kind)}
    reject_unknown(prefix, part, known)
    for f in known.values():
        if f.name not in part and f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{prefix}{f.name}: is missing; it must be {form(f.type)}")
    return kind(**{name: parse(f"{prefix}{name}", value, known[name].type) for name, value in part.items()})


def form(kind: Any) -> str:
    """Returns the form of a value of a type, in words; of a dataclass, its fields without a default.

    >>> from dataclasses import make_dataclass
    >>> form(dict[str, list[float]]), form(make_dataclass("Scale", [("about", str)]))
    ('{NAME: [a number, …], …}', '{about: text}')
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if isinstance(kind, UnionType):
        return " or ".join(map(form, inner))
    if is_dataclass(origin):
        required = [f for f in fields(origin) if f.default is MISSING and f.default_factory is MISSING]
        return f"{{{', '.join(f'{f.name}: {form(f.type)}' for f in required)}}}"
    if origin is dict:
        return f"{{NAME: {form(inner[1])}, …}}"
    if origin is list:
        return f"[{form(inner[0])}, …]"
    return "a value" if kind is Any else TYPES[origin][0]


def reject_unknown(prefix: str, names: Iterable[Any], known: Collection[str], problem: str = "unknown key") -> None:
    """Raises UserError for a name that is not one of the known.

    Args:
        prefix: of the line, before the name.
        names: what the file names.
        known: what it may name.
        problem: with other names.
    """
    for name in names:
        if name not in known:
            line = f"{prefix}{name}: {problem}{nearest(str(name), known)}"
            raise UserError(continued(line, f"there are {', '.join(map(str, known))}"))


def require_keys(source: str, query: dict[str, Any], required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raises UserError for an unknown or a missing key of a metric's source.

    Args:
        source: its key.
        query: its keys and values.
        required: keys that must be set.
        optional: keys that may be set.
    """
    reject_unknown(f"{source}: ", query, [*required, *optional])
    for key in required:
        if key not in query:
            raise UserError(f"{source}: {key}: is missing")
