"""Dynamic sampling: the study's sequences of sizes, computed by hand; any stage from any position."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.streams import assert_stream_continues
from trainopt.data import Constant, Dynamic, InMemory, Position, batches
from trainopt.runner.config.durations import Duration


def images(count):
    return InMemory(np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1), np.zeros(count, int), [0.0], [1.0])


SOURCE = images(100)

# liao2018, section 4.3 and table 1, by the names of the study
NAMED = {
    "s32-to-512": [32, 64, 128, 256, 512],
    "s512-to-32": [512, 256, 128, 64, 32],
    "s16-to-64": [16, 16, 32, 32, 64],
    "s64-to-16": [64, 32, 32, 16, 16],
    "s32-to-128": [32, 32, 64, 64, 128],
    "s64-to-256": [64, 64, 128, 128, 256],
    "s128-to-512": [128, 128, 256, 256, 512],
}


def named(name, **more):
    """The sequence of that name."""
    first, last = (int(number) for number in name.removeprefix("s").split("-to-"))
    return Dynamic(first=first, last=last, **more)


def sizes_by_epoch(batching, epochs, count):
    """The sizes of the batches of each epoch; epochs end where the positions of the stream say so."""
    sizes, position = [[] for _ in range(epochs)], Position()
    for batch in batches(images_of(count), batching, 0, position):
        sizes[position.epoch].append(batch.size)
        position = batch.after
        if position.epoch == epochs:
            return sizes
    raise AssertionError("unreachable")


def images_of(count):
    """A source of so many samples without content."""

    class Source:
        def __len__(self):
            return count

        def epoch(self, seed, epoch, spans):
            return ((torch.zeros(stop - start), torch.zeros(stop - start)) for start, stop in spans)

    return Source()


@pytest.mark.parametrize("name", NAMED)
def test_first_and_last_give_the_sequences_of_the_study(name):
    assert named(name, duration=Duration.parse("320epochs")).sizes == NAMED[name]


@pytest.mark.parametrize("name", NAMED)
def test_each_size_of_a_sequence_lasts_a_fifth_of_the_epochs(name):
    sizes = sizes_by_epoch(named(name, duration=Duration.parse("10epochs")), 10, count=1024)
    one, two, three, four, five = NAMED[name]  # 1024 images are 1024 / size batches
    by_hand = [one, one, two, two, three, three, four, four, five, five]
    assert sizes == [[size] * (1024 // size) for size in by_hand]


def test_all_stages_come_again_within_each_level_of_the_learning_rate():
    # SVHN and MNIST: 40 epochs, the learning rate falls after 20 and after 30; fifths of 20, 10 and 10 epochs
    levels = [Fraction(0), Fraction(1, 2), Fraction(3, 4)]
    scoped = named("s16-to-64", scope="learning_rate", duration=Duration.parse("40epochs"), levels=lambda: levels)
    sizes = [set(sizes) for sizes in sizes_by_epoch(scoped, 40, count=64)]
    first = [16] * 4 + [16] * 4 + [32] * 4 + [32] * 4 + [64] * 4
    second = [16] * 2 + [16] * 2 + [32] * 2 + [32] * 2 + [64] * 2
    assert sizes == [{size} for size in [*first, *second, *second]]
    assert scoped.describe() == (
        "16 images, 32 from 20 %, 64 from 40 %, 16 from 50 %, 32 from 60 %, 64 from 70 %,"
        " 16 from 75 %, 32 from 85 %, 64 from 95 % of the run"
    )


# of 100 images
BY_HAND = {
    # the second half begins at 50: the batch that begins at 48 is of the first
    "within an epoch": ({"stages": [16, 32], "duration": "1epochs"}, [16, 16, 16, 16, 32, 4]),
    "downwards": ({"stages": [40, 30, 10], "duration": "1epochs"}, [40, 30, 10, 10, 10]),
    # thirds of ten steps end after 3.3 and 6.7: four, three and three batches
    "steps": ({"stages": [10, 20, 50], "duration": "10steps"}, [10] * 4 + [20] * 3 + [50] * 3),
    # two updates a batch: batches begin at steps 0, 2, 4; the second half begins at 5
    "steps, two a batch": ({"stages": [10, 20], "duration": "10steps", "persistency": 2}, [10] * 3 + [20, 20]),
    # 33, 33, 33 and a single one, which joins
    "a rest of one": ({"stages": [33], "duration": "1epochs"}, [33, 33, 34]),
    "a rest of one, dropped": ({"stages": [33], "duration": "1epochs", "drop_last": True}, [33, 33, 33]),
    "batches of one": ({"stages": [49, 1], "duration": "1epochs"}, [49, 49, 1, 1]),
    "a rest, dropped": ({"stages": [16, 32], "duration": "1epochs", "drop_last": True}, [16, 16, 16, 16, 32]),
    "more than an epoch": ({"stages": [40, 400], "duration": "2epochs"}, [40, 40, 20, 100]),
}


@pytest.mark.parametrize("case", BY_HAND.values(), ids=BY_HAND)
def test_sizes_change_at_the_next_batch(case):
    options, expected = case
    batching = Dynamic(**{**options, "duration": Duration.parse(options["duration"])})
    repeats = options.get("persistency", 1)
    stream = itertools.islice(batches(SOURCE, batching, 0, Position()), repeats * len(expected))
    assert [batch.size for batch in stream][::repeats] == expected


lengths = st.one_of(
    st.integers(1, 40).map("{}steps".format), st.integers(1, 60).map(lambda tenths: f"{tenths / 10}epochs")
)
stages = st.lists(st.integers(1, 60), min_size=1, max_size=5)
levels = st.sampled_from([[Fraction(0)], [Fraction(0), Fraction(1, 2), Fraction(3, 4)], [Fraction(0), Fraction(1, 3)]])


@settings(max_examples=100, deadline=None)
@given(lengths, stages, levels, st.sampled_from([1, 2, [3, 1]]), st.booleans(), st.integers(0, 40))
def test_the_stream_from_a_position_in_any_stage_is_the_rest_of_the_stream(
    length, sizes, begins, persistency, drop_last, stop
):
    options = {"persistency": persistency, "drop_last": drop_last, "scope": "learning_rate"}
    batching = Dynamic(sizes, duration=Duration.parse(length), levels=lambda: begins, **options)
    assert_stream_continues(SOURCE, batching, stop)


@settings(max_examples=60, deadline=None)
@given(lengths, stages, levels)
def test_every_sample_is_used_once_an_epoch_whatever_the_sizes(length, sizes, begins):
    batching = Dynamic(sizes, scope="learning_rate", duration=Duration.parse(length), levels=lambda: begins)
    seen, position = [], Position()
    for batch in batches(SOURCE, batching, 1, position):
        seen += (255 * batch.inputs).flatten().round().int().tolist()
        if batch.after.epoch > position.epoch:
            assert sorted(seen) == list(range(100))
            seen = []
        position = batch.after
        if position.epoch == 3:
            break


@settings(max_examples=60, deadline=None)
@given(lengths, st.lists(st.integers(2, 60), min_size=1, max_size=5), st.integers(2, 130), st.integers(0, 5))
def test_no_batch_is_of_one_sample_where_sizes_are_larger(length, sizes, count, epoch):
    batching = Dynamic(sizes, duration=Duration.parse(length))
    spans = list(batching.spans_from(Position(epoch, step=7 * epoch), count))
    assert min(stop - start for start, stop in spans) > 1
    assert [spans[0][0], *(stop for _, stop in spans)] == [*(start for start, _ in spans), count]


def test_one_stage_is_a_constant_size():
    one = itertools.islice(batches(SOURCE, Dynamic([30], duration=Duration.parse("2epochs")), 0, Position()), 9)
    other = itertools.islice(batches(SOURCE, Constant(30), 0, Position()), 9)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert (a.size, a.after) == (b.size, b.after)


@pytest.mark.parametrize(
    ("rule", "expected"), [("none", [1.0, 1.0, 1.0]), ("linear", [1.0, 4.0, 0.5]), ("sqrt", [1.0, 2.0, 0.5**0.5])]
)
def test_the_learning_rate_follows_the_ratio_of_the_size_to_the_first(rule, expected):
    batching = Dynamic([8, 32, 4], lr_rule=rule, duration=Duration.parse("3epochs"))
    assert [batching.lr_factor(Position(epoch, 50), 100) for epoch in range(3)] == expected
    assert batching.changes_lr == (None if rule == "none" else f"lr_rule={rule}")


def test_a_rule_without_a_change_of_size_leaves_the_learning_rate_alone():
    assert Dynamic([8, 8], lr_rule="linear", duration=Duration.parse("3epochs")).changes_lr is None


def test_of_many_changes_the_first_are_described():
    levels = [Fraction(k, 20) for k in range(20)]
    length = Duration.parse("20epochs")
    text = Dynamic([8, 16], scope="learning_rate", duration=length, levels=lambda: levels).describe()
    assert text.startswith("8 images, 16 from 2.5 %, 8 from 5 %, ")
    assert text.endswith(" of the run, and 27 more changes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"first": 10, "last": 50},
            "first=10, last=50: one must be a power of two times the other; or give stages",
        ),
        ({"first": 8, "last": 24}, "first=8, last=24: one must be a power of two times the other; or give stages"),
        ({"first": 0}, "first=0, last=64: must be >= 1"),
        ({"number": 1}, "number=1: must be at least 2"),
        ({"first": 16, "last": 16, "number": 0}, "number=0: must be at least 1"),
        ({"stages": []}, r"stages=\[\]: must have at least one stage"),
        ({"stages": [8, 0]}, r"stages=\[8, 0\]: must be >= 1"),
        ({"stages": [8, 4], "duration": None}, r"stages=\[8, 4\]: several stages need the duration of the run"),
        ({"scope": "epoch"}, "scope=epoch: must be one of run, learning_rate"),
        ({"lr_rule": "cubic"}, "lr_rule=cubic: must be one of none, linear, sqrt"),
        (
            {"scope": "learning_rate", "levels": lambda: None},
            "scope=learning_rate: needs a schedule with levels .*",
        ),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Dynamic(**{"duration": Duration.parse("2epochs"), **options})
