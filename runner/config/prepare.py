"""A configuration as Hydra composed it, checked and ready for a run."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..system.errors import MissingModule, UserError
from ..system.files import shown
from .explain import no_keys, wrong_choice
from .options import CONF, Vocabulary, following_groups, keys_of_file, list_groups, read
from .overrides import chosen, split_override
from .quoting import check_numbers
from .run_names import as_typed, key_of, option_choices
from .validate import check_config, choices_with_classes, drop_replaced_defaults


def prepare(config: DictConfig, settings: Any) -> dict[str, Any]:
    """Checks a configuration, which becomes that of the run; returns the choice of each group.

    A choice is the name of an option or, where another class than that of its YAML is named, of that class.

    Args:
        config: without Hydra's own node; changed.
        settings: that node.

    Raises:
        UserError: a key is unknown, missing, or has a value that is not allowed.
    """
    typed = as_typed(settings.overrides.task)
    for override in typed:
        if key_of(override) in following_groups():
            raise UserError(f"{override}: follows from experiment and optimizer; leave it out")
    choices, vocabulary = option_choices(settings)
    if line := wrong_choice(typed, vocabulary):
        raise UserError(line)
    OmegaConf.set_struct(config, False)
    drop_replaced_defaults(config, choices, vocabulary, typed)
    for options in (
        choices,
        typed_lists(typed, vocabulary),
        {group: [*(config.get(group) or ())] for group in list_groups()},
    ):
        check_files(options, vocabulary)
    check_config(config, choices, vocabulary, {key: value for _, key, value in map(split_override, typed)})
    check_run_name(config.run.name)
    return choices_with_classes(config, choices, vocabulary)


@contextmanager
def own_files_named(settings: Any) -> Iterator[None]:
    """Names, in an error about a key, the file of the user's options that the key's value comes from.

    Args:
        settings: Hydra's own node of the configuration.
    """
    try:
        yield
    except UserError as error:
        path = own_file(str(error), settings) if type(error) in (UserError, MissingModule) else None
        if path is None:
            raise
        raise UserError(f"{shown(path)}: {error}") from error


def own_file(message: str, settings: Any) -> Path | None:
    """Returns the file of the user's options with the key that a message begins with, or with keys of that section.

    None where it was typed, or where no such file has it.
    """
    word = re.match(r"([\w.]+)(=?)", message)
    key, has_value = word.groups() if word else ("", "")
    typed = as_typed(settings.overrides.task)
    _, vocabulary = option_choices(settings)
    options = {**settings.runtime.choices, **typed_lists(typed, vocabulary)}
    typed_keys = [k for _, k, _ in map(split_override, typed) if k not in options]
    if not key or any(f"{other}.".startswith(f"{key}.") for other in typed_keys):
        return None
    found = None
    for group, choice in options.items():
        for path in vocabulary.files_of({group: choice}):
            keys = () if CONF in path.parents else keys_of_file(path, group)
            if key in keys or (not has_value and any(other.startswith(f"{key}.") for other in keys)):
                found = path  # a later option has its way
    return found


def typed_lists(overrides: list[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns the options of each group that takes several, as they were typed or are by default."""
    return {group: options for group, options in chosen(overrides, vocabulary).items() if group in list_groups()}


def check_files(choices: Mapping[str, Any], vocabulary: Vocabulary) -> None:
    """Raises UserError for a file of the user's options that is not read, or has no keys or a number no float can be.

    Hydra reads our option where both have the name.

    Args:
        choices: the option of each group, or the options.
        vocabulary: the options that there are.
    """
    for path in vocabulary.files_of(choices):
        if CONF not in path.parents:
            name = next(path.relative_to(folder) for folder in vocabulary.folders if path.is_relative_to(folder))
            if (CONF / name).is_file() and (CONF / name).read_bytes() != path.read_bytes():
                raise UserError(f"{path}: trainopt has an option of this name, which is read instead; rename yours")
            if not read(path):
                raise UserError(no_keys(path))
            for line in path.read_text(encoding="utf-8").splitlines():
                check_numbers(str(path), line.partition(" #")[0])


def check_run_name(name: str) -> None:
    """Raises UserError for the name of a run that is no folder below outputs/, or below that of a sweep."""
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"run.name={name}: must be a folder below outputs/; hydra.run.dir=DIR puts a run anywhere")
