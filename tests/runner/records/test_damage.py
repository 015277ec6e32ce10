"""Files that were cut off, altered or are no longer writable: each is dealt with as the README says."""

import errno
import os
import pickle
import random
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from helpers.cli import forked
from helpers.runs import check_same_run, equal, rows, stop_at, summary, train_run
from trainopt.runner.records.checkpoint_files import find_resume_point
from trainopt.runner.system.errors import UserError
from trainopt.runner.system.hydra_compat import HydraSession

RUN = (
    "model=mlp",
    "duration=30steps",
    "checkpoint_every=4steps",
    "evaluate_every=9steps",
    "log_every=1steps",
    "logger=none",
)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("stopped")
    assert train_run(outputs / "whole", *RUN) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 15)
        assert train_run(outputs / "parts", *RUN) == 130
    return outputs


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A run that was stopped at step 15, beside the one that was not, in a folder of the test: (stopped, whole)."""
    outputs = shutil.copytree(stopped_once, tmp_path / "outputs")
    return outputs / "parts", outputs / "whole"


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def one_weight_altered(path: Path) -> None:
    """Flip a bit in the middle of the largest tensor: torch.load alone would not notice."""
    content = path.read_bytes()
    weights = torch.load(path, weights_only=True)["model"]
    largest = max(weights.values(), key=torch.numel).numpy().tobytes()
    place = content.index(largest) + len(largest) // 2
    flip(path, 8 * place)
    torch.load(path, weights_only=True)


@pytest.mark.parametrize("damage", [cut_off, zeroed, emptied, one_weight_altered])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(trainopt, stopped, damage):
    parts, whole = stopped
    damage(parts / "checkpoints/last.pt")
    result = trainopt("resume", "outputs/parts")
    assert result.code == 0
    assert result.out.count("checkpoints/last.pt: cannot be read") == 1
    assert "continuing from step 12 (step-00000012.pt)" in result.out
    check_same_run(parts, whole)


def test_the_best_is_gone_on_from_where_it_is_the_newest_left(trainopt, stopped):
    parts, whole = stopped
    for path in (parts / "checkpoints").iterdir():
        if path.name != "best.pt":
            cut_off(path)
    result = trainopt("resume", "outputs/parts")
    assert "continuing from step 9 (best.pt)" in result.out
    check_same_run(parts, whole)


def test_without_any_readable_checkpoint_nothing_is_touched(trainopt, stopped):
    parts, _ = stopped
    for path in (parts / "checkpoints").iterdir():
        cut_off(path)
    before = {p: p.read_bytes() for p in parts.rglob("*") if p.is_file()}
    result = trainopt("resume", "outputs/parts")
    assert result.code == 2
    assert "last.pt: cannot be read" in result.err
    assert "no checkpoint is left; remove outputs/parts/checkpoints to begin anew" in result.err
    assert {p: p.read_bytes() for p in parts.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_found_or_does_no_harm(stopped, tmp_path, count):
    parts, _ = stopped
    folder = tmp_path / "flipped"
    shutil.copytree(parts / "checkpoints", folder)
    last, rng = folder / "last.pt", random.Random(0)
    content, rows_there = last.read_bytes(), (parts / "metrics.jsonl").stat().st_size
    intact = find_resume_point(folder, rows_there)
    assert intact.name == "last.pt"
    found = 0
    for _ in range(count):
        flip(last, rng.randrange(8 * len(content)))
        chosen = find_resume_point(folder, rows_there)
        if chosen.name == "last.pt":
            assert equal(chosen.state, intact.state)
        else:
            assert chosen.name == "step-00000012.pt"
            assert len(chosen.problems) == 1
            found += 1
        last.write_bytes(content)
    assert found > count / 2


def test_half_a_row_and_an_empty_summary_are_put_right(trainopt, stopped):
    parts, whole = stopped
    with open(parts / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 16}\n{"kind": "tr')
    (parts / "summary.json").write_bytes(b"")
    assert "1 interrupted" in trainopt("status", "outputs/parts").out
    assert trainopt("resume", "outputs/parts").code == 0
    check_same_run(parts, whole)


class Code:
    """Pickled, a call of os.mkdir."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("form", ["torch.save", "pickle"])
@pytest.mark.parametrize("verb", ["resume", "the same command", "evaluate", "model.weights"])
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(trainopt, stopped, tmp_path, form, verb):
    parts, _ = stopped
    last, mark = parts / "checkpoints/last.pt", tmp_path / "it-ran"
    content = {**torch.load(last, weights_only=True), "more": Code(mark)}
    if form == "pickle":
        last.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, last)
    command = {
        "resume": ("resume", "outputs/parts"),
        "the same command": (*RUN, "run.name=parts"),
        "evaluate": ("evaluate", "outputs/parts"),
        "model.weights": ("model=mlp", f"model.weights={last}"),
    }[verb]
    result = trainopt(*command)
    assert result.code == 2
    assert "last.pt: refused, as it contains other objects than tensors and plain values" in result.err
    assert not mark.exists()


@contextmanager
def disk(folder: Path, options: str) -> Iterator[None]:
    """Let a folder be a small file system while entered."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_cannot_be_written(trainopt, tmp_path, there):
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    with ExitStack() as held:
        if os.getuid() == 0:  # whom permissions do not stop
            held.enter_context(disk(outputs, "ro"))
        else:
            outputs.chmod(0o555)
            held.callback(outputs.chmod, 0o755)
        where = "outputs" if there else "outputs/a"
        result = trainopt(*RUN, f"hydra.run.dir={where}")
        sweep = trainopt("-m", *RUN, "seed=0,1")
    for ended in (result, sweep):
        assert ended.code == 2
        assert re.match(r"trainopt: .*outputs.*: cannot be written \((Read-only|Permission)", ended.err)
        assert ended.err.count("\n") == 1
        assert "hydra.run.dir=DIR or (a sweep) hydra.sweep.dir=DIR puts it elsewhere" in ended.err


def test_a_disk_that_is_full_at_the_start(trainopt, tmp_path):
    with disk(tmp_path / "full", "size=16k"):
        (tmp_path / "full/else").write_bytes(bytes(16 << 10))
        result = trainopt(*RUN, "hydra.run.dir=full/a")
        sweep = trainopt("-m", *RUN, "hydra.sweep.dir=full/b")
        locks = [path for path in (tmp_path / "full").rglob("*") if "lock" in path.name]
    for ended, path in ((result, "full/a/lock"), (sweep, "full/b/sweep.lock")):
        assert ended.code == 2
        assert ended.err.startswith(f"trainopt: {path}: cannot be written (No space left on device); hydra.run.dir=DIR")
    assert not locks


def test_a_disk_that_fills_up_when_a_sweep_is_launched(trainopt, monkeypatch):
    def launch(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HydraSession, "sweep", launch)
    ended = trainopt("-m", *RUN, "hydra.sweep.dir=b")
    assert ended.code == 1
    assert "the launcher stopped: b: cannot be written (No space left on device); hydra.run.dir=DIR or" in ended.err


FULL = (
    "model=mlp",
    "model.hidden=[128,128]",
    "optimizer=adam",
    "duration=30steps",
    "logger=none",
    "hydra.run.dir=.",
)
ENOUGH_FOR_THE_FIRST_CHECKPOINT = 200_000  # bytes; later ones hold the optimizer's state too


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (ENOUGH_FOR_THE_FIRST_CHECKPOINT, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_where_no_more_can_be_written_the_last_good_checkpoint_stands(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    assert forked(*FULL, folder=whole) == 0
    assert forked(*FULL, folder=parts, before=limit_files) == 1
    said = (parts / "output").read_text()
    assert "the run failed: checkpoints/best.pt: File too large" in said
    assert "Traceback" not in said
    assert summary(parts)["status"] == "failed"
    assert summary(parts)["error"] == "checkpoints/best.pt: File too large"
    assert {p.name for p in (parts / "checkpoints").iterdir()} == {"best.pt"}
    assert forked(*FULL, folder=parts) == 0
    assert "continuing from step 0 (best.pt)" in (parts / "output").read_text()
    check_same_run(parts, whole)


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["none", "tensorboard"])
def test_a_full_disk(tmp_path, logger):
    """A file system of 200 kB that fills up while the run writes its rows."""
    small, whole, kept = tmp_path / "small", tmp_path / "whole", tmp_path / "kept"
    whole.mkdir()
    command = ("model=mlp", "duration=800steps", "log_every=1steps", f"logger={logger}", "hydra.run.dir=.")
    assert forked(*command, folder=whole) == 0
    with disk(small, "size=200k"):
        assert forked(*command, folder=small) == 1
        assert "No space left on device" in summary(small)["error"]
        assert summary(small)["status"] == "failed"
        assert 100 < rows(small)[-1]["step"] < 800
        shutil.copytree(small, kept)
    assert forked(*command, folder=kept) == 0
    assert "continuing from step" in (kept / "output").read_text()
    check_same_run(kept, whole)


def test_what_is_no_checkpoint_of_a_run_is_said(stopped):
    parts, _ = stopped
    for path in (parts / "checkpoints").iterdir():
        torch.save({"model": {}}, path)
    with pytest.raises(UserError, match=r"last.pt: is no checkpoint of a run"):
        find_resume_point(parts / "checkpoints", 10**9)


class Odd(torch.optim.SGD):
    """Remembers what no checkpoint may hold."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.param_groups[0]["where"] = Path("somewhere")


def test_a_state_that_could_not_be_read_again_is_refused_when_it_is_first_written(trainopt, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim, "Odd", Odd, raising=False)
    result = trainopt(*RUN, "optimizer._target_=torch.optim.Odd", "run.name=a")
    assert result.code == 1
    assert "the state_dict of the optimizer must hold tensors and plain values" in result.err
    assert summary(tmp_path / "outputs/a")["steps"] == 0
    assert not list((tmp_path / "outputs/a/checkpoints").iterdir())


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("keep", "names"),
    [
        ((), ["best.pt", "last.pt", "step-00000028.pt"]),
        (("keep_checkpoints.last=1",), ["best.pt", "last.pt"]),
        (
            ("keep_checkpoints.last=3", "keep_checkpoints.every=2"),
            [
                "best.pt",
                "last.pt",
                "step-00000008.pt",
                "step-00000016.pt",
                "step-00000024.pt",
                "step-00000028.pt",
            ],
        ),
    ],
)
def test_so_many_checkpoints_are_kept(tmp_path, monkeypatch, keep, names):
    """Also where the run was stopped in between."""
    for steps in ((), (10, 15)):
        run = tmp_path / f"stops{len(steps)}"
        with monkeypatch.context() as patch:
            stop_at(patch, *steps)
            for _ in steps:
                assert train_run(run, *RUN, *keep) == 130
        assert train_run(run, *RUN, *keep) == 0
        folder = run / "checkpoints"
        assert sorted(p.name for p in folder.iterdir()) == names
        for path in folder.glob("step-*.pt"):
            assert torch.load(path, weights_only=True)["progress"]["step"] == int(path.stem[5:])
