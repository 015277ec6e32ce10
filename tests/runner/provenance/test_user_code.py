"""What a run records of the user's code, and what follows where that changes."""

import hashlib
import importlib
import json
import linecache
import subprocess
import sys

import pandas as pd
import pytest

from trainopt.runner import load_run, load_runs
from trainopt.runner.comparison.code_versions import code_obstacles, code_versions
from trainopt.runner.comparison.differences import configs_as_text, method_name
from trainopt.runner.provenance.environment import versions
from trainopt.runner.provenance.user_code import (
    changed_files,
    code_changes,
    differing_files,
    note_imports,
    targets_of,
    used_code,
)

MINE = """
import torch
from package_of_mine import momentum

class MySGD(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr, momentum=momentum.VALUE)
"""
RUN = ("model=mlp", "model.hidden=[4]", "data.limit=40", "duration=4steps", "logger=none")
OWN = (*RUN, "optimizer._target_=mine.MySGD", "optimizer.lr=0.1")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with mine.py, which imports a module of a package beside it; neither is imported afterwards."""
    (tmp_path / "mine.py").write_text(MINE)
    package = tmp_path / "package_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "momentum.py").write_text("VALUE = 0.9\n")
    (tmp_path / "unused.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("mine", "package_of_mine", "package_of_mine.momentum"):
        sys.modules.pop(name, None)


def record():
    importlib.import_module("mine")
    note_imports("mine.MySGD")
    return used_code(["mine.MySGD", "torch.optim.SGD", "trainopt.data.Constant"])


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_files_of_what_was_imported_from_the_users_folder_are_recorded(project):
    (entry,) = record()
    files = ("mine.py", "package_of_mine/__init__.py", "package_of_mine/momentum.py")
    assert entry["files"] == {name: sha256(project / name) for name in files}
    assert (entry["folder"], entry["modules"]) == (str(project), ["mine"])
    assert (entry["commit"], entry["dirty"]) == (None, None)


def test_the_commit_is_that_of_the_users_repository_and_dirty_is_about_the_files_used(project):
    git(project, "init", "-q")
    git(project, "add", "mine.py", "package_of_mine")
    git(project, "commit", "-q", "-m", "first")
    (entry,) = record()
    assert (entry["commit"], entry["dirty"]) == (git(project, "rev-parse", "HEAD"), False)  # unused.py is untracked
    (project / "package_of_mine" / "momentum.py").write_text("VALUE = 0.95\n")
    assert used_code(["mine.MySGD"])[0]["dirty"] is True
    git(project, "checkout", "-q", ".")
    git(project, "rm", "-q", "--cached", "mine.py")
    git(project, "commit", "-q", "-m", "second")
    assert used_code(["mine.MySGD"])[0]["dirty"] is True


def test_a_change_is_found_without_an_import(project):
    entries = record()
    for name in ("mine", "package_of_mine", "package_of_mine.momentum"):
        sys.modules.pop(name)
    assert changed_files(entries) == []
    (project / "package_of_mine" / "momentum.py").write_text("VALUE = 0.95\n")
    (project / "mine.py").unlink()
    importlib.invalidate_caches()
    assert changed_files(entries) == []  # mine is nowhere: nothing could be run
    (project / "mine.py").write_text(MINE)
    importlib.invalidate_caches()
    assert changed_files(entries) == ["package_of_mine/momentum.py"]
    assert "mine" not in sys.modules


def test_what_counts_is_what_the_process_imported_until_it_is_reloaded(project):
    (before,) = record()
    (project / "mine.py").write_text(MINE + "\n# later")
    assert used_code(["mine.MySGD"]) == [before]
    assert changed_files([before]) == []
    importlib.reload(sys.modules["mine"])
    (after,) = used_code(["mine.MySGD"])
    assert after["files"]["mine.py"] == sha256(project / "mine.py")
    assert differing_files([before], [after]) == ["mine.py"]
    assert changed_files([before]) == ["mine.py"]


def test_a_notebooks_class_is_recorded_by_the_text_of_its_cell(monkeypatch):
    main = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)

    def cell(number, text):
        linecache.cache[f"<cell {number}>"] = (len(text), None, text.splitlines(True), f"<cell {number}>")
        exec(compile(text, f"<cell {number}>", "exec"), vars(main))

    cell(1, "class Loss:\n    def __call__(self, a, b):\n        return a - b\n")
    records = used_code(["__main__.Loss"])
    assert records[0]["files"]["__main__.Loss"] is not None
    assert changed_files(records) == []
    cell(2, "class Loss:\n    def __call__(self, a, b):\n        return b - a\n")
    assert changed_files(records) == ["__main__.Loss"]


def test_targets_are_found_at_every_depth():
    config = {
        "optimizer": {"_target_": "a.B", "base": {"_target_": "c.D"}},
        "probe": [{"_target_": "a.B"}, {"_target_": "hydra.utils.get_method", "path": "e.f"}],
        "path": "g.h",
    }
    assert targets_of(config) == ["a.B", "c.D", "hydra.utils.get_method", "e.f"]


def test_versions_are_those_of_the_packages_that_classes_come_from():
    importlib.import_module("scipy.stats")
    assert versions(["scipy.stats.norm"])["scipy"] == importlib.import_module("scipy").__version__
    assert "scipy" not in versions(["torch.optim.SGD"])


def test_changes_between_the_starts_of_a_run():
    first, second = ({"step": step, "code": [{"files": {"a.py": digest}}]} for step, digest in ((0, "1"), (8, "2")))
    assert code_changes([first, second, {**second, "step": 9}]) == [{"step": 8, "files": ["a.py"]}]
    assert code_changes([{"command": []}, second]) == []  # a start of a version without such records


def test_versions_of_files_that_differ_among_runs():
    def code(**files):
        return [{"files": {f"{name}.py": digest for name, digest in files.items()}}]

    environments = pd.DataFrame(
        {
            "code": [code(a="1", b="1"), code(a="2", b="1"), code(a="2"), None, []],
            "earlier": [None, None, [{"code": code(a="1")}], None, None],
        },
        index=["one", "two", "three", "old", "without"],
    )
    versions = code_versions(environments)
    assert versions["code.a.py"].isna().tolist() == [False] * 3 + [True] * 2
    assert method_name(["code.a.py"], configs_as_text(versions)["code.a.py"][3:4]) == "without code.a.py"
    assert versions.fillna("").to_dict("list") == {"code.a.py": ["1", "2", "1+2", "", ""]}
    assert code_obstacles(versions) == ["different code: a.py is 1 in one; 2 in two; 1+2 in three"]


@pytest.mark.slow
def test_runs_of_other_code_are_neither_shown_nor_averaged_as_one(project, finished):
    assert finished(*OWN, "run.name=own").code == 0
    first = load_run(project / "outputs/own")
    assert first.environment["code"][0]["files"]["mine.py"] == sha256(project / "mine.py")
    assert finished(*OWN, "run.name=own").code == 0
    momentum = project / "package_of_mine" / "momentum.py"
    momentum.write_text("VALUE = 0.95\n")
    again = finished(*OWN, "run.name=own")
    assert again.code == 2
    assert "holds a finished run of other code: package_of_mine/momentum.py has changed since;" in again.out
    evaluated = finished("evaluate", "outputs/own")
    assert evaluated.code == 0
    assert "warning: outputs/own: the present package_of_mine/momentum.py is not what the run used" in evaluated.out
    assert finished(*OWN, "run.name=one", "seed=1").code == 0
    refused = finished("compare", "outputs/own", "outputs/one")
    assert refused.code == 2
    assert "different code: package_of_mine/momentum.py is " in refused.out
    assert finished(*OWN, "run.name=new").code == 0
    assert finished("compare", "outputs", "--force").code == 0
    table = (project / "outputs/comparison/table.csv").read_text().splitlines()
    assert len(table) == 3  # own; one and new
    assert load_runs(project / "outputs").summaries["fingerprint"].nunique() == 2


@pytest.mark.slow
def test_a_run_goes_on_with_other_code_and_says_so(project, finished):
    assert finished(*OWN, "run.name=own", "evaluate_every=2steps").code == 0
    (project / "package_of_mine" / "momentum.py").write_text("VALUE = 0.5\n")
    longer = finished("resume", "outputs/own", "duration=8steps")
    assert longer.code == 0
    assert "other code from step 4 on: package_of_mine/momentum.py changed" in longer.out
    run = load_run(project / "outputs/own")
    assert run.summary["code_changes"] == [{"step": 4, "files": ["package_of_mine/momentum.py"]}]
    assert run.environment["earlier"][0]["code"][0]["files"] != run.environment["code"][0]["files"]


@pytest.mark.slow
def test_jobs_of_other_code_are_outdated(project, finished):
    sweep = ("-m", *OWN, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep")
    assert finished(*sweep, "seed=0,1").code == 0
    momentum = project / "package_of_mine" / "momentum.py"
    momentum.write_text("VALUE = 0.5\n")
    outdated = finished(*sweep, "seed=0,1,2")
    assert (outdated.code, "run.name" in outdated.out) == (1, False)
    assert "changed since; remove the folder and give the same command again, or give hydra.sweep.dir=D" in outdated.out
    states = json.loads(finished("status", "sweep", "--json").out)
    assert [job["state"] for job in states] == ["outdated", "outdated", "done"]
    codes = load_runs(project / "sweep").environments["code"]
    assert sha256(momentum) in [code[0]["files"]["package_of_mine/momentum.py"] for code in codes]
    momentum.write_text("VALUE = 0.9\n")
    assert finished(*sweep, "seed=0,1").code == 0
