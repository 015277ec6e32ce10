"""A regularizer that somebody wrote outside the repository, which follows the run it is part of."""

import pytest

from helpers.cli import refusal
from helpers.runs import check_same_run, rows, stop_at, train_run

THEIRS = '''
class Fading:
    """strength * sum w^2, halved after each evaluation; says when a step is the third."""

    def __init__(self, strength):
        if strength > 1:
            raise ValueError(f"strength={strength}: must be at most 1")
        self.strength, self.steps = strength, 0

    def begin(self, run, params):
        if run.seed == 13:
            raise ValueError("not with this seed")
        self.count = len(params)

    def __call__(self, params):
        return self.strength * sum(p.square().sum() for p in params)

    def after_step(self, run, params):
        self.steps += 1
        return [{"event": "third step", "tensors": len(params)}] if self.steps % 3 == 0 else []

    def after_evaluation(self, run, params, rows):
        self.strength /= 2
        return [{"event": "halved", "strength": self.strength, "because": f"top-1 {rows['test']['top1']:.0f}"}]

    def report(self, params, value):
        return {"share": value.item() / self.strength, "count": self.count}

    def state_dict(self):
        return {"strength": self.strength, "steps": self.steps}

    def load_state_dict(self, state):
        self.strength, self.steps = state["strength"], state["steps"]
'''
RUN = (
    "model=mlp", "model.hidden=[8]", "data.limit=100", "batching.size=20", "duration=8steps", "logger=none",
    "log_every=1steps", "evaluate_every=3steps",
    "+regularizer.fading._target_=someones_fading.Fading", "+regularizer.fading.strength=0.5",
)  # fmt: skip


@pytest.fixture(autouse=True)
def theirs(tmp_path, monkeypatch):
    """Their module can be imported."""
    (tmp_path / "someones_fading.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)


def test_it_is_told_of_steps_and_evaluations_and_its_events_and_figures_are_rows(trained, tmp_path, monkeypatch):
    whole, parts = trained(*RUN), tmp_path / "parts"
    events = [(row["step"], row["event"], row.get("strength")) for row in rows(whole, "event")]
    assert events == [
        (0, "halved", 0.25), (3, "third step", None), (3, "halved", 0.125), (6, "third step", None),
        (6, "halved", 0.0625), (8, "halved", 0.03125),
    ]  # fmt: skip
    assert {row["regularizer"] for row in rows(whole, "event")} == {"fading"}
    assert "step      3  fading: third step (tensors 4)" in (whole / "log.txt").read_text()
    for row in rows(whole, "train"):
        strength = {3: 0.25, 6: 0.125}.get(3 * ((row["step"] + 2) // 3), 0.0625)
        assert row["fading_share"] * strength == row["fading"]
        assert row["fading_count"] == 4
    stop_at(monkeypatch, 4)
    assert train_run(parts, *RUN) == 130
    assert train_run(parts, *RUN) == 0
    check_same_run(parts, whole)


@pytest.mark.parametrize(
    ("strength", "seed", "message"),
    [
        (1, 13, "regularizer.fading: not with this seed"),
        (2, 0, "regularizer.fading.strength=2: must be at most 1"),
    ],
)
def test_what_it_refuses_is_told_in_one_line(strength, seed, message):
    assert refusal(*RUN[:-1], f"+regularizer.fading.strength={strength}", f"seed={seed}") == message
