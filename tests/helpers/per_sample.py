"""Rows of per-sample gradients, by a copy of every parameter for every sample or a backward pass for each."""

import copy

import torch
from torch import nn
from torch.func import functional_call

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)


class PerSample(nn.Module):
    """A layer whose parameters stand there once for each sample; it computes what the layer does."""

    def __init__(self, layer, samples):
        super().__init__()
        self.layer = layer
        self.copies = {
            name: p.detach().expand(samples, *p.shape).clone().requires_grad_() for name, p in layer.named_parameters()
        }

    def forward(self, x):
        if isinstance(self.layer, NORMS):
            return self.normalized(x)
        each = [{name: c[i] for name, c in self.copies.items()} for i in range(len(x))]
        return torch.cat([functional_call(self.layer, each[i], (x[i : i + 1],)) for i in range(len(x))])

    def normalized(self, x):
        """Statistics of the whole batch, then the weights of each sample."""
        plain = {"weight": torch.ones_like(self.layer.weight), "bias": torch.zeros_like(self.layer.bias)}
        act = getattr(self.layer, "act", nn.Identity())  # of timm's norms, after the weights
        layer = copy.deepcopy(self.layer)
        if hasattr(layer, "act"):
            layer.act = nn.Identity()
        y = functional_call(layer, plain, (x,))
        w, b = self.copies["weight"], self.copies["bias"]
        if isinstance(layer, nn.LayerNorm) and type(layer) is nn.LayerNorm:
            between = (1,) * (y.dim() - w.dim())
            w, b = (t.view(len(x), *between, *t.shape[1:]) for t in (w, b))
        else:
            w, b = (t.view(*t.shape, *(1,) * (y.dim() - 2)) for t in (w, b))
        return act(y * w + b)


def expected_gram(network, loss_function, inputs, targets):
    """J J^T, with row_i = B times the gradient with respect to sample i's copy of all that is trained."""
    twin = copy.deepcopy(network)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    replaced = {}
    for path, parent in list(twin.named_modules()):
        for name, child in list(parent.named_children()):
            if list(child.parameters(recurse=False)):
                if child not in replaced:
                    full = f"{path}.{name}" if path else name
                    replaced[child] = PerSample(child, len(inputs)), full
                setattr(parent, name, replaced[child][0])
    loss = loss_function(twin(inputs), targets)
    copies = [c for layer, path in replaced.values() for name, c in layer.copies.items() if f"{path}.{name}" in trained]
    rows = torch.cat([g.flatten(1) for g in torch.autograd.grad(loss, copies)], 1) * len(inputs)
    assert rows.shape[1] == sum(p.numel() for p in network.parameters() if p.requires_grad)
    return rows @ rows.T


def close(found, expected, rtol=1e-9):
    """Within rtol of the largest entry."""
    torch.testing.assert_close(found, expected, rtol=0, atol=rtol * float(expected.abs().max()))


def rows_of(network, losses):
    """A row of gradients for each of the losses, by one backward pass each."""
    params = [p for p in network.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(loss, params, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def rows_of_samples(network, loss_function, inputs, targets):
    """The gradient of each sample's loss, from a pass of its own."""
    pairs = [(inputs[i : i + 1], targets[i : i + 1]) for i in range(len(inputs))]
    return torch.cat([rows_of(network, [loss_function(network(x), y)]) for x, y in pairs])
