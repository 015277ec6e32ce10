"""The experiments of Liao et al. 2018 against its text: what each run is, and how many a sweep has."""

from copy import deepcopy
from functools import cache

import pytest
import yaml
from hydra import initialize_config_module
from omegaconf import open_dict

from helpers.experiments import composed, configuration, has
from trainopt.runner.config.options import CONF
from trainopt.runner.sweeps.jobs import combinations

# Liao et al. 2018, section 4: (model, data, keys of data, epochs, epochs after which the rate falls)
DIGITS_EPOCHS = ("40epochs", ["20epochs", "30epochs"])
LIAO = {
    "cifar10": ("resnet110", "cifar10", {"pad": 0}, "320epochs", ["160epochs", "240epochs"]),
    "cifar100": ("resnet110", "cifar100", {"pad": 0}, "320epochs", ["160epochs", "240epochs"]),
    "svhn": ("resnet110", "svhn", {"pad": 0, "extra": True}, *DIGITS_EPOCHS),
    "mnist": ("resnet8", "mnist", {"pad": 2}, *DIGITS_EPOCHS),
    "mnist_mlp": ("mlp", "mnist", {"pad": 2}, *DIGITS_EPOCHS),
}
SIZES, RATES = [8 * 2**i for i in range(7)], [0.025 * 2**i for i in range(5)]  # 8 to 512, 0.025 to 0.4
DIGITS_SIZES, DIGITS_RATES = [2**i for i in range(1, 12)], [0.00625 * 2**i for i in range(8)]  # 2 to 2048, to 0.8
# all that the paper names; it writes out the first and the last two, the others go by the same rule
SEQUENCES = {
    "s16-to-64": [16, 16, 32, 32, 64],
    "s32-to-128": [32, 32, 64, 64, 128],
    "s64-to-256": [64, 64, 128, 128, 256],
    "s128-to-512": [128, 128, 256, 256, 512],
    "s16-to-256": [16, 32, 64, 128, 256],
    "s32-to-512": [32, 64, 128, 256, 512],
    "s512-to-32": [512, 256, 128, 64, 32],
}
DYNAMIC = [f"{name}_dynamic" for name in LIAO if name != "mnist_mlp"]


@cache
def jobs(experiment, *typed):
    """The values of each key that a sweep goes through, as Hydra's sweeper reads them, and their number."""
    config = deepcopy(configuration(experiment))
    with open_dict(config):
        config.hydra.overrides.task = [f"experiment={experiment}", *typed]
    with initialize_config_module("trainopt.conf", version_base="1.3"):
        found = [dict(text.split("=", 1) for text in job) for job in combinations(config)]
    assert len({tuple(job.items()) for job in found}) == len(found)
    return {key: [yaml.safe_load(v) for v in dict.fromkeys(job[key] for job in found)] for key in found[0]}, len(found)


@pytest.mark.parametrize("name", [*LIAO, *DYNAMIC])
def test_liao_2018(name):
    model, data, options, duration, milestones = LIAO[name.removesuffix("_dynamic")]
    config, choices = composed(f"liao2018/{name}")
    assert (choices["model"], choices["data"], choices["optimizer"]) == (model, data, "sgd")
    assert has(config["optimizer"], {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4})
    assert choices["schedule"] == "multistep"
    assert (config["schedule"]["milestones"], config["schedule"]["gamma"]) == (milestones, 0.1)
    assert config["duration"] == duration
    # "as described by He et al."; the images of the test stay whole
    he = {"flip": 0.5, "crop_padding": 4, "crop_probability": 1.0, "fill": "mean", "cutout": 0, "mixup": 0}
    assert has(config["augmentation"], he)
    assert has(config["data"], {"validation": 0, "limit": None, **options})
    assert choices["batching"] == ("dynamic" if name in DYNAMIC else "constant")
    assert not config.get("regularizer")
    assert has(config["probe"]["fisher"], {"every": "50steps", "each_epoch": True})  # steps 1, 51, 101, … of each epoch
    if name == "mnist_mlp":
        assert has(config["model"], {"hidden": [500, 500], "activation": "relu"})


@pytest.mark.parametrize("name", LIAO)
def test_the_sweeps_of_sizes_and_rates_of_liao_2018(name):
    swept, count = jobs(f"liao2018/{name}")
    sizes, rates = (DIGITS_SIZES, DIGITS_RATES) if "mnist" in name else (SIZES, RATES)
    assert swept["batching.size"] == sizes
    assert swept["optimizer.lr"] == pytest.approx(rates)
    assert swept["seed"] == [0, 1, 2, 3, 4]
    assert count == len(sizes) * len(rates) * 5


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_the_largest_size_can_be_left_out_for_the_densenets_of_liao_2018(name):
    """Their command, as the YAML gives it: "512 cannot be trained with the 110-layer DenseNet on a single GPU"."""
    typed = ["model=densenet110", "batching.size=8,16,32,64,128,256"]
    assert " ".join(typed) in (CONF / f"experiment/liao2018/{name}.yaml").read_text()
    swept, count = jobs(f"liao2018/{name}", *typed)
    assert (swept["model"], swept["batching.size"], count) == (["densenet110"], SIZES[:-1], 6 * 5 * 5)


@pytest.mark.parametrize("name", DYNAMIC)
def test_the_sweeps_of_sequences_of_liao_2018(name):
    swept, count = jobs(f"liao2018/{name}")
    assert sorted(swept["batching.stages"]) == sorted(SEQUENCES.values())
    assert swept["batching.scope"] == ["run", "learning_rate"]  # -O and -MS
    assert count == 7 * 2 * 5


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LIAO, *DYNAMIC])
def test_each_of_liao_2018_has_its_size_for_a_cpu(name):
    paper, _ = composed(f"liao2018/{name}")
    small, choices = composed(f"liao2018/cpu/{name}")
    assert choices["model"] == ("mlp" if name == "mnist_mlp" else "resnet8")
    assert small["data"] == {**paper["data"], "limit": 2000} | ({"extra": False} if "svhn" in name else {})
    for part in ("augmentation", "optimizer", "batching", "probe"):
        assert small[part] == paper[part]
    assert (small["duration"], small["schedule"]["milestones"]) == ("10epochs", ["5epochs", "7.5epochs"])
    swept, count = jobs(f"liao2018/cpu/{name}")
    whole, _ = jobs(f"liao2018/{name}")
    assert count <= 9
    assert set(swept) == set(whole)
    for key in set(whole) - {"experiment"}:
        assert all(value in whole[key] for value in swept[key])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "of"), [("sizes_and_rates", "mnist"), ("dynamic", "mnist_dynamic"), ("mlp", "mnist_mlp")]
)
def test_some_of_liao_2018_are_there_on_digits(name, of):
    paper, chosen = composed(f"liao2018/{of}")
    small, choices = composed(f"liao2018/digits/{name}")
    kept = ("model", "optimizer", "schedule", "batching")
    assert choices["data"] == "digits"
    assert [choices[group] for group in kept] == [chosen[group] for group in kept]
    assert (small["model"], small["optimizer"]) == (paper["model"], paper["optimizer"])
    assert has(small["augmentation"], {"flip": 0, "crop_padding": 1, "fill": "mean"})
    assert small["data"]["pad"] == 0
    assert (small["duration"], small["schedule"]["milestones"]) == ("10epochs", ["5epochs", "7.5epochs"])
    assert has(small["probe"]["fisher"], {"each_epoch": True, "rows": "batch"})
    here, whole = jobs(f"liao2018/digits/{name}")[0], jobs(f"liao2018/{of}")[0]
    assert set(here) == set(whole)
    assert all(value in whole[key] for key in set(whole) - {"experiment"} for value in here[key])


def test_every_experiment_of_liao_2018_is_compared_with_its_text():
    there = {path.stem for path in (CONF / "experiment/liao2018").glob("[!_]*.yaml")}
    assert there == {*LIAO, *DYNAMIC} == {path.stem for path in (CONF / "experiment/liao2018/cpu").glob("[!_]*.yaml")}
