"""Runs of version 0.1.0, kept beside this file: they are resumed, evaluated and compared, and are the same runs still.

sweep/ is a sweep of two runs with as many names that changed since as fit: sgd was interrupted at step 22 of 33, adam
has ended. third/ is a run that has ended. resumed.pt is the last checkpoint of sgd after version 0.1.0 went on with it.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from helpers.cli import prepared
from helpers.runs import equal
from trainopt.runner import load_run
from trainopt.runner.comparison.figures.curves import comparison_figures
from trainopt.runner.comparison.read import read_comparison
from trainopt.runner.config.renamed import with_new_overrides
from trainopt.runner.provenance.environment import environment
from trainopt.runner.records.run_folder import fingerprint, read_config

KEPT = Path(__file__).parent / "version_0_1_0"
RUNS = ("sweep/sgd", "sweep/adam", "third")
MADE_ON = {"cpu": "AMD EPYC", "torch": "2.14.1", "instructions": "AVX512"}  # where resumed.pt is from

# Command lines as they were typed, and the fingerprints of their runs.
FINGERPRINTS = {
    "": "5bcdbd1e12fb665b",
    "data.flip=0.5 data.shift=2 data.shift_probability=0.5 data.padding=mean data.cutout=3 data.mixup=0.4": (
        "b57885c8e86bfeac"
    ),
    "data.validation=0.1 early_stopping.patience=3 early_stopping.minimum_change=0.5 early_stopping.precision=1e-6": (
        "4760dd7bc9981dca"
    ),
    "schedule=multistep schedule.milestones=[2epochs] schedule.factor=0.2": "9a4cb56feace838a",
    "schedule=exponential schedule.rate=0.9 optimizer=adam": "70fc3850442b46ad",
    "schedule=cosine_restarts schedule.growth=1.5 schedule.lowest=0.1": "b38e8632b751f0c8",
    "schedule=cyclic schedule.low=0.01 schedule.high=0.2 schedule.half_cycle=3epochs schedule.form=exp_range": (
        "6ae95ad89891d694"
    ),
    "schedule=range_test schedule.low=0.001 schedule.high=1 schedule.rise=linear": "3f9680f70792d33c",
    "batching=controlled batching.L_growth=[0,5] probe=[fisher]": "3a57ab8b217883e1",
    "batching=controlled_norm_test probe=[fisher,gradient_noise,taylor]": "f55ccc5823d92788",
    "batching=controlled_reference batching.reference=outputs/a probe=[fisher] logger=none": "0c619253c6ff3799",
    "regularizer=[l2,checkpoint_distance] optimizer=ehnewton batching=dynamic": "21affc4be7bddbbf",
    "experiment=liao2018/mnist_dynamic": "4366e80df4836088",
    "experiment=mandatelli2018/section_3_5_cyclic": "24bbd2472270d3b8",
    "experiment=vonbachmann2020/restarts_push": "180c4368a1da3a79",
    "experiment=zorca2020/mobilenetv2 optimizer=adam": "7048584464b918fd",
    "experiment=he2016_cifar10": "17c38210c4e36105",
}


@pytest.fixture
def kept(tmp_path):
    """A copy of the kept runs."""
    return shutil.copytree(KEPT, tmp_path / "kept")


def typed_again(sweep: Path) -> list[str]:
    """The command line of the sweep, with the present names and without what was swept."""
    return with_new_overrides(json.loads((sweep / "sweep.json").read_text())["overrides"][:-1])


def check_resumed(folder: Path) -> None:
    """The run has ended as it did with version 0.1.0: bit for bit on the same CPU, nearly so on others."""
    state, expected = (torch.load(p, weights_only=True) for p in (folder / "checkpoints/last.pt", KEPT / "resumed.pt"))
    here = environment(torch.device("cpu"), [])
    instructions = torch.backends.cpu.get_cpu_capability()
    if {"cpu": here["cpu"], "torch": here["versions"]["torch"], "instructions": instructions} == MADE_ON:
        for part in ("model", "optimizer", "batching", "regularizers", "rng"):
            assert equal(state[part], expected[part]), part
    for name, value in expected["model"].items():
        torch.testing.assert_close(state["model"][name], value, rtol=1e-3, atol=1e-5)
    assert state["progress"] == expected["progress"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_fingerprint_that_it_had(name):
    config, choices = read_config(KEPT / name)
    assert fingerprint(config) == load_run(KEPT / name).summary["fingerprint"]
    assert choices["batching"] in ("growth_control", "norm_test")
    assert choices["augmentation"] == "none"


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("line", FINGERPRINTS)
def test_a_command_with_the_new_names_is_the_same_run(line, monkeypatch):
    monkeypatch.delenv("TRAINOPT_DATA", raising=False)
    assert fingerprint(prepared(*with_new_overrides(line.split()))[0]) == FINGERPRINTS[line]


def test_a_run_is_resumed(trainopt, kept):
    result = trainopt("resume", f"{kept}/sweep/sgd")
    assert result.code == 0
    assert "continuing from step 22" in result.out
    check_resumed(kept / "sweep/sgd")
    again = trainopt("status", f"{kept}/sweep").out
    assert "2 jobs: 2 done" in again


@pytest.mark.slow
def test_the_same_sweep_with_the_new_names_goes_on(trainopt, kept):
    where = (f"hydra.sweep.dir={kept}/sweep", "hydra.sweep.subdir=${hydra:runtime.choices.optimizer}")
    result = trainopt("-m", *typed_again(kept / "sweep"), "optimizer=sgd,adam", *where)
    assert result.code == 0
    assert "continuing from step 22" in result.out
    assert "already finished: adam" in result.out
    assert "2 jobs: 2 done" in result.out
    check_resumed(kept / "sweep/sgd")


def test_the_same_run_with_the_new_names_shows_its_result(trainopt, kept):
    command = (*typed_again(kept / "sweep"), "optimizer=adam", f"hydra.run.dir={kept}/sweep/adam")
    assert "this run is already finished" in trainopt(*command).out
    assert "optimizer.lr (0.001 there, 0.1 here)" in trainopt(*command, "optimizer.lr=0.1").err


@pytest.mark.parametrize("name", ["sweep/adam", "third"])
def test_a_run_is_evaluated(trainopt, kept, name):
    final = load_run(kept / name).summary["final"]
    result = trainopt("evaluate", f"{kept}/{name}")
    row = next(line for line in result.out.splitlines() if line.startswith("test"))
    assert row.split()[2:] == [f"{final['loss']:.4f}", f"{final['top1']:.2f}", f"{final['top5']:.2f}"]


def test_runs_are_compared(kept):
    comparison = read_comparison([kept / "sweep/adam", kept / "third"])
    assert comparison.obstacles == ["different duration: 3epochs, 2epochs"]
    one, other = (method.name for method in comparison.methods)
    assert "batching=growth_control" in one
    assert "batching=norm_test" in other
    assert len(list(comparison_figures(comparison, "epochs"))) >= 6


def test_the_state_of_a_sweep_is_told(trainopt, kept):
    out = trainopt("status", f"{kept}/sweep").out
    assert "2 jobs: 1 done, 1 interrupted" in out
