"""What a class of ours refuses, it refuses before the first job of a sweep begins, as it does before a single run."""

import subprocess
import sys

import pytest

from helpers.cli import prepared, refusal
from trainopt.runner.sweeps.arguments import check_arguments
from trainopt.runner.system.errors import UserError

CONTROL = "batching=growth_control batching.L_growth=[0,5] probe=[fisher]"
DISTANCE = "regularizer=[checkpoint_distance] regularizer.checkpoint_distance"
REFUSED = [
    *("augmentation.flip=1.5", "augmentation.crop_padding=-1", "augmentation.crop_probability=-0.1"),
    *("augmentation.fill=white", "augmentation.cutout=-1", "augmentation.mixup=-1", "augmentation.flip=abc"),
    *("batching.size=0", "batching.size=1.5", "batching.persistency=0", "batching.persistency=[5,0]"),
    *("batching.drop_last=1", "batching=dynamic batching.stages=[8,0]", "batching=dynamic batching.first=0"),
    *("batching=dynamic batching.last=0", "batching=dynamic batching.number=0", "batching=dynamic batching.scope=all"),
    *("batching=dynamic batching.lr_rule=cubic", f"{CONTROL} batching.min_size=0", f"{CONTROL} batching.max_size=0"),
    *(f"{CONTROL} batching.adjust=[rate]", f"{CONTROL} batching.lr_bounds=[0,1]", f"{CONTROL} batching.lr_bounds=[1]"),
    *(f"{CONTROL} batching.factor=1", f"{CONTROL} batching.smoothing=1", f"{CONTROL} batching.L_growth=[-1,5]"),
    *(f"{CONTROL} batching.L_growth=[1]", f"{CONTROL} batching.C_growth=[2,1]"),
    *("batching=norm_test probe=[fisher] batching.theta=0", "model=mlp model.hidden=3"),
    *("model=alexnet_cifar model.kernels=[2]", "model=alexnet_cifar model.pool_after=[9]"),
    "model=vgg16_cifar model.batch_norm=1",
    *("model=function data=none model.function=cubic", "model=function data=none model.start=[a]"),
    *("model.depth=21", "model.shortcut=none", "model.relu_after_sum=1", "model.relu_after_stem=1"),
    *("optimizer=adaptive_nesterov optimizer.gamma=0", "optimizer=adaptive_nesterov optimizer.lr_bounds=[1,0]"),
    *("optimizer=adaptive_nesterov optimizer.loss_floor=x", "optimizer=adaptive_nesterov optimizer.lr_bounds=[1]"),
    "optimizer=adaptive_nesterov optimizer.grad_norm_sq_bounds=[-1,1]",
    *("optimizer=ehnewton optimizer.damping=-1", "optimizer=ehnewton optimizer.cg_max_iter=0"),
    *("optimizer=ehnewton optimizer.cg_tol=-1", "optimizer=ehnewton optimizer.cg_tol_relative=1"),
    *("optimizer=ehnewton optimizer.blocks=none", "optimizer=ehnewton optimizer.curvature=none"),
    *("optimizer=ehnewton optimizer.curvature_share=0", "optimizer=ehnewton optimizer.warm_start=2"),
    *("optimizer=ehnewton optimizer.adapt_damping=1", "optimizer=ehnewton optimizer.backtracking=-1"),
    "optimizer=newton optimizer.damping=-1",
    *("probe=[fisher] probe.fisher.rows=mine", "probe=[fisher] probe.fisher.zero_below=1"),
    *("probe=[fisher] probe.fisher.each_epoch=1", "probe=[fisher] probe.fisher.spectrum=1"),
    "probe=[gradient_noise] probe.gradient_noise.smoothing=1",
    *("regularizer=[l2] regularizer.l2.strength=-1", f"{DISTANCE}.sigma=0", f"{DISTANCE}.units=cm"),
    *(f"{DISTANCE}.layers=none", f"{DISTANCE}.keep=0", f"{DISTANCE}.at_restarts=1", f"{DISTANCE}.files=a"),
    *("schedule=exponential schedule.gamma=0", "schedule=exponential schedule.staircase=1"),
    *("schedule=multistep schedule.milestones=[1epochs] schedule.gamma=-1", "schedule=cyclic schedule.gamma=2"),
    *("schedule=cosine_restarts schedule.period_mult=0.5", "schedule=cosine_restarts schedule.min_lr=2"),
    *("schedule=cyclic schedule.base_lr=1", "schedule=cyclic schedule.max_lr=-1", "schedule=cyclic schedule.mode=saw"),
    *("schedule=cyclic schedule.window=hat", "schedule=range_test schedule.base_lr=20"),
]
TAKEN = [
    *("", "batching=dynamic batching.scope=learning_rate", "batching.persistency=[5,2,1]", "model=inception_v3"),
    "batching=follow_reference batching.reference=no/where probe=[fisher] batching.tolerance=0.2",
    *(
        "schedule=cyclic schedule.step_up=2steps optimizer.lr=0.3",
        "schedule=cosine_restarts schedule.period=${duration}",
    ),
    *("optimizer=newton optimizer.max_parameters=5", "optimizer._target_=mine.Sign", "model=mlp model.hidden=[]"),
    *(CONTROL, f"{DISTANCE}.files=[no/where]", "model=vgg16_cifar model.kernels=[5]", "schedule.warmup=1epochs"),
]


@pytest.mark.quick_every(4)
@pytest.mark.parametrize("command", REFUSED)
def test_a_job_is_refused_as_a_single_run_is(command):
    """Of a job the command line is checked as for every run; what that leaves, the class says."""
    *section, name = command.split()[-1].partition("=")[0].split(".")
    line = refusal("device=cpu", *command.split())
    assert line.startswith(".".join(section))
    assert name in line
    with pytest.raises(UserError) as error:
        check_arguments(*prepared(*command.split()))
    assert str(error.value) == line


@pytest.mark.parametrize("command", TAKEN)
def test_what_needs_a_run_or_files_is_left_to_the_job(command):
    check_arguments(*prepared(*command.split()))


def test_a_sweep_is_refused_before_its_first_job(trainopt, tmp_path):
    result = trainopt("-m", "model=mlp", "duration=2steps", "batching.size=8,0")
    assert result.code == 2
    assert result.err == "trainopt: batching.size=0: must be >= 1\n"
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("typed", "imports"),
    [
        ("optimizer.lr=0.1,0.2", False),
        pytest.param("batching.size=8,16", True, marks=pytest.mark.slow),
    ],
)
def test_torch_is_imported_only_where_a_class_has_to_be_asked(tmp_path, typed, imports):
    program = (
        "import sys\n"
        "from trainopt.runner.search.compose import Composer\n"
        "from trainopt.runner.sweeps.jobs import first_jobs\n"
        f"with Composer().composed(['model=mlp', '{typed}']) as config:\n"
        "    assert len(first_jobs(config)) == 2\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{imports}\n", done.stderr
