"""Features of a frozen backbone, which several processes compute together: the files are those of one process."""

import errno
import os
from functools import partial

import pytest

from helpers.ranks import run_ranks, start_ranks, wait_ranks
from helpers.runs import same_weights, summary, weights
from trainopt.models import LastLayer

# 150 images of training and of the test are batches of 64, 64 and 22: the second of two processes has one of three
LINE = "model=resnet8 model.trainable=last_layer data.limit=150 batching.size=50 duration=2steps logger=none"


def prepare(rank, cache, fault=lambda rank, batches: None):
    """Lets a process use a cache of the test's own, note the images that it computes features of, and perhaps fail."""
    os.environ["TRAINOPT_CACHE"] = str(cache)
    cache.mkdir(exist_ok=True)
    compute, sizes = LastLayer.features, []

    def features(self, images):
        sizes.append(len(images))
        fault(rank, len(sizes))
        (cache / f"images{rank}.txt").write_text(f"{sum(sizes)}")
        return compute(self, images)

    LastLayer.features = features


def files(cache):
    """Returns the contents of the files of a cache by name."""
    return {p.name: p.read_bytes() for p in (cache / "features").iterdir() if p.suffix not in (".lock", ".tmp")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert run_ranks(1, LINE, folder / "run", before=partial(prepare, cache=folder / "cache")) == [0]
    return folder


@pytest.mark.slow
def test_each_process_computes_its_part_into_the_files_of_one(tmp_path, alone):
    caches = {size: tmp_path / f"cache{size}" for size in (2, 3)}
    begun = {n: start_ranks(n, LINE, tmp_path / f"{n}", before=partial(prepare, cache=c)) for n, c in caches.items()}
    assert {n: wait_ranks(processes) for n, processes in begun.items()} == {2: [0, 0], 3: [0, 0, 0]}
    images = {n: [int((c / f"images{rank}.txt").read_text()) for rank in range(n)] for n, c in caches.items()}
    assert images == {2: [2 * 86, 2 * 64], 3: [2 * 64, 2 * 64, 2 * 22]}
    for cache in caches.values():
        assert files(cache) == files(alone / "cache")
    again = partial(prepare, cache=alone / "cache", fault=lambda *_: os.abort())  # nothing is computed once more
    assert run_ranks(2, LINE, tmp_path / "again", before=again) == [0, 0]
    assert same_weights(tmp_path / "again", tmp_path / "2")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_meanwhile_leaves_nothing_half(tmp_path, alone, killed):
    def fault(rank, batches):
        if (rank, batches) == (killed, 2):
            os.kill(os.getpid(), 9)

    cache = tmp_path / "cache"
    codes = run_ranks(2, LINE, tmp_path / "run", before=partial(prepare, cache=cache, fault=fault))
    assert codes[killed] == -9
    assert codes[1 - killed] == 1
    complete = files(alone / "cache")
    assert files(cache).items() < complete.items()
    assert run_ranks(2, LINE, tmp_path / "run", before=partial(prepare, cache=cache)) == [0, 0]
    assert files(cache) == complete
    assert not list(cache.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_where_one_cannot_store_features_the_backbone_runs_in_all(tmp_path, alone, failing):
    def fault(rank, batches):
        if (rank, batches) == (failing, 2):
            raise OSError(errno.ENOSPC, "No space left on device")

    before = partial(prepare, cache=tmp_path / "cache", fault=fault)
    assert run_ranks(2, LINE, tmp_path / "run", before=before) == [0, 0]
    log = (tmp_path / "run/log.txt").read_text()
    assert "features cannot be stored (" in log
    assert "No space left on device" in log
    one = weights(alone / "run")
    assert all((value - one[name]).abs().max() < 1e-5 for name, value in weights(tmp_path / "run").items())
    assert summary(tmp_path / "run")["status"] == "finished"
