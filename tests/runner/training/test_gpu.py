"""On a GPU: the same path, the same twice, and what only a GPU has.

Where there is none, the same tests run on the CPU, among the slow ones, as far as it can: the first run on a GPU should
fail by what a GPU does, and by nothing else.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from helpers.runs import rows, same_weights, stop_at, summary, timeless

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU here")
GPU = (pytest.mark.gpu, NO_GPU)
RUN = (
    "model=resnet8",
    "duration=30steps",
    "augmentation.flip=0.5",
    "augmentation.crop_padding=1",
    "log_every=3steps",
)
LONG = ("duration=300steps", "schedule=cosine", "optimizer.lr=0.05")  # as a run of some length ends
QUICK = {"cpu": ("data.limit=100", "batching.size=16"), "cuda": ()}


@pytest.fixture(params=[pytest.param("cuda", marks=GPU), pytest.param("cpu", marks=pytest.mark.slow)])
def device(request):
    yield request.param
    torch.use_deterministic_algorithms(False)


def test_the_same_command_twice_gives_the_same_metrics(trainopt, tmp_path, device):
    for name in "ab":
        assert trainopt(*RUN, *QUICK[device], f"device={device}", "deterministic=true", f"run.name={name}").code == 0
    a, b = tmp_path / "outputs/a", tmp_path / "outputs/b"
    assert timeless(rows(a)) == timeless(rows(b))
    assert same_weights(a, b)


@pytest.mark.parametrize(
    "options",
    [
        ("model=mlp", "model.dropout=0.3"),
        ("optimizer=ehnewton", "optimizer.cg_max_iter=2", "optimizer.momentum=0.5"),
        ("precision=bf16", "channels_last=true", "averaging=ema"),
    ],
    ids=["dropout", "second order", "bf16"],
)
def test_a_resumed_run_is_the_run(trainopt, tmp_path, monkeypatch, device, options):
    command = (*RUN, *QUICK[device], f"device={device}", "deterministic=true", *options)
    assert trainopt(*command, "run.name=a").code == 0
    stop_at(monkeypatch, 11)
    assert trainopt(*command, "run.name=b").code == 130
    assert trainopt("resume", "outputs/b").code == 0
    a, b = tmp_path / "outputs/a", tmp_path / "outputs/b"
    assert timeless(rows(a)) == timeless(rows(b))
    assert same_weights(a, b)


def check_like_float32(trainopt, tmp_path, device, *option, small=("model=mlp",)):
    """Asserts that a run of some length with an option trains as in float32: by its last rows, and on the test set."""
    for name, options in (("float32", ()), ("option", option)):
        network = small if device == "cpu" else ()
        assert trainopt(*RUN, *LONG, *network, f"device={device}", *options, f"run.name={name}").code == 0
    ends = [summary(tmp_path / "outputs" / name)["final"] for name in ("float32", "option")]
    losses = [
        [row["total"] for row in rows(tmp_path / "outputs" / name, "train")[-10:]] for name in ("float32", "option")
    ]
    mean, other = (sum(values) / len(values) for values in losses)
    assert other == pytest.approx(mean, abs=0.03)
    assert ends[1]["top1"] == pytest.approx(ends[0]["top1"], abs=3)
    assert ends[1]["loss"] == pytest.approx(ends[0]["loss"], abs=0.1)


@pytest.mark.parametrize("option", ["precision=bf16", "channels_last=true"])
def test_an_option_trains_as_float32_does(trainopt, tmp_path, device, option):
    check_like_float32(trainopt, tmp_path, device, option)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_a_compiled_network_trains_as_float32_does_and_compiles_once_for_all_runs(trainopt, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    network = ("model=mlp", "model.hidden=[37]")  # no other test of this process has compiled it
    check_like_float32(trainopt, tmp_path, "cpu", "compile=true", small=network)
    libraries = {path: path.stat().st_mtime_ns for path in cache.rglob("*.so")}
    assert libraries
    assert f"compiled code is stored in {cache} for" in " ".join(
        (tmp_path / "outputs/option/log.txt").read_text().split()
    )
    one = summary(tmp_path / "outputs/option")["seconds"]
    assert one["compile"] > 0
    assert "compile" not in summary(tmp_path / "outputs/float32")["seconds"]
    torch.compiler.reset()
    command = (*RUN, *network, "device=cpu", "compile=true", "seed=1", "duration=2steps", "run.name=next")
    assert trainopt(*command).code == 0
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.so")} == libraries


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize(
    "options",
    [
        ("precision=fp16",),
        ("precision=tf32",),
        ("compile=true",),
        ("compile=max-autotune-no-cudagraphs",),
        ("precision=bf16", "channels_last=true"),
    ],
    ids=" ".join,
)
def test_an_option_for_gpus_trains_as_float32_does(trainopt, tmp_path, options):
    check_like_float32(trainopt, tmp_path, "cuda", *options)
    assert summary(tmp_path / "outputs/option")["peak_memory_bytes"] > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_fused_optimizer_makes_the_steps_of_the_other(trainopt, tmp_path, device, optimizer):
    for name in ("false", "true"):
        options = (f"device={device}", f"optimizer={optimizer}", f"+optimizer.fused={name}", f"run.name={name}")
        assert trainopt(*RUN, *QUICK[device], *options).code == 0
    a, b = (rows(tmp_path / "outputs" / name, "train") for name in ("false", "true"))
    assert [row["total"] for row in a] == pytest.approx([row["total"] for row in b], rel=1e-2)  # rounding grows
    assert a[0]["total"] == pytest.approx(b[0]["total"], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_update(trainopt, tmp_path, device):
    assert trainopt(*RUN, *QUICK[device], f"device={device}", "optimizer.lr=1e20", "run.name=a").code == 0
    assert summary(tmp_path / "outputs/a")["status"] == "diverged"


@pytest.mark.gpu
@NO_GPU
def test_the_numbers_are_those_of_the_cpu(trainopt, tmp_path):
    for device in ("cpu", "cuda"):
        trainopt("model=mlp", f"device={device}", "duration=30steps", f"run.name={device}")
    cpu, gpu = (summary(tmp_path / "outputs" / device)["final"]["loss"] for device in ("cpu", "cuda"))
    assert gpu == pytest.approx(cpu, rel=1e-3)  # float32, other order of sums


@pytest.mark.parametrize("iterations", [1, 4])
@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_a_step_of_second_order_is_that_of_the_cpu(device, iterations, curvature):
    from torch.nn.functional import cross_entropy

    from trainopt.models import ResNet
    from trainopt.optimizers import EHNewton

    reached = []
    for place in ("cpu", device):
        torch.manual_seed(0)
        network = ResNet(in_channels=3, num_classes=5, depth=8).double()
        inputs, targets = torch.randn(8, 3, 16, 16).double(), torch.arange(8) % 5
        network, inputs, targets = network.to(place), inputs.to(place), targets.to(place)
        optimizer = EHNewton(network.parameters(), lr=0.5, damping=1.0, cg_max_iter=iterations, curvature=curvature)
        for _ in range(2):
            optimizer.step(lambda network=network, x=inputs, y=targets: cross_entropy(network(x), y))
        reached.append([p.detach().cpu() for p in network.parameters()])
    for a, b in zip(*reached, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_batches_of_a_set_on_the_device_are_those_of_the_cpu(device):
    import numpy as np

    from trainopt.data import Augmentation, InMemory

    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    kinds = (
        Augmentation(flip=0.5, crop_padding=2),
        Augmentation(flip=0.5, crop_padding=1, crop_probability=0.5, fill="mean", cutout=4, mixup=0.4),
        Augmentation(random_erasing=0.5, cutmix=1.0),
    )
    for augmentation in kinds:
        both = []
        for place in ("cpu", device):
            source = InMemory(images, np.arange(50) % 5, [0.5] * 3, [0.2] * 3, augmentation=augmentation, device=place)
            assert (source.stored.dtype, source.stored.device.type) == (torch.uint8, place)
            both.append([[part.cpu() for part in batch] for batch in source.epoch(3, 1, [(0, 20), (20, 50)])])
        for one, other in zip(*both, strict=True):
            assert torch.equal(one[1], other[1])
            torch.testing.assert_close(one[0], other[0], rtol=0, atol=1e-6)  # a product and a sum may be one operation


def test_a_run_is_followed_on_the_cpu(trainopt, tmp_path, device):
    kept = ("checkpoint_every=10steps", "evaluate_every=10steps", "keep_checkpoints.last=3")
    trainopt(*RUN, *QUICK[device], f"device={device}", *kept, "run.name=a")
    assert "on cpu" in trainopt("evaluate", "outputs/a", "--follow", "--device", "cpu").out
    folder = tmp_path / "outputs/a"
    later = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    during = [row for row in rows(folder, "test") if row["step"] > 0]
    assert [row["step"] for row in later] == [row["step"] for row in during] == [10, 20, 30]
    assert [row["loss"] for row in later] == pytest.approx([row["loss"] for row in during], rel=1e-4)  # float32


@pytest.mark.slow
def test_the_benchmark_for_gpus_runs_on_the_cpu(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    import gpu

    def measure(*arguments):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
        return gpu.main(), capsys.readouterr().out

    assert measure() == (0, "nothing is measured: torch sees no CUDA GPU here\n")
    out = tmp_path / "new/gpu.json"
    code, text = measure("--device", "cpu", "--smoke", "--out", str(out))
    results = json.loads(out.read_text())
    assert code == 0, results["lacking"]
    assert not results["lacking"]
    assert all(figure["value"] > 0 for figure in results["figures"])
    units = [figure["unit"] for figure in results["figures"]]
    assert [units.count(unit) for unit in ("ms", "ratio", "images/s")] == [8, 21, 4]
    assert results["figures"][-1]["name"] in text
    text = measure("--device", "cpu", "--seconds", "9")[1]
    assert "loop: not begun: it takes about 180 s, and 9 s are left\n" in text
    assert "pipeline: not begun" in text


@pytest.mark.slow
def test_a_failure_in_the_benchmark_for_gpus_leaves_the_other_figures(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    def fails(setting):
        yield gpu.Figure("first", 1.0, "ratio")
        raise RuntimeError("no such kernel")

    def part(setting):
        yield "one", lambda: fails(setting)
        yield "two", lambda: iter([gpu.Figure("second", 2.0, "ratio")])

    monkeypatch.setattr(gpu, "PARTS", {"loop": (part, 0), "other": (part, 0)})
    figures, lacking = gpu.measured(gpu.Setting(torch.device("cpu"), True), 60.0)
    assert [figure.name for figure in figures] == ["first", "second"] * 2
    assert lacking == {f"{name}, one": "failed: RuntimeError: no such kernel" for name in ("loop", "other")}
    assert "no such kernel" in capsys.readouterr().err
