"""`trainopt reproduce`: what is missing of published studies is run, and their reports are written."""

import argparse
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console

from ..sweeps.compose import Composer
from ..system.errors import FAILED, UserError, nearest, reason
from ..system.files import shown
from ..system.interrupt import Interrupt
from ..system.isolation import isolated
from .cost import foreseen, show_plan
from .plan import PlannedSweep, StudyPlan, SweepState
from .schema import SCALES, Study, find_studies, read_study

ALL = "all"
Command = Callable[[list[str], bool], int]  # carries out a command line, with tracebacks or without


def reproduce_command(given: argparse.Namespace, typed: list[str], debug: bool, carry_out: Command) -> int:
    """Read and check everything, show the plan, run what is missing, write the reports; return the exit code.

    Args:
        given: what was typed, taken apart.
        typed: the same as words.
        debug: whether tracebacks are shown.
        carry_out: runs a sweep.

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
            code = max([run_study(plan, debug, carry_out) for plan in plans])
            if len(plans) > 1:
                path = given.out / f"{given.scale}.md"
                code = max(code, isolated(lambda: write_table(plans, path)))
            return code
        except KeyboardInterrupt:
            again = shlex.join(["trainopt", "reproduce", *typed])
            print(f"stopped; the same command goes on with it: {again}", file=sys.stderr)
            return interrupt.code


def planned(given: argparse.Namespace) -> list[StudyPlan]:
    """Return the plan of each study that was named, all checked."""
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
    """Return the studies of these names at a scale, each once."""
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


def run_study(plan: StudyPlan, debug: bool, carry_out: Command) -> int:
    """Run what is missing of a study and write its report; return the exit code."""
    states: dict[str, SweepState] = {}
    told = foreseen(plan)  # with the plan
    try:
        plan.keep()
        if all(s.name in told or s.state().state == "done" for s in plan.sweeps.values()):
            print(f"{plan.study.name}: nothing is left to run", flush=True)
        for sweep in plan.sweeps.values():
            states[sweep.name] = state = run_sweep(plan, sweep, states, debug, carry_out)
            if state.reason is not None and state != told.get(sweep.name):
                print(f"{plan.study.name}, {sweep.name}: {state.said()}", flush=True)
    except OSError as error:
        print(f"trainopt: {plan.study.name}: {reason(error)}", file=sys.stderr)
        return FAILED
    states |= plan.apart()
    in_order = {name: states[name] for name in plan.study.sweeps}
    written = isolated(lambda: write_report(plan, in_order, debug))
    return FAILED if written or any(s.state == "incomplete" for s in states.values()) else 0


def run_sweep(
    plan: StudyPlan, sweep: PlannedSweep, before: dict[str, SweepState], debug: bool, carry_out: Command
) -> SweepState:
    """Run what is missing of a sweep, in a process of its own; return what became of it.

    Args:
        plan: of the study.
        sweep: one of the plan's.
        before: what became of those before it.
        debug: whether tracebacks are shown.
        carry_out: runs a command.
    """
    state = sweep.state()
    if state.state == "done":
        return state
    hindrance = sweep.hindrance(before)
    if hindrance is not None:
        return SweepState(sweep.folder, "not_run", hindrance)
    if sweep.can_go_on():
        from ..sweeps.run_job import import_once

        import_once()  # here, and not again in the process of each sweep
        command = plan.command(sweep)
        print(f"{plan.study.name}, {sweep.name}: trainopt {shlex.join(command)}", flush=True)
        sweep.is_complete = isolated(lambda: carry_out(command, debug)) == 0
        plan.keep()
    return sweep.state()


def write_report(plan: StudyPlan, states: dict[str, SweepState], debug: bool) -> int:
    """Write the report of a study, print its last lines; return the exit code."""
    try:
        from .report import write_study_report

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
    """Write the overview over several studies; return the exit code."""
    from .report import write_overview

    write_overview([plan.folder for plan in plans], path)
    print(f"overview: {shown(path)}", flush=True)
    return 0


def there_are(names: Iterable[str]) -> str:
    """Return what there is, in words."""
    return f"there are {', '.join(names)}"
