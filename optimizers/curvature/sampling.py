"""The loss's second derivatives L at a network's outputs: random vectors whose second moments they are; their trace."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..shard import WHOLE, Shard

SecondOfLoss = Callable[[Sequence[Tensor]], Sequence[Tensor | None]]


def sample_at_outputs(
    outputs: Sequence[Tensor],
    losses: Sequence[Callable],
    second_of_loss: SecondOfLoss,
    generator: torch.Generator,
    shard: Shard = WHOLE,
) -> list[Tensor]:
    """Returns r of the shapes of the outputs, with mean 0 and E[r r^T] = L, the loss's second derivatives.

    Cross-entropy with the factor s of a sample has L = s (diag(p) - p p^T) there: r = sqrt(s) (p - e_t), with the class
    t drawn from p = softmax(outputs) and e_t its unit vector, is the derivative for a target sampled from the model
    (Martens and Grosse 2015, section 5). The other losses are sums over single outputs, and L is diagonal: r = sqrt(L)
    with random signs. The factors that weights of samples, means and the closure put before the loss are in L.

    Args:
        outputs: (B, C, ...) of cross-entropy, or of any shape; without a graph.
        losses: the loss function of torch.nn.functional of each.
        second_of_loss: returns L v.
        generator: on the device of the outputs.
        shard: the part of the batch that the outputs are of. Numbers are drawn for the whole batch.
    """
    unit_vectors = [
        _sampled_classes(z.detach(), generator, shard) if loss is F.cross_entropy else torch.ones_like(z)
        for z, loss in zip(outputs, losses, strict=True)
    ]
    products = second_of_loss(unit_vectors)
    return [
        torch.zeros_like(e)
        if Le is None
        else _of_softmax(z.detach(), e, Le)
        if loss is F.cross_entropy
        else _with_random_signs(Le.clamp(min=0).sqrt(), generator, shard)
        for z, loss, e, Le in zip(outputs, losses, unit_vectors, products, strict=True)
    ]


def trace_at_outputs(outputs: Sequence[Tensor], losses: Sequence[Callable], second_of_loss: SecondOfLoss) -> Tensor:
    """Returns the trace of L, a scalar in float64, by one product: of this process's outputs.

    Of cross-entropy it is the sum of s (1 - p.p). Arguments as of `sample_at_outputs`.
    """
    vectors = [
        _most_probable_classes(z.detach()) if loss is F.cross_entropy else torch.ones_like(z)
        for z, loss in zip(outputs, losses, strict=True)
    ]
    trace = vectors[0].new_zeros((), dtype=torch.float64)
    for z, loss, v, Lv in zip(outputs, losses, vectors, second_of_loss(vectors), strict=True):
        if Lv is None:
            continue
        diagonal = Lv
        if loss is F.cross_entropy:
            p = z.detach().softmax(_class_dimension(z))
            factor, is_certain = _factors(p, v, Lv)
            diagonal = torch.where(is_certain, 0.0, factor * (p * (1 - p)).sum(_class_dimension(z), keepdim=True))
        trace = trace + diagonal.double().sum()
    return trace


def _class_dimension(logits: Tensor) -> int:
    return 0 if logits.dim() == 1 else 1


def _sampled_classes(logits: Tensor, generator: torch.Generator, shard: Shard) -> Tensor:
    """Returns the unit vectors of classes that are drawn from softmax(logits), in the shape of the logits."""
    dim = _class_dimension(logits)
    by_row = logits.movedim(dim, -1)
    # what is not finite shows in the gradient, which is checked later
    p = by_row.reshape(-1, by_row.shape[-1]).float().softmax(1).nan_to_num(1.0)
    start, length = shard.span(len(p))
    whole = p if shard.is_whole else F.pad(p, (0, 0, start, length - start - len(p)), value=1.0)
    classes = torch.multinomial(whole, 1, generator=generator)[start : start + len(p)]
    e = torch.zeros_like(p).scatter_(1, classes, 1.0)
    return e.to(logits.dtype).view(by_row.shape).movedim(-1, dim)


def _of_softmax(logits: Tensor, e: Tensor, Le: Tensor) -> Tensor:
    """Returns sqrt(s) (p - e), with s from e L e = s q (1 - q), q the probability of the class of e."""
    p = logits.softmax(_class_dimension(logits))
    factor, is_certain = _factors(p, e, Le)
    return torch.where(is_certain, 0.0, factor.sqrt() * (p - e))


def _factors(p: Tensor, e: Tensor, Le: Tensor) -> tuple[Tensor, Tensor]:
    """Returns s of each sample, with one entry along the classes, and whether it is unknown: p is that of one class."""
    dim = _class_dimension(p)
    q, others = (p * e).sum(dim, keepdim=True), (p * (1 - e)).sum(dim, keepdim=True)
    return (e * Le).sum(dim, keepdim=True).clamp(min=0) / (q * others), ~(others > 0)


def _most_probable_classes(logits: Tensor) -> Tensor:
    """Returns the unit vectors of the classes with the largest logits, in their shape."""
    dim = _class_dimension(logits)
    return torch.zeros_like(logits).scatter_(dim, logits.argmax(dim, keepdim=True), 1.0)


def _with_random_signs(values: Tensor, generator: torch.Generator, shard: Shard) -> Tensor:
    by_row = values if values.dim() else values.unsqueeze(0)
    start, length = shard.span(len(by_row))
    shape = (length, *by_row.shape[1:])
    signs = torch.randint(0, 2, shape, generator=generator, device=values.device, dtype=values.dtype)
    return values * (2 * signs[start : start + len(by_row)].view(values.shape) - 1)
