"""Weights of networks with other classes: from files, and those that timm fetches."""

import functools
import os
import socket

import pytest
import timm
import torch

from trainopt.models import ResNet, WeightsError, load_weights, timm_network


def test_a_file_with_another_classifier_loads_where_that_one_begins_anew(tmp_path):
    theirs, ours = ResNet(3, 7, 8), ResNet(3, 5, 8)
    began = ours.linear.weight.detach().clone()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="of another shape"):
        load_weights(ours, str(tmp_path / "w.pt"))
    load_weights(ours, str(tmp_path / "w.pt"), exclude=["linear"])
    assert torch.equal(ours.conv1.weight, theirs.conv1.weight)
    assert torch.equal(ours.linear.weight, began)
    torch.save({n: v for n, v in theirs.state_dict().items() if n != "conv1.weight"}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="1 missing: conv1.weight"):
        load_weights(ours, str(tmp_path / "w.pt"), exclude=["linear"])


@pytest.mark.slow
def test_inceptions_file_loads_without_the_auxiliary_classifier(tmp_path):
    theirs = timm_network(3, 7, "inception_v3", auxiliary=True)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    ours, with_auxiliary = (timm_network(3, 5, "inception_v3", auxiliary=has_one) for has_one in (False, True))
    load_weights(ours, str(tmp_path / "w.pt"), exclude=["fc"])
    load_weights(with_auxiliary, str(tmp_path / "w.pt"), ["fc", "AuxLogits.fc"])
    for network in (ours, with_auxiliary):
        assert torch.equal(network.Mixed_7c.branch_pool.conv.weight, theirs.Mixed_7c.branch_pool.conv.weight)
        assert network.fc.weight.shape == (5, 2048)
    assert torch.equal(with_auxiliary.AuxLogits.conv1.conv.weight, theirs.AuxLogits.conv1.conv.weight)


@pytest.fixture
def pretrained(tmp_path, monkeypatch):
    """The function makes a network of timm with the weights of another one in place of those from the hub."""
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost")  # so that the hub is not looked up
    create_model = timm.create_model

    def create(weights, *arguments, **options):
        torch.save(weights.state_dict(), tmp_path / "w.pt")
        overlay = {"file": str(tmp_path / "w.pt")}
        monkeypatch.setattr(timm, "create_model", functools.partial(create_model, pretrained_cfg_overlay=overlay))
        return timm_network(*arguments, pretrained=True, **options)

    return create


def test_pretrained_weights_serve_other_classes(pretrained):
    theirs = timm_network(3, 1000, "test_resnet")
    ours = pretrained(theirs, 3, 5, "test_resnet")
    assert torch.equal(ours.layer4[0].conv1.weight, theirs.layer4[0].conv1.weight)
    assert ours.fc.weight.shape == (5, theirs.fc.in_features)


@pytest.mark.slow
@pytest.mark.parametrize("auxiliary", [True, False])
def test_pretrained_weights_of_inception_serve_other_classes(pretrained, auxiliary):
    theirs = timm_network(3, 1000, "inception_v3", auxiliary=True)
    ours = pretrained(theirs, 3, 5, "inception_v3", auxiliary=auxiliary)
    assert torch.equal(ours.Mixed_7c.branch_pool.conv.weight, theirs.Mixed_7c.branch_pool.conv.weight)
    assert ours.fc.weight.shape == (5, 2048)
    if auxiliary:
        assert torch.equal(ours.AuxLogits.conv1.conv.weight, theirs.AuxLogits.conv1.conv.weight)
        assert ours.AuxLogits.fc.weight.shape == (5, 768)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_without_a_network_it_is_said_at_once_which_file_to_get(monkeypatch, auxiliary):
    def unknown(*_):
        raise socket.gaierror("Name or service not known")

    def create_model(*_, **__):
        raise OSError("offline" if os.environ.get("HF_HUB_OFFLINE") == "1" else "tried over and over")

    for name in (
        "HF_HUB_OFFLINE",
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.setenv(name, "")  # so that what is there comes back
        monkeypatch.delenv(name)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(WeightsError) as error:
        timm_network(3, 5, "inception_v3", auxiliary=auxiliary, pretrained=True)
    text = str(error.value)
    assert "could not be fetched (OSError: offline)" in text
    assert "fetch https://download.pytorch.org/models/inception_v3_google-1a9a5a14.pth" in text
    assert text.endswith("and give model.weights=FILE")
