"""The command line: a command by its name, anything else is a run or a sweep. Imports torch only when a run begins."""

import os
import shlex
import sys
from importlib import import_module

from .system.environment import add_working_directory, launched_rank, launched_size, set_variables, with_config_dir
from .system.errors import UserError, exit_code_of
from .system.streams import protect_streams, silence_streams

# The module below runner/commands of each command. It has `command(arguments, debug)`, which returns the exit code, and
# `parser()`; run.py and help.py have the first.
COMMANDS = {
    **{name: name for name in ("resume", "evaluate", "status", "compare", "landscape", "reproduce", "sync", "export")},
    **{name: f"cluster.{name}" for name in ("submit", "cancel")},
    "benchmark": "benchmark.benchmark",
}
FLAGS_WITH_VALUE = (
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--cfg",
    "-c",
    "--package",
    "-p",
)
TAKE_CONFIG_DIR = ("run", "help", "submit", "reproduce", "benchmark")


def main() -> None:
    """Runs the command that was typed, and exits with its code."""
    if "_ARGCOMPLETE" in os.environ:
        import_module(".commands.completion", __package__).complete(COMMANDS)
    protect_streams()
    if launched_rank() > 0 and "--debug" not in sys.argv:
        silence_streams()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = "--debug" in sys.argv[1:]
    set_variables()
    add_working_directory()
    sys.exit(exit_code_of(lambda: dispatch(arguments, debug), debug))


def dispatch(arguments: list[str], debug: bool) -> int:
    """Runs a command line; returns its exit code.

    Raises:
        UserError: the command line is wrong.
    """
    first = arguments[0] if arguments else ""
    if first == "--version":
        from importlib.metadata import version

        print(f"trainopt {version('trainopt')}")
        return 0
    if first in COMMANDS:
        name, arguments = first, arguments[1:]
    elif {"--help", "-h"} & set(arguments):
        name = "help"
    elif first and first[0] not in "-+~" and "=" not in first:
        from .config.overrides import unknown_command  # imports OmegaConf

        raise UserError(unknown_command(first, COMMANDS))
    else:
        name = "run"
        check_is_first(arguments)
    if launched_size() > 1 and name not in ("run", "resume", "help"):
        raise UserError(f"{name}: takes one process; torchrun is for a run, or for resume RUN; type trainopt {name}")
    if name in TAKE_CONFIG_DIR:
        arguments = with_config_dir(arguments)
    return import_module(f".commands.{COMMANDS.get(name, name)}", __package__).command(arguments, debug)


def check_is_first(arguments: list[str]) -> None:
    """Raises UserError for the name of a command behind other words."""
    for place, word in enumerate(arguments[1:], 1):
        if word in COMMANDS and arguments[place - 1] not in FLAGS_WITH_VALUE:
            others = shlex.join([*arguments[:place], *arguments[place + 1 :]])
            raise UserError(f"{word}: a command is the first word; write trainopt {word} {others}")
