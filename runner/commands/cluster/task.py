"""What a task of a submission runs: `python -m trainopt.runner.commands.cluster.task SUBMISSION`.

SIGTERM, which comes before a task is preempted, requeued or cancelled, finishes the step and writes a checkpoint. So
does SIGUSR2, which SLURM sends ahead of the time limit; the task then puts itself back into the queue, unless it did so
several times without a new step.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from ...system.environment import LIMIT_CAME
from ...system.errors import exit_code_of


class TimeLimit:
    """Stops this process as SIGTERM does when SIGUSR2 comes.

    Attributes:
        comes: whether it came.
        is_begun: whether the task's work has begun: until then main looks.
    """

    def __init__(self) -> None:
        self.comes = LIMIT_CAME in os.environ
        self.is_begun = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handles the signal."""
        del number, frame
        self.comes = True
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.is_begun:  # but no run, so there is nothing to write
            raise KeyboardInterrupt(signal.SIGTERM)


def main() -> None:
    """Runs the task that SLURM's environment names, and exits with its code."""
    limit = TimeLimit()
    signal.signal(signal.SIGUSR2, limit.handle)  # before the imports, which take long
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})  # the batch script holds it back until here
    from ...cluster.attempts import note_time_limit
    from ...cluster.slurm import requeue
    from .worker import work

    path, index = Path(sys.argv[1]), int(os.environ["SLURM_ARRAY_TASK_ID"])

    def begin() -> int:
        limit.is_begun = True
        return 128 + signal.SIGTERM if limit.comes else work(path, index)

    code = exit_code_of(begin, debug=False)
    for number in (signal.SIGTERM, signal.SIGUSR2):  # SLURM sends the first to what it queues again
        signal.signal(number, signal.SIG_IGN)
    if limit.comes and code and note_time_limit(path, index):
        requeue(f"{os.environ['SLURM_ARRAY_JOB_ID']}_{index}")
    sys.exit(code)


if __name__ == "__main__":
    main()
