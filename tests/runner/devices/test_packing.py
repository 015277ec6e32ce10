"""Runs side by side on one machine: its threads are divided, and each has GPUs, or a part of one, of its own."""

import json
import multiprocessing
import os
import signal
import tempfile
import time

import pytest
import torch
from omegaconf import OmegaConf

from helpers.runs import rows
from trainopt.runner.devices import packing, torchrun
from trainopt.runner.devices.packing import check_share, default_workers, free_gpus, shared_machine
from trainopt.runner.sweeps import run_job
from trainopt.runner.sweeps.jobs import set_workers
from trainopt.runner.sweeps.run_job import Job
from trainopt.runner.system.errors import UserError
from trainopt.runner.system.hydra_compat import BASIC_SWEEPER, parse_override

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Six cores, and as many GPUs as one says."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(packing, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is as before afterwards
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "6")

    def with_gpus(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    before = torch.get_num_threads()
    yield with_gpus
    torch.set_num_threads(before)


def test_as_many_at_a_time_as_gpus_or_cores(machine):
    machine(0)
    assert default_workers("auto") == 6
    machine(4)
    assert default_workers("auto") == 4
    assert default_workers("cpu") == 6
    assert [default_workers("auto", share) for share in (0.25, 0.33, 2, 3, 4)] == [16, 12, 2, 1, 1]


@pytest.mark.parametrize(
    ("share", "device", "line"),
    [
        (0.25, "auto", None),
        (0.33, "cuda", None),
        (2, "auto", None),
        (1, "cuda:1", None),
        (0.3, "auto", "devices_per_job=0.3: must be 1/n of a GPU"),
        (0.01, "auto", "devices_per_job=0.01: must be 1/n of a GPU, as 0.5 or 0.25, with n up to 32"),
        (1.5, "auto", "devices_per_job=1.5: must be a whole number of GPUs"),
        (3, "auto", "devices_per_job=3: only 2 GPUs are visible here"),
        (0.5, "cuda:1", "devices_per_job=0.5: gives GPUs to jobs, and device=cuda:1 names one"),
        (2, "cpu", "devices_per_job=2: gives GPUs to jobs, and device=cpu names one"),
    ],
)
def test_a_share_is_whole_or_one_of_n(machine, share, device, line):
    machine(2)
    if line is None:
        check_share(share, device)
        return
    with pytest.raises(UserError) as error:
        check_share(share, device)
    assert str(error.value).startswith(line)


def test_without_a_gpu_only_1_is_taken(machine):
    machine(0)
    check_share(1, "auto")
    with pytest.raises(UserError, match=r"^devices_per_job=0.25: no CUDA GPU is visible here; leave it out$"):
        check_share(0.25, "auto")


def sweep(share, launcher, **options):
    hydra = {"launcher": launcher, "sweeper": {"_target_": BASIC_SWEEPER, **options}}
    return OmegaConf.create({"device": "auto", "devices_per_job": share, "hydra": hydra})


def test_a_sweep_has_as_many_workers_as_jobs_fit(machine):
    machine(2)
    assert set_workers(sweep(0.25, {"n_jobs": -1})) == 8
    assert set_workers(sweep(2, {"n_jobs": -1})) == 1
    assert set_workers(sweep(2, {})) == 1
    for launcher in ({}, {"n_jobs": 1}):
        with pytest.raises(UserError, match="^devices_per_job=0.25: jobs run one at a time here"):
            set_workers(sweep(0.25, launcher))
    assert set_workers(sweep(2, {"n_jobs": -1}, pruner="none")) == 1
    with pytest.raises(UserError, match="^devices_per_job=2: hydra.sweeper.pruner=asha pauses runs"):
        set_workers(sweep(2, {"n_jobs": -1}, pruner="asha"))
    with pytest.raises(UserError, match="^devices_per_job=many: must be a number > 0"):
        set_workers(sweep("many", {}))


@pytest.mark.parametrize(("workers", "threads"), [(2, 3), (4, 1), (9, 1)])
def test_threads_are_divided(machine, workers, threads):
    machine(0)
    with shared_machine(workers, "auto"):
        assert torch.get_num_threads() == threads
        assert os.environ["LOKY_MAX_CPU_COUNT"] == str(threads)  # FolderSource looks at it


def test_alone_nothing_is_changed(machine):
    machine(4)
    before = torch.get_num_threads()
    with shared_machine(1, "auto") as files:
        assert torch.get_num_threads() == before
        assert files == []
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("named", ["cpu", "cuda:1"])
def test_a_device_that_was_named_is_left(machine, named):
    machine(4)
    with shared_machine(4, named) as files:
        assert files == []
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_one_gpu_is_shared_by_as_many_as_one_says(machine):
    machine(1)
    with shared_machine(4, "auto") as files:
        assert files == []
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_runs_that_see_other_gpus_do_not_wait(machine, monkeypatch):
    machine(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    names = packing.visible_gpus()
    with free_gpus(names, 1) as (one, _), free_gpus(names, 1) as (two, _), free_gpus(["0", "1"], 2) as (others, _):
        assert (one, two, others) == (["2"], ["3"], ["0", "1"])


def job(share, seconds, folder):
    """What a process of a job does: it holds its GPUs for a while, and writes since and until when."""
    with shared_machine(8, "auto", share):
        since = time.monotonic()
        (folder / f"began {os.getpid()}").touch()
        time.sleep(seconds)
        entry = [share, os.environ["CUDA_VISIBLE_DEVICES"].split(","), since, time.monotonic()]
        (folder / f"job {os.getpid()}").write_text(json.dumps(entry))


def began(process, folder):
    """Returns whether a process has its GPUs, waiting for a while."""
    until = time.monotonic() + 5
    while time.monotonic() < until and not (folder / f"began {process.pid}").exists():
        time.sleep(0.01)
    return (folder / f"began {process.pid}").exists()


def test_jobs_never_have_more_of_a_gpu_than_all_of_it(machine, tmp_path):
    machine(3)
    shares = [0.25] * 9 + [0.5] * 3 + [1] * 2 + [2, 3, 0.33, 0.33]
    jobs = [FORK.Process(target=job, args=(share, 0.05, tmp_path)) for share in shares]
    for process in jobs:
        process.start()
    for process in jobs:
        process.join(20)
    entries = [json.loads(path.read_text()) for path in tmp_path.glob("job *")]
    assert sorted(entry[0] for entry in entries) == sorted(shares)
    for share, names, *_ in entries:
        assert len(set(names)) == max(1, share)
    for moment in [since for _, _, since, _ in entries]:
        for name in "012":
            load = sum(
                min(share, 1) for share, names, since, until in entries if since <= moment < until and name in names
            )
            assert load <= 1


def test_four_quarters_fit_and_a_killed_job_gives_its_part_back(machine, tmp_path):
    machine(1)
    quarters = [FORK.Process(target=job, args=(0.25, 30, tmp_path)) for _ in range(4)]
    for process in quarters:
        process.start()
    assert all(began(process, tmp_path) for process in quarters)
    fifth = FORK.Process(target=job, args=(0.25, 0, tmp_path))
    fifth.start()
    fifth.join(0.3)
    assert fifth.is_alive()
    assert not (tmp_path / f"began {fifth.pid}").exists()
    os.kill(quarters[1].pid, signal.SIGKILL)
    assert began(fifth, tmp_path)
    for process in [*quarters, fifth]:
        process.kill()
        process.join()


@pytest.mark.slow
def test_a_job_on_two_gpus_is_one_run_of_two_processes(machine, trainopt, tmp_path, monkeypatch):
    machine(2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the processes share the CPU
    typed = ("-m", "model=mlp", "seed=3", "duration=5steps", "logger=none", "hydra.sweep.dir=sweep")
    result = trainopt(*typed, "devices_per_job=2")
    assert result.code == 0, result.err
    (folder,) = (path.parent for path in (tmp_path / "sweep").glob("*/run.yaml"))
    assert json.loads((folder / "environment.json").read_text())["ranks"] == 2
    assert [row["step"] for row in rows(folder, "test")] == [0, 5]
    assert "already finished" in trainopt(*typed).out  # packing makes no other runs


@pytest.mark.slow
def test_the_runs_of_a_search_take_two_gpus_too(machine, trainopt, tmp_path, monkeypatch):
    machine(2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    typed = ("-m", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-3,1e-1)", "hydra.sweeper.n_trials=1", "model=mlp")
    result = trainopt(*typed, "data.validation=0.2", "duration=5steps", "hydra.sweep.dir=sweep", "devices_per_job=2")
    assert result.code == 0, result.err
    runs = [json.loads(path.read_text()) for path in (tmp_path / "sweep").rglob("environment.json")]
    assert [run.get("ranks") for run in runs] == [2]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (("devices_per_job=2",), "devices_per_job=2: is for the runs of sweeps"),
        (("-m", "devices_per_job=0.5,1"), "devices_per_job: is the same for all jobs of a sweep"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(machine, trainopt, tmp_path, typed, line):
    machine(2)
    result = trainopt(*typed)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert result.err.startswith(f"trainopt: {line}")
    assert not (tmp_path / "outputs").exists()


def test_a_folder_with_quotes_is_a_folder_of_a_job_on_several_gpus(tmp_path, monkeypatch):
    commands = []
    settings = OmegaConf.create({"overrides": {"task": ["seed=1"]}})
    monkeypatch.setattr(run_job.HydraConfig, "get", lambda: settings)
    monkeypatch.setattr(torchrun, "run_processes", lambda count, typed, files, quiet: commands.append(typed) or 0)
    assert Job(["trainopt"], False, 1)._run_on_gpus(2, tmp_path / 'a "b"', [], True) == 0
    ((seed, _, place),) = commands
    assert (seed, parse_override(place).value()) == ("seed=1", str(tmp_path / 'a "b"'))
