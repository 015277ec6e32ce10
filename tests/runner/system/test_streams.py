"""Output that nobody reads, or that lacks characters, ends no run; text files are in UTF-8."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.cli import forked
from helpers.fixtures import made_up_run
from helpers.runs import rows, summary
from trainopt.runner.provenance.environment import FOLDERS

COMPARE = pytest.param("compare .", marks=pytest.mark.slow)
EXAMPLES = "open(a)\nopen(a, 'rb')\np.open('w')\np.read_text()\nopen(a, encoding='utf-8')"
RUN = ("model=mlp", "duration=3steps", "logger=none", "hydra.run.dir=run")


def reader_gone() -> None:
    """Standard output and standard error are a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(reader)


def terminal_lost() -> None:
    """Standard output and standard error are a terminal that is gone."""
    terminal, ours = os.openpty()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.dup2(ours, 1)
    os.dup2(ours, 2)
    os.close(terminal)


def closed() -> None:
    """As below `>&- 2>&-`."""
    os.close(1)
    os.close(2)
    sys.stdout = sys.stderr = None


@pytest.fixture(autouse=True)
def without_figures(tmp_path):
    """A run draws no figures where there are some already: that takes most of its time."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/curves.png").touch()


@pytest.mark.parametrize("state", [reader_gone, terminal_lost, closed])
def test_a_run_goes_on_in_silence(tmp_path, state):
    assert forked(*RUN, folder=tmp_path, before=state) == 0
    assert summary(tmp_path / "run")["status"] == "finished"
    assert [row["step"] for row in rows(tmp_path / "run", "test")] == [0, 3]
    assert "final test top-1" in (tmp_path / "run/log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "typed",
    ["--help", pytest.param("--hydra-help", marks=pytest.mark.slow), "--version", "--cfg job", "status .", COMPARE],
)
def test_every_command_ends_quietly(tmp_path, typed):
    for seed in (0, 1):
        made_up_run(tmp_path / f"run-{seed}", seed=seed)
    assert forked(*typed.split(), folder=tmp_path, before=reader_gone) == 0
    assert (tmp_path / "outputs/comparison/report.html").exists() == typed.startswith("compare")


@pytest.mark.slow
def test_a_sweep_and_its_jobs_go_on_in_silence(tmp_path):
    command = ("-m", *RUN[:-1], "seed=0,1", "hydra.sweep.dir=sweep")
    assert forked(*command, folder=tmp_path, before=reader_gone) == 0
    assert [summary(run)["status"] for run in (tmp_path / "sweep").glob("*/")] == ["finished"] * 2


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_characters_that_cannot_be_shown_are_replaced(tmp_path, encoding):
    def prepare() -> None:
        sys.stdout.reconfigure(encoding=encoding)
        sys.stderr.reconfigure(encoding=encoding)

    assert forked(*RUN, folder=tmp_path, before=prepare) == 0
    assert summary(tmp_path / "run")["status"] == "finished"
    assert "checkpoints/, ?)" in (tmp_path / "output").read_text(encoding=encoding)
    assert "checkpoints/, …)" in (tmp_path / "run/log.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_where_the_locale_is_ascii_runs_sweeps_and_tables_are_the_same(tmp_path):
    """In processes of their own, as joblib's are: a locale is chosen when Python starts."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep", "optimizer=sgd,adam")
    folder = tmp_path / "größe"
    folder.mkdir()
    for command in (("-m", *RUN[:-1], *parallel), ("status", "sweep"), ("compare", "sweep"), ("--help",)):
        result = subprocess.run(
            [Path(sys.executable).with_name("trainopt"), *command],
            cwd=folder,
            env=os.environ | locale,
            capture_output=True,
        )
        assert result.returncode == 0, result.stderr
        assert b"Traceback" not in result.stderr
        result.stdout.decode("ascii")
    assert not (folder / "outputs/comparison/report.html").read_text(encoding="utf-8").isascii()


def test_what_is_no_text_here_is_refused_in_one_line(tmp_path):
    assert forked("run.name=gr\udcfc", folder=tmp_path) == 2
    assert "run.name=gr?: is no text in utf-8" in (tmp_path / "output").read_text(encoding="utf-8")


def test_an_option_that_is_not_in_utf_8_is_named(tmp_path):
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/b.yaml").write_bytes("_target_: a.Größe\n".encode("latin-1"))
    assert forked("--config-dir", "mine", "model=b", folder=tmp_path) == 2
    assert "mine/model/b.yaml: is no text in UTF-8 (byte 15)" in (tmp_path / "output").read_text(encoding="utf-8")


def without_encoding(source: str) -> list[int]:
    """Returns the lines that open a text file, or start a process whose output is text, in the locale's encoding."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        values = [getattr(argument, "value", None) for argument in (*node.args, keywords.get("mode"))]
        is_text = name in ("read_text", "write_text") or {"text", "universal_newlines"} & keywords.keys()
        if name in ("open", "fdopen", "NamedTemporaryFile"):
            value = getattr(node.func, "value", None)
            owner = getattr(value, "id", getattr(value, "attr", ""))  # of a method: the trackers' opens no file
            is_binary = any(isinstance(value, str) and "b" in value for value in values)
            is_text = not is_binary and owner not in ("os", "Image", "delivery", "tracker", "_tracker")
        ours = name == "write_text" and isinstance(node.func, ast.Name)  # of system.files: always UTF-8
        if is_text and not ours and "encoding" not in keywords:
            lines.append(node.lineno)
    return lines


def test_text_files_are_always_utf_8():
    assert without_encoding(EXAMPLES) == [1, 3, 4]
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert {str(f): lines for f in files if (lines := without_encoding(f.read_text(encoding="utf-8")))} == {}
