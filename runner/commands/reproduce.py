"""`trainopt reproduce STUDY …|all`."""

import argparse
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from ..studies.cost import show_plan
from ..studies.plan import StudyPlan
from ..studies.reproduce import run_study, write_table
from ..studies.schema import SCALES, Study, find_studies, read_study
from ..sweeps.compose import Composer
from ..system.errors import UserError, nearest
from ..system.interrupt import Interrupt
from ..system.isolation import isolated
from .run import command as run


def command(arguments: list[str], debug: bool) -> int:
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
    return reproduce(parser.parse_intermixed_args(arguments), arguments, debug)


ALL = "all"


def reproduce(given: argparse.Namespace, typed: list[str], debug: bool) -> int:
    """Reads and check everything, show the plan, run what is missing, write the reports; returns the exit code.

    Args:
        given: what was typed, taken apart.
        typed: the same as words.
        debug: whether tracebacks are shown.

    Raises:
        UserError: a study, or what was typed, cannot be run; nothing was.
    """
    with Interrupt() as interrupt:
        try:
            plans = planned(given)
            console = Console(highlight=False)
            for plan in plans:
                show_plan(plan, console)
            if given.dry_run:
                return 0
            code = max([run_study(plan, debug, run) for plan in plans])
            if len(plans) > 1:
                path = given.out / f"{given.scale}.md"
                code = max(code, isolated(lambda: write_table(plans, path)))
            return code
        except KeyboardInterrupt:
            again = shlex.join(["trainopt", "reproduce", *typed])
            print(f"stopped; the same command goes on with it: {again}", file=sys.stderr)
            return interrupt.code


def planned(given: argparse.Namespace) -> list[StudyPlan]:
    """Returns the plan of each study that was named, all checked."""
    if given.config_dir is not None and not given.config_dir.is_dir():
        raise UserError(f"--config-dir {given.config_dir}: is no folder")
    if given.scale not in SCALES:
        raise UserError(f"--scale {given.scale}: no such scale{nearest(given.scale, SCALES)}; {there_are(SCALES)}")
    launcher = [f"hydra/launcher={given.launcher}", *(w for w in given.studies if "=" in w)]
    for word in launcher[1:]:
        if not word.startswith("hydra.launcher."):
            raise UserError(f"{word}: a study says what is run; hydra.launcher.KEY=VALUE is all that goes here")
    composer = Composer(given.config_dir)
    with composer.composed(launcher):
        pass  # a wrong one is an error of the command, not of a study
    studies = named_studies([w for w in given.studies if "=" not in w], given.config_dir, given.scale)
    return [StudyPlan(s, given.scale, given.out / s.name / given.scale, composer, launcher) for s in studies]


def named_studies(names: list[str], config_dir: Path | None, scale: str) -> list[Study]:
    """Returns the studies of these names at a scale, each once."""
    there = find_studies(config_dir)
    if not names:
        raise UserError(f"reproduce: which study? {there_are([*there, ALL])}")
    for name in names:
        if name not in there and name != ALL:
            raise UserError(f"{name}: no such study{nearest(name, there)}; {there_are([*there, ALL])}")
    studies = []
    for name in there if ALL in names else dict.fromkeys(names):
        study = read_study(there[name])
        if scale in study.scales:
            studies.append(study)
        elif ALL in names:
            print(f"{name}: not run, it has no scale {scale}")
        else:
            raise UserError(f"{name}: has no scale {scale}; {there_are(study.scales)}")
    if not studies:
        raise UserError(f"no study has a scale {scale}" if there else "there is no study")
    return studies


def there_are(names: Iterable[str]) -> str:
    """Returns what there is, in words."""
    return f"there are {', '.join(names)}"
