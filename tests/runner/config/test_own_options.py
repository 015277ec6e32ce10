"""Bad files in a folder of options of one's own: one line that names the file or the key, exit code 2."""

import re

import pytest

from trainopt.runner.config.options import CONF


def test_broken_yaml_is_named_with_file_and_line(trainopt, tmp_path):
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    file = tmp_path / "mine" / "optimizer" / "broken.yaml"
    file.write_text("_target_: torch.optim.SGD\nlr: [0.1\nmomentum: 0\n")
    result = trainopt("--config-dir", "mine", "optimizer=broken")
    assert result.code == 2
    assert re.search(r"optimizer/broken.yaml, line 3, column \d+: is no valid YAML", result.err)
    assert result.err.count("\n") == 1
    # and it is in nobody's way who does not use it
    assert "did you mean optimizer.lr?" in trainopt("--config-dir", "mine", "optimizer.lrr=1").err


@pytest.mark.parametrize("command", ["", "-m seed=1", "benchmark embedded --dry-run"])
def test_an_option_that_would_not_be_read_is_refused(trainopt, tmp_path, command):
    """As a copy of conf/ in which a file was changed; what is as ours may stay, and what is not chosen."""
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    mine = tmp_path / "mine/optimizer/adam.yaml"
    words = (*command.split(), "--config-dir", "mine")
    for text, option, is_refused in ((None, "adam", False), ("lr: 0.5\n", "sgd", False), ("lr: 0.5\n", "adam", True)):
        mine.write_text(text or (CONF / "optimizer/adam.yaml").read_text())
        result = trainopt(*words, f"optimizer={option}", *([] if is_refused else ["no.such=1"]))
        assert result.code == 2
        line = "mine/optimizer/adam.yaml: trainopt has an option of this name, which is read instead; rename yours"
        assert (line in result.err) == is_refused


def test_an_option_of_a_list_without_a_name_is_explained(trainopt, tmp_path):
    (tmp_path / "mine/probe").mkdir(parents=True)
    (tmp_path / "mine/probe/mine.yaml").write_text("_target_: helpers.fixtures.Measured\nevery: 2steps\n")
    line = trainopt("--config-dir", "mine", "probe=[mine]").err
    assert line == (
        "trainopt: mine/probe/mine.yaml: probe._target_: an option of probe has a name above its keys, as in"
        " NAME: {_target_: …}\n"
    )


@pytest.mark.parametrize("content", ["", "- a"])
@pytest.mark.parametrize("choice", ["probe=[mine]", "optimizer=mine"])
def test_an_option_without_keys_is_named(trainopt, tmp_path, choice, content):
    """One in a list would otherwise be left out without a word."""
    file = tmp_path / "mine" / choice.partition("=")[0] / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    result = trainopt("--config-dir", "mine", choice)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"{file.relative_to(tmp_path)}: holds no keys" in result.err


SGD = "_target_: torch.optim.SGD\n"
GLOBAL = "# @package _global_\n"


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("optimizer=mine", f"{SGD}lr: -1\n", "optimizer: Invalid learning rate: -1"),
        ("optimizer=mine", f"{SGD}momentm: 0.5\n", "optimizer.momentm: unknown key"),
        ("batching=mine", "_target_: trainopt.data.Constant\nsize: 0\n", "batching.size=0: must be >= 1"),
        ("experiment=mine", f"{GLOBAL}optimizer: {{momentum: -1}}\n", "optimizer.momentum=-1: must be"),
        ("regularizer=[mine]", "l2: {_target_: trainopt.optimizers.L2, strength: -3}\n", "regularizer.l2.strength=-3"),
        ("optimizer=mine", "_target_: no_such_module.Mine\n", "optimizer._target_=no_such_module.Mine: cannot be"),
    ],
)
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=1")])
def test_a_wrong_value_in_a_file_is_refused_with_the_file(trainopt, tmp_path, option, content, message, sweep):
    file = tmp_path / "mine" / option.partition("=")[0] / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    words = (*sweep, "--config-dir", "mine", "model=mlp", "logger=none", "duration=1steps", option)
    assert f"{file.relative_to(tmp_path)}: {message}" in trainopt(*words).err


def test_a_wrong_value_that_was_typed_is_not_that_of_a_file(trainopt, tmp_path):
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/mine.yaml").write_text(f"{SGD}lr: -1\n")
    line = trainopt("--config-dir", "mine", "model=mlp", "optimizer=mine", "optimizer.lr=-2").err
    assert line == "trainopt: optimizer: Invalid learning rate: -2\n"
    (tmp_path / "mine/batching").mkdir(parents=True)
    (tmp_path / "mine/batching/mine.yaml").write_text("_target_: trainopt.data.Constant\nsize: 0\n")
    line = trainopt("--config-dir", "mine", "batching=mine", "batching.size=-1").err
    assert line == "trainopt: batching.size=-1: must be >= 1\n"
    (tmp_path / "mine/regularizer").mkdir(parents=True)
    (tmp_path / "mine/regularizer/mine.yaml").write_text("mine: {_target_: trainopt.optimizers.L2, strength: 1}\n")
    line = trainopt("--config-dir", "mine", "regularizer=[mine,mine]").err
    assert line.startswith("trainopt: regularizer=[mine,mine]: takes the name of an option")


def test_a_misspelt_key_in_an_experiment_of_ones_own_is_found(trainopt, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "x.yaml").write_text("# @package _global_\noptimizer: {learning_rate: 1}\n")
    result = trainopt("--config-dir", "mine", "experiment=x")
    assert result.code == 2
    assert "optimizer.learning_rate: unknown key" in result.err
