"""`trainopt benchmark SUITE`: several workloads, one ranking of the submissions by the time to their targets."""

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

from ...benchmark.plan import RULESETS, BenchmarkPlan, Search
from ...benchmark.results import AXES, find_target, read_results, read_trials
from ...benchmark.submissions import labelled, read_words
from ...benchmark.suite import Effort, Suite, find_suites, read_suite
from ...config.forms.object_files import reject_unknown
from ...reporting.figure_style import add_style_flags, figure_style
from ...search.compose import Composer
from ...system.display import plain_table, print_table, wide_console
from ...system.errors import FAILED, UserError
from ...system.files import plural, shown
from ...system.flags import FlagParser, add_config_dir, existing_folder
from ...system.interrupt import Interrupt
from ..run import command as run

LOG = "log.txt"  # what the searches print


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt benchmark", description="Rank optimizers by the time to targets of several workloads."
    )
    parser.add_argument("suite", nargs="?", metavar="SUITE", help="a suite of conf/suite/ or DIR/suite/")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="optimizer=A,B|'optimizer=A KEY=VALUE'|KEY=VALUE",
        help="submissions, in quotes with further keys; KEY=VALUE: for all runs",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few trials and studies; a later command without it uses their runs again"
    )
    parser.add_argument("--studies", type=int, metavar="K", help="repetitions with other seeds; default: the suite's")
    parser.add_argument("--trials", type=int, metavar="N", help="trials of a study; default: the suite's")
    parser.add_argument(
        "--ruleset",
        default="external",
        choices=RULESETS,
        help="external: N trials of the search space (default); self: one run as it is, without a search",
    )
    parser.add_argument(
        "--x", default="gradients", choices=tuple(AXES), help="cost by which submissions are ranked; default: gradients"
    )
    parser.add_argument(
        "--targets", action="store_true", help="print the targets that follow from the runs, for the suite's file"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be run; run nothing")
    parser.add_argument(
        "--launcher", default="joblib", metavar="basic|joblib|…", help="how runs are started; default: joblib"
    )
    add_config_dir(parser, existing_folder, "folder of further suites and options")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the report; default: outputs/benchmark/SUITE"
    )
    add_style_flags(parser)
    parser.add_argument(
        "--rename",
        action="append",
        metavar="NAME:LABEL",
        help="label in tables and the figure, as optimizer=adamw:AdamW; NAME: a submission, or KEY=VALUE in it",
    )
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt benchmark SUITE [optimizer=A,B] …`."""
    options = parser().parse_intermixed_args(arguments)
    typed = shlex.join(["trainopt", "benchmark", *arguments])
    with Interrupt() as interrupt:
        try:
            code = benchmark(make_plan(options, typed), options, debug)
        except KeyboardInterrupt:
            code = interrupt.code
        if code > 128:
            print(f"stopped; the same command continues it: {typed}", file=sys.stderr)
        return code


def make_plan(options: Namespace, typed: str = "") -> BenchmarkPlan:
    """Returns the plan of the benchmark that a command line asks for.

    Args:
        options: of the command line.
        typed: the command line.

    Raises:
        UserError: a word or a number is wrong.
    """
    suite = select_suite(options.suite, options.config_dir)
    words = read_words(options.words)
    effort = suite.quick if options.quick else suite.full
    for name in ("trials", "studies"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise UserError(f"benchmark: --{name} {number}: must be an integer >= 1")
    if options.ruleset == "self" and options.trials:
        raise UserError("benchmark: --trials: with --ruleset self a study is one run; give --studies K")
    effort = Effort(options.trials or effort.trials, options.studies or effort.studies)
    without = [name for name, workload in suite.workloads.items() if workload.target is None]
    if without and not options.targets:
        raise UserError(f"{suite.name}: {without[0]} has no target yet; --targets finds one from the runs of baselines")
    return BenchmarkPlan(
        suite,
        labelled(words.submissions or read_words(suite.submissions).submissions, options.rename or []),
        effort,
        options.ruleset,
        options.out or Path("outputs/benchmark") / suite.name,
        words.common,
        [f"hydra/launcher={options.launcher}", *words.launcher],
        Composer(options.config_dir),
        typed,
    )


def select_suite(name: str | None, folders: Sequence[Path]) -> Suite:
    """Returns the suite of a name; UserError where there is none."""
    suites = find_suites(folders)
    if name is None or "=" in name:
        raise UserError(f"benchmark: which suite? there are {', '.join(suites)}")
    reject_unknown("benchmark: ", [name], suites, "no such suite")
    return read_suite(suites[name])


def benchmark(plan: BenchmarkPlan, options: Namespace, debug: bool) -> int:
    """Runs what is missing of a benchmark, and writes its files; returns the exit code.

    Args:
        plan: of the searches.
        options: of the command line.
        debug: whether tracebacks are shown.

    Raises:
        UserError: a search cannot be run; where it could be known before, nothing was run.
    """
    searches = [search for search in plan.searches if not search.is_done()]
    plan.check(searches)
    show_plan(plan, searches)
    if options.dry_run:
        for name, workload in plan.suite.workloads.items():
            goal = workload.metric if workload.target is None else workload.goal
            print(
                f"{name}: {workload.about}; target: {goal}\n  {' '.join([*plan.suite.overrides, *workload.overrides])}"
            )
        return 0
    plan.folder.mkdir(parents=True, exist_ok=True)
    for search in searches:
        code = run_search(plan, search, debug)
        if code > 128:
            return code
    if options.targets:
        return show_targets(plan)
    with figure_style(options.style, options.width):
        return report(plan, options.x)


def show_plan(plan: BenchmarkPlan, searches: list[Search]) -> None:
    """Prints what takes part, and how much of it is to be run."""
    suite, effort = plan.suite, plan.effort
    names = ", ".join(submission.label for submission in plan.submissions)
    runs = len(plan.searches) * plan.trials
    size = f"{plural(len(suite.workloads), 'workload')}, {plural(effort.studies, 'study')} of"
    size += f" {plural(plan.trials, 'trial')}: {plural(runs, 'run')}"
    print(f"{suite.name}: {suite.title}\nsubmissions: {names}\n{size}, in {shown(plan.folder)}", flush=True)
    if len(searches) < len(plan.searches):
        print(f"{len(plan.searches) - len(searches)} of {plural(len(plan.searches), 'study')} done", flush=True)


def run_search(plan: BenchmarkPlan, search: Search, debug: bool) -> int:
    """Runs what is missing of a search and prints a line about it; returns the exit code.

    What the runs print goes into a file. All searches run in this process, so that joblib's workers are started once.
    """
    with output_in(plan.folder / LOG):
        print(f"\ntrainopt {shlex.join(plan.command(search))}", flush=True)
        code = run(plan.command(search), debug)
    if code > 128:
        return code
    workload = plan.suite.workloads[search.workload]
    trials = read_trials(search, workload)
    hits = [trial.cost["steps"] for trial in trials if isfinite(trial.cost["steps"])]
    text = f"{len(hits)} of {plural(search.trials, 'trial')} reached the target" + (
        f", after {min(hits):g} steps" if hits else ""
    )
    if workload.target is None:
        text = plural(len(trials), "trial")
    if trials and all(trial.refusal for trial in trials):
        text = f"refused: {trials[0].refusal}"
    print(f"{search.workload}, {search.submission.label}, study {search.study}: {text}", flush=True)
    return code


@contextmanager
def output_in(path: Path) -> Iterator[None]:
    """Appends to a file, while entered, what this process and those that it starts write to standard output."""
    sys.stdout.flush()
    before = os.dup(1)
    try:
        with open(path, "ab") as file:
            os.dup2(file.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(before, 1)
        os.close(before)


def show_targets(plan: BenchmarkPlan) -> int:
    """Prints the targets that the runs of baselines give; returns the exit code."""
    results = read_results(plan)
    targets = {name: find_target(results, name) for name in plan.suite.workloads}
    for name, target in targets.items():
        print(f"{name}: {'no trial has a metric' if target is None else f'target: {target:g}'}")
    return FAILED if None in targets.values() else 0


def report(plan: BenchmarkPlan, axis: str) -> int:
    """Writes the files of a benchmark and prints the ranking; returns the exit code."""
    from ...benchmark.ranking import rank  # imports scipy and pandas, which the plan does not need
    from ...benchmark.report import conclusion, ranking_table, write_report

    ranking = rank(read_results(plan), axis)
    names = write_report(ranking)
    console = wide_console()
    header, rows = ranking_table(ranking)
    table = plain_table(*header, left=1)
    for row in rows:
        table.add_row(*row)
    print_table(console, table)
    lines = [conclusion(ranking), *(f"refused, which counts as a miss: {line}" for line in ranking.refusals)]
    lines += [f"failed, which counts as a miss: {line}" for line in ranking.failures]
    lines += [f"not ended: {line}" for line in ranking.unfinished]
    lines += [f"warning: the ranking is not sound: {line}" for line in ranking.obstacles]
    for line in [*lines, f"files: {shown(plan.folder)}/ ({', '.join(names)})"]:
        console.print(line, markup=False, soft_wrap=True)
    useless = ranking.results.refused_everywhere()
    if useless:
        console.print(f"no workload takes {', '.join(useless)}", markup=False, soft_wrap=True)
    return FAILED if ranking.unfinished or ranking.obstacles or useless else 0
