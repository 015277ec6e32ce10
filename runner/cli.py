"""The command line: verbs, and everything else to Hydra. Imports torch only when a run begins."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .config.options import CONF, Vocabulary
from .system.errors import UserError, nearest, one_line, tell


def main() -> None:
    """Run the command that was typed, and exit with its code."""
    arguments = sys.argv[1:]
    sys.exit(carried_out([a for a in arguments if a != "--debug"], "--debug" in arguments))


def carried_out(arguments: list[str], debug: bool) -> int:
    """Carry out a command line; return its exit code, after a line where it is at fault."""
    try:
        return dispatch(arguments, debug)
    except UserError as error:
        return tell(error, debug)
    except KeyboardInterrupt:
        return 130


def dispatch(arguments: list[str], debug: bool) -> int:
    """Carry out a command line; return its exit code. Raises UserError."""
    verbs: dict[str, Callable[[list[str], bool], int]] = {
        "resume": resume,
        "evaluate": evaluate,
        "status": status,
        "compare": compare,
        "landscape": landscape,
        "reproduce": reproduce,
    }
    first = arguments[0] if arguments else ""
    if first == "--version":
        from importlib.metadata import version

        print(f"trainopt {version('trainopt')}")
        return 0
    if {"--help", "-h"} & set(arguments) and first not in verbs:
        from .commands.help import help_text

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
    from .records.run_folder import read_config
    from .records.sweep_ledger import PLAN
    from .training.execute import start

    if (folder / PLAN).exists():
        raise UserError(f"{folder}: is a sweep; its command again goes on with it")
    config, choices = read_config(folder)
    return start(config, choices, folder, ["trainopt", "resume", *arguments], debug)


def evaluate(arguments: list[str], debug: bool) -> int:
    """`trainopt evaluate RUN`, `trainopt evaluate --ensemble RUN|CHECKPOINT …`."""
    del debug
    parser = argparse.ArgumentParser(
        "trainopt evaluate", description="Evaluate a checkpoint of a run, or several."
    )
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="RUN", help="a run's folder; --ensemble: runs, sweeps, checkpoints"
    )
    parser.add_argument("--checkpoint", default="last", metavar="best|last|FILE", help="default: last")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N; default: the run's")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="evaluate every new last.pt (or best.pt) beside the run, into evaluations.jsonl, until the run ends",
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="evaluate two or more networks, and the mean of their probabilities",
    )
    parser.add_argument(
        "--weights",
        metavar="fit|W,W,…",
        help="--ensemble: also a weighted mean; fit: the best weights on held-out images (data.validation)",
    )
    parser.add_argument("--json", action="store_true", help="--ensemble: print an object instead of tables")
    given = parser.parse_intermixed_args(arguments)
    if given.ensemble:
        return evaluate_together(given)
    if given.weights is not None or given.json:
        raise UserError(f"{'--json' if given.weights is None else '--weights'}: is for --ensemble")
    if len(given.paths) > 1:
        raise UserError(f"evaluate: takes one run, and got {len(given.paths)}; --ensemble takes several")
    (run,) = given.paths
    if given.follow and given.checkpoint not in ("best", "last"):
        raise UserError(f"--checkpoint {given.checkpoint}: is one checkpoint; --follow takes best or last")
    from .records.run_folder import await_begin, read_config

    if given.follow:
        await_begin(run)
    read_config(run)  # says what is wrong before torch is imported
    if given.follow:
        from .analysis.follow import follow

        return follow(run, given.checkpoint, given.device)
    from .analysis.evaluate import evaluate_run

    evaluate_run(run, given.checkpoint, given.device)
    return 0


def evaluate_together(given: argparse.Namespace) -> int:
    """`trainopt evaluate --ensemble RUN|CHECKPOINT …`."""
    if given.follow:
        raise UserError("--follow: is for one run; leave --ensemble out")
    from .analysis.ensemble import evaluate_ensemble
    from .commands.ensemble_table import show_ensemble
    from .system.display import Display
    from .system.files import json_text

    display = Display(quiet=given.json)
    found = evaluate_ensemble(given.paths, weights_in(given.weights), given.checkpoint, given.device, display)
    if given.json:
        print(json_text(found), end="")
    else:
        show_ensemble(found, display)
    return 0


def weights_in(text: str | None) -> list[float] | str | None:
    """Return the numbers in a text like `0.5,0.3,0.2`; a text that is no list of numbers as it is."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        return text


def status(arguments: list[str], debug: bool) -> int:
    """`trainopt status SWEEP`."""
    del debug
    parser = argparse.ArgumentParser("trainopt status", description="Show what became of a sweep's jobs.")
    parser.add_argument("sweep", type=Path, help="the sweep's folder; or a run's, or one with runs below it")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    given = parser.parse_args(arguments)
    from .records.sweep_ledger import read_ledger
    from .sweeps.status import as_json, show

    entries = read_ledger(given.sweep)
    print(as_json(entries)) if given.json else show(entries)
    return 0


def compare(arguments: list[str], debug: bool) -> int:
    """`trainopt compare RUN|SWEEP …`."""
    del debug
    from .comparison.methods import AXES, METRICS

    parser = argparse.ArgumentParser(
        "trainopt compare", description="Compare methods: figures over seeds, a test against a baseline, a report."
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN|SWEEP", help="folders of runs, or above them")
    parser.add_argument(
        "--by", metavar="KEY,KEY", help="what makes a method; default: all that differs but the seed"
    )
    parser.add_argument("--baseline", metavar="METHOD", help="its name, or a part of it; default: the first")
    parser.add_argument(
        "--metric", metavar="|".join(METRICS), help="default: final_top1; final_loss for test functions"
    )
    parser.add_argument("--target", type=float, metavar="PERCENT", help="accuracy that the way to is measured")
    parser.add_argument("--against", default="epochs", choices=tuple(AXES), help="axis of the curves")
    parser.add_argument("--tuning", type=Path, action="append", metavar="SWEEP", help="learning-rate searches")
    out = Path("outputs/comparison")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"for the files; default: {out}")
    parser.add_argument("--force", action="store_true", help="compare what should not be compared")
    from .comparison.table import compare_command

    compare_command(parser.parse_args(arguments))
    return 0


def landscape(arguments: list[str], debug: bool) -> int:
    """`trainopt landscape RUN|CHECKPOINT RUN|CHECKPOINT [RUN|CHECKPOINT]`."""
    del debug
    parser = argparse.ArgumentParser(
        "trainopt landscape",
        description="Evaluate a network between two checkpoints, or on the plane through three.",
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="RUN|CHECKPOINT",
        help="a run's folder, or a file in its checkpoints/",
    )
    parser.add_argument(
        "--points", type=int, metavar="N", help="on the way (21), or along each side of a plane (15)"
    )
    parser.add_argument(
        "--beyond", type=float, default=0.2, metavar="SHARE", help="how far to go on beyond; default: 0.2"
    )
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="training images; default: 1000")
    parser.add_argument(
        "--batch-norm",
        default="recompute",
        metavar="recompute|interpolate",
        help="its statistics between checkpoints: anew from training images (default), or interpolated",
    )
    parser.add_argument("--checkpoint", default="last", metavar="best|last", help="of a run; default: last")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N; default: the first run's")
    parser.add_argument("--json", action="store_true", help="print what landscape.json holds, instead of tables")
    out = Path("outputs/landscape")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"for the files; default: {out}")
    from .commands.landscape import landscape_command

    landscape_command(parser.parse_args(arguments))
    return 0


def reproduce(arguments: list[str], debug: bool) -> int:
    """`trainopt reproduce STUDY …|all`."""
    parser = argparse.ArgumentParser(
        "trainopt reproduce",
        description="Run what is missing of published studies, and compare with what they say.",
    )
    parser.add_argument(
        "studies",
        nargs="*",
        metavar="STUDY",
        help="of conf/study/ and DIR/study/, or all; hydra.launcher.KEY=VALUE goes to the launcher",
    )
    parser.add_argument("--scale", default="smoke", metavar="smoke|small|paper", help="default: smoke")
    parser.add_argument("--dry-run", action="store_true", help="show what would be run and what it costs")
    out = Path("outputs/studies")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"default: {out}")
    parser.add_argument("--launcher", default="joblib", metavar="basic|joblib|…", help="default: joblib")
    parser.add_argument("--config-dir", "-cd", type=Path, metavar="DIR", help="further studies and options")
    from .studies.reproduce import reproduce_command

    return reproduce_command(parser.parse_intermixed_args(arguments), arguments, debug, carried_out)


def compose_and_run(arguments: list[str], debug: bool) -> int:
    """Let Hydra compose the configuration and start the run, or the runs of a sweep."""
    import hydra

    from .config.explain import explain
    from .sweeps.compose import get_ready
    from .sweeps.interrupt import SweepInterrupt, current, last_word, stop_mark
    from .sweeps.run_job import run_job

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
        from .sweeps.status import show_end

        ended = show_end(sweep, command, stopped=bool(interrupt.signal or error))
        tell_more = last_word.get()
        if tell_more is not None:
            ended = max(ended, tell_more())
        return interrupt.code if interrupt.signal else ended


def typed_overrides(arguments: list[str]) -> list[str]:
    """Return the arguments that are overrides, as in `optimizer.lr=0.1`."""
    return [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]


def config_folders(arguments: list[str]) -> list[Path]:
    """Return the folder given with --config-dir, if any."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    folder = parser.parse_known_args(arguments)[0].config_dir
    return [folder] if folder is not None and folder.is_dir() else []
