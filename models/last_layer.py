"""Networks whose last layer alone is trained."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .frozen_inference import inference_form


class LastLayer(nn.Module):
    """A frozen backbone and a newly initialized classifier, (B, C, H, W) -> (B, classes).

    logits = head(features(images)). The backbone is the network without its classifier, always in evaluation mode,
    without graph and gradients: statistics of batch norm do not change. Where the network has an auxiliary classifier
    (Inception), that one's last layer is trained too, the layers before it are frozen, and the output is
    (logits, auxiliary logits) while training.

    `state_dict` has the names of the network itself, so that it loads into the network.

    >>> from trainopt.models import MLP
    >>> model = LastLayer(MLP((1, 8, 8), 10, hidden=[20]), (1, 8, 8))
    >>> model.features(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 20])
    >>> [name for name, p in model.network.named_parameters() if p.requires_grad]
    ['3.weight', '3.bias']

    Args:
        network: has `get_classifier()`, as networks of timm and ours do, which returns an `nn.Linear`; becomes a
            part of this module.
        image_shape: (C, H, W) of its images.
        bf16: compute the features in bfloat16 where autocast does; they are float32 in any case.

    Attributes:
        classifiers: names of the trained layers within the network.

    Raises:
        ValueError: the classifier is no linear layer at the network's end.
    """

    def __init__(self, network: nn.Module, image_shape: tuple[int, ...], bf16: bool = False):
        super().__init__()
        self.classifiers, drop_rate = _find_classifiers(network, image_shape)
        layers: list[Any] = [network.get_submodule(name) for name in self.classifiers]
        network.requires_grad_(False)
        for layer in layers:
            layer.requires_grad_(True)
            layer.reset_parameters()
        self.network = network
        self.head = Head(layers, drop_rate)
        self.bf16 = bf16
        self._form: list[nn.Module] = []  # a list, so that it does not become a submodule
        self.train()

    def train(self, mode: bool = True) -> "LastLayer":
        """Sets the mode of the head; the backbone stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        self.head.train(mode)
        return self

    def forward(self, images: Tensor) -> Any:
        """Returns logits (B, classes), or (logits, auxiliary logits) while training."""
        return self.head(self.features(images))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Returns the inputs of the classifiers, (B, F) float32; those of the auxiliary one come last."""
        if not self._form:
            self._form.append(inference_form(_without(self.network, self.classifiers), self.bf16))
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            features = self._form[0](images)
        parts = features if isinstance(features, tuple) else (features,)
        return torch.cat([part.float() for part in parts], 1) if len(parts) > 1 else parts[0].float()

    def release(self) -> None:
        """Frees the memory of the form in which features are computed; `features` builds it again."""
        self._form.clear()

    @property
    def width(self) -> int:
        """F, the number of features."""
        return sum(self.head.widths)

    def frozen(self) -> dict[str, Tensor]:
        """Returns the weights and buffers of the backbone by name."""
        trained = tuple(f"{name}." for name in self.classifiers)
        return {name: value for name, value in self.state_dict().items() if not name.startswith(trained)}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Returns the network's."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads the classifiers from what `state_dict` returned.

        Raises:
            RuntimeError: names or shapes differ, or the frozen layers do.
        """
        for name, value in self.frozen().items():
            loaded = state_dict.get(name, value)
            if loaded.shape == value.shape and not torch.equal(loaded.to(value.device), value):
                raise RuntimeError(f"the frozen layers differ ({name}): was model.weights changed?")
        return self.network.load_state_dict(state_dict, strict, assign)


class Head(nn.Module):
    """Linear classifiers on features (B, F); the auxiliary one gets the last of the features.

    Args:
        layers: the classifier, and the auxiliary classifier where there is one.
        drop_rate: dropout before the first.
    """

    def __init__(self, layers: list[nn.Linear], drop_rate: float = 0.0):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.widths = [layer.in_features for layer in layers]
        self.dropout = nn.Dropout(drop_rate) if drop_rate > 0 else nn.Identity()

    def forward(self, features: Tensor) -> Any:
        """Returns logits (B, classes), or (logits, auxiliary logits) while training."""
        if len(self.layers) == 1:
            return self.layers[0](self.dropout(features))
        main, auxiliary = features.split(self.widths, 1)
        logits = self.layers[0](self.dropout(main))
        return (logits, self.layers[1](auxiliary)) if self.training else logits


def _without(network: nn.Module, classifiers: list[str]) -> nn.Module:
    """Returns the backbone: a copy of the network in evaluation mode with identities for its classifiers."""
    backbone = copy.deepcopy(network).eval()
    backbone.training = len(classifiers) > 1  # an auxiliary branch tests the network's flag, batch norm its own
    for name in classifiers:
        backbone.set_submodule(name, nn.Identity())
    return backbone


@torch.no_grad()
def _find_classifiers(network: nn.Module, image_shape: tuple[int, ...]) -> tuple[list[str], float]:
    """Returns the names of the classifiers and the rate of the dropout before the first.

    They are the linear layers whose outputs, in a forward pass, are the network's.
    """
    if not hasattr(network, "get_classifier"):
        raise ValueError(f"{type(network).__name__} has no method get_classifier, which returns its classifier")
    classifier = network.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear):
        raise ValueError(f"the classifier is {_kind(classifier)}; only one linear layer (nn.Linear) can be trained")
    calls: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}  # by name: layer, input, output

    def record(name: str) -> Any:
        return lambda layer, inputs, output: calls.update({name: (layer, inputs[0], output)})

    layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Dropout)}
    hooks = [layer.register_forward_hook(record(name)) for name, layer in layers.items()]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    network.training = True  # as in _without
    try:
        with torch.random.fork_rng(devices=[]):
            output = network(torch.zeros(2, *image_shape))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    outputs = output if isinstance(output, tuple) else (output,)
    names = [
        name
        for network_output in outputs
        for name, (layer, _, output) in calls.items()
        if output is network_output and isinstance(layer, nn.Linear)
    ]
    if len(names) != len(outputs) or len(outputs) > 2 or layers[names[0]] is not classifier:
        raise ValueError("the classifier is not the network's last layer; it cannot be trained alone")
    features = calls[names[0]][1]
    if features.dim() != 2:
        raise ValueError(f"the inputs of the classifier have {features.dim()} dimensions; they must be (B, F)")
    rates = [layer.p for layer, _, output in calls.values() if output is features and isinstance(layer, nn.Dropout)]
    return names, rates[-1] if rates else float(getattr(network, "drop_rate", 0.0))


def _kind(classifier: Any) -> str:
    if isinstance(classifier, list | tuple | nn.ModuleList):
        return f"{len(classifier)} layers"
    return f"of the class {type(classifier).__name__}"
