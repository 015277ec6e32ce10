"""A run on several processes is the run of one process, to rounding; interrupted, killed, resumed."""

import errno
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from helpers.cli import built
from helpers.ranks import DOUBLE, run_ranks, start_ranks, wait_ranks
from helpers.runs import equal, rows, same_weights, summary, timeless, weights
from trainopt.runner.distributed import group
from trainopt.runner.distributed.ranks import ALONE, Ranks
from trainopt.runner.records.checkpoint_files import CheckpointStore
from trainopt.runner.system.errors import UserError
from trainopt.runner.training.closure import TrainingClosure
from trainopt.runner.training.sharded import ShardedClosure, check_shared, share

SHORT = f"{DOUBLE} logger=none data=digits data.limit=100 batching.size=33 log_every=1steps"
LINES = [
    "optimizer=sgd optimizer.momentum=0.9 regularizer=[l2]",
    "optimizer=adam gradient.clip_norm=0.5 gradient.accumulation_steps=3 +model.dropout=0.3",
    "optimizer=adaptive_nesterov",
    "optimizer=schedulefree_sgd",
    "averaging=ema",
    "averaging=swa averaging.start=0.3 averaging.every=2steps",
    "batching.persistency=3 augmentation.mixup=0.2 augmentation.cutmix=1.0",
    "augmentation=standard augmentation.cutout=2 augmentation.random_erasing=0.5 augmentation.crop_padding=1",
    "batching.size=2 +model.dropout=0.3",  # the third process has no sample
    "regularizer=[checkpoint_distance] regularizer.checkpoint_distance.at=[2steps] gradient.accumulation_steps=2",
    "schedule=plateau schedule.patience=0 schedule.min_delta=0.5 data.validation=0.2",
    "objective=mse schedule=one_cycle +model.dropout=0.3",
    "batching=dynamic batching.stages=[7,14,28] batching.lr_rule=linear schedule=exponential",
    "schedule=multistep schedule.milestones=[4steps] gradient.clip_value=0.01",
    "optimizer=rmsprop optimizer.lr=0.001 schedule=cosine_restarts schedule.period=3steps schedule.warmup=2steps",
    "optimizer=adamw schedule=cyclic schedule.step_up=2steps gradient.clip_norm=0.5",
]
# one process solves with the factors by the batch's rows, which several do not have: their steps cost more
BY_ROWS = "optimizer=ehnewton optimizer.curvature=gauss_newton optimizer.preconditioner=kronecker batching.size=2"
SECOND_ORDER = [
    "optimizer=ehnewton optimizer.momentum=0.5 regularizer=[l2] optimizer.adapt_damping=true +model.dropout=0.3",
    "optimizer=ehnewton optimizer.cg_max_iter=3 optimizer.blocks=parameter optimizer.adapt_damping=true"
    " optimizer.backtracking=2 optimizer.warm_start=0.9 objective=mse",
    "optimizer=ehnewton optimizer.cg_max_iter=3 optimizer.curvature=gauss_newton optimizer.preconditioner=kronecker"
    " optimizer.subspace=last_step optimizer.damping_per_output=true objective=mse optimizer.loss_floor=0",
    BY_ROWS,
    # a small step: the gradient of a bias before batch norm is rounding, which this preconditioner divides by 1e-8
    "optimizer=ehnewton optimizer.lr=0.01 optimizer.preconditioner=diagonal optimizer.curvature_share=0.4"
    " augmentation.mixup=0.2",
    "optimizer=ehnewton optimizer.cg_max_iter=5 model._target_=helpers.ranks.DoubleLinear regularizer=[l2]"
    " batching.size=2",
    "optimizer=newton optimizer.damping=0.5 model._target_=helpers.ranks.DoubleLinear",
]


def assert_same_run(one, several, tolerance, costs_more=False):
    """Two runs have the same records and weights, to rounding; `costs_more`: but the second one's steps cost more."""
    for name, value in weights(one).items():
        assert (value - weights(several)[name]).abs().max() <= tolerance, name
    for a, b in zip(timeless(rows(one)), timeless(rows(several)), strict=True):
        numbers = {key: value for key, value in a.items() if isinstance(value, float)}
        if costs_more and numbers.get("gradient_equivalents"):
            assert b["gradient_equivalents"] > numbers.pop("gradient_equivalents")
        assert {k: b[k] for k in numbers} == pytest.approx(numbers, rel=1e-7)  # evaluations are of float32
        assert {k: v for k, v in a.items() if k in ("kind", "step", "samples")}.items() <= b.items()


def test_two_processes_make_the_run_of_one(tmp_path):
    line = f"{SHORT} duration=3steps evaluate_every=2steps"
    assert run_ranks(1, line, tmp_path / "one") == [0]
    assert run_ranks(2, line, tmp_path / "two") == [0, 0]
    assert_same_run(tmp_path / "one", tmp_path / "two", 1e-10)


def check_any_number(tmp_path, line, costs_more=False):
    """Checks that one, two and three processes make the same run."""
    begun = {size: start_ranks(size, line, tmp_path / str(size)) for size in (1, 2, 3)}
    assert {size: wait_ranks(processes) for size, processes in begun.items()} == {1: [0], 2: [0, 0], 3: [0, 0, 0]}
    for size in (2, 3):
        assert_same_run(tmp_path / "1", tmp_path / str(size), 1e-10, costs_more)


@pytest.mark.slow
@pytest.mark.parametrize("typed", LINES)
def test_any_number_of_processes_makes_the_run_of_one(tmp_path, typed):
    short = SHORT.replace("batching.size=33", "") if "batching=dynamic" in typed else SHORT
    check_any_number(tmp_path, f"{short} duration=9steps evaluate_every=4steps {typed}")


@pytest.mark.slow
@pytest.mark.parametrize("typed", SECOND_ORDER)
def test_any_number_of_processes_makes_the_second_order_run_of_one(tmp_path, typed):
    check_any_number(tmp_path, f"{SHORT} duration=4steps evaluate_every=3steps {typed}", typed == BY_ROWS)


class OneOfOne(Ranks):
    """A group of one process that counts what several would send."""

    reductions = 0

    def sum_(self, tensors):
        self.reductions += 1

    def gather(self, tensor):
        self.reductions += 2  # also of the lengths
        return tensor

    def all_reduce_later(self, flat):
        self.reductions += 1
        return lambda: None


GAUSS_NEWTON = "optimizer=ehnewton optimizer.curvature=gauss_newton"


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("typed", "reductions"),
    [
        ("optimizer=ehnewton regularizer=[l2]", 3),
        ("optimizer=ehnewton optimizer.blocks=parameter", 3),
        ("optimizer=ehnewton optimizer.curvature_share=0.5", 3),
        ("optimizer=ehnewton optimizer.preconditioner=diagonal", 3),
        (f"{GAUSS_NEWTON} optimizer.momentum=0.9", 3),
        (f"{GAUSS_NEWTON} optimizer.subspace=last_step", 3),
        (f"{GAUSS_NEWTON} optimizer.preconditioner=kronecker", 3),
        (f"{GAUSS_NEWTON} optimizer.preconditioner=kronecker optimizer.damping_per_output=true objective=mse", 3),
        (
            f"{GAUSS_NEWTON} optimizer.preconditioner=kronecker optimizer.damping_per_output=true"
            " optimizer.subspace=last_step optimizer.curvature_share=0.5",
            3,
        ),
        # the curvature along the step, and the loss after it
        ("optimizer=ehnewton optimizer.adapt_damping=true", 5),
        # the loss after it; of one trial
        ("optimizer=ehnewton optimizer.backtracking=1 optimizer.damping=100", 4),
        # its second step makes one more, for the residual that conjugate gradients start from
        ("optimizer=ehnewton optimizer.warm_start=0.5", 3),
        ("optimizer=ehnewton optimizer.cg_max_iter=5 model.hidden=[]", 3),  # the closed form
        ("optimizer=newton model.hidden=[2]", 2),
    ],
)
def test_a_step_of_second_order_makes_few_reductions(typed, reductions):
    """The loss; the gradient, with K-FAC's factors and the factor of an output; the curvature along it."""
    weights_of = []
    for ranks in (ALONE, OneOfOne()):
        run = built("model=mlp", "data=digits", "data.limit=100", *typed.split())
        if ranks is not ALONE:
            share(run, ranks, "global")
        closure = TrainingClosure(run) if ranks is ALONE else ShardedClosure(run)
        closure.batch = next(run.batches())
        run.optimizer.step(closure)
        weights_of.append(torch.cat([p.detach().flatten() for p in run.network.parameters()]))
    assert ranks.reductions == reductions
    torch.testing.assert_close(*weights_of)


@pytest.mark.slow
def test_in_float32_weights_differ_by_rounding_and_evaluations_are_those_of_one(tmp_path):
    line = "logger=none model=resnet8 batching.size=64 duration=4steps"
    for size in (1, 2):
        assert run_ranks(size, line, tmp_path / str(size)) == size * [0]
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert all((one[name] - two[name]).abs().max() < 1e-5 for name in one)
    first = [timeless(rows(tmp_path / str(size), "test"))[0] for size in (1, 2)]
    assert first[0] == first[1]  # of the same weights, at step 0


@pytest.mark.slow
def test_metrics_of_torchmetrics_see_the_whole_set_once(tmp_path):
    line = f"{SHORT} duration=2steps metric=[confusion_matrix]"
    for name, target in (("f1", "MulticlassF1Score"), ("counts", "MulticlassConfusionMatrix")):
        line += f" +metric.{name}._target_=torchmetrics.classification.{target} +metric.{name}.num_classes=10"
    for size in (1, 2):
        assert run_ranks(size, line, tmp_path / str(size)) == size * [0]
    one, two = (timeless(rows(tmp_path / str(size), "test")) for size in (1, 2))
    assert one[0] == two[0]
    arrays = [(tmp_path / str(size) / "metric_arrays.json").read_text().splitlines()[0] for size in (1, 2)]
    assert arrays[0] == arrays[1]


@pytest.mark.slow
def test_local_batch_norm_is_another_run_with_rank_0_s_statistics(tmp_path):
    line = f"{SHORT} duration=3steps"
    assert run_ranks(1, line, tmp_path / "one") == [0]
    for name in ("local", "again"):
        assert run_ranks(2, f"{line} batch_norm=local", tmp_path / name) == [0, 0]
    one, local = weights(tmp_path / "one"), weights(tmp_path / "local")
    assert max((one[name] - local[name]).abs().max() for name in one) > 1e-4
    assert same_weights(tmp_path / "local", tmp_path / "again")


FAULTY = f"{SHORT} averaging=ema duration=9steps checkpoint_every=2steps evaluate_every=4steps"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run_ranks(2, FAULTY, folder) == [0, 0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [15, 9, ""])
def test_a_rank_that_ends_loses_nothing(tmp_path, whole, rank, number):
    codes = run_ranks(2, FAULTY, tmp_path / "run", fault=f"{rank}:6:{number}")
    if number == 15:
        assert codes == [143, 143]
        assert summary(tmp_path / "run")["status"] == "interrupted"
        assert summary(tmp_path / "run")["steps"] == 6
    elif number == 9:
        assert codes[rank] == -9
        assert codes[1 - rank] == 1
        if rank == 1:
            assert "connection to another rank was lost" in summary(tmp_path / "run")["error"]
    else:
        assert codes == [1, 1]
        error = "ValueError: no more" if rank == 0 else "RankError: rank 1: ValueError: no more"
        assert summary(tmp_path / "run")["error"] == error
    assert run_ranks(2, FAULTY, tmp_path / "run") == [0, 0]
    assert same_weights(tmp_path / "run", whole)
    assert equal(timeless(rows(tmp_path / "run")), timeless(rows(whole)))


@pytest.mark.slow
def test_processes_do_not_wait_without_end_for_one_that_hangs(tmp_path):
    def before(rank):
        group.TIMEOUT = timedelta(seconds=8)

    first, second = start_ranks(2, FAULTY, tmp_path, fault="1:6:19", before=before)  # SIGSTOP
    try:
        assert wait_ranks([first]) == [1]
        assert "connection to another rank was lost" in summary(tmp_path)["error"]
        assert summary(tmp_path)["status"] == "failed"
    finally:
        os.kill(second, 9)
        wait_ranks([second])


def no_room(rank):
    """Lets the disk be full at the second checkpoint that rank 0 writes."""
    write, checkpoints = CheckpointStore.write, []

    def full(self, state):
        checkpoints.append(state)
        if len(checkpoints) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, state)

    CheckpointStore.write = full


@pytest.mark.slow
def test_a_full_disk_ends_all_and_loses_nothing(tmp_path, whole):
    assert run_ranks(2, FAULTY, tmp_path / "run", before=no_room) == [1, 1]
    end = summary(tmp_path / "run")
    assert (end["status"], end["steps"]) == ("failed", 4)
    assert "No space left on device" in end["error"]
    assert run_ranks(2, FAULTY, tmp_path / "run") == [0, 0]
    assert same_weights(tmp_path / "run", whole)
    assert equal(timeless(rows(tmp_path / "run")), timeless(rows(whole)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "status", "steps"),
    [
        ("early_stopping.patience=2 early_stopping.min_delta=10 data.validation=0.3", "finished", 2),
        ("optimizer.lr=1e200", "diverged", 1),
    ],
)
def test_processes_end_after_the_same_step_as_one(tmp_path, typed, status, steps):
    line = f"{SHORT} duration=9steps evaluate_every=1steps {typed}"
    begun = {size: start_ranks(size, line, tmp_path / str(size)) for size in (1, 2)}
    assert {size: wait_ranks(processes) for size, processes in begun.items()} == {1: [0], 2: [0, 0]}
    ends = [summary(tmp_path / str(size)) for size in begun]
    assert [(end["status"], end["steps"]) for end in ends] == 2 * [(status, steps)]
    one, two = (torch.load(tmp_path / f"{size}/checkpoints/best.pt", weights_only=True) for size in begun)
    assert one["progress"]["step"] == two["progress"]["step"]


@pytest.mark.slow
def test_torchrun_starts_a_killed_run_again_from_its_checkpoint(tmp_path, whole):
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node=2 --max-restarts=1 --monitor-interval=1"
    command = [sys.executable, *torchrun.split(), "-m", "trainopt.runner", *FAULTY.split(), "hydra.run.dir=run"]
    # SIGKILL in the sixth step of rank 1; it goes on with the fifth, so the rest has five
    more = {"FAULT": "1:6:9", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **more})
    assert done.returncode == 0, done.stderr
    assert "continuing from step 4" in (tmp_path / "run/log.txt").read_text()
    assert same_weights(tmp_path / "run", whole)
    assert equal(timeless(rows(tmp_path / "run")), timeless(rows(whole)))


PROBES = [
    "probe=[fisher,gradient_noise,taylor,training_loss] probe.taylor.every=2steps probe.fisher.every=1steps"
    " probe.gradient_noise.every=1steps gradient.accumulation_steps=2 probe.training_loss.every=2steps"
    " probe.training_loss.samples=70 averaging=ema",
    "probe=[fisher,taylor] probe.fisher.every=2steps probe.taylor.every=1steps optimizer=ehnewton"
    " optimizer.curvature_share=0.4 batching.size=2",
    "probe=[fisher,gradient_noise] probe.fisher.every=1steps probe.gradient_noise.every=1steps"
    " probe.gradient_noise.rows=own_loss model._target_=helpers.ranks.DoubleLinear batching=norm_test"
    " batching.every=2steps",
]


@pytest.mark.slow
@pytest.mark.parametrize("typed", PROBES)
def test_probes_measure_what_they_do_on_one_process(tmp_path, typed):
    line = f"{SHORT} duration=4steps {typed}"
    begun = {size: start_ranks(size, line, tmp_path / str(size)) for size in (1, 2, 3)}
    assert {size: wait_ranks(processes) for size, processes in begun.items()} == {1: [0], 2: [0, 0], 3: [0, 0, 0]}
    assert len(rows(tmp_path / "1", "probe")) >= 4
    for size in (2, 3):
        assert_same_run(tmp_path / "1", tmp_path / str(size), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("typed", ["", "optimizer=ehnewton optimizer.momentum=0.5 optimizer.adapt_damping=true"])
def test_another_number_of_processes_goes_on_with_the_same_samples(tmp_path, typed):
    line = f"{SHORT} duration=9steps evaluate_every=4steps {typed}"
    assert run_ranks(1, line, tmp_path / "whole") == [0]
    assert run_ranks(3, line, tmp_path / "run", fault="2:4:15") == 3 * [143]
    assert run_ranks(2, line, tmp_path / "run") == [0, 0]
    assert "had 3 ranks before, and has 2" in (tmp_path / "run/log.txt").read_text()
    assert_same_run(tmp_path / "whole", tmp_path / "run", 1e-6)
    assert run_ranks(2, line, tmp_path / "run") == [0, 0]  # it is done


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        pytest.param(
            "model=mlp model.dropout=0.1 compile=true",
            "compile=true: model: Dropout with a probability of 0.1 draws a mask for a whole batch",
            marks=pytest.mark.slow,  # imports the compiler
        ),
        pytest.param(
            "model=timm model.name=resnet10t model.drop_path_rate=0.3",
            "DropPath with a probability of 0.1 draws a mask",
            marks=pytest.mark.slow,  # imports timm
        ),
        ("model._target_=helpers.ranks.SelfNormalizing", "AlphaDropout with a probability of 0.2 draws a mask"),
        (
            "model=mlp model.dropout=0.1 probe=[taylor] gradient.accumulation_steps=2",
            "probe.taylor: with gradient.accumulation_steps=2, processes do not draw the masks",
        ),
        ("model=mlp +probe.mine._target_=helpers.fixtures.Measured", "probe.mine: measures a whole batch"),
        (
            "model=mlp optimizer=pytorch_optimizer optimizer.name=adahessian",
            "optimizer: .* differentiates the loss of a whole batch itself",
        ),
        ("model=function data=none", "data=none: a test function has no batches to share"),
        ("model=mlp objective._target_=helpers.fixtures.ScaledLoss", "objective: the loss has a state"),
        (
            "model=mlp objective._target_=helpers.ranks.WeightedLoss",
            "objective: the loss is not the mean of the losses",
        ),
        ("model._target_=helpers.ranks.BatchStatistics", "model: batch norm without running statistics"),
        pytest.param(
            "model=resnet8 compile=true", "compile=true: batch_norm=global is not compiled", marks=pytest.mark.slow
        ),
    ],
)
def test_what_processes_do_not_compute_together_is_refused(typed, message):
    with pytest.raises(UserError, match=message):
        check_shared(built(*typed.split()), "global")


@pytest.mark.slow
def test_all_processes_end_with_the_refusal_of_a_network_that_draws_numbers_itself(tmp_path):
    assert run_ranks(2, f"{SHORT} model._target_=helpers.ranks.Noisy duration=3steps", tmp_path) == [2, 2]
    assert "model: the network draws random numbers in training" in summary(tmp_path)["error"]
    assert summary(tmp_path)["steps"] == 0


@pytest.mark.slow
def test_all_processes_end_with_the_refusal_of_one(tmp_path):
    assert run_ranks(2, f"{SHORT} probe=[fisher] probe.fisher.rows=own_loss", tmp_path) == [2, 2]
    assert (
        "trainopt: probe.fisher: rows=own_loss: with batch norm it takes a pass for each sample"
        in (tmp_path / "rank0.txt").read_text()
    )
    assert not (tmp_path / "run.yaml").exists()
