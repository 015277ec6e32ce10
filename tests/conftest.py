"""Fixtures: the command line and runs below it in a scratch folder, small data, and the real data where it is."""

import gc
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from helpers.cli import forked
from helpers.runs import train_run
from trainopt.runner import cli

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS looks once, and later tests are deterministic
torch.set_num_threads(1)  # tests run beside each other
gc.disable()  # until all tests are collected: what they share, the modules above all, stays


@pytest.hookimpl(tryfirst=True)  # before marks choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the cases of tests with `quick_every(n)` as slow, but for each n-th."""
    cases: Counter[str] = Counter()
    for item in items:
        if mark := item.get_closest_marker("quick_every"):
            test = item.nodeid.partition("[")[0]
            if cases[test] % mark.args[0]:
                item.add_marker("slow")
            cases[test] += 1


def pytest_collection_finish() -> None:
    """Takes what all tests share out of every garbage collection that follows, and lets them be rarer."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


@pytest.fixture
def no_collector():
    """No garbage is collected but where the test asks for it; what is there already takes no part in it."""
    gc.collect()
    gc.freeze()  # it stays so: gc.get_objects, and every collection that follows, are fast
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def scratch_cache(tmp_path_factory):
    """Nothing is read from, or left in, the cache of who runs the tests."""
    os.environ["TRAINOPT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def quick_disk():
    """Files are not waited for until a disk has them: that helps where a machine dies, which no test lets it do."""
    os.fsync = lambda file: None


@pytest.fixture(autouse=True)
def quick_figures(request, monkeypatch):
    """Figures are made, but their files are empty: to draw one takes longer than most runs.

    Those of tests marked `draws` are drawn.
    """
    if request.node.get_closest_marker("draws") is None:
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).touch())


@pytest.fixture(autouse=True)
def scratch_modules(tmp_path_factory):
    """After a test nothing of its scratch folder can be imported: a folder below it is a module by its name, too."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    scratch = tmp_path_factory.getbasetemp()
    for name in set(sys.modules) - modules:
        module = sys.modules[name]
        places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
        if any(Path(place).is_relative_to(scratch) for place in places):
            del sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def usual_signals():
    """Signals have their usual effect, also where the tests were started below nohup or in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def trainopt(tmp_path, monkeypatch, capfd):
    """The command line, run in this process in a scratch folder; outputs/ lies below it."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["trainopt", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the scratch folder
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        captured = capfd.readouterr()
        return Result(exit_info.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Trains the run of a command line, in a scratch folder, and returns its folder; nothing is shown or drawn."""
    monkeypatch.chdir(tmp_path)

    def train(*typed: str, name: str = "a") -> Path:
        folder = tmp_path / "outputs" / name
        assert train_run(folder, *typed) == 0
        return folder

    return train


@pytest.fixture
def finished(tmp_path):
    """The command line in a copy of this process, in a scratch folder, waited for; `out` holds errors too."""

    def run(*arguments: str) -> Result:
        (tmp_path / "output").unlink(missing_ok=True)
        code = forked(*arguments, folder=tmp_path)
        return Result(code, (tmp_path / "output").read_text(), "")

    return run


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where TRAINOPT_DATA is not set."""
    if "TRAINOPT_DATA" not in os.environ:
        pytest.skip("TRAINOPT_DATA is not set: no real data here")
    return Path(os.environ["TRAINOPT_DATA"])


@pytest.fixture
def npz(tmp_path):
    """Writes a small data set as .npz, with any part replaced; returns its path."""

    def write(name="data.npz", shape=(8, 8, 1), classes=3, **parts):
        rng = np.random.default_rng(0)
        content = {
            "x_train": rng.integers(0, 256, (60, *shape), dtype=np.uint8),
            "y_train": np.arange(60) % classes,
            "x_test": rng.integers(0, 256, (30, *shape), dtype=np.uint8),
            "y_test": np.arange(30) % classes,
        }
        content = {k: v for k, v in (content | parts).items() if v is not None}
        np.savez(tmp_path / name, **content)
        return tmp_path / name

    return write
