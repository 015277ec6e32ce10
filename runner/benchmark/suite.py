"""The schema of a suite's file in conf/suite/: workloads, their budgets and their targets. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..config.forms.object_files import find_files, read_file, reject_unknown
from ..config.options import SUITES
from ..system.errors import UserError

KINDS = ("validation", "test")  # of records that have a metric
DIRECTIONS = ("maximize", "minimize")


@dataclass(frozen=True)
class Workload:
    """A task that is trained until a target is reached.

    Attributes:
        about: what is trained on what, in one line.
        overrides: model, data, objective, duration and evaluate_every among them; a submission may not change these.
        metric: SET_NAME, as validation_top1.
        direction: maximize or minimize.
        target: of the metric; None: not found yet.
        held_out_of: the workload that this is a variant of; None: it counts itself.
    """

    about: str
    overrides: list[str]
    metric: str
    direction: str
    target: float | None = None
    held_out_of: str | None = None

    @property
    def record(self) -> tuple[str, str]:
        """The kind of records that have the metric, and its name in them."""
        kind, _, name = self.metric.partition("_")
        return kind, name

    @property
    def goal(self) -> str:
        """The target in words, as `validation_top1 >= 95`."""
        return f"{self.metric} {'>=' if self.direction == 'maximize' else '<='} {self.target:g}"

    def is_better(self, value: float, other: float) -> bool:
        """Returns whether a value of the metric is at least as good as another one."""
        return value >= other if self.direction == "maximize" else value <= other


@dataclass(frozen=True)
class Effort:
    """How much is tuned.

    Attributes:
        trials: points of the search space in a study.
        studies: independent repetitions.
    """

    trials: int
    studies: int


@dataclass(frozen=True)
class Suite:
    """Workloads whose results become one ranking; conf/suite/ holds the shipped ones.

    Attributes:
        name: of its file.
        title: what it is.
        full, quick: the usual tuning effort, and that of --quick.
        submissions: the usual ones, each as overrides with blanks between.
        workloads: by name.
        overrides: of all workloads.
        targets: the rule by which targets were found, the command, and the date, in words.
    """

    name: str
    title: str
    full: Effort
    quick: Effort
    submissions: list[str]
    workloads: dict[str, Workload]
    overrides: list[str] = field(default_factory=list)
    targets: str = ""

    @property
    def held_out(self) -> dict[int, int]:
        """The position of the base of each held-out workload, by that of the workload."""
        names = list(self.workloads)
        bases = {i: workload.held_out_of for i, workload in enumerate(self.workloads.values())}
        return {i: names.index(base) for i, base in bases.items() if base is not None}


def find_suites(folders: Sequence[Path] = ()) -> dict[str, Path]:
    """Returns the files of all suites by name: those of FOLDER/suite/, and the shipped ones."""
    return find_files(SUITES, folders)


def read_suite(path: Path) -> Suite:
    """Returns the suite in a file; UserError as of `read_file`."""
    return read_file(path, Suite, lambda content: None, check)


def check(suite: Suite) -> None:
    """Raises UserError where a part of a suite contradicts itself."""
    if not suite.workloads:
        raise UserError("workloads: must have at least one")
    for effort in ("full", "quick"):
        for name, number in vars(getattr(suite, effort)).items():
            if number < 1:
                raise UserError(f"{effort}.{name}: must be an integer >= 1, and is {number}")
    for name, workload in suite.workloads.items():
        key = f"workloads.{name}"
        kind, metric = workload.record
        if kind not in KINDS or not metric:
            raise UserError(f"{key}.metric: {workload.metric}: give SET_NAME, as validation_top1 or test_loss")
        reject_unknown(f"{key}.direction: ", [workload.direction], DIRECTIONS, "no such direction")
        base = workload.held_out_of
        if base is not None:
            reject_unknown(f"{key}.held_out_of: ", [base], suite.workloads, "no such workload")
            if suite.workloads[base].held_out_of is not None:
                raise UserError(f"{key}.held_out_of: {base}: is itself held out; name another workload")
