"""Every YAML on disk: composed, compared with the signature of its class, explained, and built."""

import inspect
import itertools
import re
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import pytorch_optimizer
import timm.optim
from hydra.utils import get_object

import trainopt.optimizers
from helpers.cli import built, prepared
from helpers.fixtures import image_folders, probe_of, reference_run
from trainopt.runner.config.forms.rules import rule_of
from trainopt.runner.config.options import (
    CLUSTERS,
    CONF,
    SPACES,
    STUDIES,
    SUITES,
    Vocabulary,
    default_choices,
    list_groups,
    option_content,
    read,
)

# what `build` gives to a class by the name of the argument
OFFERED = {
    "data": {"decisions", "progress"},
    "metric": {"loss", "num_classes"},
    "model": {"num_classes", "in_channels", "image_shape", "input_shape", "num_tokens", "pretrained"},
    "objective": {"num_classes"},
    "optimizer": {"params", "network"},
    "schedule": {"directions", "optimizer", "progress"},
    "averaging": {"network", "progress"},
    "batching": {"duration", "levels"},
    "logger": {"folder", "resumed_at", "say"},
}

NOT_OPTIONS = (CONF, CONF / STUDIES, CONF / SPACES, CONF / SUITES, CONF / CLUSTERS)
OPTIONS = sorted(str(p.relative_to(CONF)) for p in CONF.rglob("*.yaml") if p.parent not in NOT_OPTIONS)
OF_SEVERAL = ("experiment", "recipe", "debug")  # what these say is about other groups
WORDS = Vocabulary([CONF])
COMPONENTS = [o for o in OPTIONS if not o.startswith(OF_SEVERAL)]
LINE = 120  # letters, as in the code
SETS = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn")
FOLDERS = ["data.path={images}", "data.workers=0", "data.size=32"]
NEEDS = {
    "model=timm": ["model.name=test_resnet"],
    "optimizer=timm": ["optimizer.name=adopt"],
    "optimizer=pytorch_optimizer": ["optimizer.name=adan"],
    "model=inception_v3": ["data.limit=4", "batching.size=2"],
    "model=vgg16_cifar": [f"model.channels={[8] * 13}".replace(" ", "")],
    "schedule=multistep": ["schedule.milestones=[1epochs,5steps]"],
    "model=function": ["data=none"],
    "model=transformer": ["data=modular_addition", "model.width=8"],
    "data=modular_addition": ["model=transformer", "data.p=5"],
    "data=none": ["model=function"],
    "schedule=plateau": ["data.validation=0.2"],
    "schedule=torch": [
        "schedule.scheduler._target_=torch.optim.lr_scheduler.StepLR",
        "+schedule.scheduler.step_size=3",
    ],
    "batching=growth_control": ["batching.L_growth=[0,5]"],
    "batching=follow_reference": ["batching.reference={reference}"],
    "data=arrays": ["data.path={images}/mnist.npz"],
    "data=imagefolder": FOLDERS,
    "data=imagenet": FOLDERS,
}
LIBRARIES = {  # of optimizers: the class of a name
    "trainopt.optimizers.timm_optimizer": partial(timm.optim.get_optimizer_class, bind_defaults=False),
    "trainopt.optimizers.pytorch_optimizer": pytorch_optimizer.load_optimizer,
}
LARGE = {f"model/{name}.yaml": pytest.mark.slow for name in ("inception_v3", "resnet50", "mobilenetv2_140")}  # timm's


def node_of(option):
    """The part of a YAML that names a class."""
    content = option_content(CONF / option)
    return content if "_target_" in content else next(iter(content.values()))


@pytest.mark.parametrize("option", COMPONENTS)
def test_the_keys_are_those_of_the_signature(option):
    node = node_of(option)
    if node["_target_"] is None:
        return
    group = option.split("/")[0]
    apart = {"_target_", *WORDS.common_keys(group), *OFFERED.get(group, ())}
    names = set(inspect.signature(get_object(node["_target_"])).parameters)
    if "arguments" in names:  # of an optimizer of another library, by name
        names -= {"arguments", "base_optimizer"}
        if node["name"] != "???":
            names |= set(inspect.signature(LIBRARIES[node["_target_"]](node["name"])).parameters) - {"kwargs"}
    assert set(node) - apart - {"base_optimizer"} == names - apart


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
    keys = [
        (above, line)
        for above, line in itertools.pairwise(lines)
        if re.match(r"\s*[\w.]+:", line) and not re.match(rf"\s*(_target_|{name}|defaults|std):", line)
    ]  # the line above std, mean, speaks of both
    assert [line for above, line in keys if " # " not in line and not above.lstrip().startswith("# ")] == []


@pytest.mark.parametrize("option", ["config.yaml", "allowed.yaml", *OPTIONS])
def test_long_comments_stand_above_keys(option):
    assert [line for line in (CONF / option).read_text().splitlines() if len(line) > LINE] == []


def test_every_key_has_a_rule_or_a_type_and_every_rule_a_key():
    """A key without a rule is an argument of a class of ours, which checks it; a function has rules for its own."""
    rules = set(read(CONF / "allowed.yaml"))
    keys, typed = set(), set()
    for option in COMPONENTS:
        group, node = option.rpartition("/")[0].replace("/", "."), node_of(option)
        keys |= {f"{group}.{key}" for key in node if key != "_target_"}
        target = get_object(node["_target_"]) if node["_target_"] else None
        if target in (trainopt.optimizers.timm_optimizer, trainopt.optimizers.pytorch_optimizer):
            typed |= {f"{group}.{key}" for key in node}  # compared with the library's class, which checks values
        if isinstance(target, type) and target.__module__.startswith("trainopt."):
            parameters = inspect.signature(target, eval_str=True).parameters
            typed |= {f"{group}.{key}" for key in node if key in parameters and rule_of(parameters[key].annotation)}
    for key, value in read(CONF / "config.yaml").items():
        if key != "defaults":
            keys |= {f"{key}.{name}" for name in value} if isinstance(value, dict) else {key}
    keys |= {f"cluster.{name}" for path in (CONF / CLUSTERS).iterdir() for name in read(path)}
    assert rules <= keys
    assert keys - rules <= typed


def choice_of(option):
    """What chooses an option, as in `optimizer=adam` or `probe=[fisher]`."""
    group, _, name = option.removesuffix(".yaml").partition("/")
    return f"{group}=[{name}]" if group in list_groups() else f"{group}={name}"


@pytest.mark.parametrize(
    "option",
    [pytest.param(o, marks=LARGE.get(o, ())) for o in COMPONENTS if not o.startswith("hydra")],
)
def test_every_option_is_composed_checked_and_built(option, npz, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINOPT_DATA", str(tmp_path))
    choice = choice_of(option)
    needs = [n.format(images=tmp_path, reference=tmp_path / "reference") for n in NEEDS.get(choice, [])]
    if choice.startswith("data="):
        image_folders(tmp_path, train=6, val=3, height=30, width=40)
        for name in SETS:
            npz(f"{name}.npz", shape=(28, 28, 1) if "mnist" in name else (32, 32, 3))
    if choice.startswith("batching="):
        reference_run(tmp_path / "reference")
        needs += probe_of(get_object(node_of(option)["_target_"]))
    if not any(word.startswith("model=") for word in (choice, *needs)):
        needs.append("model=mlp")
    if choice.startswith("model=") and "data=none" not in needs:
        needs = ["data.limit=20", "batching.size=8", *needs]
    run = built(choice, *needs)
    inputs, targets, size, _ = next(run.batches())
    total, terms, logits = run.objective(inputs, targets)
    assert total.isfinite()
    if run.objective.returns_loss:
        assert logits == {"theta": [-1.2, 1.0]}
        assert set(terms) == {"value"}
        return
    assert (len(logits), logits[0].numel()) == (size, run.num_outputs)
    assert set(terms) >= {run.objective.loss.term}


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in ("experiment", "debug") for o in WORDS.options(g)])
def test_what_chooses_several_options_is_composed_and_checked(group, option):
    config, choices = prepared(f"{group}={option}")
    assert choices[group] == option
    assert set(choices) == set(default_choices()) - list_groups()
    assert config.duration


def test_the_options_are_those_of_the_documentation():
    """A file that goes takes an option away from people; a new one is named here and in the CHANGELOG."""
    options = {
        "augmentation": "augmix none randaugment standard trivialaugment",
        "averaging": "ema none swa",
        "batching": "constant dynamic follow_reference growth_control norm_test",
        "data": "arrays breast_cancer cifar10 cifar100 diabetes digits fashion_mnist imagefolder imagenet mnist"
        " modular_addition none svhn synthetic",
        "debug": "overfit quick",
        "logger": "mlflow none tensorboard trackio wandb",
        "metric": "calibration_error confusion_matrix per_class_accuracy rmse top1 top5",
        "model": "alexnet_cifar autoencoder densenet110 densenet8 function inception_v3 mlp mobilenetv2_140"
        " mobilenetv2_cifar resnet110 resnet18 resnet20 resnet32 resnet34_cifar resnet44 resnet50 resnet56 resnet8 timm"
        " transformer vgg16_cifar",
        "objective": "bce cross_entropy mse",
        "optimizer": "adadelta adafactor adagrad adam adamw adaptive_nesterov ehnewton ehnewton_auto lion muon nadam"
        " newton pytorch_optimizer radam rmsprop schedulefree_adamw schedulefree_sgd sgd shampoo soap timm",
        "probe": "fisher gradient_noise taylor training_loss",
        "regularizer": "checkpoint_distance l2",
        "schedule": "constant cosine cosine_restarts cyclic exponential linear multistep one_cycle plateau polynomial"
        " range_test torch warmup_stable_decay",
    }
    assert {group: " ".join(WORDS.options(group)) for group in WORDS.groups if group != "experiment"} == options


def test_fragments_of_experiments_are_no_options():
    assert "liao2018/cifar10" in WORDS.options("experiment")
    assert not any("/_" in option for option in WORDS.options("experiment"))
    assert WORDS.file("experiment", "liao2018/_cifar10") is not None


def test_yaml_numbers_are_numbers():
    """YAML 1.1 reads 1e-4 as text; Hydra's loader does not, and neither must our own reading."""
    assert prepared("regularizer=[l2]")[0].regularizer.l2.strength == 1e-4
    assert read(CONF / "regularizer/l2.yaml")["l2"]["strength"] == 1e-4
