"""The experiments against the studies' texts: what each run is, and how many a sweep has."""

import pytest
import yaml

from helpers.experiments import PLAIN, composed, falls, has, swept
from trainopt.runner.config.options import CONF

AUGMENTED = {"flip": 0.5, "crop_padding": 4, "crop_probability": 0.5, "fill": "black", "cutout": 0, "mixup": 0.0}
NETWORKS = ["alexnet_cifar", "vgg16_cifar", "resnet34_cifar"]
KS = [1, 2, 5]

# Mandatelli 2018: (model, optimizer, schedule, duration, augmentation, {key: values} of the sweep)
MOMENTUM = {"momentum": 0.5, "nesterov": False, "weight_decay": 0, "dampening": 0}
NESTEROV = {**MOMENTUM, "nesterov": True, "lr": 0.1}
ADAPTIVE = {"momentum": 0.9, "gamma": 1.0, "lr_bounds": [0.001, 0.1], "grad_norm_sq_bounds": [1e-4, 1e10]}
CYCLE = {"mode": "triangular", "window": "linear", "step_up": "10epochs", "base_lr": 0.001, "max_lr": 0.1}


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
