"""Snapshots: the checkpoint at the end of each cycle of a schedule is kept for good."""

import pytest
import torch

from helpers.runs import check_same_run, equal, rows, stop_at, train_run

RUN = (
    "model=mlp",
    "data.limit=320",
    "batching.size=32",
    "duration=47steps",
    "log_every=1steps",
    "checkpoint_every=4steps",
    "evaluate_every=7steps",
    "keep_checkpoints.at_restarts=true",
    "logger=none",
)
COSINE = ("schedule=cosine_restarts", "schedule.period=6steps", "schedule.period_mult=2")
EVEN = ("schedule=cosine_restarts", "schedule.period=1.25epochs", "schedule.period_mult=1", "schedule.warmup=3steps")
CYCLIC = ("schedule=cyclic", "schedule.step_up=7steps", "schedule.base_lr=0.01", "schedule.max_lr=0.1")


def kept(folder):
    return sorted(int(path.stem[5:]) for path in (folder / "checkpoints").glob("step-*.pt"))


@pytest.mark.parametrize(
    ("schedule", "ends", "low"),
    [
        (COSINE, [6, 18, 42], 0.0),
        (CYCLIC, [14, 28, 42], 0.01),
        (EVEN, [13, 25, 38], 0.0),
    ],
)
def test_the_end_of_each_cycle_is_kept_beside_the_newest(trained, tmp_path, schedule, ends, low):
    trained(*RUN, *schedule)
    folder = tmp_path / "outputs/a"
    assert kept(folder) == [*ends, 44]  # 44: the one before last.pt
    rate = {row["step"]: row["lr"] for row in rows(folder, "train")}
    for step in ends:
        state = torch.load(folder / f"checkpoints/step-{step:08d}.pt", weights_only=True)
        assert state["progress"]["step"] == step
        assert low < rate[step] < min(0.03, rate[step - 1])  # where the rate is lowest


def test_what_is_kept_is_what_a_run_up_to_there_ends_with(trained, tmp_path):
    trained(*RUN, *COSINE)
    short = [word.replace("47steps", "18steps") for word in RUN]
    trained(*short, *COSINE, name="b")
    kept_state = torch.load(tmp_path / "outputs/a/checkpoints/step-00000018.pt", weights_only=True)
    last = torch.load(tmp_path / "outputs/b/checkpoints/last.pt", weights_only=True)
    assert equal(kept_state["model"], last["model"])


def test_an_interrupted_run_keeps_the_same(trained, tmp_path, monkeypatch):
    steps = (5, 18, 20)  # 18: where a cycle ends
    whole, parts = trained(*RUN, *COSINE), tmp_path / "parts"
    stop_at(monkeypatch, *steps)
    for _ in steps:
        assert train_run(parts, *RUN, *COSINE) == 130
    assert train_run(parts, *RUN, *COSINE) == 0
    assert kept(parts) == kept(whole)
    check_same_run(parts, whole)
    for path in (whole / "checkpoints").glob("step-*.pt"):
        one, two = (torch.load(f, weights_only=True) for f in (path, parts / "checkpoints" / path.name))
        assert equal(one["model"], two["model"])


def test_a_run_killed_between_best_and_last_at_the_end_of_a_cycle_keeps_it(trainopt, tmp_path, monkeypatch):
    """best.pt is written first, with that evaluation; the run goes on from it, as it is the newest."""
    command = (*RUN, *COSINE, "evaluate_every=6steps", "checkpoint_every=5steps", "run.name=a")
    from trainopt.runner.state.recorder import Recorder

    with monkeypatch.context() as patch:
        checkpoint = Recorder.checkpoint

        def fails_at_18(self, scheduled=False):
            if self._run.progress.step >= 18:
                raise OSError(28, "No space left on device", "last.pt")
            checkpoint(self, scheduled)

        patch.setattr(Recorder, "checkpoint", fails_at_18)
        assert trainopt(*command).code == 1
    result = trainopt(*command)
    assert "continuing from step 18 (best.pt)" in result.out
    assert {6, 18, 42} <= set(kept(tmp_path / "outputs/a"))


def test_asked_for_midway_it_begins_with_the_next_cycle(tmp_path, monkeypatch):
    """What is kept changes nothing about a run: the same command with another wish goes on with it."""
    stop_at(monkeypatch, 20)
    assert train_run(tmp_path, *RUN, *COSINE, "keep_checkpoints.at_restarts=false") == 130
    assert train_run(tmp_path, *RUN, *COSINE) == 0
    assert kept(tmp_path) == [42, 44]


def test_a_schedule_without_restarts_is_refused(trainopt, tmp_path):
    for schedule in ((), ("schedule=exponential", "schedule.warmup=5steps")):
        result = trainopt(*RUN, *schedule)
        assert result.code == 2
        assert "keep_checkpoints.at_restarts=true: " in result.err
        assert "has no restarts; give schedule=cosine_restarts or cyclic, or false" in result.err
        assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()
