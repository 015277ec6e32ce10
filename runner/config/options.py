"""The words that the YAML files on disk offer: groups, their options, and the keys of each."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf, _utils

CONF = Path(str(files("trainopt.conf")))
# folders that are no groups of options of a run
NO_GROUPS = STUDIES, SPACES, SUITES, CLUSTERS = "study", "space", "suite", "cluster"


class YamlLoader(*((yaml.cyaml.CParser,) if yaml.__with_libyaml__ else ()), _utils.get_yaml_loader()):  # type: ignore[misc]
    """Reads YAML as OmegaConf does, but by the parser in C where PyYAML has it, which is ten times as fast.

    OmegaConf and Hydra read by it, too: to read files takes a third of the time of a composition otherwise.
    """

    def __init__(self, stream: Any):
        super().__init__(stream)
        yaml.constructor.SafeConstructor.__init__(self)
        yaml.resolver.Resolver.__init__(self)


_utils.get_yaml_loader = lambda: YamlLoader  # OmegaConf has no public place for it


def read(path: Path) -> dict[str, Any]:
    """Returns the content of a YAML file as Hydra reads it, with the defaults list left in."""
    content = OmegaConf.to_container(OmegaConf.load(path))
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def option_content(path: Path) -> dict[str, Any]:
    """Returns the content of the YAML file of an option, without its defaults list.

    It is read once; the callers leave it as it is.
    """
    return _read_version(path, path.stat().st_mtime_ns)


@cache
def _read_version(path: Path, changed: int) -> dict[str, Any]:
    del changed
    return {key: value for key, value in read(path).items() if key != "defaults"}


@cache
def shipped(name: str) -> dict[str, Any]:
    """Returns the content of a YAML file of ours, by its path below conf/."""
    return read(CONF / name)


def shipped_option(group: str, option: str) -> dict[str, Any]:
    """Returns the content of the YAML file of an option of ours; empty where there is none."""
    path = CONF / group / f"{option}.yaml"
    return option_content(path) if path.is_file() else {}


def rule_of_default(key: str, choices: Mapping[str, Any]) -> str:
    """Returns a rule of integers where the chosen option of ours has one, or a list of them, as a key's default.

    The arguments of our classes have their types in the signature, which needs torch; their defaults say as much.
    """
    group, _, name = key.partition(".")
    default = shipped_option(group, str(choices.get(group))).get(name)
    elements = default if isinstance(default, list) else [default]
    return "integer or list of integer" if elements and all(type(element) is int for element in elements) else ""


class Vocabulary:
    """The options in `folders` (our own conf/ last, those given with --config-dir before it)."""

    def __init__(self, folders: list[Path]):
        self.folders = folders

    @property
    def groups(self) -> list[str]:
        """The names of all config groups that are typed, but for Hydra's own."""
        names = {d.name for f in self.folders for d in f.iterdir() if d.is_dir() and any(d.rglob("*.yaml"))}
        return sorted(names - {"hydra", *NO_GROUPS, *following_groups()})

    def options(self, group: str) -> list[str]:
        """The names of the options of a group, as in `mlp` or `menssen2019/mnist`; without fragments, as `_mnist`."""
        paths = [(p, f / group) for f in self.folders for p in (f / group).rglob("[!_]*.yaml")]
        return sorted({str(p.relative_to(top).with_suffix("")) for p, top in paths})

    def file(self, group: str, option: str) -> Path | None:
        """The YAML that an option is read from, or None."""
        paths = (folder / group / f"{option}.yaml" for folder in self.folders)
        return next((p for p in paths if p.is_file()), None)

    def files_of(self, choices: Mapping[str, Any]) -> Iterator[Path]:
        """Yields the YAML of each choice, or of each of a list."""
        for group, choice in choices.items():
            for option in [choice] if isinstance(choice, str) else choice or ():
                if path := self.file(group, str(option)):
                    yield path

    def common_keys(self, group: str) -> dict[str, Any]:
        """The keys that every option of a group has, from config.yaml."""
        node = shipped("config.yaml").get(group)
        return node if isinstance(node, dict) else {}

    def keys(self, choices: dict[str, Any]) -> list[str]:
        """All dotted keys of a configuration with these choices, as in `optimizer.lr`."""
        keys: set[str] = set()
        for key, value in shipped("config.yaml").items():
            if key != "defaults":
                keys |= set(dotted(key, value))
        for group, chosen in choices.items():
            for option in chosen if isinstance(chosen, list) else [chosen]:
                path = self.file(group, str(option))
                if path is not None:
                    keys |= set(keys_of_file(path, group))
        return sorted(keys)

    def holders(self, group: str, key: str) -> list[str]:
        """The options of a group that have a key."""
        holders = []
        for option in self.options(group):
            path = self.file(group, option)
            with suppress(yaml.YAMLError, UnicodeDecodeError):  # somebody's broken file is not what this is about
                if path is not None and key in option_content(path):
                    holders.append(option)
        return holders


def keys_of_file(path: Path, group: str) -> list[str]:
    """Returns the dotted keys that the YAML of an option of a group sets, as in `optimizer.lr`."""
    is_global = "@package _global_" in path.read_text(encoding="utf-8")
    return dotted("" if is_global else group.replace("/", "."), option_content(path))


def default_choices() -> dict[str, Any]:
    """The option of each group that a bare `trainopt` runs with."""
    entries = [e for e in shipped("config.yaml")["defaults"] if isinstance(e, dict)]
    return {k: v for e in entries for k, v in e.items() if not k.startswith(("override ", "optional "))}


def following_groups() -> dict[str, str]:
    """Returns the groups whose option follows from other choices, as {"recipe": "${experiment}/${optimizer}"}."""
    entries = [e for e in shipped("config.yaml")["defaults"] if isinstance(e, dict)]
    return {k.removeprefix("optional "): v for e in entries for k, v in e.items() if k.startswith("optional ")}


def list_groups() -> set[str]:
    """Returns the groups of which any number of options is chosen, as in regularizer=[l2]."""
    return {group for group, choice in default_choices().items() if isinstance(choice, list)}


def component_of(key: str) -> str:
    """Returns the diagnostic, the regularizer or another of several options of a group that a key is of; or nothing.

    >>> component_of("probe.fisher.every"), component_of("optimizer.lr")
    ('probe.fisher', '')
    """
    group, *rest = key.split(".")
    return f"{group}.{rest[0]}" if len(rest) > 1 and group in list_groups() else ""


def dotted(prefix: str, value: Any) -> list[str]:
    """Returns the dotted keys of a value, each after a prefix.

    >>> dotted("optimizer", {"lr": 0.1, "betas": [0.9, 0.999]})
    ['optimizer.lr', 'optimizer.betas']
    """
    if isinstance(value, dict) and value:
        start = f"{prefix}." if prefix else ""
        return [key for k, v in value.items() for key in dotted(f"{start}{k}", v)]
    return [prefix]


# keys that config.yaml gives to every option of a group
COMMON = {group: tuple(shipped("config.yaml")[group]) for group in ("data", "model", "objective", "schedule")}
