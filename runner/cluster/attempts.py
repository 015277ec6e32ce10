"""Tasks that come to their time limit, and those that end before their runs begin."""

import sys
from pathlib import Path

from ..records.job_table import job_statuses, read_jobs
from ..records.run_folder import read_summary, record_failure
from ..system.errors import UserError
from ..system.files import read_json, write_json
from .queue import OPEN_STATES
from .submissions import read_submission

MOST_FRUITLESS = 3  # attempts in a row that come to the time limit without a new step


def note_time_limit(path: Path, index: int) -> bool:
    """Notes that a task came to its time limit; returns whether it is to be queued again.

    That is not so where several attempts made no step: its jobs are recorded as failed then.

    Args:
        path: of the submission's file.
        index: of the task.
    """
    sweep = path.parent.parent
    folders = read_submission(path).tasks[index] or [job["folder"] for job in read_jobs(sweep)]
    steps = sum(read_summary(sweep / folder).get("steps") or 0 for folder in folders)
    file = path.with_name(f"{path.stem}_{index}.limits")
    before = {"steps": 0, "fruitless": 0} | read_json(file)
    fruitless = 0 if steps > before["steps"] else before["fruitless"] + 1
    write_json(file, {"steps": steps, "fruitless": fruitless})
    if fruitless < MOST_FRUITLESS:
        return True
    error = f"its task came to its time limit {fruitless} times without a new step; give it a longer cluster.time"
    record_open_jobs(path, index, UserError(error))
    print(f"trainopt: {error}", file=sys.stderr)
    return False


def record_open_jobs(path: Path, index: int, error: UserError) -> None:
    """Records an error as that of the jobs of a task that have not ended and that no process runs.

    Args:
        path: of the submission's file.
        index: of the task.
        error: the reason why they do not begin, or do not go on.
    """
    sweep = path.parent.parent
    plans = {plan["folder"]: plan for plan in read_jobs(sweep)}
    jobs = {folder: plans[folder] for folder in read_submission(path).tasks[index]}
    for job in job_statuses(sweep, jobs):
        if job.state in OPEN_STATES:
            record_failure(sweep / job.name, error, refused=True)
