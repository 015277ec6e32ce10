"""The wheel: what is in it, and that it works where nothing else of the project is."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes

import pytest

from helpers import ROOT
from trainopt.runner.provenance.environment import FOLDERS

SUFFIXES = (".py", ".yaml", ".jinja", ".typed")


def files_of_the_project():
    """The names of all files of the project: those that git knows, or in an sdist those that it was made of."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
        return listed.stdout.splitlines()
    return (ROOT / "trainopt.egg-info/SOURCES.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, so that a build leaves nothing in it."""
    pytest.importorskip("build")
    source = tmp_path_factory.mktemp("source")
    for name in files_of_the_project():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    return source


def build(source, folder, *flags):
    """Builds into a folder; returns the wheel."""
    command = [sys.executable, "-m", "build", *flags, "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build(source, tmp_path_factory.mktemp("wheel"), "--wheel")


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel_and_holds_what_contributors_need(source, wheel, tmp_path):
    of_sdist = build(source, tmp_path)  # the sdist, and from it the wheel
    assert zipfile.ZipFile(of_sdist).namelist() == zipfile.ZipFile(wheel).namelist()
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    needed = {".ci/run", "CHANGELOG.md", "Makefile", "docs/conf.py", "docs/index.md", "tests/test_packaging.py"}
    assert needed <= names


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("trainopt-")}
    files = {path for package in FOLDERS for path in (ROOT / package).rglob("*.*") if path.suffix in SUFFIXES}
    assert names == {f"trainopt/{path.relative_to(ROOT)}" for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("repository", ["someone/trainopt", None])
def test_in_a_workflow_the_package_is_linked_to_its_repository(source, tmp_path, monkeypatch, repository):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://git.example")
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    if repository:
        monkeypatch.setenv("GITHUB_REPOSITORY", repository)
    files = zipfile.ZipFile(build(source, tmp_path, "--wheel"))
    (name,) = (name for name in files.namelist() if name.endswith("/METADATA"))
    links = message_from_bytes(files.read(name)).get_all("Project-URL", [])
    address = "https://git.example/someone/trainopt"
    expected = [f"Repository, {address}", f"Issues, {address}/issues", f"Changelog, {address}/blob/main/CHANGELOG.md"]
    assert links == (expected if repository else [])


@pytest.mark.slow
def test_an_installed_wheel_trains(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    # the dependencies from where they are; .pth files there (our editable install) are then not followed
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True, capture_output=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    code = "import trainopt.runner.cli as c; print(c.__file__); c.main()"
    done = subprocess.run(
        [python, "-c", code, "debug=quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert "final test top-1" in done.stdout
