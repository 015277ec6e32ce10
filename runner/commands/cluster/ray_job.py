"""What a submission runs on Ray: `python -m trainopt.runner.commands.cluster.ray_job SUBMISSION`.

A Ray task is a process of `worker`, started from the task's own: its function stands here, where cloudpickle sends it
by value, so the nodes' Ray needs no trainopt but that of the interpreter that submitted. SIGTERM, which comes from
`trainopt cancel` and `ray job stop`, cancels all tasks, and waits until their runs have written checkpoints.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from ...cluster.ray import STOP_SECONDS, note_ended
from ...cluster.settings import RaySettings
from ...cluster.submissions import log_path, read_submission

if TYPE_CHECKING:
    import ray

RETRIES = 20  # of a task whose worker or node is lost; its runs go on from their checkpoints
WORKER = f"{__package__}.worker"


def run_command(command: str, folder: str, log: str, variables: dict[str, str]) -> int:
    """Runs a command of bash until it ends, or this task is cancelled; returns its exit code.

    Its standard input is a pipe that ends with this process, by which it knows that this one was killed.

    Args:
        command: to run.
        folder: in which it is run.
        log: the file to which its output is appended.
        variables: of its environment.
    """
    with open(log, "ab") as file:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            while True:  # a wait without end would not see that the task is cancelled
                try:
                    return process.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def main() -> None:
    """Runs the tasks of a submission; exits with 1 if a job of one has not ended."""
    import ray

    path = Path(sys.argv[1])
    submission = read_submission(path)
    settings = RaySettings(**submission.settings)
    ray.init()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))  # after Ray's
    cores = settings.cpus or 1
    options = {
        "num_gpus": settings.gpu_count,
        "num_cpus": cores,
        "memory": settings.memory_bytes,
        "max_retries": RETRIES,
    }
    function = ray.remote(**{**options, **settings.extra})(run_command)

    waiting, failures = deque(range(len(submission.tasks))), 0
    running: dict[ray.ObjectRef[int], int] = {}
    while (waiting or running) and not stopped:
        while waiting and len(running) < (settings.array_parallelism or len(submission.tasks)):
            index = waiting.popleft()
            command = shlex.join([sys.executable, "-u", "-m", WORKER, str(path), str(index)])
            task = function.options(name=str(index)).remote(
                "\n".join([*settings.setup, f"exec {command}"]),
                os.getcwd(),
                str(log_path(path, index)),
                {"OMP_NUM_THREADS": str(cores)},
            )
            running[task] = index
        for task in ray.wait(list(running), timeout=1.0)[0]:
            index = running.pop(task)
            failures += exit_code(task, index) != 0
            note_ended(path, index)
    for task in running:
        ray.cancel(task)
    if running:
        ray.wait(list(running), num_returns=len(running), timeout=STOP_SECONDS)
    sys.exit(1 if failures or stopped else 0)


def exit_code(task: "ray.ObjectRef[int]", index: int) -> int:
    """Returns the exit code of a task that has ended; 1 where Ray gave it up, which is printed."""
    import ray
    from ray.exceptions import RayError

    try:
        return int(ray.get(task))
    except RayError as error:
        print(f"task {index}: {error}", flush=True)
        return 1


if __name__ == "__main__":
    main()
