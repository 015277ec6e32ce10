"""SLURM's commands. They are asked for their text: bindings to its library depend on its version."""

import re
import shutil
import subprocess
from dataclasses import dataclass

from ..system.errors import UserError, one_line

# Names of squeue's columns, and how many characters each gets.
COLUMNS = {
    "Name": 100,
    "ArrayJobID": 20,
    "ArrayTaskID": 20,
    "State": 20,
    "Reason": 60,
    "NodeList": 80,
    "RestartCnt": 10,
    "PreemptTime": 30,
}
# States of a task that does not come back; squeue shows these for some minutes. While a task is queued again it has
# others than pending and running for a moment, which squeue leaves out unless it is asked for all.
ENDS = (
    *("completed", "cancelled", "failed", "timeout", "node_fail", "out_of_memory", "boot_fail", "deadline"),
    *("preempted", "revoked"),
)
TIMEOUT_SECONDS = 60.0
OLD_ARRAY_LIMIT = 1001  # SLURM's default
NO_GPUS = "Invalid generic resource"


@dataclass(frozen=True)
class Task:
    """A task of an array in the queue.

    Attributes:
        name: of the array.
        index: of the task in it.
        id: as scontrol and scancel take it, `17_3`.
        state: SLURM's, in lower case, as `pending`, `running` or `completing`.
        reason: why it waits, in SLURM's words; empty where it does not.
        node: where it runs; empty where it does not.
        restarts: how often it was queued again.
        is_preempted: whether a task of higher priority took its place.
    """

    name: str
    index: int
    id: str
    state: str
    reason: str
    node: str
    restarts: int
    is_preempted: bool


def is_installed() -> bool:
    """Returns whether SLURM's commands are on this machine."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def sbatch(script: str) -> str:
    """Submits a batch script; returns the number of its job.

    Raises:
        UserError: SLURM refuses it.
    """
    try:
        return run(["sbatch", "--parsable"], script).strip().partition(";")[0]
    except UserError as error:
        hint = "; cluster.gpus=0 asks for no GPU" if NO_GPUS in str(error) else ""
        raise UserError(f"{error}{hint}") from error


def tasks_in_queue(names: list[str]) -> list[Task]:
    """Returns the tasks that wait or run of arrays with these names."""
    if not names:
        return []
    columns = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    options = ["--array", "--noheader", "--states=all", f"--name={','.join(names)}", f"--Format={columns}"]
    tasks = map(read_task, run(["squeue", *options]).splitlines())
    return [task for task in tasks if task is not None and task.state not in ENDS]


def read_task(line: str) -> Task | None:
    """Returns the task in a line of squeue; None for what is no task of an array."""
    values, start = {}, 0
    for name, width in COLUMNS.items():
        values[name] = line[start : start + width].strip()
        start += width
    if not values["ArrayTaskID"].isdigit():
        return None
    reason = values["Reason"]
    return Task(
        name=values["Name"],
        index=int(values["ArrayTaskID"]),
        id=f"{values['ArrayJobID']}_{values['ArrayTaskID']}",
        state=values["State"].lower(),
        reason="" if reason == "None" else reason,
        node=values["NodeList"],
        restarts=int(values["RestartCnt"] or 0),
        is_preempted=values["PreemptTime"] not in ("", "N/A"),
    )


def scancel(ids: list[str]) -> None:
    """Ends tasks: those that run get SIGTERM first, and leave a checkpoint."""
    run(["scancel", *ids])


def requeue(task: str) -> None:
    """Puts a running task back into the queue, and ends it."""
    run(["scontrol", "requeue", task])


def array_limit() -> int:
    """Returns the number of tasks that an array may have."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", run(["scontrol", "show", "config"]), re.MULTILINE)
    return (int(match[1]) if match else OLD_ARRAY_LIMIT) - 1  # SLURM gives the first index that is too large


def run(command: list[str], text: str | None = None) -> str:
    """Returns what a command prints.

    Args:
        command: its words.
        text: that it reads.

    Raises:
        UserError: it is missing, fails, or does not answer.
    """
    try:
        result = subprocess.run(
            command,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not on this machine; type the command where SLURM's are") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} does not answer; SLURM's controller may be down, try again") from error
    if result.returncode:
        said = result.stderr.strip() or result.stdout.strip()
        raise UserError(f"{command[0]}: {one_line(said).removeprefix(f'{command[0]}: ').removeprefix('error: ')}")
    return result.stdout
