"""A run that is interrupted and resumed is the run that was not: rows, summary and weights, bit for bit."""

import json
import shutil
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.runs import rows, same_weights, stop_at, summary, timeless

COMMON = (
    "duration=30steps",
    "log_every=3steps",
    "evaluate_every=0.7epochs",
    "checkpoint_every=1000steps",
    "logger=none",
)
CASES = {
    "sgd, exponential schedule, augmentation": (
        "model=resnet8",
        "data.limit=300",
        "schedule=exponential",
        "schedule.every=4steps",
        "augmentation.flip=0.5",
        "augmentation.crop_padding=1",
    ),
    "every augmentation, label smoothing, persistency": (
        "model=resnet8",
        "data.limit=300",
        "augmentation.flip=0.5",
        "augmentation.crop_padding=1",
        "augmentation.crop_probability=0.5",
        "augmentation.fill=mean",
        "augmentation.cutout=3",
        "augmentation.mixup=0.4",
        "objective.label_smoothing=0.1",
        "batching.persistency=2",
    ),
    "adam, milestones, dropout": (
        "model=mlp",
        "model.hidden=[20]",
        "model.dropout=0.3",
        "optimizer=adam",
        "schedule=multistep",
        "schedule.milestones=[0.3epochs,20steps]",
        "data.validation=0.1",
    ),
    "rmsprop, persistency, l2, smooth schedule": (
        "model=mlp",
        "optimizer=rmsprop",
        "batching.persistency=3",
        "regularizer=[l2]",
        "schedule=exponential",
        "schedule.staircase=false",
        "schedule.gamma=0.5",
    ),
    "a cyclic rate after a warm-up, augmentation": (
        "model=mlp",
        "augmentation.flip=0.5",
        "augmentation.crop_padding=1",
        "schedule=cyclic",
        "schedule.mode=exp_range",
        "schedule.window=sinusoidal",
        "schedule.gamma=0.9",
        "schedule.step_up=0.3epochs",
        "schedule.warmup=9steps",
    ),
    "persistency 5 with smaller steps on repeats, a cyclic rate, augmentation": (
        "model=alexnet_cifar",
        "model.channels=[4,8,8,8,8]",
        "data.limit=100",
        "augmentation.flip=0.5",
        "augmentation.crop_padding=1",
        "augmentation.crop_probability=0.5",
        "batching.size=32",
        "batching.persistency=5",
        "batching.repeat_lr_factor=0.8",
        "schedule=cyclic",
        "schedule.step_up=7steps",
    ),
    "adam, warm restarts": (
        "model=mlp",
        "optimizer=adam",
        "schedule=cosine_restarts",
        "schedule.period=4steps",
        "schedule.period_mult=1.5",
    ),
    "pushes that end, with restarts and on plateaus": (
        "model=mlp",
        "data.validation=0.2",
        "early_stopping.min_delta=2.0",
        "schedule=cosine_restarts",
        "schedule.period=11steps",
        "schedule.period_mult=1",
        "regularizer=[l2,checkpoint_distance]",
        "regularizer.checkpoint_distance.units=snapshot_norm",
        "regularizer.checkpoint_distance.sigma=0.05",
        "regularizer.checkpoint_distance.at=[2steps]",
        "regularizer.checkpoint_distance.at_restarts=true",
        "regularizer.checkpoint_distance.on_plateau=2",
        "regularizer.checkpoint_distance.until_distance=0.1",
        "regularizer.checkpoint_distance.settle=3steps",
        "regularizer.checkpoint_distance.keep=3",
    ),
    "drop path of a timm network, adagrad": (
        "model=timm",
        "model.name=test_resnet",
        "model.drop_rate=0.2",
        "data.limit=200",
        "batching.size=16",
        "optimizer=adagrad",
    ),
}
stops = st.lists(st.integers(1, 29), min_size=1, max_size=4, unique=True).map(sorted)


def check_stops(trainopt, tmp_path, monkeypatch, case, at, number=signal.SIGINT):
    """Run a case whole (once) and in parts; compare."""
    whole, parts = tmp_path / "outputs/whole", tmp_path / "outputs/parts"
    command = (*COMMON, *CASES[case])
    if not whole.exists():
        assert trainopt(*command, "run.name=whole").code == 0
    if parts.exists():
        shutil.rmtree(parts)
    with monkeypatch.context() as patch:
        stop_at(patch, *at, number=number)
        for _ in at:
            assert trainopt(*command, "run.name=parts").code == 128 + number
        assert trainopt("resume", "outputs/parts").code == 0
    assert timeless(rows(parts)) == timeless(rows(whole))
    assert timeless(summary(parts)) == timeless(summary(whole))
    assert same_weights(parts, whole)


@pytest.mark.parametrize("case", [case for case in CASES if "timm" not in case])  # that one: below
def test_stopped_at_two_steps(trainopt, tmp_path, monkeypatch, case):
    check_stops(trainopt, tmp_path, monkeypatch, case, [4, 17])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_stopped_anywhere(trainopt, tmp_path, monkeypatch, case):
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(stops, st.sampled_from([signal.SIGINT, signal.SIGTERM]))
    def at(steps, number):
        check_stops(trainopt, tmp_path, monkeypatch, case, steps, number)

    at()


def test_rows_after_the_checkpoint_are_written_anew(trainopt, tmp_path, monkeypatch):
    """As after a crash: rows that no checkpoint covers, half a line, and a summary that still says running."""
    command = ("model=mlp", "duration=3epochs", "logger=none")
    trainopt(*command, "run.name=whole")
    stop_at(monkeypatch, 15)
    trainopt(*command, "run.name=parts")
    parts = tmp_path / "outputs/parts"
    with open(parts / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"kind": "train", "step": 99}) + '\n{"kind": "tr')
    (parts / "summary.json").write_text("")
    assert trainopt(*command, "run.name=parts").code == 0
    assert timeless(rows(parts)) == timeless(rows(tmp_path / "outputs/whole"))


def test_a_run_without_a_checkpoint_begins_anew(trainopt, tmp_path, monkeypatch):
    stop_at(monkeypatch, 5)
    trainopt("model=mlp", "duration=12steps", "run.name=a")
    shutil.rmtree(tmp_path / "outputs/a/checkpoints")
    assert trainopt("resume", "outputs/a").code == 0
    assert [row["step"] for row in rows(tmp_path / "outputs/a", "test")] == [0, 12]


def test_lost_rows_are_named(trainopt, tmp_path, monkeypatch):
    stop_at(monkeypatch, 5)
    trainopt("model=mlp", "duration=12steps", "run.name=a")
    metrics = tmp_path / "outputs/a/metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:20])
    result = trainopt("resume", "outputs/a")
    assert result.code == 2
    assert "checkpoints/last.pt: belongs to records that metrics.jsonl lacks" in result.err
    assert metrics.stat().st_size == 20


def test_damaged_files_are_named(trainopt, tmp_path, monkeypatch):
    stop_at(monkeypatch, 5)
    trainopt("model=mlp", "duration=12steps", "run.name=a")
    folder = tmp_path / "outputs/a"
    for checkpoint in (folder / "checkpoints").iterdir():
        checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    result = trainopt("resume", "outputs/a")
    assert result.code == 2
    assert "checkpoints/last.pt: cannot be read" in result.err
    (folder / "run.yaml").write_text("a: [")
    result = trainopt("resume", "outputs/a")
    assert result.code == 2
    assert "run.yaml: cannot be read" in result.err


def test_the_environments_of_all_parts_are_kept(trainopt, tmp_path, monkeypatch):
    stop_at(monkeypatch, 5, 8)
    trainopt("model=mlp", "duration=12steps", "run.name=a")
    for _ in range(2):
        trainopt("resume", "outputs/a")
    environment = json.loads((tmp_path / "outputs/a/environment.json").read_text())
    assert environment["command"] == ["trainopt", "resume", "outputs/a"]
    assert [e["command"][1] for e in environment["earlier"]] == ["model=mlp", "resume"]


def test_clocks_go_on(trainopt, tmp_path, monkeypatch):
    stop_at(monkeypatch, 10)
    trainopt("model=mlp", "duration=24steps", "run.name=a")
    before = summary(tmp_path / "outputs/a")["train_seconds"]
    trainopt("resume", "outputs/a")
    seconds = [row["train_seconds"] for row in rows(tmp_path / "outputs/a")]
    assert seconds == sorted(seconds)
    assert summary(tmp_path / "outputs/a")["train_seconds"] > before
