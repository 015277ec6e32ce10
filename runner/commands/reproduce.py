"""`trainopt reproduce STUDY …|all`: runs what is missing of published studies and writes their reports."""

import shlex
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ..config.forms.object_files import reject_unknown
from ..reporting.figure_style import add_style_flags, figure_style
from ..search.compose import Composer
from ..studies.cost import expected_not_run, show_plan
from ..studies.plan import PlannedSweep, StudyPlan, SweepState
from ..studies.schema import ALL, SCALES, Study, find_studies, read_study
from ..sweeps.run_job import import_once
from ..system.display import wide_console
from ..system.errors import FAILED, UserError, exit_code_of, reason
from ..system.files import shown
from ..system.flags import FlagParser, add_config_dir, existing_folder
from ..system.interrupt import Interrupt
from ..system.isolation import run_isolated
from .run import command as run


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt reproduce",
        description="Run what is missing of published studies, and compare the results with the published ones.",
    )
    parser.add_argument(
        "studies",
        nargs="*",
        metavar="STUDY",
        help="a study of conf/study/ or DIR/study/, or all; hydra.launcher.KEY=VALUE sets a key of the launcher",
    )
    parser.add_argument(
        "--scale", default="smoke", metavar="smoke|small|paper", help="size of the runs; default: smoke"
    )
    parser.add_argument(
        "--only",
        metavar="SWEEP,SWEEP",
        help="run these sweeps of a study, as --dry-run lists them, and those that they need; also as 'mlp_*'",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be run and what it costs; run nothing")
    out = Path("outputs/studies")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"folder of the reports; default: {out}")
    parser.add_argument(
        "--launcher", default="joblib", metavar="basic|joblib|…", help="how runs are started; default: joblib"
    )
    add_config_dir(parser, existing_folder, "folder of further studies and options")
    add_style_flags(parser)
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt reproduce STUDY …|all`."""
    return reproduce(parser().parse_intermixed_args(arguments), arguments, debug)


def reproduce(options: Namespace, arguments: list[str], debug: bool) -> int:
    """Checks all studies, shows their plans, runs what is missing and writes the reports; returns the exit code.

    Args:
        options: of the command line, parsed.
        arguments: the same, as words.
        debug: whether tracebacks are shown.

    Raises:
        UserError: a study or an option is wrong; nothing was run.
    """
    with Interrupt() as interrupt:
        try:
            plans = make_plans(options)
            console = wide_console()
            for plan in plans:
                show_plan(plan, console)
            if options.dry_run:
                return 0
            code = max([run_study(plan, options, debug) for plan in plans])
            if len(plans) > 1:
                path = options.out / f"{options.scale}.md"
                code = max(code, run_isolated(lambda: write_table(plans, path)))
            return code
        except KeyboardInterrupt:
            again = shlex.join(["trainopt", "reproduce", *arguments])
            print(f"stopped; the same command continues it: {again}", file=sys.stderr)
            return interrupt.code


def make_plans(options: Namespace) -> list[StudyPlan]:
    """Returns the plan of each study on the command line; all of them are valid."""
    reject_unknown("--scale ", [options.scale], SCALES, "no such scale")
    launcher = [f"hydra/launcher={options.launcher}", *(word for word in options.studies if "=" in word)]
    for word in launcher[1:]:
        if not word.startswith("hydra.launcher."):
            raise UserError(f"{word}: a study sets what is run; only hydra.launcher.KEY=VALUE can be set here")
    composer = Composer(options.config_dir)
    with composer.composed(launcher):
        pass  # here an error is one of the command, later of a study
    names = [word for word in options.studies if "=" not in word]
    studies = select_studies(names, options.config_dir, options.scale)
    plans = [StudyPlan(s, options.scale, options.out / s.name / options.scale, composer, launcher) for s in studies]
    if options.only:
        if len(plans) > 1:
            raise UserError(f"--only {options.only}: names sweeps of one study; give one study")
        plans[0].select(options.only.split(","))
    return plans


def select_studies(names: list[str], folders: Sequence[Path], scale: str) -> list[Study]:
    """Returns the studies of these names, each once; of all studies, those that have the scale."""
    paths = find_studies(folders)
    if not names:
        raise UserError(f"reproduce: which study? there are {', '.join([*paths, ALL])}")
    reject_unknown("", names, [*paths, ALL], "no such study")
    studies = []
    for name in paths if ALL in names else dict.fromkeys(names):
        study = read_study(paths[name])
        if scale in study.scales:
            studies.append(study)
        elif ALL in names:
            print(f"{name}: not run, it has no scale {scale}")
        else:
            raise UserError(f"{name}: has no scale {scale}; there are {', '.join(study.scales)}")
    if not studies:
        raise UserError(f"no study has a scale {scale}")
    return studies


def run_study(plan: StudyPlan, options: Namespace, debug: bool) -> int:
    """Runs what is missing of a study and writes its report; returns the exit code.

    Args:
        plan: of the study.
        options: of the command line; its figures have their style.
        debug: whether tracebacks are shown.
    """
    states: dict[str, SweepState] = {}
    expected = expected_not_run(plan)  # has been printed with the plan
    try:
        plan.save()
        if all(s.name in expected or s.state().state == "done" for s in plan.sweeps.values()):
            print(f"{plan.study.name}: nothing is left to run", flush=True)
        for sweep in plan.sweeps.values():
            states[sweep.name] = state = run_sweep(plan, sweep, states, debug)
            if state.reason is not None and state != expected.get(sweep.name):
                print(f"{plan.study.name}, {sweep.name}: {state}", flush=True)
    except OSError as error:
        print(f"trainopt: {plan.study.name}: {reason(error)}", file=sys.stderr)
        return FAILED
    states |= plan.of_other_scales()
    in_order = {name: states[name] for name in plan.study.sweeps}

    def write() -> int:
        with figure_style(options.style, options.width):
            return write_report_of(plan, in_order, debug)

    report_code = run_isolated(write)
    return FAILED if report_code or any(s.state == "incomplete" for s in states.values()) else 0


def run_sweep(plan: StudyPlan, sweep: PlannedSweep, before: dict[str, SweepState], debug: bool) -> SweepState:
    """Runs what is missing of a sweep, in a process of its own; returns its state.

    Args:
        plan: of the study.
        sweep: one of the plan's.
        before: states of the sweeps before it, by name.
        debug: whether tracebacks are shown.
    """
    state = sweep.state()
    if state.state == "done":
        return state
    obstacle = sweep.obstacle(before)
    if obstacle is not None:
        return SweepState(sweep.folder, "not_run", obstacle)
    if sweep.can_start_jobs():
        import_once()  # before the fork, so that the process of each sweep need not
        arguments = plan.command(sweep)
        print(f"{plan.study.name}, {sweep.name}: trainopt {shlex.join(arguments)}", flush=True)
        sweep.is_complete = run_isolated(lambda: exit_code_of(lambda: run(arguments, debug), debug)) == 0
        plan.save()
    return sweep.state()


def write_report_of(plan: StudyPlan, states: dict[str, SweepState], debug: bool) -> int:
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
    """Writes the overview of several studies; returns the exit code."""
    from ..studies.report import write_overview

    write_overview([plan.folder for plan in plans], path)
    print(f"overview: {shown(path)}", flush=True)
    return 0
