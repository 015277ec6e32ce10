"""`trainopt cancel SWEEP [JOB …]`: ends the tasks of a sweep on a cluster, or those of some of its jobs."""

import time
from pathlib import Path

from ...cluster.queue import tasks_by_scheduler, tasks_of
from ...cluster.scheduler import Task
from ...cluster.submissions import Submission, read_submissions
from ...records.job_table import ENDED, job_statuses, read_jobs, sweep_jobs
from ...sweeps.status import job_labels
from ...system.errors import UserError, continued, nearest
from ...system.files import plural, shown
from ...system.flags import FlagParser, existing_folder

LONGEST_WAIT_SECONDS = 150.0  # Ray gives runs 120 s for their checkpoints, SLURM 30 unless it is set up otherwise
POLL_SECONDS = 1.0


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt cancel",
        description="End the tasks of a sweep that wait or run on a cluster; runs write a checkpoint first.",
    )
    parser.add_argument("sweep", type=existing_folder, metavar="SWEEP", help="folder of a sweep, or of one of its jobs")
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="folders of jobs whose tasks end; default: all")
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt cancel SWEEP [JOB …]`."""
    del debug
    options = parser().parse_args(arguments)
    sweep, typed = options.sweep, options.jobs
    for above, plan in sweep_jobs([sweep.resolve()]).values():
        sweep, typed = above, [plan["folder"], *typed]
    if not read_submissions(sweep):
        raise UserError(f"cancel: {sweep}: was not submitted to a cluster")
    names, ended, is_at_work = job_names(sweep, typed), set(), False
    for scheduler, in_queue in tasks_by_scheduler(sweep):
        tasks = tasks_with(sweep, names, in_queue) if names else in_queue
        if tasks and names and not scheduler.ends_single_tasks:
            raise UserError(f"cancel: a {scheduler.place} ends as a whole; leave the jobs out")
        if tasks:
            scheduler.cancel(tasks)
        ended |= {(task.name, task.index) for _, task in tasks}
        is_at_work |= any(task.state != "pending" for _, task in tasks)
    number = len(ended)
    if number:
        waiting = "; waiting for the checkpoints of their runs (Ctrl-C ends the wait)" if is_at_work else ""
        print(f"cancelled {plural(number, 'task')}{waiting}", flush=True)
    left = wait_for_end(sweep, ended) if number else 0
    if left:
        print(f"{plural(left, 'task')} not ended after {LONGEST_WAIT_SECONDS:.0f} s: trainopt status {shown(sweep)}")
    else:
        what = "no task of these" if names else "no task"
        print(f"{what} is left; trainopt submit with the same arguments goes on where they stopped")
    return 0


def job_names(sweep: Path, typed: list[str]) -> set[str]:
    """Returns the names of jobs, which were typed so, as `status` shows the jobs, or as the paths of their folders.

    Raises:
        UserError: a sweep has no such job.
    """
    planned = {job["folder"]: job for job in read_jobs(sweep)}
    jobs = list(job_statuses(sweep, planned)) if typed else []
    by_label = {label.replace(r"\[", "["): job.name for label, job in zip(job_labels(jobs), jobs, strict=True)}
    names = set()
    for text in typed:
        path = Path(text).resolve()
        name = str(path.relative_to(sweep.resolve())) if sweep.resolve() in path.parents else text
        job = next((job for job in (text, name, by_label.get(text)) if job in planned), None)
        if job is None:
            problem = f"cancel: {text}: is no job of {shown(sweep)}{nearest(text, [*planned, *by_label])}"
            right = "write the name of its folder, or in quotes what trainopt status shows"
            raise UserError(continued(problem, right))
        names.add(job)
    return names


def tasks_with(sweep: Path, names: set[str], tasks: list[tuple[Submission, Task]]) -> list[tuple[Submission, Task]]:
    """Returns the tasks of jobs.

    Raises:
        UserError: one has another job, too, which has not ended.
    """
    chosen = [(submission, task) for submission, task in tasks if names & set(submission.tasks[task.index])]
    plans = {job["folder"]: job for job in read_jobs(sweep)}
    for submission, task in chosen:
        others = {name: plans[name] for name in submission.tasks[task.index] if name not in names}
        left = [job.name for job in job_statuses(sweep, others) if job.state not in ENDED]
        if left:
            raise UserError(
                f"cancel: task {task.id} has also {', '.join(left)}; name these too, or no job for all tasks"
            )
    return chosen


def wait_for_end(sweep: Path, ended: set[tuple[str, int]]) -> int:
    """Waits until tasks of a sweep have left the queue; returns the number of those that have not, after the wait.

    Until then `submit` would take their runs for running ones.

    Args:
        sweep: its folder.
        ended: the names of the tasks' submissions, and their indices in these.
    """
    until = time.monotonic() + LONGEST_WAIT_SECONDS
    while (left := sum((task.name, task.index) in ended for _, task in tasks_of(sweep))) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return left
