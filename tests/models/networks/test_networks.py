"""Networks: their sizes, their form, and the images that they take."""

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from trainopt.models import (
    MLP,
    Autoencoder,
    DenseNet,
    PlainConvNet,
    ResNet,
    Transformer,
    input_failure,
    small_image_network,
    smallest_input,
    timm_network,
)
from trainopt.runner.config.options import CONF, read


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (lambda: MLP((1, 28, 28), 10, [12, 12]), 784 * 12 + 12 + 12 * 12 + 12 + 12 * 10 + 10),  # Menssen 2019
        (lambda: MLP((1, 32, 32), 10, [500, 500]), 768_010),  # Liao et al. 2018: 0.77 million
        (lambda: MLP((1, 8, 8), 10, []), 650),
        # Liao et al. 2018, by the authors' program
        (lambda: ResNet(3, 10, 110, relu_after_sum=False, shortcut="average_pool"), 1_728_090),
        (lambda: ResNet(3, 100, 110, relu_after_sum=False, shortcut="average_pool"), 1_733_940),
        (lambda: DenseNet(3, 10, 18, [8, 10, 14]), 1_724_890),
        (lambda: DenseNet(3, 100, 18, [8, 10, 14]), 1_778_260),
        # by its paper alone: "10,000 parameters", six dense layers in three blocks
        (lambda: DenseNet(1, 10, 2, [3, 5, 7]), 10_255),
        # He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85 million
        (lambda: ResNet(3, 10, 20), 269_722),
        (lambda: ResNet(3, 10, 32), 464_154),
        (lambda: ResNet(3, 10, 44), 658_586),
        (lambda: ResNet(3, 10, 56), 853_018),
        # as of timm's networks; ResNet-34 has 9 instead of 49 weights a channel in its first convolution
        (lambda: small_image_network(3, 10, "resnet34"), 21_289_802 - 3 * 64 * 40),
        (lambda: small_image_network(3, 10, "mobilenetv2_100"), 2_236_682),
        # Hinton and Salakhutdinov 2006: each of these with a bias, from pixels to code and back
        (lambda: Autoencoder((1, 28, 28)), 2 * (784_000 + 500_000 + 125_000 + 7_500) + 1750 * 2 + 30 + 784),
        (lambda: Autoencoder((30,), hidden=[7, 5], code=2), 2 * (210 + 35 + 10) + 12 + 2 + 12 + 30),
        # Nanda et al. 2023, p = 113: tokens and positions, attention, 512 hidden units, with biases and one head more
        (
            lambda: Transformer((3,), 113, 114),
            (114 + 3) * 128 + 4 * (128 * 128 + 128) + 2 * 128 * 512 + 640 + 129 * 113,
        ),
    ],
)
def test_parameter_counts(network, parameters):
    assert count(network()) == parameters


def test_the_network_for_small_grey_images_has_about_70_000_parameters():
    network = ResNet(1, 10, 8, relu_after_sum=False, shortcut="average_pool")
    assert count(network) == 75_130  # three units of 16, 32 and 64 channels have no fewer
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) == 8


@pytest.mark.parametrize(("network", "parameters"), [("resnet110", 1_728_090), ("densenet110", 1_724_890)])
def test_the_yamls_are_the_networks_of_the_study(network, parameters):
    node = read(CONF / f"model/{network}.yaml")
    assert count(instantiate(node, in_channels=3, num_classes=10)) == parameters
    if network == "resnet110":  # what a count does not tell
        form = {"relu_after_sum": False, "relu_after_stem": False, "shortcut": "average_pool"}
        assert {key: node[key] for key in form} == form


def unit_by_hand(x, unit, average):
    """A residual unit written out from the paper, in evaluation mode."""

    def norm(x, bn):
        shape = (1, -1, 1, 1)
        scaled = (x - bn.running_mean.view(shape)) / (bn.running_var.view(shape) + bn.eps).sqrt()
        return scaled * bn.weight.view(shape) + bn.bias.view(shape)

    out = norm(unit.conv1(x), unit.bn1).clamp(min=0)
    out = norm(unit.conv2(out), unit.bn2)
    if unit.stride == 2:
        blocks = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2)
        x = blocks.mean((3, 5)) if average else blocks[:, :, :, 0, :, 0]
        zeros = torch.zeros_like(x[:, : x.shape[1] // 2])
        x = torch.cat([zeros, x, zeros], 1)
    return out + x


@pytest.mark.parametrize("form", ["classic", "liao"])
def test_units_are_those_of_the_papers(form):
    torch.manual_seed(0)
    classic = form == "classic"
    network = ResNet(3, 10, 8, classic, "subsample" if classic else "average_pool").double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    for stage in (network.layer1, network.layer2):
        expected = unit_by_hand(x, stage[0], average=not classic)
        x = stage[0](x)
        assert torch.allclose(x, expected.clamp(min=0) if classic else expected, atol=1e-12)


@pytest.mark.parametrize("relu_after_stem", [False, True])
def test_the_stem_ends_in_a_relu_where_it_is_said(relu_after_stem):
    network = ResNet(1, 2, 8, relu_after_sum=False, shortcut="average_pool", relu_after_stem=relu_after_stem)
    seen = []
    network.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(4, 1, 8, 8)
    network(x)
    expected = nn.functional.batch_norm(network.conv1(x), None, None, training=True)
    assert torch.allclose(seen[0], expected.clamp(min=0) if relu_after_stem else expected, atol=1e-5)


def dense_by_hand(x, network, layers, growth):
    """A DenseNet in evaluation mode written out with functions, from its convolutions and norms in their order."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(c.bias is None for c in convolutions)

    def active(x, norm):
        columns = [s.view(-1, 1, 1) for s in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
        mean, variance, weight, bias = columns
        return ((x - mean) / (variance + norm.eps).sqrt() * weight + bias).clamp(min=0)

    seen = nn.functional.conv2d(x, convolutions.pop(0).weight, padding=1)  # the stem: neither norm nor ReLU
    for block, new in enumerate(growth):
        if block:
            mixed = torch.einsum("oc,bchw->bohw", convolutions[0].weight[:, :, 0, 0], active(seen, norms.pop(0)))
            del convolutions[0]
            b, c, h, w = mixed.shape
            seen = mixed.view(b, c, h // 2, 2, w // 2, 2).mean((3, 5))
        for _ in range(layers):
            added = nn.functional.conv2d(active(seen, norms.pop(0)), convolutions.pop(0).weight, padding=1)
            assert added.shape[1] == new
            seen = torch.cat([seen, added], 1)
    out = active(seen, norms.pop(0)).mean((2, 3)) @ network.linear.weight.T + network.linear.bias
    assert not norms + convolutions
    return out


@pytest.mark.parametrize(("layers", "growth"), [(2, [3, 5, 7]), (3, [4, 2]), (1, [6])])
def test_dense_networks_are_what_the_papers_describe(layers, growth):
    torch.manual_seed(0)
    network = DenseNet(1, 10, layers, growth).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    assert torch.allclose(network(x), dense_by_hand(x, network, layers, growth), rtol=1e-10, atol=1e-12)
    assert network.get_classifier() is network.linear


def test_dense_networks_begin_with_the_weights_of_the_studys_program():
    torch.manual_seed(0)
    network = DenseNet(3, 10)
    convolution = network.features[-1].conv  # 578 channels to 14
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 14)) ** 0.5, rel=0.02)
    assert not network.linear.bias.any()


@pytest.mark.parametrize("side", [8, 28, 32, 7, 1])
def test_dense_networks_take_small_images(side):
    network = DenseNet(1, 10, 2, [3, 5, 7])
    assert smallest_input(network, (1, side, side)) is None
    assert network(torch.zeros(2, 1, side, side)).shape == (2, 10)


def test_a_dense_network_without_blocks_is_refused():
    with pytest.raises(ValueError, match="a number for each block"):
        DenseNet(3, 10, growth=[])


@pytest.mark.parametrize("depth", [7, 9, 21, 1])
def test_a_depth_that_is_no_such_network_is_refused(depth):
    with pytest.raises(ValueError, match="must be 6n \\+ 2"):
        ResNet(3, 10, depth)


def test_networks_of_timm_get_channels_and_classes():
    network = timm_network(1, 7, "resnet18")
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    with pytest.raises(ValueError, match="did you mean resnet18"):
        timm_network(1, 7, "resnet19")
    with pytest.raises(ValueError, match="does not take these options"):
        timm_network(1, 7, "resnet18", auxiliary=True)


def test_an_auxiliary_classifier_is_there_while_training():
    network = timm_network(3, 4, "inception_v3", auxiliary=True)
    logits, auxiliary = network.train()(torch.zeros(2, 3, 299, 299))
    assert logits.shape == auxiliary.shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "shape", "side"),
    [
        ("resnet18", (1, 8, 8), 32),  # it divides the side by 32
        ("resnet18", (3, 40, 40), None),
        pytest.param("inception_v3", (1, 8, 8), 75, marks=pytest.mark.slow),  # convolutions without padding
        ("vit_tiny_patch16_224", (3, 32, 32), 224),  # takes this size only
        ("mobilenetv2_140", (3, 28, 28), 32),
        ("dla46_c", (3, 8, 8), 32),  # multiples of 32 only
        ("dla46_c", (3, 40, 40), 64),
        pytest.param("hrnet_w18_small", (3, 70, 70), 96, marks=pytest.mark.slow),
    ],
)
def test_images_are_enlarged_to_what_a_network_needs(name, shape, side):
    network = timm_network(shape[0], 10, name)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = torch.get_rng_state()
    assert smallest_input(network, shape, largest=128) == side
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_a_network_whose_sizes_follow_no_rule_gets_one_that_works():
    class Odd(nn.Module):
        """Takes images of 40 pixels, and of 75 and more."""

        def forward(self, images):
            if images.shape[-1] != 40 and images.shape[-1] < 75:
                raise RuntimeError("not these")
            return images.mean((1, 2, 3), keepdim=True)

    assert smallest_input(Odd(), (3, 8, 8)) == 40
    assert smallest_input(Odd(), (3, 41, 41)) == 75
    assert input_failure(Odd(), (3, 41, 41)) == "not these"
    assert input_failure(Odd(), (3, 40, 40)) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("convnext_atto", 32),
        ("dpn48b", 32),
        ("edgenext_xx_small", 32),
        ("fastvit_t8", 32),
        ("ghostnet_050", 32),
        ("lcnet_035", 32),
        ("mobilevit_xxs", 32),
        ("poolformer_s12", 32),
        ("regnetx_002", 32),
        ("resnest14d", 32),
        ("crossvit_tiny_240", 240),
        ("coat_lite_tiny", 224),
    ],
)
def test_networks_of_many_families_get_a_size_that_works(name, side):
    network = timm_network(3, 10, name)
    assert smallest_input(network, (3, 8, 8)) == side
    assert network.eval()(torch.zeros(1, 3, side, side)).shape == (1, 10)


def test_one_image_is_enough_where_batch_norm_has_several_positions():
    assert input_failure(ResNet(1, 10, 8), (1, 8, 8), batch_size=1) is None  # 2x2 positions
    assert "more than 1 value per channel" in input_failure(ResNet(1, 10, 8), (1, 4, 4), batch_size=1)


def test_small_networks_take_small_images():
    assert smallest_input(ResNet(1, 10, 8), (1, 8, 8)) is None
    assert smallest_input(MLP((1, 3, 5), 10), (1, 3, 5)) is None


def test_a_network_that_takes_no_such_images_says_so():
    with pytest.raises(ValueError, match="takes no images of shape .2, "):
        smallest_input(ResNet(3, 10, 8), (2, 8, 8))


def plain_by_hand(x, network, kernels, pool_after):
    """AlexNet's form written out with functions alone, from the layers' weights in their order."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)] or [nn.Identity()] * len(kernels)
    for number, (conv, norm, side) in enumerate(zip(convolutions, norms, kernels, strict=True), start=1):
        columns = nn.functional.unfold(x, side, padding=side // 2)
        x = (conv.weight.flatten(1) @ columns).view(len(x), -1, *x.shape[2:]) + conv.bias.view(-1, 1, 1)
        x = norm(x).clamp(min=0)
        if number in pool_after:
            b, c, h, w = x.shape
            x = x.view(b, c, h // 2, 2, w // 2, 2).amax((3, 5))
    return x.mean((2, 3)) @ network.linear.weight.T + network.linear.bias


ALEXNET = ([64, 192, 384, 256, 256], [11, 5, 3, 3, 3], [1, 2, 5], False)
VGG16 = ([64] * 2 + [128] * 2 + [256] * 3 + [512] * 6, [3] * 13, [2, 4, 7, 10, 13], True)


@pytest.mark.parametrize(("arguments", "parameters"), [(ALEXNET, 2_472_266), (VGG16, 14_728_266)])
def test_plain_networks_are_what_the_papers_describe(arguments, parameters):
    torch.manual_seed(0)
    _, kernels, pool_after, _ = arguments
    network = PlainConvNet(3, 10, *arguments).double().eval()
    assert count(network) == parameters
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.allclose(network(x), plain_by_hand(x, network, kernels, pool_after), rtol=1e-10, atol=1e-12)
    assert network.get_classifier() is network.linear


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([8, 8], [3, 5, 7]), "one for each of 2 channels"),
        (([8, 8], [4]), "must be odd"),
        (([8, 8], [3], [3]), "numbers of convolutions, 1 to 2"),
        (([],), "one for each of 0 channels"),
    ],
)
def test_plain_networks_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PlainConvNet(3, 10, *arguments)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050"])
def test_networks_of_timm_for_small_images_end_in_an_eighth_of_the_side(name):
    network = small_image_network(3, 10, name).eval()
    x = torch.zeros(1, 3, 32, 32)
    assert network.forward_features(x).shape[2:] == (4, 4)
    assert network(x).shape == (1, 10)
    assert smallest_input(network, (3, 8, 8)) is None
    assert smallest_input(network, (3, 4, 4), largest=32) == 8


def test_a_network_without_such_strides_is_refused():
    with pytest.raises(ValueError, match="must be a ResNet or MobileNetV2"):
        small_image_network(3, 10, "vit_tiny_patch16_224")
