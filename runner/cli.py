"""The command line: commands by name, and everything else to Hydra. Imports torch only when a run begins."""

import sys
from importlib import import_module

from .system.environment import set_variables
from .system.errors import UserError, exit_code_of, nearest

# trainopt.runner.commands.NAME has `command(arguments, debug)`, which returns the exit code
COMMANDS = ("resume", "evaluate", "status", "compare", "landscape", "reproduce")


def main() -> None:
    """Runs the command that was typed, and exits with its code."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = "--debug" in sys.argv[1:]
    set_variables()
    sys.exit(exit_code_of(lambda: dispatch(arguments, debug), debug))


def dispatch(arguments: list[str], debug: bool) -> int:
    """Runs a command line; returns its exit code.

    Raises:
        UserError: what was typed is wrong.
    """
    first = arguments[0] if arguments else ""
    if first == "--version":
        from importlib.metadata import version

        print(f"trainopt {version('trainopt')}")
        return 0
    if first in COMMANDS:
        return import_module(f".commands.{first}", __package__).command(arguments[1:], debug)
    if {"--help", "-h"} & set(arguments):
        from .commands.help import command as show_help

        return show_help(arguments)
    if first and first[0] not in "-+~" and "=" not in first:
        hint = nearest(first, COMMANDS) or f"; commands are {', '.join(COMMANDS)}, all else is key=value"
        raise UserError(f"{first}: no such command{hint}")
    from .commands.run import command as run

    return run(arguments, debug)
