"""Search spaces: every shipped optimizer has one, and each of its bounds and choices is allowed."""

import pytest

from helpers.cli import sweep_refusal
from trainopt.runner.config.options import CONF, SPACES, Vocabulary, option_content
from trainopt.runner.search.compose import Composer
from trainopt.runner.search.optuna_sweeper import OptunaSweeper
from trainopt.runner.sweeps.jobs import first_jobs
from trainopt.runner.system.hydra_compat import parse_override
from trainopt.runner.trials.space import read_space

WORDS = Vocabulary([CONF])
OPTIMIZERS = WORDS.options("optimizer")
ADAPTERS = ("timm", "pytorch_optimizer")  # of many optimizers


def test_every_optimizer_has_a_space_and_none_is_left_over():
    assert set(WORDS.options(SPACES)) == set(OPTIMIZERS) - set(ADAPTERS)


@pytest.mark.parametrize("optimizer", WORDS.options(SPACES))
def test_a_space_is_read_and_has_a_source_for_each_key(optimizer):
    path = CONF / SPACES / f"{optimizer}.yaml"
    content = option_content(path)
    space = read_space([parse_override(f"{key}={value}") for key, value in content.items()])
    keys = {key.partition(".")[2] for key in content if key.startswith("optimizer.")}
    assert keys <= set(option_content(CONF / f"optimizer/{optimizer}.yaml"))
    assert len(space) == len(content) > 0
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(" # " in line for line in lines)


@pytest.mark.parametrize(
    "optimizer", ["sgd", *(pytest.param(o, marks=pytest.mark.slow) for o in WORDS.options(SPACES))]
)
def test_every_bound_and_choice_of_a_space_can_be_run(optimizer):
    with Composer().composed(["hydra/sweeper=optuna", f"optimizer={optimizer}"]) as config:
        assert first_jobs(config) == []


def test_a_key_that_is_typed_is_not_searched():
    with Composer().composed(["hydra/sweeper=optuna", "optimizer=sgd", "optimizer.momentum=0.7"]) as config:
        search = OptunaSweeper(**OptunaSweeper.settings(config)).new_search(config)
    assert "optimizer.momentum" not in search.space
    assert "optimizer.lr" in search.space


def test_an_optimizer_without_a_space_is_refused():
    typed = ("hydra/sweeper=optuna", "optimizer._target_=torch.optim.ASGD")
    text = "optimizer=torch.optim.ASGD: has no search space; leave keys open: 'optimizer.lr=tag("
    assert sweep_refusal(*typed).startswith(text)
