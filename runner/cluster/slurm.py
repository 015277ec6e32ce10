"""SLURM's commands. They are asked for their text: bindings to its library depend on its version."""

import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..system.environment import IN_TASK, LIMIT_CAME
from ..system.errors import UserError, one_line
from .scheduler import NoAnswer, Scheduler, Task
from .settings import SlurmSettings
from .submissions import Submission, log_path

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
QUEUE_SECONDS = 20.0  # of squeue, which only reads
OLD_ARRAY_LIMIT = 1001  # SLURM's default
NO_GPUS = "Invalid generic resource"
NO_REPLY = "timed out on send/recv"  # of a controller under load, which may have taken a job nevertheless
SETUP_END = """trap 'echo "trainopt: cluster.setup: $BASH_COMMAND: ended the task with code $?" >&2' EXIT"""
# At the time limit SIGTERM comes; it also does where a task is cancelled or preempted, which SLURM notes in the log.
SETUP_LIMIT = (
    f"""trap 'trap - EXIT; [ -z "${{{LIMIT_CAME}:-}}" ] || """
    """echo "trainopt: cluster.setup: $BASH_COMMAND: the time limit came; give it a longer cluster.time" >&2; """
    """exit 143' TERM"""
)
# SIGUSR2, ahead of the time limit, may come before Python handles it: env holds it back until then. It is ignored for
# the milliseconds until env runs; and until Python does, where coreutils is older than 8.31, whose env cannot hold it.
HOLD = ("trap '' USR2", "hold='env --default-signal=USR2 --block-signal=USR2'; $hold true 2>/dev/null || hold=")
IS_CANCELLED = re.compile(r"CANCELLED AT \S+ \*\*\*")  # else it says why: DUE TO TIME LIMIT


class Slurm(Scheduler[SlurmSettings]):
    """SLURM, by plain sbatch: a task is a command that one can type, its log is text, and nothing is pickled.

    Args:
        module: that a task runs, with the file of its submission.
    """

    title, place, settings, ends_single_tasks = "SLURM", "SLURM job", SlurmSettings, True

    def __init__(self, module: str):
        self.module = module

    def check(self, settings: SlurmSettings, is_search: bool, launcher: str) -> None:
        """Raises UserError where SLURM is not here, or runs cannot be on as many processes as the settings say."""
        if not is_installed():
            raise UserError("submit: sbatch is not on this machine; type the command on a machine with SLURM")
        check_processes(settings, is_search, launcher)

    def limit(self) -> int:
        """Returns the number of tasks that an array may have."""
        return array_limit()

    def preview(self, path: Path, submission: Submission, settings: SlurmSettings) -> str:
        """Returns the batch script of an array, after SLURM has checked it."""
        script = batch_script(path, submission, settings, self.module)
        sbatch(script, "--test-only")
        return script

    def submit(self, path: Path, submission: Submission, settings: SlurmSettings, after: str | None) -> str:
        """Submits an array; returns the number of its job."""
        dependencies = [settings.extra.get("dependency"), f"afterany:{after}" if after else None]
        extra = {**settings.extra, "dependency": ",".join(filter(None, dependencies)) or None}
        try:
            return sbatch(batch_script(path, submission, replace(settings, extra=extra), self.module))
        except NoAnswer:
            with suppress(UserError):
                for task in tasks_in_queue([submission.name]):
                    return task.id.partition("_")[0]
            raise

    def tasks(self, sweep: Path, submissions: list[Submission]) -> list[Task]:
        """Returns the tasks of arrays that wait or run."""
        del sweep
        return tasks_in_queue([one.name for one in submissions])

    def was_cancelled(self, path: Path, index: int) -> bool:
        """Returns whether SLURM noted in a task's log that it was cancelled."""
        return bool(IS_CANCELLED.search(log_path(path, index).read_text(encoding="utf-8", errors="replace")))

    def cancel(self, tasks: list[tuple[Submission, Task]]) -> None:
        """Ends tasks: those that run get SIGTERM first, and leave a checkpoint."""
        run(["scancel", *(task.id for _, task in tasks)])


def is_installed() -> bool:
    """Returns whether SLURM's commands are on this machine."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def sbatch(script: str, *options: str) -> str:
    """Submits a batch script, or does what further options say; returns the number of its job.

    Raises:
        UserError: SLURM refuses it.
        NoAnswer: as of `run`.
    """
    try:
        return run(["sbatch", "--parsable", *options], script).strip().partition(";")[0]
    except UserError as error:
        if NO_GPUS not in str(error):
            raise
        raise UserError(f"{error}; cluster.gpus=0 asks for no GPU") from error


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
        UserError: it is missing, or fails; each of its errors has a line.
        NoAnswer: it, or SLURM's controller, does not answer in time.
    """
    try:
        result = subprocess.run(
            command,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=QUEUE_SECONDS if command[0] == "squeue" else TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not on this machine; type the command on a machine with SLURM") from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"{command[0]} does not answer; SLURM's controller may be down, try again") from error
    if result.returncode:
        said = result.stderr.strip() or result.stdout.strip() or f"exit code {result.returncode}"
        error_class = NoAnswer if NO_REPLY in said else UserError
        lines = [one_line(line).removeprefix(f"{command[0]}: ").removeprefix("error: ") for line in said.splitlines()]
        raise error_class("\n".join(f"{command[0]}: {line}" for line in filter(None, lines)))
    return result.stdout


def check_processes(settings: SlurmSettings, is_search: bool, launcher: str) -> None:
    """Raises UserError where runs cannot be on as many processes as the settings say.

    Args:
        settings: what a task asks for.
        is_search: the jobs follow from results of earlier ones.
        launcher: the option of hydra/launcher.
    """
    several = "cluster.nodes and cluster.processes:"
    if is_search and settings.nodes * settings.processes > 1:
        raise UserError(f"{several} the trials of a search are runs of one process; leave them out")
    if launcher != "basic" and settings.nodes * settings.processes > 1:
        raise UserError(f"{several} a run takes all processes of its task; leave hydra/launcher={launcher} out")
    number = settings.processes
    if 0 < settings.gpu_count < number:
        enough = re.sub(r"\d+$", str(number), str(settings.gpus))
        raise UserError(f"cluster.processes={number}: each has a GPU of its own; write cluster.gpus={enough}, or 0")


def batch_script(path: Path, submission: Submission, settings: SlurmSettings, module: str) -> str:
    """Returns the batch script of an array.

    Args:
        path: of the submission's file.
        submission: of the array.
        settings: what a task asks for.
        module: that a task runs.
    """
    bound = f"%{settings.array_parallelism}" if settings.array_parallelism else ""
    options = {
        "job-name": submission.name,
        "array": f"0-{len(submission.tasks) - 1}{bound}",
        "output": log_path(path, "%a"),
        "open-mode": "append",
        "requeue": True,
        "signal": f"B:USR2@{settings.grace}",
        "nodes": settings.nodes,
        "ntasks": settings.nodes * settings.processes,
        "ntasks-per-node": settings.processes,
        "partition": settings.partition,
        "time": settings.time,
        "gpus-per-node": settings.gpus if settings.gpu_count else None,
        "cpus-per-task": settings.cpus,
        "mem": settings.memory,
        "account": settings.account,
        **settings.extra,
    }
    lines = [
        f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={quoted(value)}"
        for name, value in options.items()
        if value not in (None, False)
    ]
    command = shlex.join([sys.executable, "-u", "-m", module, str(path.resolve())])
    number = settings.processes
    cores = f"${{SLURM_CPUS_PER_TASK:-$((${{SLURM_CPUS_ON_NODE:-{number}}} / {number}))}}"
    lines += [
        f"trap 'export {LIMIT_CAME}=1' USR2",
        f"export {IN_TASK}=1",
        f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cores}}}",
        "set -e",
        SETUP_END,
        SETUP_LIMIT,
    ]
    return "\n".join(["#!/bin/bash", *lines, *settings.setup, *HOLD, f"exec $hold {command}"]) + "\n"


def quoted(value: object) -> str:
    """Returns a value as sbatch reads it in a script: in double quotes where it has blanks.

    >>> quoted("a b"), quoted(3)
    ('"a b"', '3')
    """
    text = str(value)
    return f'"{text}"' if re.search(r"\s", text) else text
