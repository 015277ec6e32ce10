"""A parser of flags whose errors are errors of the user, in one line."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from .errors import UserError, nearest


def existing_path(text: str, what: str = "run or checkpoint") -> Path:
    """Returns the path of an argument; UserError, with a similar name beside it, if nothing lies there.

    Args:
        text: the argument.
        what: it should be the path of.
    """
    path = Path(text)
    if path.exists():
        return path
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    similar = get_close_matches(path.name, beside, n=1, cutoff=0.8)
    hint = f"; did you mean {path.with_name(similar[0])}?" if similar else ""
    raise UserError(f"{text}: no such {what}{hint}")


def existing_folder(text: str) -> Path:
    """Returns the path of an argument; UserError if it is no folder."""
    path = existing_path(text, "folder")
    if not path.is_dir():
        raise UserError(f"{text}: is no folder")
    return path


def config_dirs(arguments: Sequence[str]) -> list[str]:
    """Returns what is typed behind each --config-dir."""
    parser = FlagParser("trainopt", add_help=False, allow_abbrev=False)
    add_config_dir(parser, str)
    return list(parser.parse_known_args(arguments)[0].config_dir)


def config_dir_flags(folders: Iterable[Path]) -> list[str]:
    """Returns the arguments that name folders of options."""
    return [word for folder in folders for word in ("--config-dir", str(folder))]


def add_config_dir(parser: "FlagParser", kind: Callable[[str], Any], help_text: str | None = None) -> None:
    """Adds --config-dir to a parser: a list of folders, which are searched in this order.

    Args:
        parser: of a command.
        kind: takes what was typed.
        help_text: of the flag.
    """
    parser.add_argument("--config-dir", "-cd", type=kind, action="append", default=[], metavar="DIR", help=help_text)


class FlagParser(argparse.ArgumentParser):
    """As argparse's, but what is wrong raises UserError; a misspelt flag gets the nearest one, a renamed one its name.

    Attributes:
        renamed: the present name of each flag that had another one.
    """

    renamed: Mapping[str, str] = MappingProxyType({})

    def error(self, message: str) -> NoReturn:
        """Raises UserError: the name of the command, argparse's message, and where its arguments are explained."""
        text = message.removeprefix("argument ").replace("the following arguments are required: ", "missing: ")
        raise UserError(f"{self._command}{text}; {self.prog} --help explains the arguments")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Returns the arguments as argparse does; UserError where they are wrong."""
        options, unknown = self.parse_known_args(args, namespace)
        self.refuse(unknown)
        return options

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Returns the arguments as argparse does; UserError where they are wrong."""
        options, unknown = self.parse_known_intermixed_args(args, namespace)
        self.refuse(unknown)
        return options

    def refuse(self, unknown: Sequence[str]) -> None:
        """Raises UserError for the first of the arguments that the parser does not know, if there are any."""
        flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        if flags and flags[0] in self.renamed:
            raise UserError(f"{self._command}{flags[0]}: is now {self.renamed[flags[0]]}")
        if flags:
            known = [name for action in self._actions for name in action.option_strings]
            raise UserError(f"{self._command}{flags[0]}: no such flag{nearest(flags[0], known) or self._see_help}")
        if unknown:
            raise UserError(f"{self._command}{unknown[0]}: is one argument too many{self._see_help}")

    @property
    def _command(self) -> str:
        """The command with a colon, as in `compare: `; empty for a run, which has none."""
        name = self.prog.removeprefix("trainopt").strip()
        return f"{name}: " if name else ""

    @property
    def _see_help(self) -> str:
        return f"; {self.prog} --help explains the arguments"
