"""The cache of features: whole or not there, for two processes at once too."""

import errno
import os
import signal

import numpy as np
import pytest

from helpers.cli import exit_code
from trainopt.runner.records.feature_cache import FeatureCache

VALUES = np.random.default_rng(0).standard_normal((20, 3), dtype=np.float32)


def blocks(count=4):
    yield from np.split(VALUES, count)


def write(cache, values):
    with cache.writer("a", VALUES.shape, {"what": "a test"}) as append:
        for block in values:
            append(block)


def test_what_was_written_is_read(tmp_path):
    cache = FeatureCache(tmp_path / "new" / "folder")
    assert cache.read("a") is None
    with cache.turn("a"):
        write(cache, blocks())
    found = cache.read("a")
    assert np.array_equal(found, VALUES)
    assert isinstance(found, np.memmap)
    found += 1  # of this process alone
    assert np.array_equal(cache.read("a"), VALUES)
    assert np.array_equal(np.load(cache.folder / "a.npy"), VALUES)
    assert cache.read("b") is None


@pytest.mark.parametrize("name", ["a.npy", "a.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "empty"])
def test_a_damaged_file_is_taken_for_none_and_written_anew(tmp_path, name, damage):
    cache = FeatureCache(tmp_path)
    write(cache, blocks())
    path, content = tmp_path / name, (tmp_path / name).read_bytes()
    damaged = {"cut": content[:-5], "flipped": content.replace(content[20:21], b"\x01"), "empty": b""}
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    assert cache.read("a") is None
    write(cache, blocks())
    assert np.array_equal(cache.read("a"), VALUES)


def in_a_copy(work):
    """Call `work` in a copy of this process; return the number of the copy."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_what_a_killed_process_left_is_taken_for_nothing(tmp_path):
    cache = FeatureCache(tmp_path)

    def killed():
        yield VALUES[:5]
        os.kill(os.getpid(), signal.SIGKILL)

    def work():
        with cache.turn("a"):
            write(cache, killed())

    assert exit_code(in_a_copy(work)) == -signal.SIGKILL
    assert len(list(tmp_path.glob("a.npy.*.tmp"))) == 1
    assert cache.read("a") is None
    with cache.turn("a"):
        assert not list(tmp_path.glob("*.tmp"))
        write(cache, blocks())
    assert np.array_equal(cache.read("a"), VALUES)


def test_of_two_at_once_one_computes(tmp_path):
    cache = FeatureCache(tmp_path / "cache")
    ready, go = os.pipe()

    def slowly():
        with open(tmp_path / "computed", "a") as file:
            file.write("x")
        for block in blocks():
            os.sched_yield()
            yield block

    def work():
        os.close(go)
        os.read(ready, 1)  # until all have begun
        with cache.turn("a"):
            if cache.read("a") is None:
                write(cache, slowly())
            assert np.array_equal(cache.read("a"), VALUES)
        (tmp_path / f"done-{os.getpid()}").touch()

    copies = [in_a_copy(work) for _ in range(4)]
    os.close(ready)
    os.close(go)
    for pid in copies:
        os.waitpid(pid, 0)
    assert len(list(tmp_path.glob("done-*"))) == 4
    assert (tmp_path / "computed").read_text() == "x"


@pytest.mark.parametrize("moment", ["room", "block"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, moment):
    cache = FeatureCache(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def failing():
        yield VALUES[:5]
        full()

    if moment == "room":
        monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as error:
        write(cache, failing())
    assert error.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_read_all_the_same(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path)
    write(cache, blocks())
    import fcntl

    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with cache.turn("a"):
        assert np.array_equal(cache.read("a"), VALUES)
