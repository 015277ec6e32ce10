"""`trainopt reproduce STUDY …|all`: runs what is missing of published studies and writes their reports."""

import argparse
import shlex
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from ..studies.cost import foreseen, show_plan
from ..studies.plan import PlannedSweep, StudyPlan, SweepState
from ..studies.schema import SCALES, Study, find_studies, read_study
from ..sweeps.compose import Composer
from ..sweeps.run_job import import_once
from ..system.display import wide_console
from ..system.errors import FAILED, UserError, exit_code_of, nearest, reason
from ..system.files import shown
from ..system.interrupt import Interrupt
from ..system.isolation import run_isolated
from .run import command as run

ALL = "all"


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt reproduce STUDY …|all`."""
    parser = argparse.ArgumentParser(
        "trainopt reproduce",
        description="Run what is missing of published studies, and compare the results with the published ones.",
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


def reproduce(options: argparse.Namespace, arguments: list[str], debug: bool) -> int:
    """Checks everything, shows the plan, runs what is missing, writes the reports; returns the exit code.

    Args:
        options: the parsed arguments.
        arguments: the same as they were typed.
        debug: whether tracebacks are shown.

    Raises:
        UserError: a study, or what was typed, cannot be run; nothing was.
    """
    with Interrupt() as interrupt:
        try:
            plans = read_plans(options)
            console = wide_console()
            for plan in plans:
                show_plan(plan, console)
            if options.dry_run:
                return 0
            code = max([run_study(plan, debug) for plan in plans])
            if len(plans) > 1:
                path = options.out / f"{options.scale}.md"
                code = max(code, run_isolated(lambda: write_table(plans, path)))
            return code
        except KeyboardInterrupt:
            again = shlex.join(["trainopt", "reproduce", *arguments])
            print(f"stopped; the same command continues it: {again}", file=sys.stderr)
            return interrupt.code


def read_plans(options: argparse.Namespace) -> list[StudyPlan]:
    """Returns the plan of each study that is named, all checked."""
    if options.config_dir is not None and not options.config_dir.is_dir():
        raise UserError(f"--config-dir {options.config_dir}: is no folder")
    if options.scale not in SCALES:
        raise UserError(f"--scale {options.scale}: no such scale{nearest(options.scale, SCALES)}; {there_are(SCALES)}")
    launcher = [f"hydra/launcher={options.launcher}", *(w for w in options.studies if "=" in w)]
    for word in launcher[1:]:
        if not word.startswith("hydra.launcher."):
            raise UserError(f"{word}: a study says what is run; hydra.launcher.KEY=VALUE is all that goes here")
    composer = Composer(options.config_dir)
    with composer.composed(launcher):
        pass  # a wrong one is an error of the command, not of a study
    studies = named_studies([w for w in options.studies if "=" not in w], options.config_dir, options.scale)
    return [StudyPlan(s, options.scale, options.out / s.name / options.scale, composer, launcher) for s in studies]


def named_studies(names: list[str], config_dir: Path | None, scale: str) -> list[Study]:
    """Returns the studies of these names at a scale, each once."""
    files = find_studies(config_dir)
    if not names:
        raise UserError(f"reproduce: which study? {there_are([*files, ALL])}")
    for name in names:
        if name not in files and name != ALL:
            raise UserError(f"{name}: no such study{nearest(name, files)}; {there_are([*files, ALL])}")
    studies = []
    for name in files if ALL in names else dict.fromkeys(names):
        study = read_study(files[name])
        if scale in study.scales:
            studies.append(study)
        elif ALL in names:
            print(f"{name}: not run, it has no scale {scale}")
        else:
            raise UserError(f"{name}: has no scale {scale}; {there_are(study.scales)}")
    if not studies:
        raise UserError(f"no study has a scale {scale}" if files else "there is no study")
    return studies


def there_are(names: Iterable[str]) -> str:
    """Returns the names in a phrase of a message."""
    return f"there are {', '.join(names)}"


def run_study(plan: StudyPlan, debug: bool) -> int:
    """Runs what is missing of a study and writes its report; returns the exit code."""
    states: dict[str, SweepState] = {}
    announced = foreseen(plan)  # with the plan
    try:
        plan.keep()
        if all(s.name in announced or s.state().state == "done" for s in plan.sweeps.values()):
            print(f"{plan.study.name}: nothing is left to run", flush=True)
        for sweep in plan.sweeps.values():
            states[sweep.name] = state = run_sweep(plan, sweep, states, debug)
            if state.reason is not None and state != announced.get(sweep.name):
                print(f"{plan.study.name}, {sweep.name}: {state.said()}", flush=True)
    except OSError as error:
        print(f"trainopt: {plan.study.name}: {reason(error)}", file=sys.stderr)
        return FAILED
    states |= plan.apart()
    in_order = {name: states[name] for name in plan.study.sweeps}
    report_code = run_isolated(lambda: write_report(plan, in_order, debug))
    return FAILED if report_code or any(s.state == "incomplete" for s in states.values()) else 0


def run_sweep(plan: StudyPlan, sweep: PlannedSweep, before: dict[str, SweepState], debug: bool) -> SweepState:
    """Runs what is missing of a sweep, in a process of its own; returns its state afterwards.

    Args:
        plan: of the study.
        sweep: one of the plan's.
        before: the states of those before it.
        debug: whether tracebacks are shown.
    """
    state = sweep.state()
    if state.state == "done":
        return state
    hindrance = sweep.hindrance(before)
    if hindrance is not None:
        return SweepState(sweep.folder, "not_run", hindrance)
    if sweep.can_go_on():
        import_once()  # here, and not again in the process of each sweep
        arguments = plan.command(sweep)
        print(f"{plan.study.name}, {sweep.name}: trainopt {shlex.join(arguments)}", flush=True)
        sweep.is_complete = run_isolated(lambda: exit_code_of(lambda: run(arguments, debug), debug)) == 0
        plan.keep()
    return sweep.state()


def write_report(plan: StudyPlan, states: dict[str, SweepState], debug: bool) -> int:
    """Writes the report of a study and prints its last lines; returns the exit code."""
    try:
        from ..studies.report import write_study_report

        result = write_study_report(plan.study, plan.scale_name, plan.folder, states)
    except KeyboardInterrupt:
        return 128
    except Exception as error:  # noqa: BLE001 - whatever it is, the other studies go on
        if debug or not isinstance(error, UserError):
            traceback.print_exc()
        why = str(error) if isinstance(error, UserError) else reason(error)
        print(f"trainopt: {plan.study.name}: no report: {why}", file=sys.stderr)
        return FAILED
    print(*result.lines, sep="\n", flush=True)
    return 0


def write_table(plans: list[StudyPlan], path: Path) -> int:
    """Writes the overview over several studies; returns the exit code."""
    from ..studies.report import write_overview

    write_overview([plan.folder for plan in plans], path)
    print(f"overview: {shown(path)}", flush=True)
    return 0
