"""A run that is interrupted and resumed is the run that was not: rows, summary and all state, bit for bit."""

import json
import os
import shutil
import signal

import pytest
import torch

from helpers.cli import forked
from helpers.fixtures import FISHER, lines_of, reference_run
from helpers.runs import check_same_run, rows, stop_at, summary, timeless, train_run
from trainopt.runner.state.recorder import Recorder

RUN = "duration=7steps log_every=2steps evaluate_every=0.7epochs checkpoint_every=1000steps logger=none device=cpu"
IMAGES = "data.limit=64"
MLP = "model=mlp model.hidden=[8] model.dropout=0.2"
LINEAR = "model=mlp model.hidden=[]"
RESNET = "model=resnet8 data.limit=40 batching.size=10"
FUNCTION = "model=function data=none model.function=beale model.start=[2,0] batching.size=1"
TIMM = "model=timm model.name=test_resnet model.drop_rate=0.3 model.drop_path_rate=0.2 data.limit=32 batching.size=8"
SHIFTED = "augmentation.flip=0.5 augmentation.crop_padding=1"
CYCLES = "schedule=cyclic schedule.step_up=3steps schedule.warmup=3steps"
LEVELS = "schedule=multistep schedule.milestones=[4steps,8steps] schedule.warmup=3steps"
DISTANCE = "regularizer.checkpoint_distance"
GROWTH = (
    f"batching=growth_control {FISHER} batching.size=16 batching.min_size=4 batching.max_size=32 batching.smoothing=0.5"
    " batching.C_growth=[0,3] batching.L_growth=[0.24,1]"
)
TAYLOR = "probe=[taylor] probe.taylor.every=2steps"

# What is added to RUN, and to IMAGES and MLP where a line chooses no data, no model. A new option of the groups in the
# first row needs no line of its own.
LINES = {
    **lines_of("optimizer", "schedule", "batching", "augmentation", "averaging", "regularizer", "probe", "objective"),
    # networks
    "batch norm": RESNET,
    "dropout and stochastic depth": f"{TIMM} optimizer=adagrad",
    "function": f"{FUNCTION} optimizer=adam",
    "function, newton": f"{FUNCTION} optimizer=newton",
    "last layer, features from the cache": "model=resnet8 model.trainable=last_layer",
    "last layer, features of each batch": "model=resnet8 model.trainable=last_layer model.feature_cache=none",
    "last layer, augmentation": f"model=resnet8 model.trainable=last_layer {SHIFTED}",
    "last layer, dropout": f"{MLP} model.trainable=last_layer",
    "last layer, a batch of one": "model=resnet8 model.trainable=last_layer data.limit=33 optimizer=adam",
    # images
    "validation, milestones": "data.validation=0.2 schedule=multistep schedule.milestones=[0.3epochs,5steps]",
    "augmentation, exponential schedule": f"{RESNET} {SHIFTED} schedule=exponential schedule.every=2steps",
    "every augmentation": (
        f"{RESNET} {SHIFTED} augmentation.crop_probability=0.5 augmentation.fill=mean augmentation.cutout=3"
        " augmentation.mixup=0.4 augmentation.cutmix=1 augmentation.random_erasing=0.5 objective.label_smoothing=0.1"
        " batching.persistency=2"
    ),
    # learning rates
    "a smooth schedule, l2": "schedule=exponential schedule.staircase=false schedule.gamma=0.5 regularizer=[l2]",
    "cycles after a warm-up": f"{CYCLES} schedule.mode=exp_range schedule.window=sinusoidal {SHIFTED}",
    "cycles, adam": f"{CYCLES} optimizer=adam",
    "cycles, ehnewton": f"{CYCLES} optimizer=ehnewton",
    "a range test after a warm-up": "schedule=range_test schedule.warmup=3steps",
    "restarts, adam": "schedule=cosine_restarts schedule.period=2steps schedule.period_mult=1.5 optimizer=adam",
    # batches
    "five updates a batch": "batching.persistency=5 batching.repeat_lr_factor=0.8 schedule=exponential",
    "persistency in stages of epochs": "batching.persistency=[5,2,1] batching.repeat_lr_factor=0.5 duration=1epochs",
    "persistency in stages of steps": "batching.persistency=[5,2,1] schedule=exponential schedule.every=3steps",
    "sizes in stages, by a rule": "batching=dynamic batching.stages=[7,20,11] batching.lr_rule=linear optimizer=adam",
    "sizes in stages of steps, the rest dropped": (
        "batching=dynamic batching.stages=[30,12,20] batching.persistency=2 batching.drop_last=true"
        " batching.repeat_lr_factor=0.5 duration=9steps"
    ),
    "sizes in stages in levels": (
        f"batching=dynamic batching.first=8 batching.last=32 batching.scope=learning_rate {LEVELS} duration=10steps"
    ),
    "sizes by growth, three updates a batch": (
        f"{GROWTH} batching.every=4steps batching.persistency=3 +probe.fisher.every=1steps duration=14steps"
    ),
    "sizes by growth, the rest dropped": (
        f"{GROWTH} batching.every=0.3epochs batching.drop_last=true optimizer=adam data.limit=75"
    ),
    "sizes by a reference": (
        f"batching=follow_reference batching.reference={{reference}} {FISHER} batching.size=16 batching.min_size=4"
        f" batching.max_size=32 batching.every=3steps batching.smoothing=0.7 {SHIFTED}"
    ),
    "sizes by the norm test, batch norm": (
        f"batching=norm_test {FISHER} batching.size=5 batching.factor=1.5 batching.every=2steps"
        " model=resnet8 data.limit=31 schedule=exponential"
    ),
    # gradients and parameter groups
    "groups": (
        f"{RESNET} optimizer=adamw schedule=cosine parameter_groups.no_decay=[bias,norm]"
        " parameter_groups.layer_decay=0.7"
    ),
    "clipped, in parts": f"gradient.clip_norm=0.3 gradient.accumulation_steps=3 {RESNET} optimizer=adam",
    # averages
    "ema, batch norm": f"averaging=ema {RESNET} optimizer=adam",
    "swa, batch norm": f"averaging=swa averaging.start=2steps averaging.every=2steps {RESNET} {SHIFTED}",
    "schedule-free, batch norm": f"optimizer=schedulefree_sgd {RESNET} {SHIFTED}",
    # losses and metrics
    "every metric": (
        "metric=[top1,top5,per_class_accuracy,confusion_matrix,calibration_error,rmse] data.validation=0.2"
        " selection_metric=calibration_error early_stopping.patience=9"
    ),
    "own loss and metric": (
        "objective=bce augmentation.mixup=0.4 objective._target_=helpers.fixtures.ScaledLoss"
        " +metric.mistakes._target_=helpers.fixtures.Mistakes selection_metric=mistakes_total"
    ),
    # early stopping
    "patience": (
        "data.validation=0.2 optimizer.lr=0.5 early_stopping.patience=3 early_stopping.min_delta=0.5"
        " evaluate_every=3steps duration=200steps"
    ),
    # regularizers
    "pushes that end, at restarts and on plateaus": (
        "data.validation=0.2 early_stopping.min_delta=2.0 evaluate_every=2steps duration=20steps"
        " schedule=cosine_restarts schedule.period=5steps schedule.period_mult=1"
        f" regularizer=[l2,checkpoint_distance] {DISTANCE}.units=snapshot_norm {DISTANCE}.sigma=0.05"
        f" {DISTANCE}.at=[2steps] {DISTANCE}.at_restarts=true {DISTANCE}.on_plateau=2 {DISTANCE}.until_distance=0.1"
        f" {DISTANCE}.settle=3steps {DISTANCE}.keep=3"
    ),
    # probes
    "probe, dropout, stochastic depth": f"{TIMM} {TAYLOR}",
    "probe, adaptive nesterov": f"{TAYLOR} optimizer=adaptive_nesterov regularizer=[l2]",
    "probe, ehnewton": f"{TAYLOR} optimizer=ehnewton optimizer.lr=0.1 regularizer=[l2]",
    "probes, each epoch": (
        "probe=[fisher,gradient_noise] probe.fisher.every=3steps probe.fisher.each_epoch=true"
        " probe.gradient_noise.every=3steps probe.gradient_noise.each_epoch=true"
    ),
    # second order
    "ehnewton, what it remembers": (
        "optimizer=ehnewton optimizer.momentum=0.5 optimizer.warm_start=0.9 optimizer.adapt_damping=true"
        " optimizer.cg_max_iter=3"
    ),
    "ehnewton, kronecker": (
        f"{RESNET} optimizer=ehnewton optimizer.preconditioner=kronecker optimizer.curvature=gauss_newton"
        " optimizer.subspace=last_step optimizer.curvature_share=0.5"
    ),
    "ehnewton, diagonal": "optimizer=ehnewton optimizer.preconditioner=diagonal optimizer.cg_max_iter=3",
    "ehnewton, backtracking": "optimizer=ehnewton optimizer.backtracking=3 optimizer.momentum=0.9",
    "ehnewton, a share of the batch": (
        "optimizer=ehnewton optimizer.curvature_share=0.5 optimizer.blocks=parameter optimizer.cg_max_iter=2"
    ),
    # a linear classifier goes the short way: few samples or many, one iteration or several
    **{
        f"ehnewton, linear classifier, {size} images, {options}": (
            f"{LINEAR} optimizer=ehnewton regularizer=[l2] objective.label_smoothing=0.1 data.limit=140"
            f" batching.size={size} optimizer.{options}"
        )
        for size in (20, 70)
        for options in ("momentum=0.5", "cg_max_iter=20")
    },
}
# Once: in the second epoch, where an evaluation is due, and with repeats within those of a batch.
STOPS = {"once": (6,), "after every step": (1, 2, 3, 4, 5, 6)}
# These stop after every step only: each of their parts is of a kind that another line stops once.
OF_KNOWN_KINDS = {
    *(f"optimizer={name}" for name in ["adadelta", "adafactor", "adagrad", "adamw", "nadam", "radam", "rmsprop"]),
    *(f"optimizer={name}" for name in ["lion", "muon", "soap", "shampoo", "pytorch_optimizer"]),  # timm is one, too
    *("optimizer=schedulefree_adamw", "schedule-free, batch norm", "ema, batch norm"),
    *("optimizer=ehnewton_auto", "ehnewton, diagonal"),  # as ehnewton, kronecker
    *(f"averaging={name}" for name in ["none", "ema", "swa"]),
    *(f"schedule={name}" for name in ["constant", "linear", "polynomial", "cosine", "exponential", "multistep"]),
    *(f"schedule={name}" for name in ["one_cycle", "range_test", "warmup_stable_decay"]),  # functions of progress
    *(f"batching={name}" for name in ["constant", "dynamic", "follow_reference", "growth_control", "norm_test"]),
    *("probe=[fisher]", "probe=[gradient_noise]"),  # as probes, each epoch
    *(
        "augmentation=none",
        "augmentation=trivialaugment",
        "augmentation=augmix",
        "objective=cross_entropy",
        "objective=bce",
        "objective=mse",
        "probe=[taylor]",
        "batch norm",
        "dropout and stochastic depth",
    ),
    *("optimizer=newton", "last layer, features of each batch", "validation, milestones", "a smooth schedule, l2"),
    *("cycles, adam", "restarts, adam", "persistency in stages of steps", "sizes in stages in levels"),
    *("cycles, ehnewton", "a range test after a warm-up", "augmentation, exponential schedule"),
    *("persistency in stages of epochs", "sizes in stages, by a rule", "sizes by growth, the rest dropped"),
    *("last layer, augmentation", "last layer, a batch of one", "probe, adaptive nesterov"),
    *("ehnewton, backtracking", "ehnewton, a share of the batch"),
    *(name for name in LINES if name.startswith("ehnewton, linear classifier") and "70 images, mom" not in name),
}
CASES = [
    *(pytest.param(name, STOPS["once"], id=f"{name}-once") for name in LINES if name not in OF_KNOWN_KINDS),
    *(
        pytest.param(name, STOPS["after every step"], id=f"{name}-after every step", marks=pytest.mark.slow)
        for name in LINES
    ),
]


def typed_in(line, reference):
    """What is typed for a line."""
    size = "" if "batching=" in line else "batching.size=16"
    images = "" if "data=" in line else IMAGES
    model = "" if "model=" in line else MLP
    return f"{model} {images} {RUN} {size} {line.format(reference=reference)}".split()


@pytest.mark.quick_every(2)
@pytest.mark.parametrize(("name", "stops"), CASES)
def test_stopped_and_resumed_it_is_the_run_that_was_not(trained, tmp_path, monkeypatch, name, stops):
    typed = typed_in(LINES[name], reference_run(tmp_path / "reference"))
    whole, parts = trained(*typed, name="whole"), tmp_path / "outputs/parts"
    stop_at(monkeypatch, *stops)
    for _ in stops:
        assert train_run(parts, *typed) == 128 + signal.SIGINT
    assert train_run(parts, *typed) == 0
    check_same_run(parts, whole)
    if name.startswith("sizes"):
        assert len({row["batch_size"] for row in rows(whole, "train")}) > 1


def test_killed_between_best_and_last_a_kept_checkpoint_is_written_by_the_next_start(trained, tmp_path):
    typed = f"{RUN} {IMAGES} {MLP} evaluate_every=2steps checkpoint_every=2steps keep_checkpoints.every=1".split()
    whole, parts = trained(*typed, name="whole"), tmp_path / "parts"

    def die_before_last() -> None:
        checkpoint = Recorder.checkpoint

        def checkpoint_or_die(self, scheduled=False):
            if self._run.progress.step == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            checkpoint(self, scheduled)

        Recorder.checkpoint = checkpoint_or_die

    assert forked(*typed, "hydra.run.dir=parts", folder=tmp_path, before=die_before_last) == -signal.SIGKILL
    assert torch.load(parts / "checkpoints/best.pt", weights_only=True)["progress"]["step"] == 2
    assert train_run(parts, *typed) == 0
    files = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (parts, whole)]
    assert files[0] == files[1]
    assert "step-00000002.pt" in files[0]
    check_same_run(parts, whole)


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
