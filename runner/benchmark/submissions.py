"""What takes part in a benchmark: optimizers, or whole configurations of them. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..config.overrides import split_override
from ..config.run_names import folder_name
from ..reporting.method_styles import method_labels
from ..system.errors import UserError

# Keys and groups that are part of a workload, or of how a benchmark is run
FIXED = (
    "data",
    "model",
    "objective",
    "metric",
    "evaluation_sets",
    "duration",
    "evaluate_every",
    "seed",
    "run",
    "hydra",
)


@dataclass(frozen=True)
class Submission:
    """A way of training, the same on all workloads.

    Attributes:
        name: as it was typed.
        overrides: behind `trainopt`.
        label: in tables and figures, as papers write it.
    """

    name: str
    overrides: tuple[str, ...]
    label: str = ""

    @property
    def folder(self) -> str:
        """The name of the folder with its runs on a workload."""
        return folder_name(list(self.overrides))


@dataclass
class Typed:
    """What the words behind `trainopt benchmark SUITE` ask for.

    Attributes:
        submissions: in their order, each once.
        common: overrides of all runs.
        launcher: overrides of Hydra's launcher.
    """

    submissions: list[Submission] = field(default_factory=list)
    common: list[str] = field(default_factory=list)
    launcher: list[str] = field(default_factory=list)


def read_words(words: list[str]) -> Typed:
    """Returns what some words ask for.

    A word that chooses an optimizer, and one with several overrides in it, is a submission, or several:
    `optimizer=sgd,adamw`. Other overrides are for all runs.

    >>> typed = read_words(["optimizer=sgd,adamw", "optimizer=adamw schedule=cosine", "device=cpu"])
    >>> [submission.name for submission in typed.submissions], typed.common
    (['sgd', 'adamw', 'adamw schedule=cosine'], ['device=cpu'])

    Raises:
        UserError: a word is no override, or changes what a workload is.
    """
    typed = Typed()
    for word in words:
        parts = word.split()
        keys = [_key_of(part) for part in parts]
        if len(parts) == 1 and keys[0].startswith("hydra.launcher."):
            typed.launcher += parts
            continue
        for part, key in zip(parts, keys, strict=True):
            if key.partition(".")[0].partition("/")[0] in FIXED:
                raise UserError(f"benchmark: {part}: is part of a workload; a submission says only how it is trained")
        if len(parts) > 1 or any(key in ("optimizer", "optimizer._target_") for key in keys):
            typed.submissions += [s for s in _expanded(parts, keys) if s not in typed.submissions]
        else:
            typed.common += parts
    return typed


def labelled(submissions: list[Submission], renames: Sequence[str]) -> list[Submission]:
    """Returns submissions with their labels.

    Args:
        submissions: as they were typed.
        renames: `NAME:LABEL` each, as of `method_labels`.

    >>> [s.label for s in labelled(read_words(["optimizer=sgd,soap"]).submissions, ["optimizer=sgd:ours"])]
    ['ours', 'SOAP']
    """
    names = [" ".join(submission.overrides) for submission in submissions]
    labels = method_labels(names, renames)
    return [replace(submission, label=labels[name]) for submission, name in zip(submissions, names, strict=True)]


def _key_of(override: str) -> str:
    sign, key, _ = split_override(override)
    if override.startswith("-") or not ("=" in override or sign == "~"):
        raise UserError(f"benchmark: {override}: must be KEY=VALUE, as optimizer=sgd,adamw")
    return key


def _expanded(parts: list[str], keys: list[str]) -> list[Submission]:
    """Returns a submission for each of the optimizers that one of some overrides chooses."""
    if "optimizer" not in keys:
        return [Submission(" ".join(parts), tuple(parts))]
    position = keys.index("optimizer")
    names = [name for name in split_override(parts[position])[2].split(",") if name]
    submissions = []
    for name in names:
        rest = parts[:position] + parts[position + 1 :]
        submissions.append(Submission(" ".join([name, *rest]), (f"optimizer={name}", *rest)))
    return submissions
