"""Every command of the README and of docs/, run section by section in the order in which it stands there.

Blocks marked `console` are run. Commands in blocks marked `sh` need a cluster, a server, several devices or many
minutes, or are run on another page: their words are checked, and their configuration is composed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import wraps
from importlib import import_module
from pathlib import Path

import pytest

from helpers import ROOT
from trainopt import data
from trainopt.runner.cli import COMMANDS

README = "README.md"
WRITTEN = [path for folder in ("docs", "docs/results") for path in sorted((ROOT / folder).glob("*.md"))]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *WRITTEN]
}
NEEDS_DATA = re.compile("mnist|cifar10")
RUN_ELSEWHERE = {
    "docs/data.md: A Dataset",  # tests/runner/training/test_your_data.py
    "docs/quickstart.md: A first run",  # make run, below
}
NOT_RUN = {  # sections with blocks marked `sh`, and what runs their commands elsewhere
    "docs/benchmark.md: # One ranking over many workloads": "hours; a suite of two workloads: tests/runner/benchmark",
    "docs/benchmark.md: An optimizer of your own": "minutes; a suite of two workloads: tests/runner/benchmark",
    "docs/benchmark.md: Suites": "a suite of the reader, as in tests/runner/benchmark",
    "docs/cluster.md: # On a cluster": "needs SLURM; with it: tests/runner/cluster",
    "docs/cluster.md: What a task asks for": "needs SLURM; with it: tests/runner/cluster",
    "docs/cluster.md: Runs on several GPUs or nodes": "needs SLURM; with it: tests/runner/cluster",
    "docs/cluster.md: Limits, preemption, lost nodes": "needs SLURM; with it: tests/runner/cluster",
    "docs/cluster.md: Searches and tournaments": "needs SLURM; with it: tests/runner/cluster",
    "docs/cluster.md: Ray": "needs Ray; with it: tests/runner/cluster",
    "docs/gpu.md: CUDA graphs": "needs a GPU",
    "docs/gpu.md: Tests and measurements": "needs a GPU; without network: what is said there",
    "docs/many_devices.md: Sweeps on a machine with several GPUs": "GPUs; made-up ones: tests/runner/devices",
    "docs/many_devices.md: # One run on many devices": "needs GPUs, ImageNet; two processes: tests/runner/distributed",
    "docs/many_devices.md: Second order": "minutes on CIFAR-10; small ones: tests/runner/distributed",
    "docs/optimizers.md: An optimizer of your own": "minutes; a small one: tests/runner/search",
    "docs/results/embedded.md: # The embedded suite: nine optimizers": "hours; a small suite: tests/runner/benchmark",
    "docs/results/second_order.md: # Second order on six problems": "an hour: tests/conf/test_studies.py",
    "docs/studies.md: Check a claim": "minutes; a made-up study: tests/runner/studies",
    "docs/trackers.md: # Trackers: W&B, MLflow, Trackio": "needs accounts; the clients without: tests/runner/trackers",
    "docs/tune_and_compare.md: From runs to a conclusion": "run below, where the runs of docs/quickstart.md are",
    "docs/tune_and_compare.md: A fair tournament": "as docs/quickstart.md, whose commands are run",
    "docs/workloads.md: # Small workloads, not only of images": "half a minute; the networks: tests/models/networks",
    "docs/workloads.md: Ten optimizers on four of them": "minutes; a small tournament: tests/runner/search",
}
RUN_AFTER = {"docs/quickstart.md: Compare": "docs/tune_and_compare.md: From runs to a conclusion"}  # with its runs
OTHER_PROGRAMS = {"git", "wandb", "make"}
COUNTS_STEPS = re.compile("/step-|tournament")  # a run needs so many, or has so many with all digits
OPEN = re.compile(r"(?:tag|int|interval|choice|range)\(")  # a value that a search chooses


def commands_in(text, language):
    """The commands in a text's blocks of a language, with what NAME=value above them stands for."""
    commands, values = [], {}
    for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL):
        for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
            command = re.sub(r" +# .*", "", line)
            for name, value in values.items():
                command = command.replace(f"${name}", value)
            named = re.fullmatch(r"([A-Z]+)=(.*)", command)
            if named:
                values[named[1]] = named[2].strip("'")
            else:
                commands.append(command)
    return commands


def ours(commands):
    return [command for command in commands if command.startswith("trainopt")]


SECTIONS = {
    f"{page}: {text.splitlines()[0]}": text
    for page, whole in PAGES.items()
    for text in re.split(r"^## ", whole, flags=re.MULTILINE)
}
RUN = {  # by page and section, those of ours that are run
    name: commands
    for name, text in SECTIONS.items()
    if not name.startswith(README) and (commands := ours(commands_in(text, "console")))
}
FREE = {
    name: free
    for name, commands in RUN.items()
    if name not in RUN_ELSEWHERE and (free := [c for c in commands if not NEEDS_DATA.search(c)])
}
CHECKED = {page: commands for page, text in PAGES.items() if (commands := commands_in(text, "sh"))}
CALLED = [*commands_in("".join(PAGES.values()), "console"), *(ROOT / ".ci/run").read_text().splitlines()]
TARGETS = sorted({c.split()[1] for c in CALLED if c.startswith("make ")})


def test_every_command_is_run_or_checked():
    known = {"trainopt", "torchrun", *OTHER_PROGRAMS}
    for text in PAGES.values():
        for command in [*commands_in(text, "console"), *commands_in(text, "sh")]:
            assert command.split()[0] in known, command
        assert not re.search(r"^\$ ", re.sub(r"```(?:console|sh)\n.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    assert {"run", "lint", "test", "test-all"} <= set(TARGETS)


def test_what_is_not_run_has_a_reason_and_the_tests_that_it_names():
    assert {name for name, text in SECTIONS.items() if commands_in(text, "sh")} == set(NOT_RUN)
    for reason in NOT_RUN.values():
        assert all((ROOT / path).exists() for path in re.findall(r"(?:tests|docs)/[\w./]*\w", reason)), reason


def test_the_commands_of_the_readme_are_run_in_the_quickstart():
    readme, quickstart = (commands_in(PAGES[page], "console") for page in (README, "docs/quickstart.md"))
    assert len(ours(readme)) == 5
    assert set(ours(readme)) <= set(quickstart)
    assert [c for c in quickstart if c in readme] == ours(readme)  # in this order


@pytest.fixture
def modules(tmp_path):
    """Writes the modules called `mine` of a page into the scratch folder."""
    yield lambda page: [
        (tmp_path / "mine.py").write_text(block)
        for block in re.findall(r"`mine\.py`.*?```python\n(.*?)```", PAGES[page], re.DOTALL)
    ]
    sys.modules.pop("mine", None)


@pytest.fixture
def read_less(monkeypatch):
    """Lets a function that reads data return a part of it, every so many images, so that runs take less time."""

    def let(name, every):
        read = getattr(data, name)

        @wraps(read)
        def part(*arguments, **more):
            whole = read(*arguments, **more)
            parts = ("x_train", "y_train", "x_test", "y_test")
            return replace(whole, **{part: getattr(whole, part)[::every] for part in parts})

        monkeypatch.setattr(data, name, part)

    return let


@pytest.mark.slow
@pytest.mark.draws
@pytest.mark.parametrize("section", FREE)
def test_its_commands(trainopt, modules, read_less, section):
    if not any(COUNTS_STEPS.search(command) for command in FREE[section]):
        read_less("digits", every=5)
    modules(section.partition(":")[0])
    for command in FREE[section] + commands_in(SECTIONS.get(RUN_AFTER.get(section), ""), "sh"):
        result = trainopt(*shlex.split(command)[1:])
        assert result.code == 0, (command, result.err)


@pytest.mark.slow
def test_commands_on_real_data(trainopt, real_data, read_less):
    read_less("torchvision_arrays", every=10)
    commands = [c for commands in RUN.values() for c in commands if NEEDS_DATA.search(c)]
    assert len(commands) >= 3
    for command in commands:
        assert trainopt(*shlex.split(command)[1:]).code == 0, command


def one_run(words):
    """The words of one run of a sweep: the first of several values, and nothing of what a search or a cluster takes."""
    run = []
    for word in words:
        key, is_override, value = word.partition("=")
        if word == "-m" or key.startswith(("hydra", "cluster", "+evaluation_sets", "evaluation_sets")):
            continue
        if is_override and value[:1] not in "[{\"'" and not OPEN.match(value):
            run.append(f"{key}={value.partition(',')[0]}")
        elif not OPEN.match(value):
            run.append(word)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("page", CHECKED)
def test_its_other_commands_can_be_typed(trainopt, tmp_path, page):
    for folder in ("options", "DIR"):
        (tmp_path / folder).mkdir()
    for command in CHECKED[page]:
        words = shlex.split(command)
        if words[0] in OTHER_PROGRAMS:
            continue
        words = words[words.index("trainopt.runner") + 1 :] if words[0] == "torchrun" else words[1:]
        if words[0] in COMMANDS:
            for word in words[1:]:
                if word.startswith("outputs/"):
                    (tmp_path / word).mkdir(parents=True, exist_ok=True)
            module = import_module(f"trainopt.runner.commands.{COMMANDS[words[0]]}")
            module.parser().parse_intermixed_args(words[1:])
        if words[0] not in COMMANDS or words[0] == "submit":
            run = [word for word in one_run(words) if word not in ("submit", "--to", "ray", "--config-dir", "options")]
            result = trainopt(*run, "--cfg", "job")
            assert result.code == 0, (command, result.err)


@pytest.mark.slow
def test_the_keys_that_stand_for_those_of_other_tools_can_be_typed(trainopt):
    rows = re.findall(r"^\| .* \| (.*) \|$", PAGES["docs/coming_from.md"], re.MULTILINE)
    codes = [code for row in rows for code in re.findall(r"`([^`…]*=[^`…]*)`", row) if not code.startswith("hydra")]
    assert len(codes) > 30
    for code in codes:
        result = trainopt(*shlex.split(code), "--cfg", "job")
        assert result.code == 0, (code, result.err)


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


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_it_names_are_there(page):
    for name in re.findall(r"\]\(([\w./-]+)\)", PAGES[page]):
        assert (ROOT / page).parent.joinpath(name).exists(), name


def test_every_page_is_in_the_contents_of_the_site():
    index = PAGES["docs/index.md"]
    listed = {name for block in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL) for name in block.splitlines()}
    assert {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in WRITTEN} - {"index"} <= listed


@pytest.mark.slow
def test_the_code_of_the_page_on_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["docs/notebook.md"], re.DOTALL)
    exec(compile(code, "notebook.md", "exec"), {"__name__": "page"})
    assert "from_python" in capsys.readouterr().out


def test_the_readme_stays_a_front_page():
    assert len((ROOT / README).read_bytes()) <= 8_000
