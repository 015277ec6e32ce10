"""Runs in float64 before their first step, and the gradient of each sample by a backward pass of its own."""

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch.nn.functional import cross_entropy

from trainopt.runner.config.options import CONF, Vocabulary, default_choices
from trainopt.runner.config.run_names import register_resolvers
from trainopt.runner.config.validate import check_config
from trainopt.runner.training.build import build

MLP = ("model=mlp", "model.hidden=[7]", "model.activation=tanh", "data.limit=60", "batching.size=12")


def built(*overrides):
    """A run in float64 that stands before its first step."""
    register_resolvers()
    with initialize_config_module("trainopt.conf", version_base="1.3"):
        config = compose("config", list(overrides))
    OmegaConf.set_struct(config, False)
    check_config(config, default_choices(), Vocabulary([CONF]))
    run = build(config)
    run.network.double()
    return run


def double(batch):
    """The batch in float64."""
    return type(batch)(batch.inputs.double(), *batch[1:])


def jacobian(run, batch):
    """J, from one backward pass for each sample; of networks without batch norm."""
    params = [p for p in run.network.parameters() if p.requires_grad]
    found = []
    for image, target in zip(batch.inputs, batch.targets, strict=True):
        loss = cross_entropy(run.objective.network(image[None]), target[None])
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)]))
    return torch.stack(found)


def closure_of(run, batch):
    """What the loop calls."""

    def closure():
        run.optimizer.zero_grad()
        loss = run.objective(batch.inputs, batch.targets)[0]
        if not getattr(run.optimizer, "needs_graph", False):
            loss.backward()
        return loss

    return closure
