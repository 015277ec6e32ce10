"""`trainopt [-m] key=value …`: one run, or a sweep."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..config.options import CONF, Vocabulary
from ..system.errors import UserError, one_line


def command(arguments: list[str], debug: bool) -> int:
    """Lets Hydra compose the configuration and start the run, or the runs of a sweep."""
    import hydra

    from ..config.explain import explain
    from ..sweeps.compose import get_ready
    from ..sweeps.interrupt import SweepInterrupt, current, last_word, stop_mark
    from ..sweeps.run_job import run_job

    get_ready()
    codes: list[int] = []
    command, launcher = ["trainopt", *arguments], os.getpid()

    def job(config: Any) -> None:
        codes.append(run_job(config, command, debug, launcher))

    current.set(None)
    last_word.set(None)
    error: BaseException | None = None
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing
    typed, sys.argv[1:] = sys.argv[1:], arguments
    with SweepInterrupt() as interrupt:
        try:
            hydra.main(version_base="1.3", config_path="pkg://trainopt.conf", config_name="config")(job)()
        except KeyboardInterrupt:
            pass  # told by interrupt.signal
        except SystemExit as stop:
            error = stop.__cause__ or stop  # see sweep.Plan
        except Exception as caught:  # noqa: BLE001 - said in one line below
            error = caught
        finally:
            sys.argv[1:] = typed
        if isinstance(error, UserError | SystemExit):
            raise error
        sweep = current.get()
        if sweep is None and isinstance(error, Exception):
            vocabulary = Vocabulary([*config_folders(arguments), CONF])
            raise UserError(explain(error, typed_overrides(arguments), vocabulary)) from error
        if sweep is None:
            return interrupt.code if interrupt.signal else max(codes, default=0)
        if error is not None:
            print(f"trainopt: the launcher stopped: {one_line(error)[:300]}", file=sys.stderr)
        stop_mark(sweep, launcher).unlink(missing_ok=True)
        from ..sweeps.status import show_end

        ended = show_end(sweep, command, stopped=bool(interrupt.signal or error))
        tell_more = last_word.get()
        if tell_more is not None:
            ended = max(ended, tell_more())
        return interrupt.code if interrupt.signal else ended


def typed_overrides(arguments: list[str]) -> list[str]:
    """Returns the arguments that are overrides, as in `optimizer.lr=0.1`."""
    return [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]


def config_folders(arguments: list[str]) -> list[Path]:
    """Returns the folder given with --config-dir, if any."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    folder = parser.parse_known_args(arguments)[0].config_dir
    return [folder] if folder is not None and folder.is_dir() else []
