"""Batch reuse in stages: updates a batch, counted by hand, and from any position."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.streams import assert_stream_continues
from trainopt.data import Constant, InMemory, Position, Stages, batches
from trainopt.runner.config.durations import Duration

IMAGES = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
SOURCE = InMemory(IMAGES, np.zeros(100, int), [0.0], [1.0])


def repeats(duration, persistency, size=10, updates=60):
    """The number of updates on each batch until the duration has passed, the last one complete."""
    length = Duration.parse(duration)
    stream = batches(SOURCE, Constant(size, persistency=persistency, duration=length), 0, Position())
    counts, count, previous = [], 0, None
    for batch in itertools.islice(stream, updates):
        if previous is not None and batch.inputs is not previous:
            counts, count = [*counts, count], 0
        count, previous = count + 1, batch.inputs
        if length.passed(batch.after.step, batch.after.epoch + Fraction(batch.after.offset, 100)) >= 1:
            return [*counts, count]
    raise AssertionError("the duration did not pass")


# batches of 10 of 100 images
BY_HAND = {
    "two stages in epochs: one each": ("2epochs", [2, 1], [2] * 10 + [1] * 10),
    "half an epoch each": ("1epochs", [3, 1], [3] * 5 + [1] * 5),
    # boundaries at 33.3 and 66.7 images: batches that begin at 0, 10, 20, 30; 40, 50, 60; 70, 80, 90
    "thirds of an epoch": ("1epochs", [5, 2, 1], [5] * 4 + [2] * 3 + [1] * 3),
    # at 13.3 and 26.7
    "thirds of 0.4 epochs": ("0.4epochs", [5, 2, 1], [5, 5, 2, 1]),
    "two stages in steps": ("12steps", [3, 1], [3] * 2 + [1] * 6),
    # at 6.7 and 13.3 steps; batches begin at 0, 5; 10, 12; 14, …
    "thirds of 20 steps": ("20steps", [5, 2, 1], [5, 5, 2, 2] + [1] * 6),
    # at 2 and 4 steps: the batch that begins at 0 is completed, and skips the second stage
    "a batch longer than a stage": ("6steps", [5, 2, 1], [5, 1]),
    # at 0.5, 1, … 2.5 steps: step 1 is in the third of six
    "more stages than steps": ("3steps", [1, 9, 2, 9, 9, 9], [1, 2]),
    "one stage": ("6steps", [2], [2] * 3),
    "an integer": ("6steps", 2, [2] * 3),
}


@pytest.mark.parametrize("case", BY_HAND.values(), ids=BY_HAND)
def test_each_stage_has_its_number_of_updates(case):
    duration, persistency, expected = case
    assert repeats(duration, persistency) == expected


def test_the_smaller_batch_at_the_end_of_an_epoch_belongs_to_the_stage_in_which_it_begins():
    # 30, 30, 30, 10 images in each of three epochs; the boundary is at 150 of 300
    assert repeats("3epochs", [2, 1], size=30) == [2] * 4 + [2, 2, 1, 1] + [1] * 4


def test_after_the_duration_the_last_stage_goes_on():
    stages = Stages("ab", Duration.parse("2epochs"))
    positions = [Position(0), Position(0, 99), Position(1), Position(1, 99), Position(2), Position(7, 50)]
    assert "".join(stages.at(position, 100) for position in positions) == "aabbbb"


durations = st.one_of(
    st.integers(1, 40).map("{}steps".format), st.integers(1, 60).map(lambda tenths: f"{tenths / 10}epochs")
)


@settings(max_examples=100, deadline=None)
@given(durations, st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(7, 120), st.integers(0, 60))
def test_the_stream_from_a_position_in_any_stage_is_the_rest_of_the_stream(duration, persistency, size, stop):
    batching = Constant(size, persistency=persistency, duration=Duration.parse(duration))
    assert_stream_continues(SOURCE, batching, stop)


@pytest.mark.parametrize(
    ("persistency", "message"),
    [
        ([], r"persistency=\[\]: must have at least one stage"),
        ([2, 1], r"persistency=\[2, 1\]: several stages need the duration of the run"),
        (0, "persistency=0: must be >= 1"),
        ([2, 0], r"persistency=\[2, 0\]: must be >= 1"),
    ],
)
def test_wrong_arguments_are_refused(persistency, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Constant(persistency=persistency)
