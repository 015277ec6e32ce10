"""What torchrun starts: `python -m trainopt.runner`."""

import os
import subprocess
import sys

import pytest

from trainopt.runner.cli import dispatch
from trainopt.runner.distributed.ranks import shard_of
from trainopt.runner.system.errors import UserError


@pytest.fixture
def launched(monkeypatch):
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "x", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=0,1"], "-m: a sweep starts its runs itself, and torchrun starts one; type trainopt -m …"),
        (["evaluate", "x"], "evaluate: takes one process; torchrun is for a run"),
    ],
)
def test_torchrun_is_for_one_run(launched, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        dispatch(arguments, debug=False)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_are_the_whole_and_differ_by_one_sample(size):
    spans = [shard_of(5, 17, rank, size) for rank in range(size)]
    assert [i for start, stop in spans for i in range(start, stop)] == list(range(5, 17))
    assert max(b - a for a, b in spans) - min(b - a for a, b in spans) <= 1


@pytest.mark.slow
def test_torchrun_makes_one_run(tmp_path):
    (tmp_path / "counted.py").write_text(
        "class Counted:\n"
        "    def __init__(self, folder):\n"
        "        self.file = open(folder / 'seen.txt', 'a')\n"
        "        self.file.write('opened ')\n"
        "    def row(self, row):\n"
        "        self.file.write(row['kind'] + ' ')\n"
        "    def close(self):\n"
        "        self.file.close()\n"
    )
    words = "-m torch.distributed.run --standalone --nproc-per-node=2 -m trainopt.runner model=mlp duration=3steps"
    command = [sys.executable, *words.split(), "run.name=r", "logger=[]", "+logger.a._target_=counted.Counted"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 on CPU, gloo, timeout 10 min") == 1
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == ["r"]
    assert (tmp_path / "outputs/r/seen.txt").read_text() == "opened test train test "  # a logger for all processes
