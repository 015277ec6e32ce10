"""Files of suites: the shipped ones, and what is wrong with others."""

import pytest

from trainopt.runner.benchmark.suite import find_suites, read_suite
from trainopt.runner.system.errors import UserError

SMALL = """
title: Small
full: {trials: 2, studies: 2}
quick: {trials: 1, studies: 1}
submissions: [optimizer=sgd]
workloads:
  one: {about: first, overrides: [duration=1epochs], metric: validation_loss, direction: minimize, target: 0.5}
  two: {about: second, overrides: [], metric: test_top1, direction: maximize, target: 90, held_out_of: one}
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", find_suites().values(), ids=find_suites())
def test_a_shipped_suite_can_be_read_and_has_a_rule_for_its_targets(path):
    suite = read_suite(path)
    assert path.read_text().startswith("#")
    assert suite.targets


def test_a_suite_of_ones_own_replaces_a_shipped_one(tmp_path):
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite/embedded.yaml").write_text(SMALL)
    (tmp_path / "suite/mine.yaml").write_text(SMALL)
    suites = find_suites([tmp_path])
    assert suites["mine"].parent == suites["embedded"].parent == tmp_path / "suite"


def test_what_a_file_says(written):
    suite = read_suite(written(SMALL))
    assert suite.held_out == {1: 0}
    assert [workload.goal for workload in suite.workloads.values()] == ["validation_loss <= 0.5", "test_top1 >= 90"]
    assert suite.workloads["one"].is_better(0.5, 0.5)
    assert not suite.workloads["one"].is_better(0.6, 0.5)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("title: Small", "tittle: Small", "mine.yaml: tittle: unknown key; did you mean title?"),
        ("direction: minimize", "direction: down", "mine.yaml: workloads.one.direction: down: no such direction"),
        ("validation_loss", "loss", "mine.yaml: workloads.one.metric: loss: give SET_NAME, as validation_top1"),
        ("held_out_of: one", "held_out_of: ones", "mine.yaml: workloads.two.held_out_of: ones: no such workload"),
        ("held_out_of: one", "held_out_of: two", "mine.yaml: workloads.two.held_out_of: two: is itself held out"),
        ("target: 90", "target: high", "mine.yaml: workloads.two.target: must be a number or null, and is high"),
        ("{trials: 2,", "{trials: 0,", "mine.yaml: full.trials: must be an integer >= 1, and is 0"),
        ("about: first, ", "", "mine.yaml: workloads.one.about: is missing; it must be text"),
        (
            "full: {trials: 2, studies: 2}\n",
            "",
            "mine.yaml: full: is missing; it must be {trials: an integer, studies: an integer}",
        ),
        (
            "submissions: [optimizer=sgd]\n",
            "",
            "mine.yaml: submissions: is missing; it must be [text, …]",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(written, before, after, line):
    with pytest.raises(UserError) as error:
        read_suite(written(SMALL.replace(before, after, 1)))
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
