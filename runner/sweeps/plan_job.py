"""The plan of a job of a sweep: composed by Hydra, or that of a job with other values of the same keys."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ..config.data_files import needs
from ..config.explain import explain
from ..config.overrides import split_override
from ..config.prepare import check_run_name, own_files_named, prepare
from ..config.run_names import as_typed, former_run_name, option_choices, run_name
from ..config.validate import allowed_form, check_keys, leaves
from ..records.run_folder import CONFIG, changed_code, check_former_name, fingerprint_of, summary_if_done
from ..system.errors import UserError
from ..system.hydra_compat import is_group, parse_overrides
from .arguments import check_arguments

PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
RUN_NAME = "${trainopt.run_name:}"
REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
ENVIRONMENT = re.compile(r"\$\{oc\.env:[^${}]*\}")  # the same for all jobs
UNCHANGEABLE = object()  # in place of a value: its override must be the same in both jobs

Shape = tuple[Any, ...]


class JobPlanner:
    """Plans the jobs of a sweep; of those that set the same keys Hydra composes the first one only.

    Hydra reads the options that are chosen and then sets the values that are typed, in their order. So two jobs with
    the same choices and the same keys have configurations that differ in these values alone, unless an interpolation
    refers to them, or a value is a section. Where such a thing may be, and where a value is wrong, Hydra composes the
    job as well.

    Args:
        config: of the sweep.
    """

    def __init__(self, config: DictConfig):
        self._config = config
        self._values: dict[str, Any] = {}  # by the text of an override
        self._is_group: dict[str, bool] = {}  # by key
        self._references: dict[Shape, set[str]] = {}
        self._templates: dict[Shape, JobTemplate] = {}
        _ = config.hydra.sweep.dir  # resolved once: that of all jobs

    def plan(self, overrides: list[str]) -> dict[str, Any]:
        """Returns {folder, overrides, fingerprint, duration, needs} of one job, and `changed_code` where there is any.

        Raises:
            UserError: the job cannot be run as it was typed.
        """
        shape, values = self._parts(overrides)
        template = self._templates.get(self._key(shape, values))
        if template is not None:
            try:
                job = template.plan(overrides, values)
            except UserError:  # the line is that of the whole configuration
                job = None
            if job is not None:
                return job
        composed = self._composed(overrides)
        before = HydraConfig.instance().cfg
        try:
            HydraConfig.instance().set_config(composed)  # as for a job that is run
            with own_files_named(HydraConfig.get()):
                return self._planned(composed, overrides, shape, values)
        finally:
            HydraConfig.instance().cfg = before

    def check_same_run(self, folder: Path, overrides: list[str]) -> None:
        """Raises OtherRun if a folder holds a run of another configuration or of other code than a job has."""
        composed, before = self._composed(overrides), HydraConfig.instance().cfg
        try:
            HydraConfig.instance().set_config(composed)
            job = without_hydra(composed)
            prepare(job, HydraConfig.get())
            summary_if_done(folder, job)
        finally:
            HydraConfig.instance().cfg = before

    def _composed(self, overrides: list[str]) -> DictConfig:
        """Returns the configuration of a job, with Hydra's own node."""
        try:
            return GlobalHydra.instance().config_loader().load_sweep_config(self._config, overrides)
        except HydraException as error:  # with the choices of this job, which a sweep may have several of
            raise UserError(explain(error, overrides, option_choices(self._config.hydra)[1])) from error

    def _planned(
        self, composed: DictConfig, overrides: list[str], shape: Shape, values: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the plan of a composed job, and keeps what others of its shape can be planned from."""
        job = without_hydra(composed)
        written: Any = OmegaConf.to_container(job, resolve=False)
        settings = HydraConfig.get()
        choices = prepare(job, settings)
        folder = Path(settings.sweep.dir) / str(settings.sweep.subdir)
        if not (folder / CONFIG).exists():
            name = str(settings.sweep.subdir)
            check_former_name(folder, job, former_run_name(choices, as_typed(settings.overrides.task), name))
            check_arguments(job, choices)
        resolved = dict(leaves(job))
        references = referenced_keys(written)
        if shape and references is not None and set(values) <= set(resolved) and self._has_usual_folders(composed):
            self._references.setdefault(shape, references)
            checked, sweep = check_keys(job, *option_choices(settings)), Path(settings.sweep.dir)
            template = JobTemplate(job, str(written["run"]["name"]), resolved, choices, checked, sweep)
            self._templates.setdefault(self._key(shape, values), template)
        return job_plan(Path(settings.sweep.dir), str(settings.sweep.subdir), overrides, resolved, choices)

    def _has_usual_folders(self, composed: DictConfig) -> bool:
        """Returns whether a job lies in the sweep's folder, under its run.name."""
        ours, theirs = (OmegaConf.to_container(c.hydra.sweep, resolve=False) for c in (self._config, composed))
        return ours == theirs and theirs["subdir"] == "${run.name}"  # type: ignore[index, call-overload]

    def _parts(self, overrides: list[str]) -> tuple[Shape, dict[str, Any]]:
        """Returns what jobs of one template share, and the values by key that may differ; an empty shape: has none."""
        shape: list[Any] = []
        values: dict[str, Any] = {}
        for text in overrides:
            sign, key, _ = split_override(text)
            if key not in self._is_group:
                self._is_group[key] = is_group(key)
            if text not in self._values:
                self._values[text] = UNCHANGEABLE if self._is_group[key] else changeable_value(text)
            value = self._values[text]
            if key in values or re.match(r"hydra[./]", key):
                return (), {}
            if value is UNCHANGEABLE:
                is_choice = self._is_group[key] and "{" not in text
                if not is_choice and overlaps(key, values):  # what it sets replaces the value
                    return (), {}
                shape.append(text)
                continue
            shape.append((sign, key, isinstance(value, list)))  # a list is merged in another way
            values[key] = value
        return tuple(shape), values

    def _key(self, shape: Shape, values: dict[str, Any]) -> Shape:
        """Returns the shape of a job with the values that interpolations refer to."""
        references = self._references.get(shape, set())
        return (*shape, *(repr(value) for key, value in values.items() if overlaps(key, references)))


@dataclass(frozen=True)
class JobTemplate:
    """A composed and checked job of a sweep, whose values are replaced by those of another job.

    Attributes:
        config: of the job, checked; changed.
        name: run.name as it is written.
        values: of the configuration, by dotted key.
        choices: the option or the class of each group.
        checked: top-level keys that have rules, of `check_keys`.
        sweep: the folder of the sweep.
    """

    config: DictConfig
    name: str
    values: dict[str, Any]
    choices: dict[str, Any]
    checked: set[str]
    sweep: Path

    def plan(self, overrides: list[str], values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the plan of another job, as `JobPlanner.plan` does; None where it has to be composed.

        Args:
            overrides: of that job.
            values: all that its overrides set otherwise than those of this one.

        Raises:
            UserError: a value is wrong.
        """
        resolved = dict(self.values)
        for key, value in values.items():
            resolved[key] = allowed_form(key, value, self.checked, self.choices)
            OmegaConf.update(self.config, key, resolved[key])
        name = str(values.get("run.name", self.name)).replace(RUN_NAME, run_name(self.choices, overrides))
        check_run_name(name)
        resolved["run.name"] = name
        if not (self.sweep / name / CONFIG).exists():
            former = former_run_name(self.choices, overrides, name)
            if former is not None and ((self.sweep / name).with_name(former) / CONFIG).exists():
                return None
            check_arguments(self.config, self.choices)
        return job_plan(self.sweep, name, overrides, resolved, self.choices)


def without_hydra(config: DictConfig) -> DictConfig:
    """Returns a configuration without Hydra's own node."""
    return OmegaConf.create({key: value for key, value in config.items_ex(resolve=False) if key != "hydra"})


def job_plan(
    sweep: Path, folder: str, overrides: list[str], values: Mapping[str, Any], choices: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the entry of a job in the plan of a sweep.

    Args:
        sweep: its folder.
        folder: of the job, relative to the sweep's.
        overrides: of the job.
        values: of its configuration, by dotted key.
        choices: of options.
    """
    changed = changed_code(sweep / folder)
    return {
        **({"changed_code": changed} if changed else {}),
        "folder": folder,
        "overrides": overrides,
        "fingerprint": fingerprint_of(values),
        "duration": values["duration"],
        "needs": needs(values, choices),
    }


def changeable_value(text: str) -> Any:
    """Returns the value of an override in whose place another one can be put; UNCHANGEABLE where none can.

    That is a value or a list of values of a key. Classes, sections and interpolations decide on more than themselves.
    """
    sign, key, _ = split_override(text)
    if sign == "~" or not PLAIN_KEY.fullmatch(key) or key.endswith("_target_"):
        return UNCHANGEABLE
    try:
        (override,) = parse_overrides([text])
        value = UNCHANGEABLE if override.is_sweep_override() or override.package else override.value()
    except HydraException:
        return UNCHANGEABLE
    return value if is_settled(value) else UNCHANGEABLE


def is_settled(value: Any) -> bool:
    """Returns whether a value is what it says: no section, no interpolation, and not left open."""
    if isinstance(value, list):
        return all(map(is_settled, value))
    if isinstance(value, str):
        return "${" not in value and "???" not in value
    return value is None or isinstance(value, bool | int | float)


def referenced_keys(config: dict[str, Any]) -> set[str] | None:
    """Returns the keys that interpolations of a configuration refer to; None where there may be others.

    Args:
        config: with its interpolations as text.

    >>> referenced_keys({"duration": "10epochs", "schedule": {"over": "${duration}"}, "run": {"name": "one"}})
    {'duration'}
    >>> referenced_keys({"schedule": {"over": "${oc.select:duration}"}, "run": {"name": "one"}})
    """
    name = str(config["run"]["name"]).replace(RUN_NAME, "")
    texts = [ENVIRONMENT.sub("", text) for text in texts_in({**config, "run": None})]
    references = {key for text in texts for key in REFERENCE.findall(text)}
    if "${" in name or any("${" in REFERENCE.sub("", text) for text in texts):
        return None
    return None if overlaps("run", references) or overlaps("hydra", references) else references


def texts_in(value: Any) -> list[str]:
    """Returns the texts in nested dicts and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for element in value for text in texts_in(element)]
    return [value] if isinstance(value, str) else []


def overlaps(key: str, others: Iterable[str]) -> bool:
    """Returns whether a key is one of others, or lies in or above one.

    >>> overlaps("data.root", {"data"}), overlaps("data", {"data.root"}), overlaps("data.size", {"data.root"})
    (True, True, False)
    """
    return any(f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.") for other in others)
