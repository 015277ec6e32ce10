"""Ray: a submission is a job of its Jobs API, whose process on the cluster starts a Ray task for each of ours.

That is what Ray recommends for what nobody waits for. A task whose worker or node is lost is started again by Ray.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..system.errors import UserError, one_line
from .scheduler import Scheduler, Task
from .settings import RaySettings
from .submissions import Submission, submission_path

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient
    from ray.util.state.common import NodeState, TaskState

ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray prefers these variables to an address that is passed
PASSED = ("PYTHONPATH", "TRAINOPT_")  # beginnings of the variables that a job takes along
STOP_SECONDS = 120  # between the signals that stop and kill a job, in which runs write checkpoints; Ray's default is 3
MOST_TASKS = 10_000  # that Ray's dashboard lists at a time
START = ("-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats")
START_SECONDS = 120.0
NO_JOB = "ffffffff"


class Ray(Scheduler[RaySettings]):
    """Ray, with one that is started on this machine where no address says which.

    Args:
        module: of the process that starts the tasks of a submission, and is run with its file.
    """

    title, place, settings, ends_single_tasks = "Ray", "Ray job", RaySettings, False

    def __init__(self, module: str):
        self.module = module

    def check(self, settings: RaySettings, is_search: bool, launcher: str) -> None:
        """Raises UserError where Ray is not installed."""
        del settings, is_search, launcher
        if not is_installed():
            raise UserError('submit: --to ray needs Ray; type pip install "trainopt[ray]"')

    def connect(self, settings: RaySettings) -> RaySettings:
        """Returns the settings with the address of a cluster that answers."""
        is_local = settings.address is None and not any(name in os.environ for name in ADDRESSES)
        try:
            client = client_of(settings.address)
        except ConnectionError as error:
            if not is_local:
                raise UserError(f"submit: Ray does not answer: {one_line(error)}") from error
            start_local()
            client = client_of(None)
        address = client.get_address()
        check_resources(address, settings, is_local)
        return replace(settings, address=address)

    def limit(self) -> None:
        """Returns None: a job may have any number of tasks."""

    def preview(self, path: Path, submission: Submission, settings: RaySettings) -> str:
        """Returns the command of a job; what a cluster has is not asked."""
        del submission, settings
        return self._entrypoint(path)

    def submit(self, path: Path, submission: Submission, settings: RaySettings, after: str | None) -> str:
        """Submits a job; returns its number, which is the name of the submission."""
        del after  # a job has all tasks of a command
        passed = {name: text for name, text in os.environ.items() if name.startswith(PASSED)}
        try:
            return client_of(settings.address).submit_job(
                entrypoint=self._entrypoint(path),
                submission_id=submission.name,
                runtime_env={"env_vars": {**passed, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}},
            )
        except (ConnectionError, RuntimeError) as error:
            raise UserError(f"submit: Ray: {one_line(error)}") from error

    def _entrypoint(self, path: Path) -> str:
        """Returns the command of the job of a submission's file."""
        file, log = (quote(str(path.resolve().with_suffix(ending))) for ending in (".json", ".log"))
        command = f"{quote(sys.executable)} -u -m {self.module} {file} >> {log} 2>&1"
        return f"cd {quote(str(Path.cwd()))} && exec {command}"

    def tasks(self, sweep: Path, submissions: list[Submission]) -> list[Task]:
        """Returns the tasks of jobs that wait or run."""
        left = {
            one.name: indices
            for one in submissions
            if (indices := sorted({*range(len(one.tasks))} - read_ended(submission_path(sweep, one.name))))
        }
        addresses = {address_of(one) for one in submissions if one.name in left} if is_installed() else set()
        return [task for address in addresses for task in tasks_at(address, submissions, left)]

    def was_cancelled(self, path: Path, index: int) -> bool:
        """Returns whether a task ended otherwise than by itself."""
        return index not in read_ended(path)

    def cancel(self, tasks: list[tuple[Submission, Task]]) -> None:
        """Stops the jobs of tasks: their runs get SIGTERM, and leave a checkpoint."""
        for name, address in {one.name: address_of(one) for one, _ in tasks}.items():
            try:
                client_of(address).stop_job(name)
            except (ConnectionError, RuntimeError) as error:
                raise UserError(f"cancel: Ray: {one_line(error)}") from error


def is_installed() -> bool:
    """Returns whether Ray is installed here."""
    return find_spec("ray") is not None


def client_of(address: str | None) -> "JobSubmissionClient":
    """Returns the client of a cluster; ConnectionError where none answers."""
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        with without_addresses(address is not None):
            return JobSubmissionClient(address)
    except RayError as error:  # Ray noted the address of one that was killed
        raise ConnectionError(str(error)) from error


@contextmanager
def without_addresses(is_needed: bool) -> Iterator[None]:
    """Hides Ray's variables while entered, if that is needed."""
    hidden = {name: os.environ.pop(name) for name in ADDRESSES if is_needed and name in os.environ}
    try:
        yield
    finally:
        os.environ |= hidden


def start_local() -> None:
    """Starts a Ray on this machine, which stays until `ray stop`."""
    print("no Ray on this machine: starting one; `ray stop` ends it", flush=True)
    result = subprocess.run(
        [sys.executable, *START], capture_output=True, encoding="utf-8", timeout=START_SECONDS, check=False
    )
    if result.returncode:
        raise UserError(f"submit: ray start: {one_line(result.stderr or result.stdout)}")


def check_resources(address: str, settings: RaySettings, is_local: bool) -> None:
    """Checks that a node has what a task asks for. A cluster may grow, so there it is only said that none has.

    Raises:
        UserError: the cluster is that of this machine.
    """
    asked = {"GPU": settings.gpu_count, "CPU": settings.cpus or 1, "memory": settings.memory_bytes or 0}
    nodes = [node.resources_total or {} for node in nodes_at(address) if node.state == "ALIVE"]
    if not nodes or any(all(node.get(name, 0) >= number for name, number in asked.items()) for node in nodes):
        return
    missing = next((name for name, number in asked.items() if all(node.get(name, 0) < number for node in nodes)), "all")
    hint = "; cluster.gpus=0 asks for no GPU" if missing == "GPU" else ""
    text = f"no node of Ray at {address} has what a task asks for ({missing}){hint}"
    if is_local:
        raise UserError(f"submit: {text}")
    print(f"trainopt: {text}; tasks wait until one has", file=sys.stderr)


def nodes_at(address: str) -> "list[NodeState]":
    """Returns the nodes of a cluster, with those that it lost; none where Ray cannot list them."""
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    with without_addresses(True), suppress(RayStateApiException):  # after a loss it takes its answer for a cut one
        return list(list_nodes(address=address, raise_on_missing_output=False))
    return []


def address_of(submission: Submission) -> str:
    """Returns the address of the cluster that a submission went to."""
    return str(submission.settings["address"])


def tasks_at(address: str, submissions: list[Submission], left: dict[str, list[int]]) -> list[Task]:
    """Returns the tasks that wait or run on one cluster; none where it does not answer, which is said.

    Args:
        address: of the cluster.
        submissions: of a sweep, also to other clusters.
        left: the tasks that have not ended, by the names of submissions.
    """
    try:
        jobs = {job.submission_id: job for job in client_of(address).list_jobs()}
        tasks: list[Task] = []
        latest = max(jobs.keys() & left, key=lambda name: jobs[name].start_time or 0, default=None)
        for one in submissions:
            job = jobs.get(one.name)
            if one.name not in left or address_of(one) != address or job is None:
                continue
            if not job.status.is_terminal():
                tasks += tasks_of_job(address, one.name, job.job_id, left[one.name])
            elif job.status == "FAILED" and one.name == latest:
                print(f"trainopt: Ray job {one.name} ended early; see its log", file=sys.stderr)
    except (ConnectionError, RuntimeError):
        print(f"trainopt: Ray at {address} does not answer; its tasks count as ended", file=sys.stderr)
        return []
    return tasks


def tasks_of_job(address: str, name: str, job: str | None, left: list[int]) -> Iterator[Task]:
    """Yields the tasks of a job that have not ended.

    Which these are is known by the job's file; where they run, by Ray, which tells news a second later and forgets
    some tasks of many.

    Args:
        address: of the cluster.
        name: of the submission.
        job: Ray's number of it; None before its process runs.
        left: the tasks that have not ended.
    """
    from ray.util.state import list_tasks
    from ray.util.state.exception import RayStateApiException

    states: dict[str | None, TaskState] = {}
    nodes: dict[str | None, str] = {}
    with without_addresses(True), suppress(RayStateApiException):  # then it is only known that they have not ended
        nodes = {node.node_id: node.node_ip for node in nodes_at(address)}
        filters: Any = [("job_id", "=", job or NO_JOB)]
        listed = list_tasks(address=address, filters=filters, limit=MOST_TASKS, raise_on_missing_output=False)
        states = {one.name: one for one in sorted(listed, key=lambda one: one.attempt_number)}
    for index in left:
        state = states.get(str(index))
        is_running = state is not None and state.state.startswith("RUNNING")
        yield Task(
            name=name,
            index=index,
            id=f"{name}_{index}" if state is None else state.task_id,
            state="running" if is_running else "pending",
            reason="" if is_running or state is None else state.state,
            node="" if state is None or not is_running else nodes.get(state.node_id, ""),
            restarts=0 if state is None else state.attempt_number,
            is_preempted=False,
        )


def read_ended(path: Path) -> set[int]:
    """Returns the tasks of a submission that have ended, as its job notes them."""
    try:
        return set(map(int, ended_path(path).read_text(encoding="utf-8").split()))
    except FileNotFoundError:
        return set()


def note_ended(path: Path, index: int) -> None:
    """Notes that a task of a submission has ended."""
    with open(ended_path(path), "a", encoding="utf-8") as file:
        file.write(f"{index}\n")


def ended_path(path: Path) -> Path:
    """Returns the file beside that of a submission which has a line for each task that has ended."""
    return path.with_suffix(".ended")
