"""The order of an epoch, as a function of (seed, epoch)."""

import numpy as np
import torch


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Returns the generator of an epoch's order and augmentation, independent of torch's global one."""
    words = np.random.SeedSequence([seed, epoch]).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
