"""Masks of dropout that several processes share."""

import pytest
import torch
from torch.nn import functional as F

from trainopt.optimizers import Shard
from trainopt.runner.distributed.dropout import FUNCTIONS, SharedDropout


class Part(Shard):
    """Some samples of a batch of seven."""

    is_whole = False

    def __init__(self, start):
        self.start = start

    def span(self, length):
        return self.start, 7


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_parts_have_the_masks_and_the_generator_of_the_whole_batch(function, inplace):
    x = torch.randn(7, *{F.dropout1d: (3, 5), F.dropout3d: (3, 2, 2, 2)}.get(function, (3, 4, 4)))
    if x.dim() == 4:
        x = x.to(memory_format=torch.channels_last)
    torch.manual_seed(5)
    whole, state = function(x.clone(), 0.4, True), torch.get_rng_state()
    parts = []
    for start, stop in ((0, 3), (3, 3), (3, 7)):
        torch.manual_seed(5)
        with SharedDropout(Part(start), x.device) as masks:
            parts.append(function(x[start:stop].clone(), 0.4, True, inplace))
        assert not masks.draws_otherwise()
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("before", [False, True])
def test_other_random_numbers_are_noticed(before):
    with SharedDropout(Part(0), torch.device("cpu")) as masks:
        if before:
            torch.rand(1)
        F.dropout(torch.ones(7, 2), 0.5, True)
        if not before:
            torch.rand(1)
        assert masks.draws_otherwise()
        masks.begin()
        F.dropout(torch.ones(7, 2), 0.5, False)
        assert not masks.draws_otherwise()
