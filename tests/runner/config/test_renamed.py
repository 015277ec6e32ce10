"""Old names: one that is typed ends with a line that names the new one; those on disk are read as the new ones."""

import pytest

from helpers.cli import built, prepared
from trainopt.runner.config.options import CONF, option_content
from trainopt.runner.config.renamed import (
    RENAMED_ARGUMENTS,
    RENAMED_KEYS,
    RENAMED_OPTIONS,
    RENAMED_TARGETS,
    with_first_names,
    with_new_names,
    with_new_overrides,
)
from trainopt.runner.system.errors import UserError

CHOICE_OF = {option_content(path).get("_target_"): f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml")}
ARGUMENTS = [
    (CHOICE_OF[f"trainopt.{target}"], old, new)
    for target, arguments in RENAMED_ARGUMENTS.items()
    for old, new in arguments.items()
]
OPTIONS = [(group, old, new) for group, options in RENAMED_OPTIONS.items() for old, new in options.items()]


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("sign", ["", "+", "++"])
@pytest.mark.parametrize(("old", "new"), [pair for pair in RENAMED_KEYS.items() if not pair[0].startswith("hydra.")])
def test_an_old_key(old, new, sign):
    with pytest.raises(UserError, match=rf"^{old}: is now {new}$"):
        prepared(f"{sign}{old}=1")


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("sign", ["", "+"])
@pytest.mark.parametrize(("choice", "old", "new"), ARGUMENTS)
def test_an_old_argument(choice, old, new, sign):
    with pytest.raises(UserError, match=rf"^{old}: is now {new}$"):
        prepared(choice, f"{sign}{old}=1")


@pytest.mark.parametrize(("group", "old", "new"), OPTIONS)
def test_an_old_option(group, old, new):
    with pytest.raises(UserError, match=rf"^{group}={old}: is now {group}={new}$"):
        prepared(f"{group}={old}")


@pytest.mark.parametrize(("old", "new"), RENAMED_TARGETS.items())
def test_an_old_class(old, new):
    with pytest.raises(UserError, match=rf"^batching._target_={old}: is now {new}$"):
        built(f"batching._target_={old}")


def test_the_one_logger_of_an_old_run_is_one_of_a_list():
    board = {"_target_": "trainopt.runner.tensorboard.TensorBoard"}
    content, choices = with_new_names({"logger": board}, {"logger": "tensorboard"})
    assert content["logger"] == {"tensorboard": {"_target_": "trainopt.runner.TensorBoard"}}
    assert "logger" not in choices


def test_an_argument_of_the_users_own_class_keeps_its_name():
    own = {"_target_": "mine.Schedule", "rate": 0.9}
    content = {"schedule": dict(own), "data": {"flip": True}, "augmentation": {"flip": 0.5}}
    renamed, choices = with_new_names(content, {"schedule": "mine"})
    assert renamed["schedule"] == own
    assert (renamed["data"]["flip"], renamed["augmentation"]["flip"]) == (True, 0.5)
    added = {"augmentation": "none", "averaging": "none", "objective": "cross_entropy"}
    assert choices == {**added, "schedule": "mine"}
    typed = ["schedule=mine", "schedule.rate=0.9", "+schedule.low=1"]
    assert with_new_overrides(typed) == typed


def test_a_renamed_default_is_the_former_one():
    for old in ("top1", "loss"):
        content, _ = with_new_names({"early_stopping": {"metric": old}}, {})
        assert content["early_stopping"] == {}
        assert content["selection_metric"] == (None if old == "top1" else "loss")
        assert with_first_names({"selection_metric": content["selection_metric"]}) == {"early_stopping.metric": old}


def test_the_first_names_are_those_before_all_changes():
    values = {"schedule._target_": "trainopt.optimizers.Cyclic", "schedule.base_lr": 0.1, "augmentation.flip": 0.5}
    assert with_first_names({**values, "augmentation._target_": "trainopt.data.Augmentation"}) == {
        "schedule._target_": "trainopt.optimizers.Cyclic",
        "schedule.low": 0.1,
        "data.flip": 0.5,
    }


def test_a_later_argument_of_a_probe_changes_no_fingerprint_and_is_filled_in():
    target = "trainopt.runner.probes.FisherProbe"
    added = {"benchmark": False, "share_gradients": False}
    values = {"probe.fisher._target_": target} | {f"probe.fisher.{name}": value for name, value in added.items()}
    assert with_first_names(dict(values)).keys() == {"probe.fisher._target_"}
    assert with_first_names({**values, "probe.fisher.benchmark": True})["probe.fisher.benchmark"]
    content, _ = with_new_names({"probe": {"fisher": {"_target_": target}, "mine": {"_target_": target}}}, {})
    assert content["probe"] == {"fisher": {"_target_": target, **added}, "mine": {"_target_": target}}
