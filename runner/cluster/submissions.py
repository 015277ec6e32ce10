"""The submissions of a sweep, a file each in its folder `cluster`: which jobs each task of an array runs."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..system.errors import UserError
from ..system.files import read_json, shown, write_json

FOLDER = "cluster"


@dataclass(frozen=True)
class Submission:
    """An array of tasks that was submitted.

    Attributes:
        name: of the array in the queue; no other submission has it.
        arguments: of the sweep's command, without settings of the cluster.
        tasks: the folders of the jobs of each task, relative to the sweep's. A task without any works on a search: it
            runs the whole command, and takes what no other process has begun.
        scheduler: whose queue it is in, as `--to` takes it.
        settings: what each task asks for.
    """

    name: str
    arguments: list[str]
    tasks: list[list[str]]
    scheduler: str = "slurm"
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, sweep: Path) -> Path:
        """Writes the file of the submission; returns its path."""
        path = submission_path(sweep, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))
        return path


def submission_path(sweep: Path, name: str) -> Path:
    """Returns the file of a submission."""
    return sweep / FOLDER / f"{name}.json"


def note_search_end(path: Path, digest: str) -> None:
    """Notes beside the file of a submission that its search came to its end.

    Args:
        path: of the submission's file.
        digest: of the search.
    """
    search_end_path(path).write_text(digest, encoding="utf-8")


def is_search_done(sweep: Path, arguments: list[str], digest: str) -> bool:
    """Returns whether a submission of the same search came to its end.

    Args:
        sweep: its folder.
        arguments: of its command.
        digest: of the search.
    """
    paths = [submission_path(sweep, one.name) for one in read_submissions(sweep) if one.arguments == arguments]
    return any(end.exists() and end.read_text(encoding="utf-8") == digest for end in map(search_end_path, paths))


def search_end_path(path: Path) -> Path:
    """Returns the file that says which search of a submission came to its end."""
    return path.with_suffix(".search_end")


def log_path(path: Path, index: int | str) -> Path:
    """Returns the log of a task.

    Args:
        path: of the submission's file.
        index: of the task.
    """
    return path.with_name(f"{path.stem}_{index}.log")


def read_submission(path: Path) -> Submission:
    """Returns the submission in a file; UserError where it is gone or damaged."""
    try:
        return Submission(**read_json(path))
    except TypeError as error:
        line = "is gone, or no submission of trainopt; remove it and submit again"
        raise UserError(f"{shown(path)}: {line}") from error


def read_submissions(sweep: Path) -> list[Submission]:
    """Returns the submissions of a sweep; none where it has none."""
    return [read_submission(path) for path in sorted((sweep / FOLDER).glob("*.json"))]
