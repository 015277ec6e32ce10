"""Classes of the user's: modules of the working directory are found, wherever a run builds what they name."""

import os
import sys

import pytest

import trainopt.runner
import trainopt.runner.probes
from helpers.cli import exit_code
from trainopt.runner import load_runs
from trainopt.runner.system.environment import add_working_directory

RUN = ("model=mlp", "model.hidden=[4]", "data.limit=40", "duration=4steps", "logger=none")
MINE = """
import torch

class Halved(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr / 2)
"""


def in_a_new_process(folder, *arguments):
    """Runs the command as a shell does, without PYTHONPATH; returns its exit code."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "import sys; sys.path.remove(''); from trainopt.runner.cli import main; main()"]
    pid = os.posix_spawn(
        "/bin/sh", ["sh", "-c", 'cd "$1"; shift; exec "$@"', "sh", str(folder), *command, *arguments], environment
    )
    return exit_code(pid)


@pytest.mark.slow
def test_a_run_and_jobs_in_workers_find_modules_of_the_working_directory(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    parallel = ("-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep")
    assert in_a_new_process(tmp_path, *parallel, *RUN, "optimizer._target_=mine.Halved") == 0
    assert load_runs(tmp_path / "sweep").summaries.status.tolist() == ["finished"] * 2


@pytest.mark.slow
def test_a_command_in_another_folder_says_from_where_the_run_imported_its_code(trainopt, tmp_path, monkeypatch):
    for name in ("code of mine", "elsewhere"):
        (tmp_path / name).mkdir()
    source = tmp_path / "code of mine"
    (source / "mine.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(source)
    assert trainopt(*RUN, "optimizer._target_=mine.Halved", "run.name=one").code == 0
    sys.modules.pop("mine")
    sys.path.remove(str(source))
    monkeypatch.chdir(tmp_path / "elsewhere")
    for words in (("evaluate",), ("export", "--out", "weights"), ("resume", "duration=6steps")):
        result = trainopt(words[0], str(source / "outputs/one"), *words[1:])
        assert result.code == 2
        assert "there is no module mine, neither in the working directory nor among" in result.err
        assert f"; the run imported it from {source} (mine.py): give the command in that folder" in result.err
        assert f"export PYTHONPATH='{source}'; where the code has moved, name its new folder" in result.err
    (tmp_path / "elsewhere" / "my_mine.py").write_text(MINE)
    again = trainopt("evaluate", str(source / "outputs/one"))
    assert "did you mean my_mine? the run imported it from" in again.err
    assert "imported it from" not in trainopt(*RUN, "optimizer._target_=mine.Halved", "run.name=two").err


def test_a_file_of_the_working_directory_hides_no_installed_module(tmp_path, monkeypatch, trainopt):
    (tmp_path / "torchvision.py").write_text("raise ImportError('hidden')")
    (tmp_path / "random.py").write_text("raise ImportError('hidden')")
    (tmp_path / "mine.py").write_text(MINE)
    assert trainopt(*RUN, "optimizer._target_=mine.Halved").code == 0
    sys.modules.pop("mine")


def test_the_working_directory_is_added_once_and_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["first"])
    add_working_directory()
    add_working_directory()
    assert sys.path == ["first", str(tmp_path)]


def test_public_names_are_listed_where_they_are_imported_late():
    assert {"load_run", "train", "Logger"} <= set(dir(trainopt.runner))
    assert {"FisherProbe", "TaylorProbe"} <= set(dir(trainopt.runner.probes))


def test_a_single_folder_need_not_be_in_a_list(trained, tmp_path):
    trained(*RUN)
    one = load_runs(str(tmp_path / "outputs"))
    assert one.summaries.equals(load_runs([tmp_path / "outputs"]).summaries)
    assert len(one.summaries) == 1
