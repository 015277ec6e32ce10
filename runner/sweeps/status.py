"""Prints the job table of a sweep."""

import re
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

from ..records.job_table import ENDED, JobStatus, count_states, error_lines, exit_code, read_job_table
from ..system.display import duration_text, plain_table, print_table, value_text, wide_console
from ..system.errors import FAILED
from ..system.files import plural, shown

LONG_NUMBER = re.compile(r"(?<![\w.])\d+\.\d{4,}(?:e[+-]?\d+)?")
LONGEST_WAIT_SECONDS = 30.0  # for jobs that were told to stop
REPORTS = ("comparison/report.html", "report.html", "lr_heuristic.png")  # of a tournament, a search, learning rates
STATE_COLOURS = {"done": "green", "running": "cyan", "diverged": "yellow", "failed": "red", "outdated": "magenta"}


def show_job_table(jobs: list[JobStatus]) -> None:
    """Prints the job table, the errors of failed jobs, and how many jobs are in which state."""
    console = wide_console()
    table = plain_table("job", "state", "step", "progress", "time", "left", "test top-1", "test loss", left=2)
    has_roles, has_tasks = any(job.role for job in jobs), any(job.task for job in jobs)
    if has_roles:
        table.add_column("role")
    if has_tasks:
        table.add_column("cluster")
    for label, job in zip(job_labels(jobs), jobs, strict=True):
        colour = STATE_COLOURS.get(job.state, "")
        table.add_row(
            label,
            f"[{colour}]{job.state}[/]" if colour else job.state,
            "" if job.step is None else str(job.step),
            "" if job.share is None else f"{job.share:.0%}",
            "" if job.wall_seconds is None else duration_text(job.wall_seconds),
            "" if job.seconds_left is None else duration_text(job.seconds_left),
            "" if job.top1 is None else value_text(job.top1, ".2f", " %"),
            "" if job.loss is None else value_text(job.loss, ".4f", ""),
            *([job.role or ""] if has_roles else []),
            *([place_text(job)] if has_tasks else []),
        )
    if jobs:
        print_table(console, table)
    for line in error_lines(jobs):
        console.print(line, markup=False, soft_wrap=True)
    console.print(count_states(jobs))


def report_of(sweep: Path) -> Path | None:
    """Returns the report of a sweep's search or tournament, or its figure where a search has no report."""
    return next((sweep / name for name in REPORTS if (sweep / name).exists()), None)


def place_text(job: JobStatus) -> str:
    """Returns where a job is on the cluster, as in `17_3 on node4` or `17_4, 2 restarts: Resources`, if it is there."""
    if job.task is None:
        return ""
    restarts = f", {plural(job.restarts, 'restart')}" if job.restarts else ""
    return job.task + (f" on {job.node}" if job.node else "") + restarts + (f": {job.reason}" if job.reason else "")


def job_labels(jobs: list[JobStatus]) -> list[str]:
    """Returns a label for each job: the overrides that not all jobs of its role have, or else the folder's name.

    Numbers that a search drew have four digits, where these tell the jobs apart.
    """
    roles = Counter(job.role for job in jobs)
    number = Counter((job.role, text) for job in jobs for text in set(job.overrides))
    labels = [" ".join(t for t in job.overrides if number[job.role, t] < roles[job.role]) or job.name for job in jobs]
    if any(job.role or job.is_trial for job in jobs):
        rounded = [LONG_NUMBER.sub(lambda match: f"{float(match[0]):.4g}", label) for label in labels]
        labels = rounded if len(set(rounded)) == len(set(labels)) else labels
    return [label.replace("[", r"\[") for label in labels]


def show_end(sweep: Path, command: list[str], is_stopped: bool) -> int:
    """Prints the job table at the end of a sweep, and how to continue it; returns its exit code.

    That of a failed trial is 0: it is an outcome, which the search records, and the search says whether any was left.

    Args:
        sweep: its folder.
        command: what was typed.
        is_stopped: whether its launcher was stopped, which is a failure; jobs that still write their checkpoints are
            waited for then.
    """
    until = time.monotonic() + (LONGEST_WAIT_SECONDS if is_stopped else 0.0)
    jobs = read_job_table(sweep)
    while any(job.state == "running" for job in jobs) and time.monotonic() < until:
        time.sleep(0.2)
        jobs = read_job_table(sweep)
    show_job_table(jobs)
    open_states = {job.state for job in jobs} - {*ENDED, "outdated", "running"}
    if open_states == {"failed"}:
        print(f"once the causes are removed, the same command runs what failed again: {shlex.join(command)}")
    elif open_states or is_stopped:  # a search that is stopped between two trials has no open job
        print(f"the same command continues it: {shlex.join(command)}")
    print(f"job table: trainopt status {shlex.quote(shown(sweep))}")
    sys.stdout.flush()
    return FAILED if is_stopped else exit_code(job for job in jobs if not (job.is_trial and job.state == "failed"))
