"""`trainopt reproduce`: what is missing of published studies is run, and their reports are written."""

import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from ..system.errors import FAILED, UserError, reason
from ..system.files import shown
from ..system.isolation import isolated
from .cost import foreseen
from .plan import PlannedSweep, StudyPlan, SweepState

Command = Callable[[list[str], bool], int]  # carries out a command line, with tracebacks or without


def run_study(plan: StudyPlan, debug: bool, carry_out: Command) -> int:
    """Runs what is missing of a study and write its report; returns the exit code."""
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
    """Runs what is missing of a sweep, in a process of its own; returns what became of it.

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
    """Writes the report of a study, prints its last lines; returns the exit code."""
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
    """Writes the overview over several studies; returns the exit code."""
    from .report import write_overview

    write_overview([plan.folder for plan in plans], path)
    print(f"overview: {shown(path)}", flush=True)
    return 0
