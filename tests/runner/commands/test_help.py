"""Help: what the page, and that about a group or a key, has; what Hydra's flags show."""

import re
import subprocess
import sys

import pytest


def test_the_page_needs_neither_hydra_nor_torch(tmp_path):
    program = (
        "import sys\n"
        "from trainopt.runner.commands.help import command\n"
        "command(['--help'], debug=False)\n"
        "print({'hydra', 'torch'} & {*sys.modules}, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "set()\n")


def test_help_has_the_arguments_of_a_class_that_is_named(trainopt):
    text = trainopt("optimizer._target_=torch.optim.AdamW", "--help").out
    assert "\noptimizer._target_=torch.optim.AdamW  (" in text
    assert "\n  lr: 0.001\n  +betas: [0.9,0.999]\n" in text
    assert "momentum" not in text.partition("Keys of the chosen options")[2]
    assert "cannot be imported" in trainopt("optimizer._target_=torch.optim.AdamX", "--help").err
    text = trainopt("+regularizer.a._target_=trainopt.optimizers.L2", "probe=[fisher]", "--help").out
    assert "\nregularizer.a._target_=trainopt.optimizers.L2  (" in text
    assert "\n  +strength: 0.0001\n" in text
    assert "\nprobe=fisher\n" in text


@pytest.mark.parametrize("target", ["torch.Tensor", "nowhere.Adam", "", "[a]"])
def test_help_about_a_class_that_cannot_be_is_one_line(trainopt, target):
    result = trainopt(f"optimizer._target_={target}", "--help")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


def test_help_has_what_an_experiment_chooses(trainopt, tmp_path):
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/x.yaml").write_text(
        "# @package _global_\ndefaults: [{override /model: mlp}]\nschedule: {_target_: trainopt.optimizers.Constant}\n"
        "optimizer: {_target_: torch.optim.AdamW}\n"
    )
    text = trainopt("--config-dir", "mine", "experiment=x", "--help").out
    assert "model.{hidden,activation,dropout}" in text
    assert "\noptimizer._target_=torch.optim.AdamW  (" in text


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("optimizer=adma", "optimizer=adma: no such option; did you mean adam?"),
        ("optimizer=null", "optimizer=null: takes the name of an option"),
        ("optimizer.lrr=3", "optimizer.lrr: unknown key; did you mean optimizer.lr?"),
        ("-m optimizer=adam,sgd optimizer.lr=interval(0.1,1)", "\noptimizer=adam\n"),
    ],
)
def test_help_is_about_what_would_be_run(trainopt, typed, shown):
    result = trainopt(*typed.split(), "--help")
    assert shown in result.out + result.err


def test_help_lists_groups_and_explains_the_keys_of_the_choice(trainopt):
    text = trainopt("optimizer=adam", "--help").out
    assert "optimizer: adadelta, adafactor, adagrad, adam, adamw, " in text
    assert re.search(r"betas: \[0.9, 0.999\] # decay of the running means", text)
    assert "nesterov:" not in text
    assert len(text.splitlines()) < 100  # two screens
    assert "batching.{size,persistency,drop_last," in re.sub(r"\s", "", text)
    assert "images in a batch" not in text
    brief = trainopt("--help").out.splitlines()
    assert len(brief) <= 70  # a screen and a half
    assert [line[:12] for line in brief[2:7]] == [f"  trainopt {x}" for x in "[-sc-"]
    assert "gradient.{clip_norm,clip_value,accumulation_steps}" in re.sub(r"\s", "", text)
    assert "liao2018/svhn_dynamic" not in text
    assert trainopt("--version").out.startswith("trainopt ")


def test_help_about_sweepers_has_their_keys(trainopt):
    out = trainopt("--help", "hydra/sweeper").out
    for name in ("lr_heuristic  Find", "optuna  Search", "tournament  Tune", "hydra.sweeper.{n_trials,sampler,pruner,"):
        assert f"  {name}" in out


def test_help_about_a_group_explains_its_options_and_about_keys_all_of_them(trainopt, tmp_path):
    assert "liao2018/svhn_dynamic  " in trainopt("--help", "experiment").out
    about = " ".join(trainopt("--help", "metric").out.split())
    assert about.endswith("+metric.NAME._target_=torchmetrics.CLASS")
    assert "own: +metric.NAME._target_=module.Class [+metric.NAME.KEY=VALUE …]: a class with reset(), update(" in about
    about = trainopt("--help", "optimizer").out
    assert "adamw  AdamW: Adam with decoupled weight decay (Loshchilov" in about
    assert "clip_norm: null # largest L2 norm" in trainopt("--help", "keys").out
    assert trainopt("--help", "gradient").out.splitlines()[1].startswith("    clip_norm: null # largest L2 norm")
    about = trainopt("--help", "selection_metric").out.splitlines()
    assert (about[0][:9], about[-1]) == ("  # The m", "  selection_metric: null")
    about = trainopt("--help", "cluster.time").out
    assert "submit --to ray:\n  # What a task" in about
    assert "\n  grace: 120 # seconds before" in about
    assert "did you mean optimizer?" in trainopt("--help", "optimzer").err
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/slow.yaml").write_text("# Slowly.\n_target_: torch.optim.SGD\nlr: 0.001\n")
    assert "slow  Slowly." in trainopt("--config-dir", "mine", "--help", "optimizer").out


def test_help_about_the_cluster_has_the_values_of_the_lab(trainopt, tmp_path, monkeypatch):
    (tmp_path / "lab/cluster").mkdir(parents=True)
    text = "gpus: a100:1 # ours\ntime: 4:00:00\nextra: {qos: long}\nsetup:\n- module load cuda\n"
    (tmp_path / "lab/cluster/slurm.yaml").write_text(text)
    monkeypatch.setenv("TRAINOPT_CONFIG_DIR", str(tmp_path / "lab"))
    shown = trainopt("--help", "cluster").out
    monkeypatch.delenv("TRAINOPT_CONFIG_DIR")
    assert trainopt("--help", "cluster", "--config-dir", "lab").out == shown
    assert "--to slurm; from lab/cluster/slurm.yaml: gpus, time, extra, setup:\n" in shown
    for line in (
        "gpus: a100:1 # GPUs of",
        "time: '4:00:00' # time",
        "extra: {qos: long} # ",
        "setup: [module load cuda]",
    ):
        assert f"\n  {line}" in shown
    assert "\n  gpus: 1 # GPUs of a task; 0" in shown.partition("--to slurm")[0]  # of Ray
    assert "\n  grace: 120 # " in shown
    (tmp_path / "lab/cluster/slurm.yaml").write_text("partiton: gpu\n")
    refused = trainopt("--help", "cluster", "--config-dir", "lab")
    line = "lab/cluster/slurm.yaml: cluster.partiton: no such key; did you mean cluster.partition?"
    assert (refused.code, refused.out, refused.err) == (2, "", f"trainopt: {line}\n")


def test_help_about_a_key_of_an_option_is_that_of_each_option_that_has_it(trainopt, tmp_path):
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/slow.yaml").write_text("_target_: mine.Slow\n# How slow.\nmomentum: 0.5\nlr: 1\n")
    out = trainopt("--config-dir", "mine", "--help", "optimizer.momentum").out
    assert "\noptimizer=sgd:\n  momentum: 0.9 # fraction of the last step that is added (torch: 0)\n" in out
    assert "\noptimizer=slow:\n  # How slow.\n  momentum: 0.5\n" in out
    assert "optimizer=adam:" not in out
    assert "lr:" not in out


@pytest.mark.parametrize(
    ("topic", "line"),
    [
        ("momentum", "did you mean optimizer.momentum?"),
        ("warmup", "did you mean schedule.warmup?"),
        ("optimzer.lr", "did you mean optimizer.lr?"),
        ("optimizer.noise", "there is help on keys, on each key and on each group"),  # data.noise is none of its keys
    ],
)
def test_help_about_a_topic_that_there_is_not_names_the_nearest(trainopt, topic, line):
    assert trainopt("--help", topic).err == f"trainopt: --help {topic}: no such topic; {line}\n"


def test_the_environment_names_the_folder_of_options(trainopt, tmp_path, monkeypatch):
    for folder, rate in (("lab", 0.25), ("mine", 0.5)):
        (tmp_path / folder / "optimizer").mkdir(parents=True)
        (tmp_path / folder / "optimizer/ours.yaml").write_text(f"# Ours.\n_target_: torch.optim.SGD\nlr: {rate}\n")
    monkeypatch.setenv("TRAINOPT_CONFIG_DIR", "lab")
    assert "ours  Ours." in trainopt("--help", "optimizer").out
    assert "lr: 0.25" in trainopt("optimizer=ours", "--cfg", "job").out
    assert "lr: 0.5" in trainopt("optimizer=ours", "--config-dir", "mine", "--cfg", "job").out
    assert "lr: 0.5" in trainopt("--config-dir=mine", "optimizer=ours", "--cfg", "job").out
    assert "lr: 0.25" in trainopt("-cd", "lab", "-cd", "mine", "optimizer=ours", "--cfg", "job").out, "the first one"
    (tmp_path / "lab/optimizer/theirs.yaml").write_text("# Theirs.\n_target_: torch.optim.SGD\nlr: 0.75\n")
    assert "lr: 0.75" in trainopt("optimizer=theirs", "--config-dir", "mine", "--cfg", "job").out
    shown = trainopt("optimizer=theirs,ours", "-m", "--config-dir", "mine", "--help").out
    assert "lr: 0.75" in shown
    monkeypatch.setenv("TRAINOPT_CONFIG_DIR", "nowhere")
    result = trainopt("optimizer=sgd", "--cfg", "job")
    assert (result.code, result.err) == (2, "trainopt: TRAINOPT_CONFIG_DIR=nowhere: there is no such folder\n")


def test_hydra_shows_the_configuration(trainopt):
    text = trainopt("--cfg", "job", "optimizer=adam", "--resolve").out
    assert "_target_: torch.optim.Adam" in text
    assert "name: resnet8-digits-adam" in text
