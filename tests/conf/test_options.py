"""Every YAML on disk: composed, compared with the signature of its class, explained, and built."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import get_object
from omegaconf import OmegaConf

from helpers.fixtures import probe_of, reference_run
from trainopt.runner.config.options import CONF, STUDIES, Vocabulary, default_choices, list_groups, read
from trainopt.runner.config.run_names import register_resolvers
from trainopt.runner.config.validate import check_config
from trainopt.runner.training.build import build

# what `build` gives to a class by the name of the argument
OFFERED = {
    "model": {"num_classes", "in_channels", "image_shape", "pretrained"},
    "optimizer": {"params"},
    "schedule": {"optimizer", "progress"},
    "batching": {"duration", "levels"},
    "logger": {"folder", "resumed_at"},
}

OPTIONS = sorted(str(p.relative_to(CONF)) for p in CONF.rglob("*.yaml") if p.parent not in (CONF, CONF / STUDIES))
OF_SEVERAL = ("experiment", "recipe", "debug")  # what these say is about other groups
COMPONENTS = [o for o in OPTIONS if not o.startswith(OF_SEVERAL)]
OF_RUNS = [o for o in OPTIONS if not o.startswith(("hydra", "recipe"))]
OF_ZORCA = ("model.weights=null", "data.path={images}", "data.workers=0")  # no pretrained weights, no ImageNet
NEEDS = {
    "model/timm.yaml": ["model.name=test_resnet"],
    "schedule/multistep.yaml": ["schedule.milestones=[1epochs,5steps]"],
    "model/function.yaml": ["data=none"],
    "data/none.yaml": ["model=function"],
    "batching/growth_control.yaml": ["batching.L_growth=[0,5]"],
    "batching/follow_reference.yaml": ["batching.reference={reference}"],
    "data/arrays.yaml": ["data.path={npz}"],
    "data/imagefolder.yaml": ["data.path={images}", "data.workers=0", "data.size=32"],
    "data/imagenet.yaml": ["data.path={images}", "data.workers=0", "data.size=32"],
    "experiment/he2016_cifar10.yaml": ["model=mlp"],
    "experiment/zorca2020/digits.yaml": ["model.weights=null"],  # of a run that comes first
    "experiment/zorca2020/inception.yaml": [*OF_ZORCA, "data.size=299", "model.auxiliary=true"],
    "experiment/zorca2020/resnet50.yaml": [*OF_ZORCA, "data.size=32"],
    "experiment/zorca2020/mobilenetv2.yaml": [*OF_ZORCA, "data.size=32"],
}
LIAO = [o for o in OPTIONS if o.startswith("experiment/liao2018")]
NEEDS |= {o: ["model=mlp", *(["data.extra=false"] if "svhn" in o else [])] for o in LIAO}  # theirs take long
SETS = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn")


def composed(*overrides):
    register_resolvers()
    with initialize_config_module("trainopt.conf", version_base="1.3"):
        config = compose("config", list(overrides))
    OmegaConf.set_struct(config, False)
    return config


def node_of(option):
    """The part of a YAML that names a class."""
    content = read(CONF / option)
    return content if "_target_" in content else next(iter(content.values()))


@pytest.mark.parametrize("option", COMPONENTS)
def test_the_keys_are_those_of_the_signature(option):
    node = node_of(option)
    if node["_target_"] is None:
        return
    group = option.split("/")[0]
    apart = {"_target_", *Vocabulary([CONF]).common_keys(group), *OFFERED.get(group, ())}
    assert set(node) - apart == set(inspect.signature(get_object(node["_target_"])).parameters) - apart


@pytest.mark.parametrize("option", COMPONENTS)
def test_a_class_is_named_by_its_public_name(option):
    """The package that it is named in lists it; where its module lies may change."""
    target = node_of(option)["_target_"]
    if target is None or not target.startswith("trainopt."):
        return
    package, _, name = target.rpartition(".")
    module = import_module(package)
    assert Path(module.__file__).name == "__init__.py"
    assert name in module.__all__
    assert callable(getattr(module, name))


@pytest.mark.parametrize("option", ["config.yaml", *OPTIONS])
def test_every_key_has_a_comment(option):
    lines = (CONF / option).read_text().splitlines()
    assert lines[0].startswith("#")
    if option.startswith(OF_SEVERAL):
        return
    name = Path(option).stem if option.partition("/")[0] in list_groups() else "defaults"
    body = [
        line
        for line in lines
        if re.match(r"\s*[\w.]+:", line) and not re.match(rf"\s*(_target_|{name}|defaults):", line)
    ]
    std = [line for line in body if line.startswith("std:")]  # the line above speaks of both
    assert [line for line in body if " # " not in line and line not in std] == []


def test_the_main_file_is_short():
    assert len((CONF / "config.yaml").read_text().splitlines()) < 60


def test_every_key_has_a_rule_and_every_rule_a_key():
    rules = set(read(CONF / "allowed.yaml"))
    keys = set()
    for option in COMPONENTS:
        group = option.rpartition("/")[0].replace("/", ".")
        keys |= {f"{group}.{key}" for key in node_of(option) if key != "_target_"}
    for key, value in read(CONF / "config.yaml").items():
        if key != "defaults":
            keys |= {f"{key}.{name}" for name in value} if isinstance(value, dict) else {key}
    assert rules == keys


def image_folders(tmp_path):
    from PIL import Image

    for part, count in (("train", 6), ("val", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 30), (i * 30, 100, 50)).save(folder / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("option", OF_RUNS)
def test_every_option_is_composed_checked_and_built(option, npz, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINOPT_DATA", str(tmp_path))
    for name in SETS:
        shape = (28, 28, 1) if "mnist" in name else (32, 32, 3)
        npz(f"{name}.npz", shape=shape)
    places = {
        "npz": tmp_path / "mnist.npz",
        "images": tmp_path,
        "reference": reference_run(tmp_path / "reference"),
    }
    needs = [need.format(**places) for need in NEEDS.get(option, [])]
    if option.startswith("batching/"):
        needs += probe_of(get_object(node_of(option)["_target_"]))
    if "{images}" in "".join(NEEDS.get(option, [])):
        image_folders(tmp_path)
    group, _, name = option.removesuffix(".yaml").partition("/")
    choice = f"{group}=[{name}]" if group in list_groups() else f"{group}={name}"
    chosen = group in ("model", "experiment") or any(need.startswith("model=") for need in needs)
    others = [] if chosen else ["model=mlp"]
    config = composed(choice, *others, *needs)
    check_config(config, {**default_choices(), group: name}, Vocabulary([CONF]))
    run = build(config)
    inputs, targets, size, _ = next(run.batches())
    total, terms, logits = run.objective(inputs, targets)
    assert total.isfinite()
    if run.objective.returns_loss:
        assert logits == {"theta": [-1.2, 1.0]}
        assert set(terms) == {"value"}
        return
    assert logits.shape == (size, run.num_classes)
    assert set(terms) >= {"cross_entropy"}


def test_the_vocabulary_is_that_of_the_design():
    words = Vocabulary([CONF])
    wanted = {
        "model": "mlp resnet8 resnet20 resnet32 resnet44 resnet56 resnet110 densenet8 densenet110"
        " resnet18 resnet50 mobilenetv2_140 inception_v3 timm function",
        "data": "digits mnist fashion_mnist cifar10 cifar100 svhn imagenet imagefolder arrays synthetic none",
        "optimizer": "sgd adam rmsprop adagrad adadelta adaptive_nesterov newton ehnewton",
        "schedule": "constant multistep exponential cyclic cosine_restarts range_test",
        "regularizer": "l2 checkpoint_distance",
        "probe": "taylor",
        "batching": "constant dynamic growth_control follow_reference norm_test",
        "logger": "tensorboard none",
    }
    for group, options in wanted.items():
        assert set(options.split()) <= set(words.options(group))


def test_yaml_numbers_are_numbers():
    """YAML 1.1 reads 1e-4 as text; Hydra's loader does not, and neither must our own reading."""
    assert composed("regularizer=[l2]").regularizer.l2.strength == 1e-4
    assert read(CONF / "regularizer/l2.yaml")["l2"]["strength"] == 1e-4
