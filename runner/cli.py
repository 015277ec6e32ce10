"""The command line: verbs, and everything else to Hydra. Imports torch only when a run begins."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError, nearest
from .vocabulary import CONF, Vocabulary

FAILED = 1
USER_ERROR = 2


def main() -> None:
    """Run the command that was typed, and exit with its code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        code = dispatch(arguments, debug)
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"trainopt: {error}", file=sys.stderr)
        code = USER_ERROR
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def dispatch(arguments: list[str], debug: bool) -> int:
    """Carry out a command line; return its exit code. Raises UserError."""
    verbs: dict[str, Callable[[list[str], bool], int]] = {"resume": resume, "evaluate": evaluate}
    first = arguments[0] if arguments else ""
    if first == "--version":
        from importlib.metadata import version

        print(f"trainopt {version('trainopt')}")
        return 0
    if {"--help", "-h"} & set(arguments) and first not in verbs:
        from .help import help_text

        print(help_text(typed_overrides(arguments), Vocabulary([*config_folders(arguments), CONF])))
        return 0
    if first in verbs:
        return verbs[first](arguments[1:], debug)
    if first and first[0] not in "-+~" and "=" not in first:
        hint = nearest(first, verbs) or f"; commands are {', '.join(verbs)}, all else is key=value"
        raise UserError(f"{first}: no such command{hint}")
    return compose_and_run(arguments, debug)


def resume(arguments: list[str], debug: bool) -> int:
    """`trainopt resume RUN`."""
    parser = argparse.ArgumentParser("trainopt resume", description="Go on from the last checkpoint of a run.")
    parser.add_argument("run", type=Path, help="the run's folder")
    folder = parser.parse_args(arguments).run
    from .folder import read_config
    from .run import start

    config, choices = read_config(folder)
    return start(config, choices, folder, ["trainopt", "resume", *arguments], debug)


def evaluate(arguments: list[str], debug: bool) -> int:
    """`trainopt evaluate RUN`."""
    del debug
    parser = argparse.ArgumentParser("trainopt evaluate", description="Evaluate a checkpoint of a run.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--checkpoint", default="last", metavar="best|last|FILE", help="default: last")
    given = parser.parse_args(arguments)
    from .folder import read_config

    read_config(given.run)  # says what is wrong before torch is imported
    from .evaluate import evaluate_run

    evaluate_run(given.run, given.checkpoint)
    return 0


def compose_and_run(arguments: list[str], debug: bool) -> int:
    """Let Hydra compose the configuration and start the run, or the runs of a sweep."""
    import hydra

    from .explain import explain
    from .names import register_resolver

    register_resolver()
    codes: list[int] = []

    def job(config: Any) -> int:
        try:
            code = run_job(config, ["trainopt", *arguments], debug)
        except Exception:  # noqa: BLE001 - a defect of ours; the other jobs of a sweep go on
            traceback.print_exc()
            code = FAILED
        codes.append(code)
        if code > 128:  # an interrupt ends a sweep too
            raise SystemExit(code)
        return code

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing
    typed, sys.argv[1:] = sys.argv[1:], arguments
    try:
        hydra.main(version_base="1.3", config_path="pkg://trainopt.conf", config_name="config")(job)()
    except Exception as error:
        vocabulary = Vocabulary([*config_folders(arguments), CONF])
        raise UserError(explain(error, typed_overrides(arguments), vocabulary)) from error
    finally:
        sys.argv[1:] = typed
    return max(codes, default=0)


def run_job(config: Any, command: list[str], debug: bool) -> int:
    """Check a composed configuration and run it in the folder that Hydra chose; return the exit code."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from .check import check_config, drop_replaced_defaults
    from .folder import remove_if_empty
    from .run import start

    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    folders = [Path(s.path) for s in settings.runtime.config_sources if s.schema == "file"]
    choices = {str(k): v for k, v in settings.runtime.choices.items() if not str(k).startswith("hydra/")}
    vocabulary = Vocabulary([*folders, CONF])
    try:
        OmegaConf.set_struct(config, False)
        drop_replaced_defaults(config, choices, vocabulary, list(settings.overrides.task))
        check_config(config, choices, vocabulary)
        return start(config, choices, folder, command, debug)
    except UserError as error:
        remove_if_empty(folder)
        if debug:
            traceback.print_exc()
        print(f"trainopt: {error}", file=sys.stderr)
        return USER_ERROR


def typed_overrides(arguments: list[str]) -> list[str]:
    """Return the arguments that are overrides, as in `optimizer.lr=0.1`."""
    return [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]


def config_folders(arguments: list[str]) -> list[Path]:
    """Return the folder given with --config-dir, if any."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    folder = parser.parse_known_args(arguments)[0].config_dir
    return [folder] if folder is not None and folder.is_dir() else []
