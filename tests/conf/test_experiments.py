"""The experiments against the studies' texts: what each run is, and how many a sweep has."""

from copy import deepcopy
from functools import cache

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf, open_dict

from trainopt.runner.config.options import CONF
from trainopt.runner.config.run_names import register_resolvers
from trainopt.runner.sweeps.jobs import combinations

AUGMENTED = {"flip": 0.5, "crop_padding": 4, "crop_probability": 0.5, "fill": "black", "cutout": 0, "mixup": 0.0}
PLAIN = {"flip": 0.0, "crop_padding": 0}
NETWORKS = ["alexnet_cifar", "vgg16_cifar", "resnet34_cifar"]
KS = [1, 2, 5]

# Mandatelli 2018: (model, optimizer, schedule, duration, augmentation, {key: values} of the sweep)
MOMENTUM = {"momentum": 0.5, "nesterov": False, "weight_decay": 0, "dampening": 0}
NESTEROV = {**MOMENTUM, "nesterov": True, "lr": 0.1}
ADAPTIVE = {"momentum": 0.9, "gamma": 1.0, "lr_bounds": [0.001, 0.1], "grad_norm_sq_bounds": [1e-4, 1e10]}
CYCLE = {"mode": "triangular", "window": "linear", "step_up": "10epochs", "base_lr": 0.001, "max_lr": 0.1}


def falls(*milestones):
    return {"milestones": list(milestones), "gamma": 0.1}


def sizes_rates(sizes, rates):
    return {"batching.size": sizes, "optimizer.lr": rates, "batching.persistency": KS}


MANDATELLI = {
    "table_2_1": (
        "alexnet_cifar", MOMENTUM, {}, "100epochs", PLAIN, sizes_rates([32, 256, 512], [0.001, 0.01])
    ),
    "table_2_2_vgg16": ("vgg16_cifar", MOMENTUM, {}, "100epochs", PLAIN, sizes_rates([512], [0.01, 0.1])),
    "table_2_2_resnet34": ("resnet34_cifar", MOMENTUM, {}, "100epochs", PLAIN, sizes_rates([512], [0.01, 0.1])),
    "section_2_4": (
        "alexnet_cifar", {**MOMENTUM, "lr": 0.1}, falls("150epochs", "225epochs"), "300epochs", AUGMENTED,
        {"batching.persistency": KS},
    ),
    "section_3_4_scheduled": (
        "alexnet_cifar", NESTEROV, falls("40epochs", "70epochs"), "100epochs", PLAIN, {"model": NETWORKS}
    ),
    "section_3_4_adaptive": ("alexnet_cifar", ADAPTIVE, {}, "100epochs", PLAIN, {"model": NETWORKS}),
    "section_3_5_scheduled": (
        "alexnet_cifar", NESTEROV, falls("150epochs", "225epochs"), "300epochs", AUGMENTED, {"model": NETWORKS}
    ),
    "section_3_5_adaptive": ("alexnet_cifar", ADAPTIVE, {}, "300epochs", AUGMENTED, {"model": NETWORKS}),
    "section_3_5_cyclic": ("alexnet_cifar", NESTEROV, CYCLE, "300epochs", AUGMENTED, {"model": NETWORKS}),
}  # fmt: skip


@cache
def configuration(experiment, *more):
    """With Hydra's node; it is not to be changed."""
    register_resolvers()
    with initialize_config_module("trainopt.conf", version_base="1.3"):
        return compose("config", [f"experiment={experiment}", *more], return_hydra_config=True)


@cache
def composed(experiment, *more):
    config = configuration(experiment, *more)
    return OmegaConf.to_container(config), OmegaConf.to_container(config.hydra.runtime.choices)


def swept(config):
    """The values of each key of the sweep, as numbers where they are."""
    split = {key: str(value).split(",") for key, value in config["hydra"]["sweeper"]["params"].items()}
    return {key: [v if v[0].isalpha() else float(v) for v in values] for key, values in split.items()}


def has(node, wanted):
    return {key: node[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", MANDATELLI)
def test_mandatelli_2018(name):
    model, optimizer, schedule, duration, augmentation, sweep = MANDATELLI[name]
    config, choices = composed(f"mandatelli2018/{name}")
    assert (choices["model"], choices["data"]) == (model, "cifar10")
    assert has(config["optimizer"], optimizer)
    assert has(config["schedule"], schedule)
    assert bool(schedule) == (choices["schedule"] != "constant")
    assert config["duration"] == duration
    assert has(config["augmentation"], augmentation)
    assert config["data"]["validation"] == 0  # the study's tables are of the test set
    assert (config["batching"]["size"], config["batching"]["persistency"]) == (512, 1)
    assert swept(config) == sweep


@pytest.mark.slow
@pytest.mark.parametrize("name", MANDATELLI)
def test_each_has_its_size_for_a_cpu(name):
    paper, _ = composed(f"mandatelli2018/{name}")
    small, _ = composed(f"mandatelli2018/cpu/{name}")
    assert small["data"]["limit"] <= 4000
    assert has(small["optimizer"], {k: v for k, v in paper["optimizer"].items() if k != "lr"})
    assert set(swept(small)) == set(swept(paper))


MANDATELLI_DIGITS = [
    "table_2_1",
    "section_2_4",
    *(f"section_3_4_{of}" for of in ("scheduled", "adaptive")),
    *(f"section_3_5_{of}" for of in ("scheduled", "adaptive", "cyclic")),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", MANDATELLI_DIGITS)
def test_some_of_mandatelli_2018_are_there_on_digits(name):
    paper, chosen = composed(f"mandatelli2018/{name}")
    small, choices = composed(f"mandatelli2018/digits/{name}")
    kept = ("model", "optimizer", "schedule", "batching")
    assert choices["data"] == "digits"
    assert [choices[group] for group in kept] == [chosen[group] for group in kept]
    assert has(small["optimizer"], {k: v for k, v in paper["optimizer"].items() if k != "lr"})
    assert [8 * n for n in small["model"]["channels"]] == paper["model"]["channels"]
    cropped = paper["augmentation"]["crop_padding"] > 0
    assert (small["augmentation"]["flip"], small["augmentation"]["crop_padding"]) == (0, 1 if cropped else 0)
    # the rate falls at the same shares of the run, though not of as many epochs
    ends = [float(config["duration"].removesuffix("epochs")) for config in (small, paper)]
    falls = [[float(m.removesuffix("epochs")) for m in c["schedule"].get("milestones", [])] for c in (small, paper)]
    assert [at / ends[0] for at in falls[0]] == pytest.approx([at / ends[1] for at in falls[1]])
    assert swept(small)["seed"] == [0, 1, 2]


def test_every_experiment_of_a_study_is_compared_with_its_text():
    there = {path.stem for path in (CONF / "experiment/mandatelli2018").glob("[!_]*.yaml")}
    assert there == set(MANDATELLI)
    assert {path.stem for path in (CONF / "experiment/mandatelli2018/digits").glob("[!_]*.yaml")} == set(
        MANDATELLI_DIGITS
    )


# Zorca 2020, tables 4.1 to 4.3: (start, decay rate, epochs); sections 4.3.2 and 4.4: the rest
ZORCA = {
    "inception": {
        "ehnewton": (0.001, 0.94, 0.05),
        "adam": (0.0001, 0.94, 0.05),
        "rmsprop": (0.0001, 0.94, 0.05),
        "adagrad": (0.001, 0.94, 0.05),
        "sgd": (0.0001, 0.94, 0.1),
    },
    "resnet50": {
        "ehnewton": (0.001, 0.94, 0.05),
        "adam": (0.0006, 0.94, 0.05),
        "rmsprop": (0.0001, 0.94, 0.05),
        "adagrad": (0.002, 0.94, 0.1),
        "sgd": (0.0001, 0.94, 0.1),
    },
    "mobilenetv2": {
        "ehnewton": (0.005, 0.90, 0.05),
        "adam": (0.0006, 0.94, 0.05),
        "rmsprop": (0.0001, 0.95, 0.05),
        "adagrad": (0.002, 0.94, 0.1),
        "sgd": (0.001, 0.94, 0.05),
    },
}
OF_ALL = {
    "ehnewton": {"damping": 0.01, "cg_tol": 1e-5, "blocks": "parameter"},
    "adam": {"betas": [0.9, 0.999], "eps": 1e-7},
    "rmsprop": {"alpha": 0.9, "eps": 1e-7},
    "adagrad": {},
    "sgd": {"momentum": 0.9, "nesterov": False},
}
OF_EACH = {  # (timm's name, batch, steps, lambda, iterations of EHNewton)
    "inception": ("inception_v3", 64, 20_100, 4e-5, 20),
    "resnet50": ("resnet50", 64, 20_100, 1e-4, 1),
    "mobilenetv2": ("mobilenetv2_140", 96, 15_300, 4e-5, 1),
}


@pytest.mark.parametrize("network", ZORCA)
@pytest.mark.parametrize("optimizer", OF_ALL)
def test_zorca_2020(network, optimizer):
    config, choices = composed(f"zorca2020/{network}", f"optimizer={optimizer}")
    name, size, steps, decay, iterations = OF_EACH[network]
    lr, rate, epochs = ZORCA[network][optimizer]
    assert (config["model"]["name"], choices["data"], choices["schedule"]) == (name, "imagenet", "exponential")
    assert has(config["model"], {"trainable": "last_layer", "weights": "pretrained"})
    assert config["model"]["auxiliary"] is (network == "inception")
    assert has(config["optimizer"], {"lr": lr, **OF_ALL[optimizer]})
    assert has(config["schedule"], {"gamma": rate, "every": f"{epochs}epochs", "staircase": True})
    assert config["optimizer"].get("cg_max_iter", iterations) == iterations
    assert config["regularizer"]["l2"]["strength"] == decay
    assert config["batching"]["size"] == size
    assert (config["duration"], config["evaluate_every"]) == (f"{steps}steps", "300steps")


def test_the_default_of_zorca_2020_is_ehnewton_and_other_optimizers_keep_their_own_values():
    assert composed("zorca2020/resnet50")[0]["optimizer"]["cg_max_iter"] == 1
    config, _ = composed("zorca2020/resnet50", "optimizer=adadelta")
    assert config["optimizer"]["lr"] == 1.0


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_zorca_2020_on_a_cpu_differs_in_network_images_and_length_alone(data):
    config, choices = composed(f"zorca2020/cpu/{data}")
    study, _ = composed("zorca2020/resnet50")
    assert (choices["model"], choices["data"], choices["schedule"]) == ("resnet20", data, "exponential")
    assert config["model"]["trainable"] == study["model"]["trainable"]
    assert config["regularizer"] == study["regularizer"]
    assert config["batching"] == study["batching"]
    assert config["duration"] == "2epochs"  # and 20 steps of the decay, as in the study
    assert has(config["schedule"], {"gamma": 0.94, "every": "0.1epochs"})
    assert config["data"]["mean"] == study["data"]["mean"]


def test_the_rates_in_the_study_of_zorca_2020_are_those_of_its_experiments():
    """Two files that were written from the same tables."""
    study = yaml.safe_load((CONF / "study/zorca2020.yaml").read_text())
    table = next(table for table in study["tables"] if table["paper"] == "tables 4.1 to 4.3")
    columns = dict(zip(table["columns"], ZORCA, strict=True))
    for row, cells in table["reference"].items():
        optimizer = table["rows"][row]["where"]["optimizer"]
        assert cells == {column: ZORCA[network][optimizer][0] for column, network in columns.items()}


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


# von Bachmann 2020, section 2.2.4; (restarts, pushes) of each experiment
VON_BACHMANN = {
    "cosine": (False, False),
    "restarts": (True, False),
    "push": (False, True),
    "restarts_push": (True, True),
}


def cycles(config):
    """How many cycles of the schedule the run has."""
    return float(config["duration"].removesuffix("epochs")) / float(
        config["schedule"]["period"].replace("${duration}", config["duration"]).removesuffix("epochs")
    )


@pytest.mark.parametrize("name", VON_BACHMANN)
def test_von_bachmann_2020(name):
    restarts, pushes = VON_BACHMANN[name]
    config, choices = composed(f"vonbachmann2020/{name}")
    assert swept(config) == {"data": ["mnist", "cifar10"], "model": ["resnet20", "mobilenetv2_cifar"]}
    assert (choices["data"], choices["model"]) == ("cifar10", "resnet20")
    sgd = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0}
    assert has(config["optimizer"], sgd)
    assert (config["batching"]["size"], config["duration"]) == (128, "900epochs")
    assert config["regularizer"]["l2"]["strength"] == 1e-3
    assert has(config["augmentation"], PLAIN)
    assert config["data"]["validation"] == 0
    # equation 1.10, from the initial rate to 0; all cycles are equally long
    assert has(config["schedule"], {"period_mult": 1, "min_lr": 0.0})
    assert cycles(config) == (6 if restarts else 1)
    assert set(config["regularizer"]) == {"l2", *(["checkpoint_distance"] if pushes else [])}
    if pushes:
        term = config["regularizer"]["checkpoint_distance"]
        assert term["layers"] == "all"  # algorithm 4: model.parameters()
        assert term["at_restarts"] == restarts
        assert term["units"] == "snapshot_norm"  # "it would make the transfer of hyperparameters possible"


@pytest.mark.slow
@pytest.mark.parametrize("name", VON_BACHMANN)
@pytest.mark.parametrize("size", ["cpu", "digits"])
def test_each_of_von_bachmann_2020_has_its_size_for_a_cpu(name, size):
    paper, _ = composed(f"vonbachmann2020/{name}")
    small, choices = composed(f"vonbachmann2020/{size}/{name}")
    assert choices["model"] == "resnet8"
    assert choices["data"] == {"cpu": "cifar10", "digits": "digits"}[size]
    assert all(small[part] == paper[part] for part in ("optimizer", "batching"))
    assert set(swept(small)) == set(swept(paper))
    assert cycles(small) >= min(4, cycles(paper))
    assert set(small["regularizer"]) == set(paper["regularizer"])
    given = {"strength", "at", "settle"}  # what the number of steps changes
    for term, values in small["regularizer"].items():
        assert has(values, {k: v for k, v in paper["regularizer"][term].items() if k not in given})


def test_every_experiment_of_von_bachmann_2020_is_compared_with_its_text():
    there = {str(path.relative_to(CONF)) for path in (CONF / "experiment/vonbachmann2020").rglob("[!_]*.yaml")}
    places = [f"experiment/vonbachmann2020/{size}" for size in ("", "cpu/", "digits/")]
    assert there == {f"{place}{name}.yaml" for place in places for name in VON_BACHMANN}
