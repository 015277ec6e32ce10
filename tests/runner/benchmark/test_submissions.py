"""What is typed behind `trainopt benchmark SUITE`."""

import pytest

from trainopt.runner.benchmark.submissions import Submission, read_words
from trainopt.runner.system.errors import UserError


def test_submissions_and_what_is_for_all_runs():
    typed = read_words(
        [
            "optimizer=sgd,adamw",
            "optimizer=adamw schedule=cosine",
            "device=cpu",
            "optimizer=sgd",
            "hydra.launcher.n_jobs=2",
        ]
    )
    assert [s.overrides for s in typed.submissions] == [
        ("optimizer=sgd",),
        ("optimizer=adamw",),
        ("optimizer=adamw", "schedule=cosine"),
    ]
    assert (typed.common, typed.launcher) == (["device=cpu"], ["hydra.launcher.n_jobs=2"])


def test_a_configuration_of_the_usual_optimizer_and_a_class_of_ones_own():
    typed = read_words(["schedule=cosine averaging=ema", "optimizer._target_=mine.Optimizer"])
    assert [s.name for s in typed.submissions] == ["schedule=cosine averaging=ema", "optimizer._target_=mine.Optimizer"]


def test_submissions_have_folders_of_their_own():
    names = ["optimizer=sgd", "optimizer=sgd optimizer.momentum=0.9", "optimizer=sgd optimizer.momentum=0,9"]
    assert len({Submission(name, tuple(name.split())).folder for name in names}) == 3


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("sgd", "benchmark: sgd: must be KEY=VALUE, as optimizer=sgd,adamw"),
        ("optimizer=sgd data=mnist", "benchmark: data=mnist: is part of a workload"),
        ("seed=3", "benchmark: seed=3: is part of a workload"),
        ("model.width=3", "benchmark: model.width=3: is part of a workload"),
        ("hydra/sweeper=optuna", "benchmark: hydra/sweeper=optuna: is part of a workload"),
    ],
)
def test_what_is_no_submission(word, line):
    with pytest.raises(UserError, match=line):
        read_words([word])
