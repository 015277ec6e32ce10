"""What a cluster's scheduler does for a sweep: the interface that SLURM and Ray implement."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ..system.errors import UserError
from .settings import ClusterSettings
from .submissions import Submission

Settings = TypeVar("Settings", bound=ClusterSettings)


@dataclass(frozen=True)
class Task:
    """A task of a submission in the queue.

    Attributes:
        name: of the submission.
        index: of the task in it.
        id: the scheduler's, `17_3` of SLURM.
        state: the scheduler's, in lower case, as `pending`, `running` or `completing`.
        reason: why it waits, in the scheduler's words; empty where it does not.
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


class NoAnswer(UserError):
    """A scheduler did not answer in time; it may have done what it was asked for, or do it later."""


class Scheduler(ABC, Generic[Settings]):
    """A cluster's queue.

    Attributes:
        title: as people write its name.
        settings: the class of the settings that it takes, those of conf/cluster/NAME.yaml.
        place: before the number of a submission, as in `SLURM job`.
        ends_single_tasks: whether `cancel` can end some tasks of a submission, and leave others.
    """

    title: str
    settings: type[Settings]
    place: str
    ends_single_tasks: bool

    @abstractmethod
    def check(self, settings: Settings, is_search: bool, launcher: str) -> None:
        """Raises UserError where a sweep cannot be submitted from this machine, or not with these settings.

        Args:
            settings: what a task asks for.
            is_search: the jobs follow from results of earlier ones.
            launcher: the option of hydra/launcher.
        """

    def connect(self, settings: Settings) -> Settings:
        """Returns the settings of what is submitted next, after a cluster for it was started where that is needed."""
        return settings

    @abstractmethod
    def limit(self) -> int | None:
        """Returns the number of tasks that a submission may have; None: any number."""

    @abstractmethod
    def preview(self, path: Path, submission: Submission, settings: Settings) -> str:
        """Returns what `submit` hands to the scheduler, as text, after the scheduler checked it where it can.

        Raises:
            UserError: the scheduler would refuse it.
        """

    @abstractmethod
    def submit(self, path: Path, submission: Submission, settings: Settings, after: str | None) -> str:
        """Puts the tasks of a submission into the queue; returns the scheduler's number of it.

        Args:
            path: of the submission's file.
            submission: its content.
            settings: what a task asks for.
            after: the number of a submission that ends before these tasks begin; None: of none.

        Raises:
            UserError: the scheduler refuses it.
            NoAnswer: nobody knows whether it took them.
        """

    @abstractmethod
    def tasks(self, sweep: Path, submissions: list[Submission]) -> list[Task]:
        """Returns the tasks that wait or run of these submissions of a sweep; none where this machine cannot ask."""

    @abstractmethod
    def was_cancelled(self, path: Path, index: int) -> bool:
        """Returns whether a task that has ended was cancelled.

        Args:
            path: of the submission's file.
            index: of the task, which has a log.
        """

    @abstractmethod
    def cancel(self, tasks: list[tuple[Submission, Task]]) -> None:
        """Ends tasks: those that run leave a checkpoint."""
