"""Steps of EHNewton that are replayed: through a stand-in for CUDA graphs, bit for bit as eager ones; what is eager."""

import pytest
import torch

from helpers.cli import built, refusal
from helpers.gpu import NoReads, on_gpu
from helpers.runs import (
    check_same_run,
    rows,
    run_with_and_without_graphs,
    same_weights,
    stop_at,
    summary,
    timeless,
    train_run,
)
from trainopt.optimizers import EHNewton
from trainopt.optimizers.curvature.conjugate_gradient import conjugate_gradient_flat
from trainopt.optimizers.curvature.fixed_iterations import fixed_conjugate_gradient
from trainopt.optimizers.ehnewton import step
from trainopt.optimizers.ehnewton.subspace import coefficients_of, coefficients_on_device
from trainopt.runner.training import divergence
from trainopt.runner.training.graphs import choice

MLP = ("model=mlp", "model.hidden=[8]", "data.limit=50", "batching.size=20", "logger=[]", "log_every=4steps")
CONVNET = ("model=resnet8", "data.limit=50", "batching.size=20", "logger=[]", "log_every=4steps")
NEWTON = ("optimizer=ehnewton", "schedule=cosine")
GAUSS = ("optimizer.curvature=gauss_newton", "optimizer.cg_max_iter=4")
CASES = {
    "one iteration": (*CONVNET, *NEWTON, "averaging=ema", "regularizer=[l2]", "optimizer.momentum=0.5"),
    "four iterations": (*MLP, *NEWTON, *GAUSS, "optimizer.weight_decay=0.01", "model.dropout=0.3"),
    "blocks": (*MLP, *NEWTON, "optimizer.blocks=parameter", "optimizer.cg_max_iter=3", "optimizer.cg_tol=1e-1"),
    "a half of the batch": (*MLP, *NEWTON, "optimizer.curvature_share=0.5", "batching.persistency=2"),
    "K-FAC": (*CONVNET, "optimizer=ehnewton_auto", "schedule=cosine"),
}


@pytest.fixture
def like_gpu(stand_in, late, monkeypatch):
    """Lets a CPU make steps as a GPU does."""
    monkeypatch.setattr(step, "DEVICES", ("cpu",))
    return stand_in


def without_graphs(monkeypatch):
    """Lets steps be those of a GPU without graphs."""
    monkeypatch.setattr(choice, "GRAPHS_ON", ())
    monkeypatch.setattr(divergence, "DEFERRED_ON", ())


@pytest.mark.parametrize("name", ["one iteration", *(pytest.param(n, marks=pytest.mark.slow) for n in [*CASES][1:])])
def test_a_run_is_the_run_of_eager_steps(trained, like_gpu, monkeypatch, name):
    """With batches of two sizes; rows, counts, weights and state; the weights are also those of a CPU."""
    run = (*CASES[name], "duration=20steps", "evaluate_every=6steps", "cuda_graph=auto")
    one = trained(*run, name="graph")
    assert "stay eager" not in (one / "log.txt").read_text()
    assert sum(like_gpu.replays) == (8 if name == "K-FAC" else 16)
    without_graphs(monkeypatch)
    check_same_run(one, trained(*run, name="eager"))
    monkeypatch.setattr(step, "DEVICES", ())
    assert same_weights(one, trained(*run, name="cpu"))


@pytest.mark.parametrize("is_late", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_replayed_run_that_diverges_ends_as_an_eager_one(trained, like_gpu, monkeypatch, is_late):
    """It goes back to the position of the last evaluation, and counts no product of a step that was not made."""
    if not is_late:
        monkeypatch.setattr(divergence._Readout, "poll", lambda self, number, tag: (float(number), tag))
    rates = ("schedule=multistep", "schedule.milestones=[7steps]", "schedule.gamma=1e30")
    run = (*MLP, "optimizer=ehnewton", *rates, "duration=15steps", "evaluate_every=5steps", "log_every=50steps")
    one = trained(*run, "cuda_graph=auto", name="graph")
    assert summary(one)["status"] == "diverged"
    assert sum(like_gpu.replays) >= 4
    without_graphs(monkeypatch)
    other = trained(*run, "cuda_graph=auto", name="eager")
    assert summary(one)["diverged_at"] == summary(other)["diverged_at"]
    assert summary(one)["steps"] == summary(other)["steps"] >= 7
    check_same_run(one, other)


RESUMED = {
    "sgd": (*MLP, "averaging=ema"),
    "adamw": (*MLP, "optimizer=adamw", "schedule=cosine"),
    "ehnewton": CASES["four iterations"],
    "ehnewton_auto": (*MLP, "optimizer=ehnewton_auto"),
}


@pytest.mark.parametrize("is_first", [True, False], ids=["graph first", "graph second"])
@pytest.mark.parametrize(
    "name", ["ehnewton", *(pytest.param(n, marks=pytest.mark.slow) for n in RESUMED if n != "ehnewton")]
)
def test_a_run_is_resumed_with_and_without_graphs(trained, tmp_path, like_gpu, monkeypatch, name, is_first):
    """A run that is stopped, and goes on without graphs or with them, is the run that was not stopped."""
    run = (*RESUMED[name], "duration=28steps", "evaluate_every=9steps", "cuda_graph=auto")

    def graphs(are_on: bool) -> None:
        monkeypatch.setattr(choice, "GRAPHS_ON", ("cpu",) if are_on else ())
        monkeypatch.setattr(divergence, "DEFERRED_ON", ("cpu",) if are_on else ())

    graphs(is_first)
    with monkeypatch.context() as stopping:
        stop_at(stopping, 14)
        assert train_run(tmp_path / "outputs/stopped", *run) == 130
    graphs(not is_first)
    stopped = trained(*run, name="stopped")
    assert sum(like_gpu.replays) >= 2
    graphs(False)
    whole = trained(*run, name="whole")
    assert timeless(rows(whole)) == timeless(rows(stopped))
    assert same_weights(whole, stopped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("optimizer=newton", "model.hidden=[]"), "Newton differentiates the loss itself"),
        (("optimizer.adapt_damping=true",), "optimizer.adapt_damping=true: the host compares losses"),
        (("optimizer.backtracking=2",), "optimizer.backtracking=2: the host compares losses"),
        (("optimizer.warm_start=0.5",), "optimizer.warm_start=0.5: how many products a step makes is known during it"),
        (("optimizer.preconditioner=diagonal",), "optimizer.preconditioner=diagonal: its bias correction"),
        (("optimizer=ehnewton_auto", "optimizer.cg_max_iter=3"), "optimizer.preconditioner=kronecker with cg_max_iter"),
        (("duration=1min",), "each step must wait: duration=1min is a time"),
        (("probe=[taylor]",), "probes look into single steps"),
    ],
)
def test_what_no_graph_can_hold_is_refused(like_gpu, options, reason):
    run = (*MLP, "optimizer=ehnewton", *options)
    assert refusal(*run, "cuda_graph=true").startswith(f"cuda_graph=true: {reason}")
    assert any(
        note.startswith(f"cuda_graph=auto: steps are eager: {reason}") for note in built(*run, "cuda_graph=auto").notes
    )


@pytest.mark.slow
def test_the_closed_form_of_a_linear_classifier_stays_eager(trained, like_gpu, monkeypatch):
    run = (*MLP, "model.hidden=[]", "optimizer=ehnewton", "duration=9steps", "cuda_graph=auto")
    one = trained(*run, name="graph")
    assert "steps stay eager: the closed form of a linear classifier follows" in (one / "log.txt").read_text()
    without_graphs(monkeypatch)
    check_same_run(one, trained(*run, name="eager"))


def system(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a matrix (n, n) and a right-hand side (n,)."""
    generator = torch.Generator().manual_seed(3)
    A = torch.randn(9, 9, generator=generator)
    A, b = A @ A.t() + torch.eye(9), torch.randn(9, generator=generator)
    if kind == "negative at once":
        A = -A
    if kind == "negative later":
        A -= 9 * torch.eye(9)
    if kind == "not finite":
        A[0, 0] = torch.nan
    return A, torch.zeros(9) if kind == "zero" else b


@pytest.mark.parametrize("is_preconditioned", [False, True])
@pytest.mark.parametrize("tol", [1e-6, 0.5])
@pytest.mark.parametrize("kind", ["definite", "negative at once", "negative later", "not finite", "zero"])
def test_iterations_of_a_fixed_number_end_where_others_end(kind, tol, is_preconditioned):
    A, b = system(kind)
    M = (lambda r: r / torch.linspace(1, 2, 9)) if is_preconditioned else None
    x, info = conjugate_gradient_flat(lambda v: A @ v, b, 7, tol, True, None, M)
    with NoReads():
        y, fixed = fixed_conjugate_gradient(lambda v: A @ v, b, 7, tol, True, M)
    assert torch.equal(x, y)
    assert (info.iterations, info.products) == (fixed.iterations, fixed.products)
    assert bool(fixed.is_negative) == (info.reason == "negative_curvature")
    assert fixed.residual.item() == pytest.approx(info.residual, rel=1e-15, nan_ok=True)


@pytest.mark.parametrize(
    "matrix",
    [
        [[2.0, 0.5], [0.5, 1.0]],
        [[1e-8, 3e-5], [3e-5, 1.0]],
        [[1.0, 1.0], [1.0, 1.0]],
        [[-1.0, 0.5], [0.5, 1.0]],
        [[1.0, 0.5], [0.5, -1.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[4.0]],
    ],
)
def test_both_equations_of_a_subspace_are_solved_on_the_device(matrix):
    A = torch.tensor(matrix, dtype=torch.float64)
    b = torch.tensor([0.3, -0.7], dtype=torch.float64)[: len(A)]
    expected, was_indefinite = coefficients_of(A, b)
    with NoReads():
        actual, is_indefinite = coefficients_on_device(A, b)
    assert was_indefinite == is_indefinite.item()
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


def test_a_step_of_many_kinds_of_groups_reads_nothing_and_is_that_of_a_cpu():
    """With two dampings and learning rates, in a subspace and with weight decay."""
    options = {"curvature": "gauss_newton", "damping_per_output": True, "weight_decay": 0.1}
    for more in ({"cg_max_iter": 3}, {"cg_max_iter": 1, "subspace": "last_step"}, {"cg_max_iter": 1, "momentum": 0.5}):
        reached = []
        for reads in (True, False):
            torch.manual_seed(0)
            network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
            groups = [
                {"params": layer.parameters(), "lr": 0.1, "damping": d}
                for layer, d in zip(network[::2], (1, 2), strict=True)
            ]
            optimizer = EHNewton(groups, **options, **more)
            for k in range(4):
                x, y = torch.randn(8, 5), torch.arange(8) % 3

                def closure(x=x, y=y, network=network):
                    return torch.nn.functional.cross_entropy(network(x), y)

                if reads or k == 0:
                    optimizer.step(closure)
                else:
                    with NoReads():
                        optimizer.record(closure)
            reached.append([p.detach() for p in network.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*reached, strict=True))


@on_gpu
@pytest.mark.parametrize("name", CASES)
def test_a_run_on_a_gpu_is_the_run_of_eager_steps(trained, name):
    run = (*CASES[name], "duration=30steps", "device=cuda", "deterministic=true")
    assert "stay eager" not in (run_with_and_without_graphs(trained, *run) / "log.txt").read_text()
