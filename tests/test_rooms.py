"""The rule between the rooms, doctests, and what importing a room costs."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

from places import ROOT

ROOMS = ("conf", "data", "models", "optimizers", "runner")
APART = ("data", "models", "optimizers")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level) + (node.module or "")


def modules():
    for room in ROOMS:
        yield f"trainopt.{room}"
        package = importlib.import_module(f"trainopt.{room}")
        yield from (f"trainopt.{room}.{m.name}" for m in pkgutil.iter_modules(package.__path__))


@pytest.mark.parametrize("room", APART)
def test_the_three_rooms_import_neither_one_another_nor_the_runner(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            assert not name.startswith(".."), f"{path} leaves its room by {name}"
            assert not name.startswith("trainopt") or name.startswith(f"trainopt.{room}"), f"{path} imports {name}"


def test_only_one_place_calls_instantiate():
    users = [p.name for p in (ROOT / "runner").rglob("*.py") if "hydra.utils" in set(imported(p))]
    assert users == ["instantiate.py"]


@pytest.mark.parametrize("name", list(modules()))
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def modules_after(code):
    done = subprocess.run([sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return set(done.stdout.decode().split())


def test_the_optimizers_need_torch_alone():
    assert not modules_after("import trainopt.optimizers") & {"hydra", "omegaconf", "timm", "torchvision", "rich"}


def test_the_command_line_imports_no_torch_before_a_run():
    code = "import trainopt.runner.cli, trainopt.runner.config.validate, trainopt.runner.records.run_folder"
    assert not modules_after(code) & {"torch", "torchvision", "timm", "sklearn", "matplotlib", "pandas"}


def test_no_file_is_longer_than_400_lines():
    sources = [p for room in (*ROOMS, "tests") for p in (ROOT / room).rglob("*.py")]
    assert {p.name: n for p in sources if (n := len(p.read_text().splitlines())) > 400} == {}
