"""The configurations of the experiments: composed, swept, and their parts."""

from functools import cache

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from trainopt.runner.config.run_names import register_resolvers

PLAIN = {"flip": 0.0, "crop_padding": 0}


def falls(*milestones):
    return {"milestones": list(milestones), "gamma": 0.1}


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
