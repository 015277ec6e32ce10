"""Where a configuration names another class than the chosen option, everything says the class, and has its defaults."""

import json

import pytest
import yaml

from helpers.cli import built, prepared
from trainopt.runner.records.frames import load_run, load_runs

ADAMW = "optimizer._target_=torch.optim.AdamW"
CLASSES = {
    "model": "trainopt.models.MLP",
    "data": "trainopt.data.digits",
    "augmentation": "trainopt.data.Augmentation",
    "optimizer": "torch.optim.AdamW",
    "schedule": "trainopt.optimizers.Constant",
    "batching": "trainopt.data.Constant",
}
OTHERS = {"model": "resnet8", "data": "mnist", "schedule": "cyclic", "batching": "dynamic"}


@pytest.mark.parametrize("group", [group for group in CLASSES if group != "augmentation"])
def test_the_choice_and_the_folder_are_the_class(trainopt, group):
    typed = [f"{group}={OTHERS[group]}"] if group in OTHERS else []
    config, choices = prepared(*typed, f"{group}._target_={CLASSES[group]}")
    assert choices[group] == CLASSES[group]
    assert config[group]._target_ == CLASSES[group]
    name = trainopt(*typed, f"{group}._target_={CLASSES[group]}", "--cfg", "job", "--resolve", "-p", "run.name").out
    assert name.count(CLASSES[group]) == 1
    assert not {*typed} & {*name.strip().split(",")}


def test_a_class_that_is_the_option_s_own_changes_nothing():
    assert prepared("augmentation._target_=trainopt.data.Augmentation")[1]["augmentation"] == "none"


def test_an_experiment_that_names_a_class_is_seen_through(trainopt, tmp_path):
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/x.yaml").write_text(f"# @package _global_\noptimizer: {{_target_: {ADAMW[19:]}}}\n")
    text = trainopt("--config-dir", "mine", "experiment=x", "--cfg", "job", "--resolve").out
    assert yaml.safe_load(text)["run"]["name"] == "resnet8-digits-torch.optim.AdamW,experiment=x"
    assert yaml.safe_load(text)["optimizer"] == {"_target_": "torch.optim.AdamW"}


def test_a_quick_look_leaves_the_loggers_out():
    assert prepared("debug=quick")[0].logger == {"none": {"_target_": None}}


def test_cfg_shows_what_is_run(trainopt):
    typed = [ADAMW, "+optimizer.amsgrad=true"]
    content = yaml.safe_load(trainopt(*typed, "--cfg", "job", "--resolve").out)
    assert content["optimizer"] == {"_target_": "torch.optim.AdamW", "amsgrad": True}
    assert trainopt(*typed, "--cfg", "job", "--package", "optimizer.amsgrad").out.strip() == "True"
    assert "hydra:" not in trainopt(*typed, "--cfg", "job").out
    names = yaml.safe_load(trainopt(*typed, "--cfg", "hydra", "--resolve").out)
    name = "resnet8-digits-torch.optim.AdamW,+optimizer.amsgrad=true"
    assert names["hydra"]["run"]["dir"] == f"outputs/{name}"
    assert set(yaml.safe_load(trainopt(*typed, "--cfg", "all").out)) == {"hydra", *content}


def test_a_class_in_a_list_of_choices_gets_nothing_of_the_one_before(tmp_path, monkeypatch):
    (tmp_path / "mine_regularizer.py").write_text("class Zero:\n    def __call__(self, params):\n        return 0.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = built("model=mlp", "regularizer=[l2]", "regularizer.l2._target_=mine_regularizer.Zero")
    assert type(run.objective.regularizers["l2"][0]).__name__ == "Zero"


def test_the_run_says_the_class_wherever_it_says_what_it_is(finished, tmp_path):
    typed = ["model=mlp", "duration=1steps", "logger=none"]
    arguments = ["+optimizer.amsgrad=true", "+optimizer.betas=[0.8,0.9]", "run.name=own"]
    assert "AdamW, lr 0.001, amsgrad true, betas [0.8,0.9], schedule" in finished(*typed, ADAMW, *arguments).out
    shipped = finished(*typed, "optimizer.momentum=0.5", "optimizer.nesterov=false", "run.name=shipped")
    assert "SGD, lr 0.1, momentum 0.5, schedule constant" in shipped.out
    started = finished(*typed, ADAMW, "schedule._target_=trainopt.optimizers.Constant")
    folder = (
        tmp_path / "outputs/mlp-digits-torch.optim.AdamW,duration=1steps,schedule._target_=trainopt.optimizers.Constant"
    )
    assert "optimizer  AdamW, lr 0.001, schedule constant" in started.out
    assert load_run(folder).choices["optimizer"] == "torch.optim.AdamW"
    assert "momentum" not in json.dumps(load_run(folder).config)
    finished(*typed)
    configs = load_runs([tmp_path / "outputs"]).configs
    assert set(configs["choices.optimizer"]) == {"torch.optim.AdamW", "sgd"}
