"""Completion in the shell: `eval "$(trainopt -sc install=bash)"`. argcomplete speaks with the shell.

Nothing is ever printed into the terminal: argcomplete's scripts read descriptor 8 and close the others.
"""

import os
from argparse import Action
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import argcomplete
from argcomplete.completers import FilesCompleter
from argcomplete.lexers import split_line

from ..config.forms.rules import alternatives
from ..config.options import CLUSTERS, CONF, Vocabulary, dotted, list_groups, shipped
from ..config.overrides import chosen, config_folders, split_override, typed_overrides
from ..config.validate import leaves
from ..records.changes import CHANGEABLE
from ..records.job_table import PLAN
from ..records.run_folder import CONFIG, read_config
from ..reporting.figure_style import add_style_flags
from ..system.environment import with_config_dir
from ..system.errors import UserError, nearest
from ..system.flags import FlagParser, existing_folder, existing_path
from ..system.hydra_compat import flag_parser, hydra_node, hydra_options
from .help import topics_of

SHELLS = ("bash", "zsh", "fish")
OUTPUTS = "outputs/"  # where runs are, if nothing is typed yet
NAMES_OF_PATHS = ("path", "weights", "root", "dir", "reference")  # last parts of keys whose value may be a path
HYDRA = ("mode", "run", "sweep", "sweeper", "launcher")  # what one sets of Hydra's own node
HYDRA_GROUPS = ("hydra/launcher", "hydra/sweeper")


def script(shell: str) -> str:
    """Returns what a shell evaluates to complete `trainopt`; UserError for a shell that is not known."""
    if shell not in SHELLS:
        hint = nearest(shell, SHELLS) or f"; there are {', '.join(SHELLS)}"
        raise UserError(f"-sc install={shell}: no such shell{hint}")
    return argcomplete.shellcode(["trainopt"], shell=shell)


def complete(commands: Mapping[str, str]) -> None:
    """Answers the shell, which asks by environment variables, and ends the process.

    Args:
        commands: of the command line, each with its module.
    """
    typed = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3][1:]  # without the word at the cursor
    line = typed
    with suppress(UserError):
        line = with_config_dir(typed)
    if typed and typed[0] in commands:
        parser = import_module(f".{commands[typed[0]]}", __package__).parser()
        add_completers(parser, line)
    else:
        parser = flag_parser()
        for flag in ("--debug", "--strict", "--space"):
            parser.add_argument(flag, action="store_true")
        add_style_flags(parser)
        first = [] if typed else list(commands)
        if {"--help", "-h"} & {*typed}:
            first = topics_of(Vocabulary([*config_folders(line), CONF]))
        complete_word = partial(words, typed=line, commands=first)
        next(action for action in parser._actions if action.dest == "overrides").completer = complete_word  # type: ignore[attr-defined]
    # argparse takes what stands in one place only for positional arguments; all that it must know is a flag in front
    os.environ["_ARGCOMPLETE"] = str(len(typed) if typed and typed[-1].startswith("-") else len(typed) + 1)
    argcomplete.autocomplete(parser, always_complete_options=False)


def add_completers(parser: FlagParser, typed: list[str]) -> None:
    """Gives the arguments of a command their completions: paths, studies, or the words of the metavar."""
    for action in parser._actions:
        completer = completer_of(action, typed)
        if completer is not None:
            action.completer = completer  # type: ignore[attr-defined]


def completer_of(action: Action, typed: list[str]) -> Callable[..., list[str]] | None:
    """Returns the function that completes an argument of a command; None where argcomplete knows it."""
    run = next((Path(word) for word in typed[1:] if (Path(word) / CONFIG).is_file()), None)
    if typed[0] == "resume" and run is not None:  # behind RUN, in the place that argparse takes for RUN's
        return partial(keys_of_run, run=run)
    if action.type in (existing_folder, existing_path):
        return partial(paths, sweeps=typed[0] != "resume", files=action.type is existing_path)
    if action.dest == "studies":
        return partial(studies, typed=typed)
    if action.dest == "suite":
        return partial(suites, typed=typed)
    if typed[0] == "submit" and action.dest == "overrides":
        scheduler = "ray" if "ray" in typed else "slurm"
        keys = [f"{CLUSTERS}.{key}=" for key in shipped(f"{CLUSTERS}/{scheduler}.yaml")]
        return partial(words, typed=typed[1:], commands=keys)
    if action.dest == "words":  # of a benchmark: overrides
        return partial(words, typed=typed[2:], commands=[])
    if isinstance(action.metavar, str) and "|" in action.metavar:  # as best|last|FILE
        choices = [word for word in action.metavar.split("|") if word.islower()]
        return lambda **_: choices
    return None


def keys_of_run(prefix: str, run: Path, **_: Any) -> list[str]:
    """Returns the keys of a run that may change, and their values, that continue a word."""
    sign, key, value = split_override(prefix)
    if "=" in prefix:
        return [f"{sign}{key}={text}" for text in values(key, value, Vocabulary([CONF]))]
    try:
        names = [pair[0] for pair in leaves(read_config(run)[0]) if pair[0].startswith(CHANGEABLE)]
    except UserError:  # damaged: the command itself reports it
        return []
    loggers = [name for name in names if name.startswith("logger.")]
    return [f"{name}=" for name in [*names, "logger"] if name not in loggers]


def studies(typed: list[str], **_: Any) -> list[str]:
    """Returns the studies that there are."""
    from ..studies.schema import ALL, find_studies

    return [*find_studies(config_folders(typed)), ALL]


def suites(typed: list[str], **_: Any) -> list[str]:
    """Returns the suites of workloads that there are."""
    from ..benchmark.suite import find_suites

    return list(find_suites(config_folders(typed)))


def paths(prefix: str, sweeps: bool, files: bool, **_: Any) -> list[str]:
    """Returns the folders that continue a path; what holds no run itself ends with a slash.

    Args:
        prefix: typed so far.
        sweeps: whether a sweep will do.
        files: whether a checkpoint will do.
    """
    head = prefix[: prefix.rfind("/") + 1]
    if not prefix and Path(OUTPUTS).is_dir():
        head = OUTPUTS
    names = []
    for path in sorted(Path(head or ".").expanduser().iterdir()):
        if path.name.startswith(".") and not prefix.removeprefix(head).startswith("."):
            continue
        if path.is_dir():
            is_whole = (path / CONFIG).is_file() or (sweeps and (path / PLAN).is_file())
            names.append(f"{head}{path.name}{'' if is_whole else '/'}")
        elif files and path.suffix == ".pt":
            names.append(f"{head}{path.name}")
    return names


def words(prefix: str, typed: list[str], commands: list[str], **_: Any) -> list[str]:
    """Returns the groups, keys and values that continue a word; of the first word, commands too.

    Args:
        prefix: typed so far.
        typed: the words before.
        commands: that the word may be.
    """
    vocabulary = Vocabulary([*config_folders(typed), CONF])
    sign, key, value = split_override(prefix)
    if "=" in prefix:
        return [f"{sign}{key}={text}" for text in values(key, value, vocabulary)]
    if key.startswith("hydra"):
        node = hydra_node(typed_overrides(typed)) if key.startswith("hydra.") else {}
        names = [*dotted("hydra", {name: node[name] for name in HYDRA if name in node}), *HYDRA_GROUPS]
    else:
        names = vocabulary.groups
        if key:  # of no letter, all keys would be too many
            names = [*names, *vocabulary.keys(chosen(typed_overrides(typed), vocabulary))]
    end = "" if sign == "~" else "="
    return [*commands, *(f"{sign}{name}{end}" for name in names)]


def values(key: str, value: str, vocabulary: Vocabulary) -> list[str]:
    """Returns the values of a key that continue one; of several, the last is continued."""
    start = value[: max(value.rfind(","), value.rfind("[")) + 1]
    if key in vocabulary.groups:
        choices = [option for option in vocabulary.options(key) if option not in start.strip("[").split(",")]
        if key in list_groups():
            start, choices = start or "[", [f"{choice}]" for choice in choices]
    elif key.startswith("hydra/"):
        choices = hydra_options(key)
    else:
        group, _, name = key.partition(".")
        rule = shipped("allowed.yaml").get(f"{group}.{name.partition('.')[2]}" if group in list_groups() else key, "")
        choices = [word for part in alternatives(rule) for word in words_of(part)]
        if key.rpartition(".")[2] in NAMES_OF_PATHS:
            whole = FilesCompleter()(value)  # folders of runs have commas in their names
            if whole:
                return whole
    return [start + choice for choice in choices]


def words_of(rule: str) -> list[str]:
    """Returns the words that a rule without alternatives allows.

    >>> words_of("one of float32, tf32"), words_of("true or false"), words_of("integer >= 1")
    (['float32', 'tf32'], ['true', 'false'], [])
    """
    if rule.startswith("one of "):
        return rule.removeprefix("one of ").split(", ")
    return {"true or false": ["true", "false"], "null": ["null"]}.get(rule, [])
