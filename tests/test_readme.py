"""Every command of the README, run section by section in the order in which it stands there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT

README = (ROOT / "README.md").read_text()
NEEDS_DATA = re.compile("mnist|cifar10")


def commands_of(text):
    """The commands in blocks of a text."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line[2:].split("#")[0].strip() for block in blocks for line in block.splitlines() if line[:2] == "$ "]


COMMANDS = commands_of(README)
OURS = [c for c in COMMANDS if c.startswith("trainopt")]
SECTIONS = {text.splitlines()[0]: commands_of(text) for text in README.split("\n## ")}
FREE = {  # those of ours that need no data, by section
    name: ours
    for name, commands in SECTIONS.items()
    if (ours := [c for c in commands if c in OURS and not NEEDS_DATA.search(c)])
}
CALLED = [*COMMANDS, *(ROOT / ".ci/run").read_text().splitlines()]
TARGETS = [c.split()[1] for c in CALLED if c.startswith("make ")]


def test_every_command_is_run_below():
    others = [c for c in COMMANDS if c not in OURS and not c.startswith("make ")]
    assert others == ["git clone <this repository> && cd trainopt"]
    assert len(OURS) >= 8
    assert {"run", "lint", "test", "test-all"} <= set(TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize("section", FREE)
def test_its_commands(trainopt, section):
    for command in FREE[section]:
        assert trainopt(*shlex.split(command)[1:]).code == 0, command


@pytest.mark.slow
def test_its_commands_on_real_data(trainopt, real_data):
    commands = [c for c in OURS if NEEDS_DATA.search(c)]
    assert len(commands) >= 3
    for command in commands:
        assert trainopt(*shlex.split(command)[1:]).code == 0, command


@pytest.fixture
def make(tmp_path):
    """`make`, in a copy of the checkout, with the environment that runs these tests."""
    environment = Path(sys.prefix)
    if not (environment / "ready").exists():
        pytest.skip("these tests do not run in the environment that make sets up")
    shutil.copy2(ROOT / "Makefile", tmp_path)
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    command = ["make", "-s", "-o", "pyproject.toml", f"VENV={environment}"]  # whatever its time: nothing is installed
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # tests run beside each other

    def run(*arguments):
        done = subprocess.run([*command, *arguments], cwd=tmp_path, env=one_thread, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_make_run_trains(make):
    accuracy = float(re.search(r"final test top-1 +([\d.]+) %", make("run"))[1])
    assert accuracy > 95


@pytest.mark.parametrize("target", [*TARGETS, "bench", "reproduce-zorca2020"])
def test_make_knows_the_target(make, target):
    assert make("-n", target)


def test_the_files_that_it_names_are_there():
    for name in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / name).exists(), name
