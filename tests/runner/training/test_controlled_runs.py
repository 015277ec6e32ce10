"""Runs whose batches follow a probe: what is decided, when it holds, what is written, refusals."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cli import refusal
from helpers.fixtures import FISHER
from helpers.runs import rows, summary
from trainopt.data import InMemory, NormTest, Position
from trainopt.runner import load_run
from trainopt.runner.comparison.read import read_comparison
from trainopt.runner.state.progress import Progress
from trainopt.runner.state.run import controlled_batches
from trainopt.runner.system.errors import UserError
from trainopt.runner.training.batch_control import read_reference

RUN = ("model=mlp", "model.hidden=[8]", "data.limit=64", "logger=none", "device=cpu", "log_every=1steps", FISHER)
SMALL = ("batching.min_size=4", "batching.size=16", "batching.max_size=32", "batching.smoothing=0")
# C_K grows by 4 an epoch, which is too fast: half of the size. L_K grows by 0.02 a step: by 0.08 in an epoch of
# four, then 0.16, then 0.32; at least 0.24 is wanted: the rate times 2, the most at once, then 1.5, then as it is
GROWTH = ("batching=growth_control", *SMALL, "batching.C_growth=[0,3]", "batching.L_growth=[0.24,1]")


def test_decisions_hold_from_the_next_batch_on_and_are_written_with_their_reasons(trained):
    folder = trained(*RUN, *GROWTH, "duration=4epochs", "logger=tensorboard", "optimizer.lr=0.1")
    # epochs of 4, 8, 16 and 16 steps; the probe measures every second step, and decides as each ends
    assert summary(folder)["steps"] == 4 + 8 + 16 + 16
    trained = rows(folder, "train")
    assert [row["batch_size"] for row in trained] == [16] * 4 + [8] * 8 + [4] * 32
    assert [row["lr"] for row in trained] == pytest.approx([0.1] * 4 + [0.2] * 8 + [0.3] * 32)
    found = rows(folder, "control")
    keys = ("step", "epoch", "batch_size_before", "batch_size", "lr_factor_before", "lr_factor")
    assert [tuple(row[key] for key in keys) for row in found] == [
        (4, 1.0, 16, 8, 1.0, 2.0),
        (12, 2.0, 8, 4, 2.0, pytest.approx(3.0)),
        (28, 3.0, 4, 4, pytest.approx(3.0), pytest.approx(3.0)),
        (44, 4.0, 4, 4, pytest.approx(3.0), pytest.approx(3.0)),
    ]
    assert [row["L_growth"] for row in found] == pytest.approx([0.08, 0.16, 0.32, 0.32])
    reason = "C_K grows by 4 an epoch, above 3, L_K grows by 0.08 an epoch, below 0.24"
    assert found[0]["reason"] == reason
    said = (folder / "log.txt").read_text().replace("\n", " ")
    assert f"step 4: batch size 16 -> 8, learning rate x 1 -> 2; {reason}" in said
    assert "step 12: batch size 8 -> 4, learning rate x 2 -> 3; " in said
    assert "step 28: " not in said  # nothing changed
    # the measurement of a step comes before what is decided of it, and both before the row of the step
    kinds = [row["kind"] for row in rows(folder) if row["step"] == 12]
    assert kinds == ["probe", "control", "train", "test"]


def test_what_reads_rows_reads_decisions_too(trained, trainopt):
    folder = trained(*RUN, *GROWTH, "duration=2epochs")
    metrics = load_run(folder).metrics
    assert metrics[metrics["kind"] == "control"]["batch_size"].tolist() == [8, 4]
    other = trained(*RUN, "duration=2epochs", name="b")
    assert len(read_comparison([folder, other]).methods) == 2
    assert trainopt("evaluate", str(folder)).code == 0


def test_the_start_says_between_which_sizes_it_will_be(trainopt):
    said = " ".join(trainopt(*RUN, *GROWTH, "duration=1epochs").out.split())
    assert "4 batches an epoch at first" in said
    assert "decided every 1epochs, by probe fisher: 4 to 32 images, learning rate times 0.01 to 10" in said


def asks(sizes):
    """A batching whose size a test sets."""
    batching = NormTest(size=min(sizes), max_size=max(sizes))
    batching.set = lambda size, step: batching.load_state_dict(
        {**batching.state_dict(), "before": batching.state_dict()["now"], "now": (size, 1.0), "since": step}
    )
    return batching


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=8), st.integers(2, 70), st.data())
def test_every_sample_is_used_once_an_epoch_whenever_the_size_changes(sizes, count, data):
    source = InMemory(np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1), np.zeros(count, int), [0.0], [1.0])
    batching, progress = asks(sizes), Progress(epoch_size=count)
    run = SimpleNamespace(training_set=source, batching=batching, seed=0, progress=progress)
    seen, epoch, planned = [], 0, batching.size
    for batch in itertools.islice(controlled_batches(run), 60):
        assert 2 <= batch.size <= planned + 1
        seen += (255 * batch.inputs).flatten().round().int().tolist()
        progress.advance(batch)
        if progress.epoch > epoch:
            assert sorted(seen) == list(range(count))
            seen, epoch = [], progress.epoch
        if data.draw(st.booleans()):
            planned = data.draw(st.sampled_from(sizes))
            batching.set(planned, progress.step)


def test_a_change_of_size_within_repeats_leaves_the_batch_as_it_is():
    source = InMemory(np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1), np.zeros(20, int), [0.0], [1.0])
    batching, progress = NormTest(size=4, max_size=8, persistency=3), Progress(epoch_size=20)
    run = SimpleNamespace(training_set=source, batching=batching, seed=0, progress=progress)
    found = []
    for batch in itertools.islice(controlled_batches(run), 9):
        found.append(batch)
        progress.advance(batch)
        if progress.step == 4:  # the first of three updates on the second batch
            state = {**batching.state_dict(), "now": [8, 1.0], "since": 4}
            batching.load_state_dict(state)
    assert [batch.size for batch in found] == [4] * 6 + [8] * 3
    assert all(torch.equal(batch.inputs, found[3].inputs) for batch in found[4:6])
    assert progress.epochs == 16 / 20
    assert Position(progress.epoch, progress.offset, progress.repeat, progress.step) == (0, 16, 0, 9)


def test_batch_norm_never_gets_a_batch_of_one(trained):
    # 43 images: batches of 6 and of 7 leave a single one
    command = ("batching=norm_test", "batching.size=6", "batching.max_size=7", "batching.factor=1.2")
    folder = trained(
        *RUN[3:],
        *command,
        "model=resnet8",
        "data.limit=43",
        "duration=3epochs",
        "+probe.fisher.every=1steps",
    )
    sizes = [row["batch_size"] for row in rows(folder, "train")]
    # seven are larger than six by the factor, from the second epoch on
    assert sizes == [6] * 6 + [7] + [7] * 5 + [8] + [7] * 5 + [8]


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "batching: GrowthControl follows what a probe measures; give probe=[fisher]"),
        (f"{FISHER} +probe.fisher.every=2epochs", "probe.fisher.every=2epochs: never comes in a run of 1epochs"),
        (f"{FISHER} +probe.fisher.every=999steps", "probe.fisher.every=999steps: never comes in a run of 1epochs"),
        (f"{FISHER} batching.every=3epochs", "batching.every=3epochs: never comes in a run of 1epochs"),
        (f"{FISHER} duration=9steps batching.every=20epochs", "batching.every=20epochs: never comes in a run of"),
        (f"{FISHER} batching.L_growth=null", "batching: C_growth and L_growth are both null: give the growth"),
        (f"{FISHER} batching.L_growth=[2,1]", "batching.L_growth=[2, 1]: must be [lowest, highest], as [0, 5]"),
        (f"{FISHER} batching.size=4", "batching.size=4: must be between min_size=8 and max_size=512"),
        (f"{FISHER} batching.adjust=[rate]", "batching.adjust=['rate']: must be [size], [lr] or [size,lr]"),
        (
            f"{FISHER} optimizer=adaptive_nesterov",
            "batching.adjust=[size,lr]: AdaptiveNesterov computes its learning rate itself; leave it unchanged",
        ),
        (
            f"{FISHER} schedule=range_test schedule.over=1epochs",
            "batching.adjust=[size,lr]: a range test changes the learning rate itself",
        ),
        (
            f"{FISHER} model=resnet8 data.size=4 batching.min_size=1",
            "batching: has batches of one image, which batch norm cannot train on; give larger sizes",
        ),
        (
            f"{FISHER} batching.drop_last=true batching.max_size=2000",
            "batching.drop_last=true: an epoch of 1437 images then holds no batch at all",
        ),
        ("batching=controlled_reference", "batching=controlled_reference: is now batching=follow_reference"),
        ("batching=follow_reference", "batching.reference is missing: give it as batching.reference=VALUE"),
        (
            f"batching=follow_reference batching.reference=no/where {FISHER}",
            "batching.reference=no/where: holds no run; give the folder of one",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(command, message):
    growth = [] if "reference" in command else ["batching=growth_control", "batching.L_growth=[0,1]"]
    assert refusal("model=mlp", "duration=1epochs", *growth, *command.split()).startswith(message)


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt("model=mlp", "batching=growth_control", "batching.L_growth=[0,1]")
    assert result.code == 2
    message = "batching: GrowthControl follows what a probe measures; give probe=[fisher]"
    assert result.err == f"trainopt: {message}\n"
    assert not list(tmp_path.iterdir())


def test_a_reference_run_is_read_without_what_is_not_finite_and_other_rows(tmp_path):
    """Of a run's rows, those of the probe count."""
    rows = [
        {"kind": "train", "step": 1, "epoch": 0.1, "total": 1.0},
        {"kind": "probe", "probe": "fisher", "step": 5, "epoch": 0.5, "C_K": 10.0, "L_K": 1.0},
        {"kind": "probe", "probe": "taylor", "step": 5, "epoch": 0.5, "C_K": 0.0},
        {"kind": "probe", "probe": "fisher", "step": 7, "epoch": 0.7, "C_K": None, "L_K": 1.5},
        {"kind": "probe", "probe": "fisher", "step": 10, "epoch": 1.0, "C_K": 12.0, "L_K": 2.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_reference(str(tmp_path), "fisher") == ((0.5, 1.0), (10.0, 12.0), (1.0, 2.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no run; give the folder of one"),
        ("", r"has no records of the probe; train it with probe=\[fisher\]"),
        ('{"kind": "pro', "its metrics.jsonl cannot be read"),
    ],
)
def test_a_reference_that_cannot_be_followed_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(UserError, match=f"^batching.reference={tmp_path}: {message}$"):
        read_reference(str(tmp_path), "fisher")
