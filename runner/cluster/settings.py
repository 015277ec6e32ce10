"""What a task on the cluster asks for: conf/cluster/SCHEDULER.yaml, and what was typed as cluster.KEY=VALUE."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..config.explain import broken_yaml, not_utf8
from ..config.options import CLUSTERS, CONF, Vocabulary, option_content, shipped
from ..config.overrides import split_override
from ..config.validate import check_value
from ..system.errors import UserError, nearest, one_line
from ..system.hydra_compat import parse_override

TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}")  # what sbatch takes
MEMORY = r"(\d+)([KMGT]?)"
GPUS = re.compile(r"([\w.-]+:)?\d+")  # a type, where there is one, and a number, as sbatch takes them
LEAST_MEMORY = 100  # MB: with less no task begins, so a number below it was meant in another unit
# Options of sbatch that are set here, and the keys that set them; None: no key does.
OWN_OPTIONS = {
    **dict.fromkeys(("array", "chdir", "clusters", "error", "job-name", "no-requeue", "open-mode", "output"), None),
    **dict.fromkeys(("parsable", "requeue", "test-only", "wait", "wrap"), None),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task"), "gpus"),
    **dict.fromkeys(("ntasks", "ntasks-per-node"), "processes"),
    **{"account": "account", "cpus-per-task": "cpus", "mem": "memory", "nodes": "nodes"},
    **{"partition": "partition", "signal": "grace", "time": "time"},
}
Settings = TypeVar("Settings", bound="ClusterSettings")


@dataclass(frozen=True)
class ClusterSettings:
    """The keys that the files of conf/cluster share; comments in these explain them."""

    gpus: int | str
    cpus: int | None
    memory: str | None
    array_parallelism: int | None
    runs_per_job: int
    setup: list[str]
    extra: dict[str, Any]

    @property
    def gpu_count(self) -> int:
        """The number of GPUs of a task on each node, of any type or of one."""
        return int(str(self.gpus).rpartition(":")[2])


@dataclass(frozen=True)
class SlurmSettings(ClusterSettings):
    """The keys of conf/cluster/slurm.yaml."""

    partition: str | None
    time: str | None
    grace: int
    nodes: int
    processes: int
    account: str | None

    def __post_init__(self) -> None:
        if isinstance(self.gpus, str) and not GPUS.fullmatch(self.gpus):
            raise UserError(f"{CLUSTERS}.gpus={self.gpus}: must be a number, as 2, or a type and a number, as a100:2")
        if self.memory is not None:
            check_memory(self.memory)
        if self.time is not None and not TIME.fullmatch(self.time):
            raise UserError(f"{CLUSTERS}.time={self.time}: must be minutes, as 30, or as in 4:00:00 or 1-12:00:00")
        if self.time is not None and 0 < seconds_of(self.time) <= self.grace:
            raise UserError(
                f"{CLUSTERS}.time={self.time}: must be longer than {CLUSTERS}.grace={self.grace} (seconds), in which a"
                " task stops; SLURM may begin that 60 seconds early"
            )
        for name, value in self.extra.items():
            key = OWN_OPTIONS.get(name)
            if name in OWN_OPTIONS:
                advice = f"write {CLUSTERS}.{key}" if key else "it is set already; leave it out"
                raise UserError(f"{CLUSTERS}.extra.{name}: {advice}")
            if name == "gres" and "gpu" in str(value) and self.gpu_count:
                asked = f"{CLUSTERS}.gpus={str(value).partition('gpu:')[2] or 1}"
                raise UserError(
                    f"{CLUSTERS}.extra.gres={value}: write {asked} in its place, or {CLUSTERS}.gpus=0 beside it"
                )


def seconds_of(time: str) -> int:
    """Returns a limit of sbatch in seconds.

    >>> [seconds_of(text) for text in ("30", "30:10", "4:00:00", "1-12", "1-00:30")]
    [1800, 1810, 14400, 129600, 88200]
    """
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    parts = [*parts, 0, 0][:3] if dash or len(parts) == 3 else [0, *parts, 0][:3]
    return int(days or 0) * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]


@dataclass(frozen=True)
class RaySettings(ClusterSettings):
    """The keys of conf/cluster/ray.yaml."""

    address: str | None

    @property
    def memory_bytes(self) -> int | None:
        """The memory of a task in bytes."""
        if self.memory is None:
            return None
        number, unit = re.fullmatch(MEMORY, self.memory).groups()  # type: ignore[union-attr]
        return int(number) << 10 * ("KMGT".index(unit or "M") + 1)

    def __post_init__(self) -> None:
        if isinstance(self.gpus, str):
            advice = f"a number and {CLUSTERS}.extra={{accelerator_type: A100}}"
            raise UserError(f"{CLUSTERS}.gpus={self.gpus}: has a type, which SLURM takes; with --to ray write {advice}")
        if self.memory is not None:
            check_memory(self.memory)


def check_memory(text: str) -> None:
    """Raises UserError if a text is no amount of memory, or of so little that another unit was meant."""
    match = re.fullmatch(MEMORY, text)
    if not match:
        raise UserError(f"{CLUSTERS}.memory={text}: must be as 16G or 4000M")
    if not match[2] and 0 < int(text) < LEAST_MEMORY:
        raise UserError(f"{CLUSTERS}.memory={text}: is in megabytes without a unit; write {text}G")


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments that set `cluster` or a key of it, and the others.

    >>> split_arguments(["-m", "seed=1,2", "cluster.gpus=0"])
    (['cluster.gpus=0'], ['-m', 'seed=1,2'])
    """
    ours = [text for text in arguments if split_override(text)[1].partition(".")[0] == CLUSTERS]
    return ours, [text for text in arguments if text not in ours]


def read_settings(typed: list[str], folders: list[Path], scheduler: str, kind: type[Settings]) -> Settings:
    """Returns the settings of a command line.

    Args:
        typed: the arguments that set `cluster` or a key of it.
        folders: of options, which are searched before ours.
        scheduler: whose file has the defaults.
        kind: of the settings.

    Raises:
        UserError: a key does not exist, or its value is not allowed.
    """
    vocabulary = Vocabulary([*folders, CONF])
    node: dict[str, Any] = dict(shipped(f"{CLUSTERS}/{scheduler}.yaml"))
    overrides = [parsed(text) for text in typed]
    files: dict[str, str] = {}  # what messages about keys that were not typed begin with
    for option in (scheduler, *(str(value) for key, value in overrides if key == CLUSTERS)):
        path = vocabulary.file(CLUSTERS, option)
        if path is None:
            hint = nearest(option, vocabulary.options(CLUSTERS)) or "; --config-dir DIR names the folder that has it"
            raise UserError(f"{CLUSTERS}={option}: there is no {CLUSTERS}/{option}.yaml{hint}")
        content = settings_in(path)
        check_value(f"{path}: extra", content.get("extra", {}), f"{CLUSTERS}.extra")
        node |= {**content, "extra": {**node["extra"], **content.get("extra", {})}}
        files |= dict.fromkeys([*content, *(f"extra.{name}" for name in content.get("extra", {}))], f"{path}: ")
    for key, value in overrides:
        name, _, below = key.removeprefix(f"{CLUSTERS}.").partition(".")
        if name == "extra" and (below or isinstance(value, dict)):  # as Hydra merges a section
            extra = {below: value} if below else value
            node["extra"] = {**node["extra"], **extra}
            for option in extra:
                files.pop(f"extra.{option}", None)
        elif key != CLUSTERS:
            node[key.removeprefix(f"{CLUSTERS}.")] = value
            files.pop(key.removeprefix(f"{CLUSTERS}."), None)
    keys = list(kind.__dataclass_fields__)
    for key, value in node.items():
        if key not in keys:
            ours = OWN_OPTIONS.get(key.replace("_", "-"))
            hint = (
                (f"; did you mean {CLUSTERS}.{ours}?" if ours in keys else "")
                or nearest(f"{CLUSTERS}.{key}", [f"{CLUSTERS}.{name}" for name in keys])
                or f"; with --to {scheduler} there are {', '.join(keys)}; others: {CLUSTERS}.extra={{{key}: VALUE}}"
            )
            raise UserError(f"{files.get(key, '')}{CLUSTERS}.{key}: no such key{hint}")
        check_value(f"{files.get(key, '')}{CLUSTERS}.{key}", value, f"{CLUSTERS}.{key}")
    texts: dict[str, Any] = {key: str(node[key]) for key in ("time", "memory") if node.get(key) is not None}
    try:
        return kind(**(node | texts))
    except UserError as error:
        wrong = re.match(rf"{CLUSTERS}\.(extra\.[\w-]+|\w+)", str(error))
        raise UserError(f"{files.get(wrong[1], '') if wrong else ''}{error}") from error


def settings_in(path: Path) -> dict[str, Any]:
    """Returns the keys in a file; the time as its text, as YAML reads 4:00:00 as a number of seconds.

    Raises:
        UserError: it is no YAML, or holds no section of keys.
    """
    try:
        content = option_content(path)
        texts = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(broken_yaml(error)) from error
    except UnicodeDecodeError as error:
        raise UserError(not_utf8(path, error)) from error
    if not isinstance(texts, dict):
        raise UserError(f"{path}: holds no keys; write lines as in gpus: 1")
    return {**content, **({"time": texts["time"]} if content.get("time") is not None else {})}


def value_text(value: Any) -> str:
    """Returns a value as a file has it, in one line.

    >>> value_text("a100:1"), value_text(["module load cuda"]), value_text({"qos": "long"})
    ('a100:1', '[module load cuda]', '{qos: long}')
    """
    return str(yaml.safe_dump(value, default_flow_style=True, width=math.inf)).removesuffix("...\n").strip()


def parsed(text: str) -> tuple[str, Any]:
    """Returns key and value of an argument as it was typed."""
    try:
        override = parse_override(text)
        value = override.value()
    except HydraException as error:
        raise UserError(f"{text}: {one_line(error)}") from error
    if override.is_sweep_override():
        raise UserError(f"{text}: is the same for all jobs of a sweep; give one value")
    return override.key_or_group, OmegaConf.to_object(OmegaConf.create({"value": value}))["value"]  # type: ignore[index, call-overload]
