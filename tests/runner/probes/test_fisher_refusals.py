"""What the fisher probe cannot measure is refused in one line."""

import pytest

from helpers.cli import refusal
from trainopt.runner.probes.fisher import FisherProbe

OWN_LAYER = """
import torch
from torch import nn

class Scaled(nn.Module):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.out = nn.Linear(64, num_classes)

    def forward(self, images):
        return self.out(self.scale * images.flatten(1))
"""


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("model=mlp probe.fisher.rows=mine", "probe.fisher.rows=mine: must be one of batch, own_loss"),
        ("model=mlp probe.fisher.zero_below=1", "probe.fisher.zero_below=1: must be in [0, 1)"),
        (
            "model=mlp probe.fisher.each_epoch=true probe.fisher.every=1epochs",
            "probe.fisher.each_epoch=true: counts steps; give probe.fisher.every=50steps",
        ),
        (
            "model=mlp probe.fisher.benchmark=true deterministic=true",
            "probe.fisher: benchmark=true: timing changes the last bits; give false with deterministic=true",
        ),
        (
            "model=mlp probe.fisher.benchmark=true batching=norm_test",
            "probe.fisher: benchmark=true: timing changes the last bits, on which batching depends; give false",
        ),
        (
            "model=mlp probe=[fisher,gradient_noise] probe.fisher.benchmark=true",
            "probe.gradient_noise: benchmark=false: another probe with rows=batch has true; give both the same",
        ),
        (
            "model=mlp probe=[fisher,gradient_noise] probe.gradient_noise.share_gradients=true",
            "probe.gradient_noise: share_gradients=true: another probe with rows=batch has false; give both the same",
        ),
        *(
            (
                f"model=mlp probe.fisher.share_gradients=true {option}",
                f"probe.fisher: share_gradients=true: with {reason} the step's own pass is not measured; give false",
            )
            for option, reason in (
                ("probe.fisher.rows=own_loss", "rows=own_loss"),
                ("optimizer=ehnewton", "an optimizer that differentiates the gradient"),
                ("compile=true", "compile"),
                ("gradient.accumulation_steps=2", "gradient.accumulation_steps"),
            )
        ),
        ("model=function data=none", "probe.fisher: measures per-sample gradients, and a test function has no"),
        ("model=mlp model._target_=own_layer_network.Scaled", "probe.fisher: the network (Scaled): per-sample"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line_before_the_run(tmp_path, monkeypatch, arguments, message):
    (tmp_path / "own_layer_network.py").write_text(OWN_LAYER)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert message in refusal("probe=[fisher]", *arguments.split())


def test_a_value_out_of_range_is_refused_where_a_library_gives_it():
    with pytest.raises(ValueError, match="rows=mine: must be one of batch, own_loss"):
        FisherProbe(rows="mine")
    with pytest.raises(ValueError, match=r"zero_below=-1: must be in \[0, 1\)"):
        FisherProbe(zero_below=-1)
