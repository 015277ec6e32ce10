"""Runs side by side on one machine: its threads are divided, and each has a GPU of its own."""

import os
import tempfile
import threading

import pytest
import torch

from trainopt.runner.system.device import default_workers, free_gpu, shared_machine


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Six cores, and as many GPUs as one says; what is set on them is noted in `chosen`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "6")
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)

    def with_gpus(count: int) -> list[int]:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        return chosen

    before = torch.get_num_threads()
    yield with_gpus
    torch.set_num_threads(before)


def test_as_many_at_a_time_as_gpus_or_cores(machine):
    machine(0)
    assert default_workers("auto") == 6
    machine(4)
    assert default_workers("auto") == 4
    assert default_workers("cpu") == 6


@pytest.mark.parametrize(("workers", "threads"), [(2, 3), (4, 1), (9, 1)])
def test_threads_are_divided(machine, workers, threads):
    machine(0)
    with shared_machine(workers, "auto"):
        assert torch.get_num_threads() == threads
        assert os.environ["LOKY_MAX_CPU_COUNT"] == str(threads)  # FolderSource looks at it


def test_alone_nothing_is_changed(machine):
    chosen = machine(4)
    before = torch.get_num_threads()
    with shared_machine(1, "auto"):
        assert torch.get_num_threads() == before
    assert chosen == []


@pytest.mark.parametrize("wanted", ["cpu", "cuda:1"])
def test_a_device_that_was_named_is_left(machine, wanted):
    chosen = machine(4)
    with shared_machine(4, wanted):
        assert chosen == []


def test_each_has_a_gpu_and_a_further_one_waits(machine):
    machine(2)
    third: list[int] = []

    def take() -> None:
        with free_gpu(2) as index:
            third.append(index)

    with free_gpu(2) as one:
        with free_gpu(2) as two:
            assert {one, two} == {0, 1}
            waiting = threading.Thread(target=take)
            waiting.start()
            waiting.join(0.5)
            assert third == []
        waiting.join(10)
        assert third == [two]


def test_runs_that_see_other_gpus_do_not_wait(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with free_gpu(2) as first, free_gpu(2) as second:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        with free_gpu(2) as other:
            assert (first, second, other) == (0, 1, 0)
