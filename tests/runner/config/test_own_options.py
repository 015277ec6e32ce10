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
        "trainopt: probe._target_: an option of probe has a name above its keys, as in NAME: {_target_: …}\n"
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


def test_a_misspelt_key_in_an_experiment_of_ones_own_is_found(trainopt, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "x.yaml").write_text("# @package _global_\noptimizer: {learning_rate: 1}\n")
    result = trainopt("--config-dir", "mine", "experiment=x")
    assert result.code == 2
    assert "optimizer.learning_rate: unknown key" in result.err
