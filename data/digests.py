"""What tells one content from another in a few digits."""

import hashlib
from typing import Any

import torch
from torch import Tensor


def digest_of(*parts: Any) -> str:
    """Returns 64 hexadecimal digits of tensors (values, dtype, shape) and of plain values.

    >>> digest_of(torch.zeros(2), "a")[:8] == digest_of(torch.zeros(2), "b")[:8]
    False
    """
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype} {tuple(part.shape)};".encode())
            found.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            found.update(f"{part!r};".encode())
    return found.hexdigest()
