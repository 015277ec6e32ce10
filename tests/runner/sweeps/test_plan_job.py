"""The plan of a job is the one that Hydra's whole composition gives, however it was made."""

import random
from pathlib import Path

import pytest

from trainopt.runner.search.compose import Composer
from trainopt.runner.sweeps.jobs import combinations
from trainopt.runner.sweeps.plan_job import JobPlanner
from trainopt.runner.system.errors import UserError

# What may be typed, by key: right and wrong values, in several forms.
TYPED = {
    "model": ["mlp", "resnet8", "no_such_model"],
    "optimizer": ["sgd", "adam", "ehnewton"],
    "schedule": ["constant", "cosine", "multistep"],
    "augmentation": ["none", "standard"],
    "regularizer": ["[]", "[l2]", "l2"],
    "averaging": ["none", "swa"],
    "probe": ["[]", "[taylor]"],
    "experiment": ["menssen2019/mnist", "zorca2020/resnet8"],
    "debug": ["quick", "null"],
    "recipe": ["a"],
    "~regularizer": [""],
    "~model.activation": [""],
    "seed": ["0", "1", "3", "-1", "1.5", "'2'", "1e1"],
    "++seed": ["4", "5"],
    "duration": ["3epochs", "2epoch", "20steps", "5", "soon"],
    "evaluate_every": ["1epochs", "${duration}", "1epoch"],
    "optimizer.lr": ["0.1", "1e-1", "0.2", "-1", "null", "high"],
    "+optimizer.weight_decay": ["0.1", "0"],
    "++optimizer.betas": ["[0.9,0.99]", "[0.5,0.9]", "0.9", "[2,3]"],
    "optimizer._target_": ["torch.optim.Adam", "torch.optim.SGD", "trainopt.optimizers.EHNewton"],
    "optimizer.momentum": ["0.9", "0", "${optimizer.lr}", "2"],
    "batching.size": ["32", "2e1", "0", "64", "[1]"],
    "model.hidden": ["[8]", "[4,4]", "[]", "8"],
    "model.activation": ["relu", "tanh", "none"],
    "model.weights": ["null", "a.pt", "${run.name}.pt", "${data.root}/a.pt", "pretrained"],
    "data.root": ["/somewhere", "/elsewhere"],
    "data.limit": ["null", "100", "0"],
    "data.mean": ["0.5", "[0.5]", "null", "[a]"],
    "data.extra": ["true", "false"],
    "data.mean.0": ["0.5"],
    "keep_checkpoints": ["3", "{last: 3}"],
    "keep_checkpoints.last": ["1", "2", "0"],
    "early_stopping.patience": ["null", "3"],
    "evaluation_sets": ["null", "{a: {path: a.npz}}"],
    "+evaluation_sets.a.path": ["a.npz", "b.npz"],
    "parameter_groups.rules": ["[]", "[{match: fc, lr: 0.1}]"],
    "schedule.over": ["10epochs", "5epoch", "${duration}"],
    "schedule.warmup": ["null", "1epochs"],
    "regularizer.l2.strength": ["0.1", "0.2", "-1"],
    "run.name": ["one", "two", "42", "../three", "run-${seed}", "a/${trainopt.run_name:}", "???"],
    "logger": ["none", "[tensorboard]"],
    "hydra.sweep.subdir": ["sub-${seed}", "${run.name}"],
    "hydra.job.chdir": ["false", "null"],
    "optimizer.lrr": ["0.1", "0.2"],
    "nonsense": ["1", "2"],
}
USUAL = ("seed", "optimizer.lr", "batching.size", "duration", "model.hidden", "run.name")
USUAL_TEXTS = {"optimizer.lr": ["0.1", "0.2"], "duration": ["3epochs", "20steps"], "run.name": ["one", "two"]}


class Planner(JobPlanner):
    """Counts the jobs that Hydra composes."""

    composed = 0

    def _composed(self, overrides):
        self.composed += 1
        return super()._composed(overrides)


def outcome(planner, overrides):
    """The plan of a job, or the line that refuses it."""
    try:
        return planner.plan(overrides)
    except UserError as error:
        return str(error)


def drawn_jobs(draw, many):
    """Overrides of several jobs that mostly set the same keys; most of their values are right."""
    keys = draw.sample(USUAL, draw.randint(1, 3)) + draw.sample(list(TYPED), draw.randint(0, 3))
    draw.shuffle(keys)
    fixed = {key: draw.choice(TYPED[key]) for key in keys if draw.random() < 0.4}
    jobs = []
    for _ in range(many):
        texts = {key: draw.choice(USUAL_TEXTS.get(key, TYPED[key])) for key in keys} | fixed
        jobs.append([f"{key}={text}" if text else key for key, text in texts.items() if draw.random() > 0.03])
    return jobs


def differences(seed, sweeps, many):
    """The jobs of drawn sweeps whose plan depends on how it was made, and the fraction that Hydra did not compose."""
    draw, wrong, composed, number = random.Random(seed), [], 0, 0
    for _ in range(sweeps):
        with Composer().composed(["seed=1,2"]) as config:
            planner = Planner(config)
            for overrides in drawn_jobs(draw, many):
                ours, whole = outcome(planner, overrides), outcome(JobPlanner(config), overrides)
                wrong += [(overrides, ours, whole)] if ours != whole else []
                number += 1
        composed += planner.composed
    return wrong, 1 - composed / number


def test_plans_do_not_depend_on_how_they_are_made():
    assert differences(6, 1, many=4)[0] == []


@pytest.mark.slow
def test_plans_of_many_sweeps_do_not_depend_on_how_they_are_made():
    wrong, fraction = differences(2, 4, many=8)
    assert wrong == []
    assert fraction > 0.1


def test_one_job_of_each_choice_is_composed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = ["model=mlp", "optimizer=sgd,adam", "schedule=cosine", "duration=2epochs,9steps", "seed=range(30)"]
    with Composer().composed(typed) as config:
        planner = Planner(config)
        jobs = [planner.plan(overrides) for overrides in combinations(config)]
    assert planner.composed == 4  # the schedule lasts as long as the run
    assert len({job["fingerprint"] for job in jobs}) == len({job["folder"] for job in jobs}) == 120


def test_a_value_that_a_later_section_replaces_is_not_set():
    with Composer().composed(["seed=1,2"]) as config:
        planner = Planner(config)
        for last in (1, 2):
            planner.plan([f"keep_checkpoints.last={last}", "keep_checkpoints={last: 3}"])
    assert planner.composed == 2


def test_a_run_under_the_name_of_an_earlier_version_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Composer().composed(["model=mlp", "duration=2epoch", "seed=1,2"]) as config:
        former = Path(config.hydra.sweep.dir) / "mlp-digits-sgd,duration=2epoch,seed=2"
        former.mkdir(parents=True)
        (former / "run.yaml").write_text("damaged")
        planner = Planner(config)
        first, second = (outcome(planner, overrides) for overrides in combinations(config))
    assert first["folder"] == "mlp-digits-sgd,duration=2epochs,seed=1"
    assert "run.yaml: cannot be read" in second
