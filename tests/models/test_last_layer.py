"""The last layer alone: the split, what is frozen, and that the fast form computes what the network does."""

import copy

import pytest
import torch
from timm.layers import ConvNormAct
from torch import fx, nn
from torch.nn.functional import avg_pool2d, batch_norm, dropout

from trainopt.models import (
    MLP,
    DenseNet,
    Function,
    LastLayer,
    PlainConvNet,
    ResNet,
    small_image_network,
    timm_network,
)
from trainopt.models.frozen_inference import inference_form

GREY, SMALL, LARGE = (1, 8, 8), (3, 16, 16), (3, 64, 64)


class Branches(nn.Module):
    """Parallel branches whose outputs are concatenated, as in Inception."""

    def __init__(self, num_classes):
        super().__init__()
        self.wide = nn.Sequential(ConvNormAct(3, 4, 1), ConvNormAct(4, 6, (1, 5)), ConvNormAct(6, 6, (5, 1)))
        self.narrow, self.pooled = ConvNormAct(3, 5, 3), ConvNormAct(3, 4, 1)
        self.fc, self.drop_rate = nn.Linear(15, num_classes), 0.2

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        pooled = avg_pool2d(x, 3, stride=1, padding=1)
        y = torch.cat([self.wide(x), self.narrow(x), self.pooled(pooled)], 1).mean((2, 3))
        return self.fc(dropout(y, self.drop_rate, self.training))


NETWORKS = {  # those of conf/model, and other forms of timm
    "mlp": (lambda: MLP(GREY, 5, [12], dropout=0.3), GREY, 0.3),
    "mlp, linear": (lambda: MLP(GREY, 5, []), GREY, 0.0),
    "resnet8": (lambda: ResNet(3, 5, 8), SMALL, 0.0),
    "resnet8, Liao": (lambda: ResNet(1, 5, 8, relu_after_sum=False, shortcut="average_pool"), GREY, 0.0),
    "densenet8": (lambda: DenseNet(1, 5, 2, [3, 5, 7]), GREY, 0.0),
    "alexnet_cifar": (
        lambda: PlainConvNet(3, 5, [64, 192, 384, 256, 256], [11, 5, 3, 3, 3], [1, 2, 5]),
        SMALL,
        0.0,
    ),
    "vgg16_cifar": (lambda: PlainConvNet(3, 5, [64, 128, 256], pool_after=[2], batch_norm=True), SMALL, 0.0),
    "resnet34_cifar": (lambda: small_image_network(3, 5, "resnet34", drop_rate=0.2), SMALL, 0.2),
    "mobilenetv2_cifar": (lambda: small_image_network(3, 5, "mobilenetv2_100"), SMALL, 0.0),
    "resnet18": (lambda: timm_network(3, 5, "resnet18", drop_rate=0.2), LARGE, 0.2),
    "resnet50": (lambda: timm_network(3, 5, "resnet50"), LARGE, 0.0),
    "mobilenetv2_140": (lambda: timm_network(3, 5, "mobilenetv2_140", drop_rate=0.2), LARGE, 0.2),
    "inception_v3": (lambda: timm_network(3, 5, "inception_v3", drop_rate=0.2), (3, 96, 96), 0.2),
    "branches": (lambda: Branches(5), SMALL, 0.2),
    "SiLU, squeeze and excite": (lambda: timm_network(3, 5, "efficientnet_b0", drop_rate=0.1), LARGE, 0.1),
    "no batch norm": (lambda: timm_network(3, 5, "convnext_atto", drop_rate=0.1), LARGE, 0.1),
    "weights made of weights": (lambda: timm_network(3, 5, "nf_regnet_b0"), LARGE, 0.0),
}
KEEP_NORMS = ("resnet8, Liao", "densenet8", "no batch norm", "weights made of weights")
SLOW = ("inception_v3", "resnet50", "resnet34_cifar")
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETWORKS]
ALL_NORMS_FOLD = [n for n in NAMES if n not in KEEP_NORMS]


def with_statistics(network):
    """Batch norm as after some training; the gammas that timm begins with are zero, which hides a branch."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network


def split(name):
    """A network in evaluation mode, and a copy of it split, with its own classifier's weights."""
    torch.manual_seed(0)
    make, shape, _ = NETWORKS[name]
    network = with_statistics(make())
    model = LastLayer(copy.deepcopy(network), shape)
    put_back(model, network)
    return network.eval(), model, torch.randn(3, *shape)


def put_back(model, network):
    for name in model.classifiers:
        model.network.get_submodule(name).load_state_dict(network.get_submodule(name).state_dict())


def difference(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("name", NAMES)
def test_head_of_features_is_the_network(name):
    network, model, x = split(name)
    model.eval()
    with torch.no_grad():
        expected, logits = network(x), model.head(model.features(x))
    assert expected.std() > 1e-3
    assert difference(logits, expected) < 1e-5  # float32; between 0 and 3e-6 was seen
    assert torch.equal(model(x), logits)


@pytest.mark.parametrize("name", ALL_NORMS_FOLD)
def test_batch_norm_is_folded_away(name):
    torch.manual_seed(0)
    form = inference_form(with_statistics(NETWORKS[name][0]()).eval())
    assert isinstance(form, fx.GraphModule)
    assert not [m for m in form.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not [node for node in form.graph.nodes if node.target is batch_norm]


@pytest.mark.parametrize("name", NAMES)
def test_the_dropout_before_the_classifier_is_the_heads(name):
    _, model, _ = split(name)
    assert getattr(model.head.dropout, "p", 0.0) == NETWORKS[name][2]


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Identity()])
@pytest.mark.parametrize(
    ("size", "geometry"),
    [
        ((1, 1), {"kernel_size": 3, "padding": 1}),
        ((3, 3), {"kernel_size": 3, "padding": 1}),
        ((2, 3), {"kernel_size": 3, "padding": 1, "bias": False}),
        ((6, 5), {"kernel_size": 3, "padding": 1, "stride": 2}),
        ((5, 6), {"kernel_size": (5, 1), "padding": (2, 0), "stride": (3, 2)}),
        ((3, 5), {"kernel_size": 3}),
        ((2, 2), {"kernel_size": 4, "padding": 3, "stride": 3}),
        ((1, 2), {"kernel_size": 2, "padding": 3, "stride": 3}),
        ((4, 4), {"kernel_size": 3, "padding": 1}),
    ],
)
def test_convolutions_on_the_smallest_images(size, geometry, activation):
    """Against the same layers in float64; 4x4 pixels, the last case, are more than the smallest."""
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 8, **geometry)
    x = torch.randn(3, 256, *size)
    want = activation(copy.deepcopy(conv).double()(x.double())).detach()
    got = inference_form(nn.Sequential(conv, activation).eval())(x).detach()
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_traced_is_computed_as_it_is():
    class Branching(MLP):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    torch.manual_seed(0)
    network = Branching(GREY, 5, [6])
    model = LastLayer(copy.deepcopy(network), GREY).eval()
    put_back(model, network)
    for x in (torch.ones(2, *GREY), -torch.ones(2, *GREY)):
        assert torch.equal(model(x), network(x))


def test_what_is_done_in_place_stays():
    class InPlace(MLP):
        def forward(self, x):
            x = x + 1
            x.mul_(2)  # nobody looks at what it returns
            return super().forward(x)

    torch.manual_seed(0)
    network = InPlace(GREY, 5, [6])
    model = LastLayer(copy.deepcopy(network), GREY).eval()
    put_back(model, network)
    x = torch.randn(3, *GREY)
    assert torch.equal(model(x), network(x))


def test_layers_that_share_a_convolution_are_folded_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)
            self.one, self.two, self.fc = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Linear(3, 5)

        def get_classifier(self):
            return self.fc

        def forward(self, x):
            y = self.relu(self.one(self.conv(x)))
            return self.fc(self.relu(self.two(self.conv(y)) + y).mean((2, 3)))

    torch.manual_seed(0)
    network = with_statistics(Twice()).eval()
    model = LastLayer(copy.deepcopy(network), SMALL).eval()
    put_back(model, network)
    x = torch.randn(3, *SMALL)
    assert difference(model(x), network(x)) < 1e-6


def test_training_moves_the_classifier_alone():
    torch.manual_seed(0)
    network = with_statistics(timm_network(3, 5, "resnet10t", drop_rate=0.2, drop_path_rate=0.2))
    before = copy.deepcopy(network.state_dict())
    model = LastLayer(network, LARGE).train()
    names = [name for name, p in model.network.named_parameters() if p.requires_grad]
    assert names == ["fc.weight", "fc.bias"]
    assert [n for n, m in model.network.named_modules() if m.training] == ["fc"]
    began = model.network.fc.weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for _ in range(3):
        x = torch.randn(8, *LARGE)
        assert not model.features(x).requires_grad
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], before[n]) for n in before if not n.startswith("fc."))
    assert not torch.equal(after["fc.weight"], began)


def test_the_classifier_begins_anew_by_the_seed():
    def made(seed):
        network = ResNet(3, 5, 8)
        old = network.linear.weight.detach().clone()
        torch.manual_seed(seed)
        return old, LastLayer(network, SMALL).network.linear.weight.detach()

    (old, one), (_, again), (_, other) = made(1), made(1), made(2)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, old)
    assert one.abs().max() <= 1 / 64**0.5  # as nn.Linear begins: uniform up to 1 / sqrt(in_features)


def test_a_backbone_in_bfloat16_is_near_the_network():
    network, model, x = split("resnet8")
    low = LastLayer(copy.deepcopy(network), SMALL, bf16=True).eval()
    features, exact = low.features(x), model.features(x)
    assert features.dtype == torch.float32
    assert 1e-4 < difference(features, exact) < 0.02  # eight bits


def test_another_backbone_is_not_loaded_in_its_place():
    _, model, _ = split("resnet8")
    state = copy.deepcopy(model.state_dict())
    state["linear.weight"] += 1
    model.load_state_dict(state)
    assert torch.equal(model.network.linear.weight, state["linear.weight"])
    state["layer1.0.bn1.running_mean"] += 1
    with pytest.raises(RuntimeError, match="frozen layers differ"):
        model.load_state_dict(state)


class Pooled(nn.Module):
    """Classifies every position and takes the mean."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        return self.fc(x.flatten(2).mT).mean(1)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Function, "has no method get_classifier"),
        (lambda: nn.Linear(3, 2), "has no method get_classifier"),
        (Pooled, "is not the network's last layer"),
        (lambda: timm_network(3, 5, "deit_tiny_distilled_patch16_224"), "the classifier is 2 layers"),
        (lambda: timm_network(3, 0, "resnet10t"), "the classifier is of the class Identity"),
        (lambda: timm_network(3, 5, "dpn48b"), "the classifier is of the class Conv2d"),
    ],
)
def test_a_classifier_that_is_no_linear_layer_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        LastLayer(network(), SMALL)


@pytest.mark.slow
def test_the_auxiliary_classifier_of_inception_is_trained_too():
    torch.manual_seed(0)
    network = with_statistics(timm_network(3, 5, "inception_v3", drop_rate=0.2, auxiliary=True)).eval()
    model = LastLayer(copy.deepcopy(network), (3, 299, 299))
    put_back(model, network)
    assert model.classifiers == ["fc", "AuxLogits.fc"]
    trained = {n for n, p in model.network.named_parameters() if p.requires_grad}
    assert trained == {"fc.weight", "fc.bias", "AuxLogits.fc.weight", "AuxLogits.fc.bias"}
    x = torch.randn(1, 3, 299, 299)
    with torch.no_grad():
        network.training = True  # of its layers batch norm and dropout stay in evaluation mode
        logits, auxiliary = network(x)
        features = model.features(x)
        model.head.dropout.eval()
        ours = model.head(features)
    assert features.shape == (1, 2048 + 768)
    assert difference(ours[0], logits) < 1e-5
    assert difference(ours[1], auxiliary) < 1e-5
    assert torch.equal(model.eval().head(features), ours[0])
