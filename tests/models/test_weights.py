"""Weights from files: every form that people have, and nothing that runs code."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trainopt.data import InMemory, torchvision_arrays
from trainopt.models import MLP, ResNet, WeightsError, load_weights
from trainopt.runner.metrics.build import default_metrics
from trainopt.runner.objectives import CrossEntropy
from trainopt.runner.state.evaluation import evaluate


def network(seed):
    torch.manual_seed(seed)
    return ResNet(1, 4, 8)


def renamed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("w.pt", lambda s: s),
        ("w.pth", lambda s: {"state_dict": s, "epoch": 3}),
        ("w.th", lambda s: {"state_dict": renamed(s, "module."), "best_prec1": 91.7}),
        ("w.pt", lambda s: {"model": renamed(s, "_orig_mod.")}),
        ("w.pt", lambda s: renamed(s, "_orig_mod.module.")),  # of a compiled DDP network
        ("w.pt", lambda s: renamed(s, "module._orig_mod.")),  # of a DDP network whose module is compiled
        ("w.pt", lambda s: {k: v for k, v in s.items() if "num_batches" not in k}),
    ],
)
def test_weights_load_from_every_usual_form(tmp_path, name, form):
    theirs, ours = network(0), network(1)
    torch.save(form(theirs.state_dict()), tmp_path / name)
    load_weights(ours, str(tmp_path / name))
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])  # the last: of a compiled DDP network
def test_a_network_whose_own_names_begin_like_a_prefix_gets_its_weights(tmp_path, prefix):
    theirs, ours = nn.DataParallel(nn.Linear(2, 3)), nn.DataParallel(nn.Linear(2, 3))
    torch.save(renamed(theirs.state_dict(), prefix), tmp_path / "w.pt")
    load_weights(ours, str(tmp_path / "w.pt"))
    assert torch.equal(theirs.module.weight, ours.module.weight)


def test_weights_load_from_safetensors(tmp_path):
    theirs, ours = network(0), network(1)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    load_weights(ours, str(tmp_path / "w.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


def test_what_does_not_fit_is_listed(tmp_path):
    state = network(0).state_dict()
    state["strange"] = state.pop("conv1.weight")
    state["linear.weight"] = torch.zeros(5, 64)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError) as error:
        load_weights(network(1), str(tmp_path / "w.pt"))
    text = str(error.value)
    assert "1 missing: conv1.weight" in text
    assert "1 unknown: strange" in text
    assert "linear.weight (5, 64) instead of (4, 64)" in text


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_file_that_runs_code_is_refused_without_running_it(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write({"state_dict": Harmful()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="refused"):
        load_weights(network(0), str(tmp_path / "w.pt"))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pt", None, "no such file"),
        ("w.safetensors", b"nonsense", "cannot be read"),
        ("w.pt", b"", "w.pt: "),
        ("w.pt", b"nonsense", "w.pt: "),
    ],
)
def test_what_is_no_file_of_weights_is_said(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        load_weights(MLP((1, 2, 2), 2), str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_dict_without_tensors_is_no_weights(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="holds no weights"):
        load_weights(network(0), str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("depth", "file", "right"),
    [(20, "resnet20-12fca82f", 915), pytest.param(56, "resnet56-4bfd9763", 926, marks=pytest.mark.slow)],
)
def test_public_weights_classify_real_images_as_stated(real_data, depth, file, right):
    network = ResNet(3, 10, depth)
    load_weights(network, str(real_data / "weights" / f"{file}.th"))
    data = torchvision_arrays("cifar10", str(real_data))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    test = InMemory(data.x_test[:1000], data.y_test[:1000], mean, std)
    row = evaluate(network, network, test, 250, CrossEntropy(), default_metrics(10, CrossEntropy()))
    assert row["top1"] == pytest.approx(right / 10)
