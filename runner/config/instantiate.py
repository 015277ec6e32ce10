"""Calling a class that a configuration names, with its keys compared to the signature first."""

import inspect
import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from trainopt.data import DataError
from trainopt.models import WeightsError

from ..provenance.user_code import is_own_file, note_imports
from ..system.errors import MissingModule, UserError, nearest, one_line
from ..system.files import shown
from .forms.rules import check_rule, rule_of, yaml_text
from .options import shipped_option
from .renamed import RENAMED_TARGETS
from .run_names import typed_keys
from .validate import unknown_key

PACKAGE = __package__.partition(".")[0]
MOST_NAMED = 10  # names of a module
EXTRAS = {"torchmetrics": "metrics", "schedulefree": "optimizers"}  # of this package, by the package that one brings
logging.getLogger(get_object.__module__).addFilter(lambda record: False)  # it logs what `find` says in one line
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def construct(node: DictConfig, section: str, *args: Any, common: tuple[str, ...] = (), **offered: Any) -> Any:
    """Calls node._target_ with the node's other keys, and with what it takes of `offered`.

    Args:
        node: a part of the configuration.
        section: its dotted key, for messages.
        args: positional arguments that come first.
        common: keys that every option of the group has; passed on only where the class takes them.
        offered: objects that a class may ask for by the name of an argument, as `num_classes` or `progress`.

    Raises:
        UserError: the class cannot be found, does not take a key, or lacks one, or refuses a value.
    """
    keys, names, objects = checked_arguments(node, section, len(args), common, offered)
    arguments = {key: node[key] for key in [*keys, *(k for k in node if str(k).startswith("_"))]}
    try:
        return instantiate(arguments, _partial_=True, _convert_="all")(*args, **objects)
    except DataError as error:  # its text begins with the file that it is about
        raise UserError(one_line(error)) from error
    except (ValueError, TypeError, AttributeError, RuntimeError, MemoryError, WeightsError) as error:
        raise UserError(with_key(one_line(error), section, [*names, *keys])) from error
    except HydraException as error:
        raise UserError(with_key(one_line(error.__cause__ or error), section, [*names, *keys])) from error


def bind(node: DictConfig, section: str, positional: int, common: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Returns the function node._target_ with the node's other keys as its arguments; it is not called.

    Args:
        node: a part of the configuration.
        section: its dotted key, for messages.
        positional: number of arguments that are given in a call, before the others.
        common: as in `construct`.

    Raises:
        UserError: as `construct`.
    """
    keys, _, _ = checked_arguments(node, section, positional, common, {})
    return instantiate({key: node[key] for key in ["_target_", *keys]}, _partial_=True, _convert_="all")


def checked_arguments(
    node: DictConfig, section: str, positional: int, common: tuple[str, ...], offered: dict[str, Any]
) -> tuple[list[str], list[str], dict[str, Any]]:
    """Returns (keys that become arguments, names of the arguments, objects by the names of arguments that take them).

    The arguments are those of `construct`; `positional` is the number of arguments that come first.
    """
    target = find(node, section)
    parameters = parameters_of(target, node["_target_"], section)
    for name, parameter in list(parameters.items())[:positional]:
        if isinstance(parameter.default, int | float | str):
            first = "the parameters of the network" if section == "optimizer" else "the outputs and targets"
            raise UserError(f"{section}: {node['_target_']} takes {name} first, must take {first} first")
    names = list(parameters)[positional:]
    keys = [str(k) for k in node if not str(k).startswith("_") and (k not in common or k in names)]
    objects = {key: value for key, value in offered.items() if key in names}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in keys:
            if key not in names or key in objects:
                known = typed_keys(f"{section}.{name}" for name in names if name not in objects)
                raise UserError(unknown_key(f"{section}.{key}", known))
    for name in names:
        needed = parameters[name].default is inspect.Parameter.empty and parameters[name].kind in NAMED
        if needed and name not in keys and name not in objects:
            (key,) = typed_keys([f"{section}.{name}"])
            raise UserError(f"{section}.{name} is missing: {node['_target_']} needs it; give it as {key}=VALUE")
    check_types(target, node, keys, section)
    return keys, names, objects


def parameters_of(target: Callable[..., Any], name: str, section: str) -> Mapping[str, inspect.Parameter]:
    """Returns the parameters of a class or function that a section names; UserError where it does not say them."""
    try:
        return inspect.signature(target).parameters
    except ValueError as error:  # of something that is not written in Python
        line = f"{section}._target_={name}: does not say which arguments it takes; wrap it in a function"
        raise UserError(line) from error


def check_types(target: Callable[..., Any], node: DictConfig, keys: list[str], section: str) -> None:
    """Raises UserError if a value has not the type that it has in the signature of a class or function of ours."""
    if not target.__module__.startswith(f"{PACKAGE}."):
        return
    parameters = inspect.signature(target, eval_str=True).parameters
    for key in keys:
        rule = rule_of(parameters[key].annotation) if key in parameters else None
        if rule is not None:
            value = node[key]
            check_rule(f"{section}.{key}", OmegaConf.to_container(value) if OmegaConf.is_config(value) else value, rule)


def with_key(message: str, section: str, arguments: list[str]) -> str:
    """Returns what a class says about its arguments as what is wrong with a key of a section.

    >>> with_key("flip=2: must be in [0, 1]", "augmentation", ["flip"])
    'augmentation.flip=2: must be in [0, 1]'
    >>> with_key("the network takes no images of 2 channels", "model", ["depth"])
    'model: the network takes no images of 2 channels'
    """
    word = re.match(r"(\w+)[=:]", message)
    return f"{section}{'.' if word and word[1] in arguments else ': '}{message}"


def find(node: DictConfig, section: str) -> Callable[..., Any]:
    """Returns the class or function that node._target_ names; UserError if there is none."""
    name = node.get("_target_") if isinstance(node, DictConfig) else None
    if not isinstance(name, str):
        raise UserError(f"{section}._target_ is missing: give it as {section}._target_=package.Class")
    if name in RENAMED_TARGETS:
        raise UserError(f"{section}._target_={name}: is now {RENAMED_TARGETS[name]}")
    try:
        target = get_object(name)
    except (HydraException, ImportError, ValueError) as error:
        package = name.partition(".")[0]
        if package in EXTRAS and not is_installed(package):
            line = f"{package} is not installed; pip install 'trainopt[{EXTRAS[package]}]'"
            raise UserError(f"{section}._target_={name}: {line}") from error
        line = f"{section}._target_={name}: cannot be imported"
        if not is_installed(package):
            raise MissingModule(f"{line}; {no_module(name)}", package) from error
        raise UserError(f"{line}; {import_failure(name, error)}") from error
    except SystemExit as error:
        line = "importing it ends the program; what it runs as a program belongs below if __name__ == '__main__'"
        raise UserError(f"{section}._target_={name}: cannot be imported: {line}") from error
    if not callable(target):
        inside = [f"{name}.{n}" for n in own_names(target)] if isinstance(target, ModuleType) else []
        right = f"; it is a module, which has {', '.join(inside)}" if inside else ""
        raise UserError(f"{section}._target_={name}: is no class or function{right}")
    note_imports(name)
    return target


def lacks_module(error: BaseException | None) -> bool:
    """Returns whether an error of `find` comes from a package that is not installed here."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and not is_installed(str(error.name).partition(".")[0]):
            return True
        error = error.__cause__ or error.__context__
    return False


def no_module(name: str) -> str:
    """Returns the line that says that the module of a class is not there, and where it would be found."""
    package, _, rest = name.partition(".")
    if not package or not rest:
        return f"a class or function is typed with its module, as mine.{rest or package or 'NAME'} of mine.py"
    line = f"there is no module {package}, neither in the working directory nor among the installed packages"
    here = [path.stem for path in Path.cwd().glob("*.py")]
    return f"{line}{nearest(package, here) or f'; {package}.py belongs into {Path.cwd()} or a folder of PYTHONPATH'}"


def import_failure(name: str, error: Exception) -> str:
    """Returns why a class of a module that is there cannot be imported, and what would be right.

    Args:
        name: of the class, with its module.
        error: of Hydra; its cause was raised on the way to the class.
    """
    cause = error.__cause__
    if cause is None:
        return one_line(error)
    if isinstance(cause, ModuleNotFoundError) and f"{name}.".startswith(f"{cause.name}."):
        parent, _, part = str(cause.name).rpartition(".")
        module = sys.modules[parent]
        own = own_names(module)
        near = nearest(part, [f"{parent}.{n}" for n in vars(module) if not n.startswith("_")])
        there = f"; it has {', '.join(own)}" if 0 < len(own) <= MOST_NAMED else ""
        return f"{place_of(module)} has no {part}{near or there}"
    frames = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(cause.__traceback__)]
    places = [(path, line) for path, line in frames if is_own_file(path)]
    if isinstance(cause, SyntaxError):
        places = [(Path(str(cause.filename)), cause.lineno)]
    if not places:
        return one_line(cause)
    text = one_line(cause.msg if isinstance(cause, SyntaxError) else cause)[:200]
    path, line = places[-1]
    return f"its import raises {type(cause).__name__}: {text} ({shown(path)}, line {line})"


def place_of(module: ModuleType) -> str:
    """Returns the name of a module with its file."""
    file = getattr(module, "__file__", None)
    return f"{module.__name__} ({shown(Path(file))})" if file else module.__name__


def own_names(module: ModuleType) -> list[str]:
    """Returns the public classes and functions that a module defines."""
    members = vars(module).items()
    return [n for n, value in members if n[:1] != "_" and getattr(value, "__module__", None) == module.__name__]


def is_installed(package: str) -> bool:
    """Returns whether a package can be imported."""
    try:
        return find_spec(package) is not None
    except ValueError:  # what it is replaced by has no origin
        return False


def construct_each(config: DictConfig, group: str, **offered: Any) -> dict[str, Any]:
    """Returns by name what the options of a group stand for of which any number is chosen, but for those of no class.

    Args:
        config: of the run.
        group: its name.
        offered: as in `construct`; what the configuration itself says takes precedence.

    Raises:
        UserError: as `construct`; or the keys of an option do not stand under a name.
    """
    nodes = config.get(group) or {}
    if "_target_" in nodes:
        raise UserError(
            f"{group}._target_: an option of {group} has a name above its keys, as in NAME: {{_target_: …}}"
        )
    return {
        str(name): construct(node, f"{group}.{name}", **{k: v for k, v in offered.items() if k not in (node or ())})
        for name, node in nodes.items()
        if not (isinstance(node, DictConfig) and node.get("_target_", "") is None)
    }


def arguments_of(target: str, section: str) -> dict[str, str]:
    """Returns the arguments of a class or function with their defaults as YAML has them, "???" where there is none.

    Args:
        target: its dotted name.
        section: that it stands in: the parameters of the network, an optimizer's first argument, are left out.
    """
    parameters = [*parameters_of(find(OmegaConf.create({"_target_": target}), section), target, section).values()]
    return {
        p.name: "???"
        if p.default is inspect.Parameter.empty
        else yaml_text([*p.default] if isinstance(p.default, tuple) else p.default)
        for p in parameters[1 if section == "optimizer" else 0 :]
        if p.kind in NAMED
    }


def own_defaults(config: DictConfig, choices: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the defaults in the signature of a run's optimizer as text; None where it is an option of ours."""
    if shipped_option("optimizer", str(choices["optimizer"])):
        return None
    arguments = arguments_of(config.optimizer["_target_"], "optimizer")
    return {"optimizer": {name: default for name, default in arguments.items() if default != "???"}}


def takes_any(target: str) -> bool:
    """Returns whether the class or function of that dotted name takes arguments of any name."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(get_object(target)).parameters.values())


def takes(target: str, argument: str) -> bool:
    """Returns whether the class or function of that dotted name has an argument."""
    return argument in inspect.signature(get_object(target)).parameters
