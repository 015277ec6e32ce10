"""Which package may import which, doctests, and what importing a package costs."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from helpers import ROOT
from trainopt.runner.provenance.environment import FOLDERS

# What each package may import, besides itself. "x" stands for x and all below it where that is not listed itself.
# Whatever an entry names stands below it in this table, so there is no circle and no import upwards.
ALLOWED = {
    "runner.__main__": {"runner.cli"},
    "runner.cli": {"runner.commands", "runner.config", "runner.system"},
    "runner": {
        *("runner.commands", "runner.regularizers", "runner.analysis", "runner.trackers", "runner.records"),
        "runner.system",
        "optimizers",
    },
    "runner.commands.cluster": {
        *("runner.commands", "runner.cluster", "runner.sweeps", "runner.records", "runner.config", "runner.system"),
    },
    "runner.commands.benchmark": {
        *("runner.commands", "runner.benchmark", "runner.search", "runner.reporting", "runner.config"),
        "runner.system",
    },
    "runner.commands": {
        *("runner.studies", "runner.export", "runner.comparison", "runner.search", "runner.trials", "runner.sweeps"),
        *("runner.benchmark", "runner.cluster"),
        *("runner.analysis", "runner.training"),
        *("runner.state", "runner.reporting", "runner.trackers", "runner.records", "runner.config", "runner.system"),
    },
    "runner.benchmark": {
        *("runner.scores", "runner.studies", "runner.comparison", "runner.search", "runner.trials", "runner.sweeps"),
        *("runner.reporting", "runner.records", "runner.config", "runner.system"),
    },
    "runner.studies": {
        *("runner.comparison", "runner.search", "runner.sweeps", "runner.analysis"),
        *("runner.reporting", "runner.records", "runner.config", "runner.system"),
    },
    "runner.export": {
        *("runner.comparison", "runner.analysis", "runner.state", "runner.reporting", "runner.records"),
        *("runner.config", "runner.system", "data", "models"),
    },
    "runner.comparison": {
        *("runner.search", "runner.trials", "runner.sweeps", "runner.state"),
        *("runner.reporting", "runner.records", "runner.config", "runner.provenance", "runner.system"),
    },
    "runner.search": {
        *("runner.trials", "runner.sweeps", "runner.reporting", "runner.records", "runner.config", "runner.system"),
    },
    "runner.trials": {
        *("runner.sweeps", "runner.reporting", "runner.records", "runner.config", "runner.system"),
    },
    "runner.cluster": {"runner.sweeps", "runner.records", "runner.config", "runner.system"},
    "runner.sweeps": {
        *("runner.devices", "runner.training", "runner.reporting", "runner.records", "runner.config", "runner.system"),
        "runner.provenance",
    },
    "runner.analysis": {
        *(
            "runner.training",
            "runner.averaging",
            "runner.state",
            "runner.metrics",
            "runner.reporting",
            "runner.records",
        ),
        *("runner.config", "runner.system", "data", "models"),
    },
    "runner.training": {
        *(
            "runner.probes",
            "runner.averaging",
            "runner.precision",
            "runner.distributed",
            "runner.regularizers",
            "runner.state",
            "runner.metrics",
            "runner.objectives",
            "runner.data_sets",
            "runner.reporting",
            "runner.records",
            "runner.config",
            "runner.provenance",
        ),
        *("runner.system", "data", "models", "optimizers"),
    },
    "runner.regularizers": {"runner.state", "runner.records", "runner.system", "models", "optimizers"},
    "runner.probes": {"runner.state", "runner.config", "runner.system", "data", "optimizers"},
    "runner.averaging": {"runner.state", "runner.config", "runner.system", "data", "models", "optimizers"},
    "runner.precision": {"runner.system", "optimizers"},
    "runner.state": {
        *("runner.metrics", "runner.objectives", "runner.records", "runner.config", "runner.system"),
        *("runner.precision", "runner.distributed", "data", "optimizers"),
    },
    "runner.reporting": {"runner.records", "runner.config", "runner.system", "models"},
    "runner.trackers": {"runner.records", "runner.config", "runner.system"},
    "runner.records": {"runner.config", "runner.provenance", "runner.system", "models"},
    "runner.config": {"runner.provenance", "runner.system", "conf", "data", "models"},
    "runner.data_sets": {"runner.config", "runner.system", "data"},
    "runner.metrics": {"runner.objectives", "runner.records", "runner.config", "runner.system"},
    "runner.objectives": {"runner.config", "runner.system"},
    "runner.scores": set(),
    "runner.distributed": {"runner.system", "optimizers"},
    "runner.devices": {"runner.system"},
    "runner.provenance": set(),
    "runner.system": set(),
    "optimizers": {
        *("optimizers.ehnewton", "optimizers.curvature", "optimizers.schedules", "optimizers.regularizers"),
        *("optimizers.averaging", "optimizers.preconditioners"),
        *("optimizers.per_sample", "optimizers.vectors", "optimizers.arguments", "optimizers.protocols"),
        *("optimizers.libraries", "optimizers.checked", "optimizers.compat_torch", "optimizers.shard"),
    },
    "optimizers.libraries": set(),
    "optimizers.ehnewton": {
        *("optimizers.preconditioners", "optimizers.curvature", "optimizers.regularizers", "optimizers.vectors"),
        *("optimizers.checked", "optimizers.arguments", "optimizers.shard"),
        *("optimizers.functional_signatures", "optimizers.compat_torch", "optimizers.scalars"),
    },
    "optimizers.preconditioners": {
        *("optimizers.curvature", "optimizers.functional_signatures", "optimizers.compat_torch", "optimizers.shard"),
        "optimizers.scalars",
    },
    "optimizers.curvature": {
        *("optimizers.vectors", "optimizers.arguments", "optimizers.functional_signatures", "optimizers.compat_torch"),
        *("optimizers.shard", "optimizers.scalars"),
    },
    "optimizers.averaging": {"optimizers.protocols"},
    "optimizers.schedules": {"optimizers.arguments", "optimizers.protocols"},
    "optimizers.regularizers": {"optimizers.vectors", "optimizers.arguments", "optimizers.protocols"},
    "optimizers.per_sample": {
        *("optimizers.vectors", "optimizers.arguments", "optimizers.functional_signatures", "optimizers.compat_torch"),
        "optimizers.shard",
    },
    "optimizers.checked": {"optimizers.shard"},
    "optimizers.shard": set(),
    "optimizers.scalars": set(),
    "optimizers.vectors": set(),
    "optimizers.arguments": set(),
    "optimizers.protocols": set(),
    "optimizers.functional_signatures": set(),
    "optimizers.compat_torch": set(),
    "data": {
        *("data.folders", "data.map_style", "data.datasets", "data.batching", "data.sources", "data.samples"),
        *("data.digests", "data.errors"),
    },
    "data.map_style": {"data.datasets", "data.sources", "data.samples", "data.digests", "data.errors"},
    "data.folders": {"data.datasets", "data.sources", "data.samples", "data.digests", "data.errors"},
    "data.datasets": {"data.sources", "data.samples", "data.digests", "data.errors"},
    "data.batching": {"data.sources", "data.samples", "data.digests", "data.errors"},
    "data.sources": {"data.samples", "data.digests", "data.errors"},
    "data.samples": {"data.digests", "data.errors"},
    "data.digests": set(),
    "data.errors": set(),
    "models": {"models.networks"},
    "models.networks": set(),
    "conf": set(),
}
MOST_FILES = 12  # Python files of a folder, besides its __init__.py
MOST_AT_THE_TOP = 3  # of runner/


def modules_in(root: Path) -> dict[str, Path]:
    """Every module of the packages below `root`, by its dotted name."""
    paths = (path for name in FOLDERS for path in sorted((root / name).rglob("*.py")))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports_of(module: str, modules: dict[str, Path]) -> set[str]:
    """The modules of ours that one imports: at its top, inside functions, and for type checkers."""
    path = modules[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["trainopt", *package.split(".")]
                base = ".".join([*above[: len(above) - node.level + 1], *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("trainopt."):
            names = [node.value]  # of a lazy import
        for name in names:
            target = name.removeprefix("trainopt.")
            while target and target not in modules:
                target = target.rpartition(".")[0]
            if target:
                found.add(target)
    return found - {module}


def entry_of(module: str, table: dict[str, set[str]]) -> str:
    """The line of the table that a module belongs to: the longest name that is it or stands above it."""
    while module not in table:
        module = module.rpartition(".")[0]
    return module


def upward_imports(root: Path, table: dict[str, set[str]]) -> list[str]:
    modules = modules_in(root)
    wrong = []
    for module in modules:
        own = entry_of(module, table)
        for target in sorted(imports_of(module, modules)):
            entry = entry_of(target, table)
            if entry != own and entry not in table[own] and not _above_is_allowed(entry, table[own], table):
                wrong.append(f"{module} imports {target}")
    return wrong


def _above_is_allowed(entry: str, allowed: set[str], table: dict[str, set[str]]) -> bool:
    """Whether a package above an entry is allowed from outside of the package that holds it, as `optimizers`."""
    holder = entry.partition(".")[0]
    return holder != "runner" and holder in allowed


def circles(root: Path) -> list[set[str]]:
    """The circles of imports: groups of modules each of which imports every other, over some way."""
    modules = modules_in(root)
    edges = {module: imports_of(module, modules) for module in modules}
    reached = {}
    for start in modules:
        seen, todo = set(), [start]
        while todo:
            for target in edges[todo.pop()]:
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        reached[start] = seen
    found = []
    for module in modules:
        group = {other for other in reached[module] if module in reached[other]}
        if group and group not in found:
            found.append(group)
    return found


def test_no_package_imports_what_stands_above_it():
    assert upward_imports(ROOT, ALLOWED) == []


def test_no_module_imports_itself_over_others():
    assert circles(ROOT) == []


def test_the_table_itself_has_an_order():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        free = {entry for entry, allowed in ALLOWED.items() if entry not in done and allowed <= done}
        assert free, f"a circle among {set(ALLOWED) - done}"
        done |= free


@pytest.fixture
def made_up(tmp_path):
    """A small tree: the function writes a module and returns what the two checks find."""

    def write(**files: str):
        for folder in ("runner/training", "runner/state", "runner/system", "data/sources", "models"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "__init__.py").touch()
        for name, text in files.items():
            (tmp_path / f"{name.replace('__', '/')}.py").write_text(text)
        return upward_imports(tmp_path, ALLOWED), circles(tmp_path)

    return write


@pytest.mark.parametrize(
    "text",
    [
        "from ..training.build import build",
        "def later():\n    from ..training.build import build",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..training.build import build",
        "from ..training import build",
        "import trainopt.runner.training.build",
        "from trainopt.runner.training.build import build",
        'from importlib import import_module\nimport_module("trainopt.runner.training.build")',
    ],
)
def test_an_upward_import_is_found(made_up, text):
    wrong, _ = made_up(runner__training__build="", runner__state__run=text)
    assert wrong == ["runner.state.run imports runner.training.build"]


def test_a_downward_import_is_no_finding(made_up):
    assert made_up(runner__training__build="from ..state.run import Run", runner__state__run="") == ([], [])


def test_a_circle_is_found(made_up):
    _, found = made_up(
        runner__state__run="from .clocks import Clocks",
        runner__state__clocks="def later():\n    from .run import Run",
    )
    assert found == [{"runner.state.run", "runner.state.clocks"}]


def test_one_package_of_the_library_does_not_import_another(made_up):
    wrong, _ = made_up(data__sources__memory="from trainopt.models import MLP")
    assert wrong == ["data.sources.memory imports models"]


def test_folders_stay_small_and_say_what_they_are():
    for package in FOLDERS:
        for folder in [ROOT / package, *(p for p in (ROOT / package).rglob("*") if list(p.glob("*.py")))]:
            files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= MOST_FILES, folder
            if files and package != "conf":
                assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
    assert len(list((ROOT / "runner").glob("*.py"))) <= MOST_AT_THE_TOP


def test_the_folders_of_the_program_are_those_that_are_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert settings["package-dir"] == {f"trainopt.{folder}": folder for folder in FOLDERS}


def test_only_one_place_calls_instantiate():
    users = [p.name for p in (ROOT / "runner").rglob("*.py") if "hydra.utils" in p.read_text()]
    assert users == ["instantiate.py"]


def all_modules():
    for name in FOLDERS:
        package = importlib.import_module(f"trainopt.{name}")
        yield f"trainopt.{name}"
        yield from (module.name for module in pkgutil.walk_packages(package.__path__, f"trainopt.{name}."))


@pytest.mark.parametrize("name", list(all_modules()))
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def modules_after(code):
    done = subprocess.run([sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return set(done.stdout.decode().split())


@pytest.mark.slow
def test_the_optimizers_need_torch_alone():
    assert not modules_after("import trainopt.optimizers") & {"hydra", "omegaconf", "timm", "torchvision", "rich"}


def test_the_command_line_imports_no_torch_before_a_run():
    modules = ("cli", "commands.run", "config.validate", "records.run_folder")
    code = f"import {', '.join(f'trainopt.runner.{name}' for name in modules)}"
    assert not modules_after(code) & {"torch", "torchvision", "timm", "sklearn", "matplotlib", "pandas"}
