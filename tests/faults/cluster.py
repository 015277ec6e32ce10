"""A large sweep on a made-up cluster that preempts tasks and loses nodes: no run is lost, and none is made twice.

    cd tests && ../.venv/bin/python -m faults.cluster --runs 10000

Plan, submissions, job table and locks are the real ones, and so are the processes and the signals that end them. Made
up are SLURM's commands and what a run does: it counts three steps, each with a checkpoint.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from trainopt.runner.cluster import slurm
from trainopt.runner.cluster.queue import read_table_with_queue
from trainopt.runner.cluster.settings import SlurmSettings, read_settings
from trainopt.runner.cluster.submissions import read_submission
from trainopt.runner.cluster.submit import submit
from trainopt.runner.records.job_table import count_states, read_jobs
from trainopt.runner.records.run_folder import read_summary
from trainopt.runner.search.compose import Composer
from trainopt.runner.sweeps.jobs import plan_sweep
from trainopt.runner.system.files import read_json, write_json
from trainopt.runner.system.lock import Busy, RunLock

STEPS = 3
STEP_SECONDS = 0.01
NODE_SLOTS = 5  # of a node, all of which are lost at once
LARGEST_ARRAY = 300
FIRST_LOSS = 3  # the turn in which nodes are lost in any case
PREEMPTED, LOST, FORGOTTEN = 0.01, 0.01, 0.3  # probabilities in a turn: of a task, of a node; of a lost task


@dataclass
class MadeUpTask:
    """A task of an array."""

    name: str
    array: int
    index: int
    folders: list[str]
    state: str = "pending"
    pid: int = 0
    slot: int = -1
    restarts: int = 0
    is_preempted: bool = False

    def line(self) -> str:
        """Returns the line of squeue."""
        values = [self.name, self.array, self.index, self.state.upper(), "None", f"node{self.slot // NODE_SLOTS}"]
        values += [self.restarts, "2026-01-02T03:04:05" if self.is_preempted else "N/A"]
        return "".join(str(v).ljust(width) for v, width in zip(values, slurm.COLUMNS.values(), strict=True))


@dataclass
class MadeUpSlurm:
    """SLURM's commands, and its controller: each `turn` starts, preempts and loses tasks."""

    sweep: Path
    slots: int
    most_lost: int  # tasks; afterwards no node is lost, for a lock that was half written is watched for 30 s
    draw: random.Random
    tasks: list[MadeUpTask] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.fingerprints = {job["folder"]: job["fingerprint"] for job in read_jobs(self.sweep)}

    def run(self, command: list[str], text: str | None = None) -> str:
        """Returns what one of SLURM's commands prints."""
        if command[0] == "sbatch":
            return self._sbatch(text or "")
        if command[0] == "squeue":
            return "\n".join(task.line() for task in self.tasks)
        assert command[:3] == ["scontrol", "show", "config"]
        return f"MaxArraySize            = {LARGEST_ARRAY + 1}"

    def _sbatch(self, script: str) -> str:
        submission = read_submission(Path(script.split()[-1]))
        queued = {folder for task in self.tasks for folder in task.folders}
        assert not queued & {folder for folders in submission.tasks for folder in folders}, "it waits or runs already"
        assert f"--array=0-{len(submission.tasks) - 1}" in script
        self.counts["arrays"] += 1
        self.tasks += [
            MadeUpTask(submission.name, self.counts["arrays"], index, folders)
            for index, folders in enumerate(submission.tasks)
        ]
        return str(self.counts["arrays"])

    def turn(self) -> None:
        """Looks at all tasks once."""
        self.counts["turns"] += 1
        running = [task for task in self.tasks if task.pid]
        for task in running:
            if os.waitpid(task.pid, os.WNOHANG)[0]:
                self._end(task)
            elif self.draw.random() < PREEMPTED and not task.is_preempted:
                task.is_preempted = True
                self.counts["preempted"] += 1
                os.kill(task.pid, signal.SIGTERM)
        lost = {node for node in range(self.slots // NODE_SLOTS) if self.draw.random() < LOST}
        if self.counts["turns"] == FIRST_LOSS:
            lost |= {task.slot // NODE_SLOTS for task in self.tasks if task.pid}  # all that are at work
        for node in sorted(lost):
            if self.counts["tasks lost"] < self.most_lost:
                self._lose([task for task in self.tasks if task.pid and task.slot // NODE_SLOTS == node])
        free = sorted(set(range(self.slots)) - {task.slot for task in self.tasks if task.pid})
        waiting = [task for task in self.tasks if not task.pid]
        for slot, task in zip(free, waiting, strict=False):
            task.slot, task.state, task.is_preempted = slot, "running", False
            task.pid = start_task({self.sweep / folder: self.fingerprints[folder] for folder in task.folders})

    def _end(self, task: MadeUpTask) -> None:
        """Queues a task again that was preempted; any other is over."""
        task.pid, task.state = 0, "pending"
        if task.is_preempted:
            task.restarts += 1
        else:
            self.tasks.remove(task)

    def _lose(self, tasks: list[MadeUpTask]) -> None:
        """Kills the tasks of a node; most of them are queued again."""
        self.counts["nodes lost"] += bool(tasks)
        for task in tasks:
            os.kill(task.pid, signal.SIGKILL)
            os.waitpid(task.pid, 0)
            task.pid, task.state = 0, "pending"
            task.restarts += 1
            self.counts["tasks lost"] += 1
            if self.draw.random() < FORGOTTEN:
                self.tasks.remove(task)


def start_task(fingerprints: dict[Path, str]) -> int:
    """Starts a process that runs jobs one after the other; returns its number.

    Args:
        fingerprints: of the jobs, by their folders.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        stops: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: stops.append(number))
        for folder, fingerprint in fingerprints.items():
            with suppress(Busy):
                run_job(folder, fingerprint, stops)
        code = 0
    finally:
        os._exit(code)


def run_job(folder: Path, fingerprint: str, stops: list[int]) -> None:
    """Makes the steps of a run that are left, each with a checkpoint, until it is told to stop."""
    if stops or read_summary(folder).get("status") == "finished":
        return
    with RunLock(folder), alone(folder):
        (folder / "run.yaml").write_text(f"fingerprint: {fingerprint}\nduration: {STEPS}steps\n")
        step = read_json(folder / "checkpoint.json").get("step", 0)
        while step < STEPS and not stops:
            time.sleep(STEP_SECONDS)
            step += 1
            with open(folder / "steps.txt", "a") as file:
                file.write(f"{step}\n")
            write_json(folder / "checkpoint.json", {"step": step})
        write_json(folder / "summary.json", {"status": "interrupted" if step < STEPS else "finished", "steps": step})


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Notes where another living process is in the folder."""
    path = folder / "inside"
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(path.read_text()), 0)
        (folder / "two").touch()
    path.write_text(str(os.getpid()))
    yield
    path.unlink()


def simulate(folder: Path, runs: int, slots: int, runs_per_job: int, seed: int) -> Counter[str]:
    """Submits a sweep until nothing of it is left; returns how often what happened.

    Raises:
        AssertionError: a run was lost, or a step was made twice that no lost node explains.
    """
    typed = ["model=mlp", f"duration={STEPS}steps", f"seed=range({runs})", f"hydra.sweep.dir={folder / 'sweep'}"]
    with Composer().composed(typed) as config:
        sweep = plan_sweep(config)
    jobs = read_jobs(sweep)
    settings = read_settings(["cluster.gpus=0", f"cluster.runs_per_job={runs_per_job}"], [], "slurm", SlurmSettings)
    (folder / "bin").mkdir()
    for name in ("sbatch", "squeue"):
        (folder / "bin" / name).touch(0o755)
    cluster = MadeUpSlurm(sweep, slots, runs // 20, random.Random(seed))
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    with patch.object(slurm, "run", cluster.run), patch.dict(os.environ, {"PATH": path}):
        while True:
            submit(sweep, jobs, ["-m", *typed], settings, False, "slurm")
            if not cluster.tasks:
                break
            again = len(cluster.tasks) // 2  # the same command is typed while half of it is done
            while cluster.tasks:
                cluster.turn()
                if len(cluster.tasks) <= again:
                    submit(sweep, jobs, ["-m", *typed], settings, False, "slurm")
                    again = -1
                time.sleep(STEP_SECONDS)
        jobs, _ = read_table_with_queue(sweep)
    print(count_states(jobs))
    assert len(jobs) == runs
    assert {job.state for job in jobs} == {"done"}
    check_steps(sweep, cluster)
    return cluster.counts


def check_steps(sweep: Path, cluster: MadeUpSlurm) -> None:
    """Checks that each step was made once, but for those under way on lost nodes; counts these."""
    for job in read_jobs(sweep):
        steps = [int(line) for line in (sweep / job["folder"] / "steps.txt").read_text().split()]
        assert set(steps) == set(range(1, STEPS + 1)), job["folder"]
        assert steps == sorted(steps), job["folder"]
        assert not (sweep / job["folder"] / "two").exists(), job["folder"]
        cluster.counts["steps made again"] += len(steps) - STEPS
    assert cluster.counts["steps made again"] <= cluster.counts["tasks lost"]


def main() -> None:
    """Runs the simulation that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=100)
    parser.add_argument("--runs-per-job", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = simulate(Path(folder), options.runs, options.slots, options.runs_per_job, options.seed)
    print(json.dumps(counts), f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
