"""Losses and gradients that are read some steps after their update, as on a GPU: the same run, and no reads between."""

from contextlib import ExitStack
from itertools import product

import pytest
import torch
from torch.overrides import TorchFunctionMode

from helpers.cli import built
from helpers.gpu import READS, on_gpu
from helpers.runs import check_same_run, equal, state, summary
from trainopt.optimizers.ehnewton import estimate, step
from trainopt.optimizers.preconditioners import kronecker
from trainopt.runner.training import divergence, loop
from trainopt.runner.training.divergence import DeferredCheck, FiniteCheck, finite_check, reason_to_wait
from trainopt.runner.training.graphs.capture import waiting_refused

MLP = ("model=mlp", "model.hidden=[8]", "data.limit=100", "batching.size=25", "logger=[]", "log_every=4steps")
CONVNET = ("model=resnet8", "data.limit=60", "batching.size=20", "logger=[]", "log_every=4steps")
KIT = ("averaging=ema", "gradient.clip_norm=1.0", "schedule=cosine", "optimizer.lr=0.05")
CASES = [(*MLP, "optimizer=adam"), (*CONVNET, *KIT)]


@pytest.fixture
def late(monkeypatch):
    """Lets steps on a CPU be those of a GPU that has answered at the next record, and not before."""

    def switch(on: bool = True) -> None:
        monkeypatch.setattr(divergence, "DEFERRED_ON", ("cpu",) if on else ("cuda",))

    switch()
    return switch


class Breaks:
    """A term of the loss that is 0, and whose value or gradient is not finite from some step on.

    A strict one fails where weights are not finite.
    """

    def __init__(self, after: int = 5, what: str = "gradient", strict: bool = False):
        self.after, self.what, self.strict, self.calls = after, what, strict, 0

    def covers(self, layer, name) -> bool:
        """Covers everything."""
        return True

    def __call__(self, params):
        """Returns 0, or what is not a number."""
        self.calls += 1
        if self.strict and not params[0].isfinite().all():
            raise ValueError("a weight is not finite")
        zero = 0.0 * params[0].sum()
        if self.calls <= self.after:
            return zero.square()
        return zero.abs().sqrt() if self.what == "gradient" else zero / zero

    def state_dict(self):
        """Returns the number of calls."""
        return {"calls": self.calls}

    def load_state_dict(self, state):
        """Sets it; before the first call there is no state."""
        self.calls = state.get("calls", 0)


BREAKS = ("+regularizer.none._target_=runner.training.test_late_check.Breaks",)


@pytest.mark.slow
@pytest.mark.parametrize("options", CASES, ids=["adam", "kit"])
def test_a_run_is_the_run_whose_losses_are_read_before_the_update(trained, late, options):
    run = (*options, "duration=9steps", "evaluate_every=6steps")
    one = trained(*run, name="late")
    late(False)
    check_same_run(one, trained(*run, name="waits"))


@pytest.mark.parametrize(
    ("options", "what", "after"),
    [
        (CASES[1], "gradient", 5),
        *(
            pytest.param(options, what, after, marks=pytest.mark.slow)
            for options, what, after in product(CASES, ("gradient", "loss", "strict"), (0, 5))
        ),
    ],
)
def test_a_run_that_diverges_ends_at_the_same_step_in_the_same_state(trained, late, options, what, after):
    """Noticed three steps late, or at once; weights, optimizer, average, buffers, counts and generators."""
    is_strict, what = what == "strict", what.replace("strict", "gradient")
    more = [f"+regularizer.none.{key}" for key in (f"after={after}", f"what={what}", f"strict={is_strict}")]
    run = (*options, *BREAKS, *more, "duration=9steps", "evaluate_every=6steps")
    one = trained(*run, name="late")
    late(False)
    other = trained(*run, name="waits")
    assert summary(one)["status"] == "diverged"
    assert summary(one)["diverged_at"]["step"] == after
    check_same_run(one, other)


@pytest.mark.slow
def test_the_position_is_kept_again_after_many_steps(trained, late, monkeypatch):
    kept = []
    monkeypatch.setattr(divergence, "KEEP_EVERY", 3)
    run_state = divergence.run_state
    monkeypatch.setattr(divergence, "run_state", lambda run: kept.append(run.progress.step) or run_state(run))
    options = (*MLP, *BREAKS, "+regularizer.none.after=9", "duration=20steps", "evaluate_every=20steps")
    end = trained(*options)
    assert (summary(end)["diverged_at"]["step"], kept) == (9, [0, 4, 8])


@pytest.mark.slow
def test_a_step_that_does_not_break_again_ends_the_run_all_the_same(trained, late, monkeypatch):
    """As with kernels that are not deterministic."""
    monkeypatch.setattr(Breaks, "load_state_dict", lambda self, state: setattr(self, "calls", -100))
    folder = trained(*MLP, *BREAKS, "duration=9steps")
    assert summary(folder)["diverged_at"] == {**summary(folder)["diverged_at"], "step": 5, "gradient_norm": "nan"}
    monkeypatch.undo()
    assert equal(state(folder)["model"], state(trained(*MLP, "duration=5steps", name="five"))["model"])


class Counted(TorchFunctionMode):
    """Counts what reads a tensor, but for one on the CPU, which torch's AveragedModel counts with."""

    def __init__(self, allowed: torch.Tensor):
        super().__init__()
        self.reads, self.calls, self._allowed = [], 0, allowed

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        name = getattr(func, "__name__", "")
        if name in READS and args[0] is not self._allowed:
            self.reads.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def between_records(monkeypatch):
    """Calls two functions: with the run after its record of step 4, and before the next record."""

    def watch(begin, end) -> None:
        def make_steps(run, recorder, display, interrupt, closure, of=loop.make_steps):
            check = closure.finite
            wait, keep, active = check.wait, check.keep, []

            def waited():
                if active:
                    active.clear()
                    end()
                wait()

            def kept(evaluated):
                keep(evaluated)
                if run.progress.step == 4:
                    active.append(True)
                    begin(run)

            monkeypatch.setattr(check, "wait", waited)
            monkeypatch.setattr(check, "keep", kept)
            of(run, recorder, display, interrupt, closure)
            assert not active

        monkeypatch.setattr(loop, "make_steps", make_steps)

    return watch


@pytest.mark.parametrize("is_late", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_between_two_records_nothing_is_read(trained, late, between_records, is_late):
    """With batch norm, clipping, an average and a schedule."""
    late(is_late)
    modes = []

    def begin(run):
        modes.append(Counted(run.averaged.averaging.averaged.n_averaged))
        modes[0].__enter__()

    between_records(begin, lambda: modes[0].__exit__(None, None, None))
    trained(*CONVNET, *KIT, "data.limit=200", "duration=9steps")
    assert modes[0].calls > 100
    assert modes[0].reads == ([] if is_late else ["item", "item"] * 4)


@pytest.mark.parametrize(
    "options",
    [
        ("optimizer=ehnewton",),
        pytest.param(
            ("optimizer=ehnewton_auto", "optimizer.damping=0.1", "optimizer.subspace_every=100"), marks=pytest.mark.slow
        ),
    ],
    ids=["one iteration", "K-FAC"],
)
def test_between_two_records_replayed_steps_of_ehnewton_read_nothing(
    trained, stand_in, late, between_records, monkeypatch, options
):
    """But for steps in which K-FAC's factors change or the curvature is computed: here only the first."""
    monkeypatch.setattr(step, "DEVICES", ("cpu",))
    monkeypatch.setattr(kronecker, "FIRST_UPDATES", 1)
    monkeypatch.setattr(kronecker, "FIRST_INVERSES", (1,))
    monkeypatch.setattr(kronecker, "UPDATE_EVERY", 100)
    monkeypatch.setattr(estimate, "FIRST_STEPS", 1)
    modes = []

    def begin(run):
        modes.append(Counted(run.averaged.averaging.averaged.n_averaged))
        modes[0].__enter__()

    between_records(begin, lambda: modes[0].__exit__(None, None, None))
    trained(*MLP, *options, "averaging=ema", "data.limit=200", "duration=9steps", "cuda_graph=auto")
    assert sum(stand_in.replays) >= 6
    assert modes[0].calls > 100
    assert modes[0].reads == []


@on_gpu
@pytest.mark.parametrize(
    "options",
    [*CASES, (*MLP, "optimizer=ehnewton", "cuda_graph=true")],
    ids=["adam", "kit", "ehnewton"],
)
def test_between_two_records_no_step_waits_for_a_gpu(trained, between_records, options):
    seen, refused = [], ExitStack()

    def begin(run):
        refused.enter_context(waiting_refused())

    def end():
        refused.close()
        seen.append(True)

    between_records(begin, end)
    trained(*options, "device=cuda", "data.limit=200", "duration=9steps")
    assert seen


@on_gpu
@pytest.mark.parametrize("options", CASES, ids=["adam", "kit"])
def test_a_run_on_a_gpu_that_diverges_ends_as_one_that_waits(trained, monkeypatch, options):
    run = (*options, *BREAKS, "device=cuda", "deterministic=true", "duration=9steps", "log_every=9steps")
    one = trained(*run, name="late")
    monkeypatch.setattr(divergence, "DEFERRED_ON", ())
    other = trained(*run, name="waits")
    torch.use_deterministic_algorithms(False)
    assert summary(one)["diverged_at"]["step"] == 5
    check_same_run(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), None),
        (("optimizer=adamw", "averaging=ema"), None),
        (("optimizer=ehnewton",), "EHNewton reads numbers of its step"),
        (("optimizer=adaptive_nesterov",), "AdaptiveNesterov reads numbers of its step"),
        (("optimizer=soap",), "whether SOAP can be set back in the middle of a run is not known"),
        (("probe=[taylor]",), "probes read numbers of their steps"),
        (("early_stopping.min_step_norm=0.1",), "early_stopping.min_step_norm measures each step"),
        (("duration=1min",), "duration=1min is a time"),
        (("objective._target_=torch.nn.CrossEntropyLoss",), "the loss is your own, and may take no outputs"),
        (
            ("model=resnet8", "averaging=swa"),
            "an average with statistics of batch norm costs an evaluation",
        ),
    ],
)
def test_which_runs_wait_in_each_step(late, options, reason):
    run = built(*MLP[:2] if "model=resnet8" not in options else (), *MLP[2:], *options)
    text = reason_to_wait(run)
    assert text is None if reason is None else text.startswith(reason)
    assert type(finite_check(run)) is (DeferredCheck if reason is None else FiniteCheck)
