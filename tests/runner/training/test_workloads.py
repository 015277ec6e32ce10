"""Workloads beside images: which network takes which data, and that they can be learned."""

import pytest
import torch

from helpers.cli import built, refusal


def test_a_transformer_gets_the_tokens_of_the_data():
    run = built("model=transformer", "data=modular_addition", "data.p=5", "model.width=8", "batching.size=9")
    assert (run.num_classes, run.input_shape, run.input_dtype) == (5, (3,), torch.int64)
    assert run.network.tokens.num_embeddings == 6  # 0 to 4 and the equals sign
    inputs, targets, *_ = next(run.batches())
    assert inputs.shape == (9, 3)
    assert torch.equal(targets, (inputs[:, 0] + inputs[:, 1]) % 5)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("model=transformer data=digits", "model: a transformer needs sequences of tokens, integers of shape (N, L)"),
        ("model=transformer data=breast_cancer", "the inputs of this data have the shape (30,)"),
        ("model=mlp data=modular_addition", "model: the network takes no int64 inputs of shape [3]"),
        ("model=resnet8 data=breast_cancer", "model: trainopt.models.ResNet is for images"),
        ("model=mlp data=breast_cancer augmentation=standard", "augmentation.flip=0.5: is for images"),
        ("model=transformer data=modular_addition data.p=1", "data.p=1: must be an integer >= 2"),
        ("model=transformer data=modular_addition model.heads=3", "model.heads=3: must divide width=128"),
        ("model=transformer data=modular_addition model.norm=batch", "model.norm=batch: must be one of pre, post"),
    ],
)
def test_what_does_not_go_together_is_refused(typed, line):
    assert line in refusal(*typed.split())
