"""Networks of which the last layer alone is trained."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .frozen_inference import inference_form


class LastLayer(nn.Module):
    """A frozen backbone and its freshly initialised classifier, (B, C, H, W) -> (B, classes).

    logits = head(features(images)). The backbone is the network without its classifier: in evaluation mode
    whatever `train()` says, so that statistics of batch norm stay as they are, without graph and gradients. Where
    the network has an auxiliary classifier (Inception), that one is trained too, what stands before it is frozen,
    and the output is (logits, auxiliary logits) while training.

    `state_dict` has the names of the network itself: what it holds loads into the network.

    >>> from trainopt.models import MLP
    >>> model = LastLayer(MLP((1, 8, 8), 10, hidden=[20]), (1, 8, 8))
    >>> model.features(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 20])
    >>> [name for name, p in model.network.named_parameters() if p.requires_grad]
    ['3.weight', '3.bias']

    Args:
        network: has `get_classifier()`, as networks of timm and ours do, which returns an `nn.Linear`; becomes a
            part of this.
        image_shape: (C, H, W) of images that it takes.
        bf16: compute the features in bfloat16 where autocast does; they are returned as float32 all the same.

    Attributes:
        classifiers: names of the trained layers within the network.

    Raises:
        ValueError: the classifier is no linear layer at the network's end.
    """

    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int], bf16: bool = False):
        super().__init__()
        self.classifiers, drop_rate = _end(network, image_shape)
        layers: list[Any] = [network.get_submodule(name) for name in self.classifiers]
        network.requires_grad_(False)
        for layer in layers:
            layer.requires_grad_(True)
            layer.reset_parameters()
        self.network = network
        self.head = Head(layers, drop_rate)
        self.bf16 = bf16
        self._form: list[nn.Module] = []  # in a list, so that it is no part of the network
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
        """Returns what the classifiers are given, (B, F) float32: the auxiliary one's features come last."""
        if not self._form:
            self._form.append(inference_form(_without(self.network, self.classifiers), self.bf16))
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            found = self._form[0](images)
        parts = found if isinstance(found, tuple) else (found,)
        return torch.cat([part.float() for part in parts], 1) if len(parts) > 1 else parts[0].float()

    def release(self) -> None:
        """Frees the memory of the form in which features are computed; it is made anew where it is needed."""
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
        """Sets the classifiers to what `state_dict` returned.

        Raises:
            RuntimeError: names or shapes are others, or the backbone is another one.
        """
        for name, value in self.frozen().items():
            given = state_dict.get(name, value)
            if given.shape == value.shape and not torch.equal(given.to(value.device), value):
                raise RuntimeError(f"the frozen layers are others than now ({name}): was model.weights changed?")
        return self.network.load_state_dict(state_dict, strict, assign)


class Head(nn.Module):
    """Linear classifiers on features (B, F), the auxiliary one on the last of them.

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
    """Returns the backbone: a copy of the network in evaluation mode with its classifiers left out."""
    backbone = copy.deepcopy(network).eval()
    backbone.training = len(classifiers) > 1  # an auxiliary branch asks for this flag, batch norm for its own
    for name in classifiers:
        backbone.set_submodule(name, nn.Identity())
    return backbone


@torch.no_grad()
def _end(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[list[str], float]:
    """Returns the names of the classifiers and the rate of the dropout before the first.

    Which layers these are is seen in a forward pass: their outputs are the network's.
    """
    if not hasattr(network, "get_classifier"):
        raise ValueError(f"{type(network).__name__} does not say which its classifier is (get_classifier)")
    classifier = network.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear):
        raise ValueError(f"the classifier is {_kind(classifier)}; only one linear layer (nn.Linear) can be trained")
    calls: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}  # by name: layer, input, output

    def note(name: str) -> Any:
        return lambda layer, given, output: calls.update({name: (layer, given[0], output)})

    layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Dropout)}
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
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
    found = [
        name
        for wanted in outputs
        for name, (layer, _, output) in calls.items()
        if output is wanted and isinstance(layer, nn.Linear)
    ]
    if len(found) != len(outputs) or len(outputs) > 2 or layers[found[0]] is not classifier:
        raise ValueError("the classifier is not the network's end; it cannot be trained alone")
    features = calls[found[0]][1]
    if features.dim() != 2:
        raise ValueError(f"the classifier looks at {features.dim()} dimensions; it must be given (B, F)")
    rates = [layer.p for layer, _, output in calls.values() if output is features and isinstance(layer, nn.Dropout)]
    return found, rates[-1] if rates else float(getattr(network, "drop_rate", 0.0))


def _kind(classifier: Any) -> str:
    if isinstance(classifier, list | tuple | nn.ModuleList):
        return f"{len(classifier)} layers"
    return f"of the class {type(classifier).__name__}"
