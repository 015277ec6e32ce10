"""The runs that several tests compare."""

import pytest

from helpers.comparisons import ADAM, SGD
from helpers.fixtures import made_up_run


@pytest.fixture
def two(tmp_path):
    """SGD and Adam, four seeds each, in runs/; Adam's learning rate is its own default."""
    for seed, top1 in enumerate(SGD):
        made_up_run(tmp_path / "runs" / f"sgd{seed}", seed, top1)
    for seed, top1 in enumerate(ADAM):
        made_up_run(
            tmp_path / "runs" / f"adam{seed}",
            seed,
            top1,
            choices={"optimizer": "adam"},
            config={"optimizer.lr": 0.001},
        )
    return tmp_path / "runs"
