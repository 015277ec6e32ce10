"""EHNewton in runs: what rows say, what options do, refusals, networks of timm."""

import math

import pytest

from helpers.cli import refusal
from helpers.references import OF_A_STEP
from helpers.runs import rows, summary, weights

SMALL = ("optimizer=ehnewton", "data.limit=120", "batching.size=40", "logger=none")
MLP = (*SMALL, "model=mlp", "model.hidden=[12]")


def costs(folder):
    """(hvps, gradient_equivalents) so far, by step."""
    return [(row["hvps"], row["gradient_equivalents"]) for row in rows(folder, "train")]


@pytest.mark.parametrize("network", [("model=mlp", "model.hidden=[12]"), ("model=resnet8",)])
def test_rows_say_how_each_step_was_found(trained, network):
    folder = trained(*SMALL, *network, "optimizer.cg_max_iter=3", "duration=4steps", "log_every=1steps")
    found = rows(folder, "train")
    assert len(found) == 4
    for row in found:
        assert row.keys() >= OF_A_STEP
        assert all(math.isfinite(row[name]) for name in OF_A_STEP)
        assert row["directional_derivative"] < 0
        assert row["step_length"] > 0
        assert 0 <= row["cg_iterations"] <= 3
    steps = [(0, 0), *costs(folder)]
    for row, (hvps, cost), (before, cost_before) in zip(found, steps[1:], steps, strict=False):
        # one system, each iteration a product, and one more where it met negative curvature
        assert hvps - before == row["cg_iterations"] + row["negative_curvature"]
        assert cost - cost_before == pytest.approx(1 + 2 * (hvps - before))
    last = summary(folder)
    assert (last["gradients"], last["hvps"]) == (4, steps[-1][0])
    assert last["gradient_equivalents"] == pytest.approx(steps[-1][1])


@pytest.mark.parametrize("network", [("model=mlp", "model.hidden=[12]"), ("model=resnet8", "data.limit=60")])
@pytest.mark.parametrize(("curvature", "cost"), [("hessian", 1), ("gauss_newton", 2 / 3)])
def test_a_step_of_one_iteration_costs_the_short_way(trained, network, curvature, cost):
    command = (*SMALL, *network, "optimizer.cg_max_iter=1", f"optimizer.curvature={curvature}")
    folder = trained(*command, "duration=3steps", "log_every=1steps")
    assert costs(folder) == [(n, pytest.approx(n * (1 + cost))) for n in (1, 2, 3)]


OPTIONS = [
    "",
    "optimizer.curvature=hessian optimizer.backtracking=5",
    "optimizer.curvature=hessian optimizer.blocks=parameter",
    "optimizer.cg_tol_relative=true optimizer.cg_tol=0.3",
    "optimizer.curvature_share=0.5",
    "optimizer.momentum=0.5",
    "optimizer.warm_start=0.5",
    "optimizer.adapt_damping=true",
    "optimizer.cg_max_iter=1 optimizer.adapt_damping=true optimizer.backtracking=3",
    "batching.persistency=2 regularizer=[l2] objective.label_smoothing=0.1",
]


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("options", OPTIONS)
def test_each_option_trains(trained, options):
    # the Gauss-Newton matrix unless said otherwise: full steps by the Hessian may raise the loss for a while
    curvature = [] if "curvature=" in options else ["optimizer.curvature=gauss_newton"]
    command = (*MLP, "optimizer.lr=0.1", "optimizer.damping=0.1", *curvature, *options.split())
    folder = trained(*command, "duration=20steps", "log_every=1steps")
    found = rows(folder, "train")
    losses = [row["total"] for row in found]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert all(("reduction_ratio" in row) == ("adapt_damping" in options) for row in found)
    assert all(("step_size" in row) == ("backtracking" in options) for row in found)


def test_curvature_of_a_share_costs_a_share(trained):
    command = (*MLP, "optimizer.cg_max_iter=1", "optimizer.curvature_share=0.5", "duration=1steps")
    folder = trained(*command, "log_every=1steps")
    assert summary(folder)["gradients"] == 1
    assert summary(folder)["samples"] == 40
    assert costs(folder) == [(1, pytest.approx(1 + 0.5 + 0.5))]  # a half's own gradient, and curvature along one


def test_more_iterations_find_a_lower_loss(trained):
    """On one batch again and again, with steps halved until the loss falls."""
    losses = {}
    for iterations in (1, 20):
        command = (
            *MLP,
            "optimizer.curvature=gauss_newton",
            f"optimizer.cg_max_iter={iterations}",
            "optimizer.lr=1",
        )
        more = ("batching.persistency=15", "duration=15steps", "optimizer.backtracking=9", "log_every=1steps")
        folder = trained(*command, *more, name=f"n{iterations}")
        found = [row["total"] for row in rows(folder, "train")]
        assert found == sorted(found, reverse=True)
        losses[iterations] = found[-1]
    assert losses[20] < 0.5 * losses[1]


LINEAR = (*SMALL, "regularizer=[l2]", "objective.label_smoothing=0.1")


@pytest.mark.parametrize("iterations", [1, 8])
def test_a_linear_classifier_goes_where_the_general_way_leads(trained, iterations):
    command = (*LINEAR, f"optimizer.cg_max_iter={iterations}", "optimizer.cg_tol=0", "optimizer.damping=0.5")
    found = trained(*command, "model=mlp", "model.hidden=[]", "duration=5steps", "log_every=1steps")
    unseen = "model._target_=helpers.fixtures.LinearTimesOne"
    general = trained(*command, unseen, "duration=5steps", "log_every=1steps", name="general")
    for row, expected in zip(rows(found, "train"), rows(general, "train"), strict=True):
        for name in (*OF_A_STEP - {"residual"}, "total", "cross_entropy", "l2", "hvps"):
            assert row[name] == pytest.approx(expected[name], rel=1e-4), name
        assert row["gradient_equivalents"] < expected["gradient_equivalents"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("compile=true", "compile=true: "),
        ("optimizer.damping=-1", "optimizer.damping=-1: must be >= 0"),
        ("optimizer.cg_max_iter=0", "optimizer.cg_max_iter=0: must be an integer >= 1"),
        ("optimizer.cg_max_iter=1.5", "optimizer.cg_max_iter=1.5: must be an integer"),
        ("optimizer.cg_tol=-1", "optimizer.cg_tol=-1: must be >= 0"),
        ("optimizer.cg_tol_relative=3", "optimizer.cg_tol_relative=3: must be true or false"),
        ("optimizer.blocks=layer", "optimizer.blocks=layer: must be one of all, parameter"),
        ("optimizer.curvature=fisher", "optimizer.curvature=fisher: must be one of hessian, gauss_newton"),
        ("optimizer.curvature_share=0", "optimizer.curvature_share=0: must be in (0, 1]"),
        ("optimizer.curvature_share=2", "optimizer.curvature_share=2: must be in (0, 1]"),
        ("optimizer.warm_start=1.1", "optimizer.warm_start=1.1: must be in [0, 1]"),
        ("optimizer.momentum=1", "momentum=1"),
        ("optimizer.adapt_damping=maybe", "optimizer.adapt_damping=maybe: must be true or false"),
        ("optimizer.backtracking=-1", "optimizer.backtracking=-1: must be an integer >= 0"),
        ("optimizer.backtracking=0.5", "optimizer.backtracking=0.5: must be an integer"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(command, message):
    assert message in refusal("optimizer=ehnewton", "model=mlp", *command.split())


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt("optimizer=ehnewton", "model=mlp", "optimizer.damping=-1")
    assert result.code == 2
    assert result.err == "trainopt: optimizer.damping=-1: must be >= 0 and finite\n"
    assert not (tmp_path / "outputs").exists()


def test_gauss_newton_of_a_function_says_what_is_missing():
    line = refusal("optimizer=ehnewton", "optimizer.curvature=gauss_newton", "model=function", "data=none")
    assert "curvature=gauss_newton" in line


TINY = ("data=synthetic", "data.train_size=8", "data.test_size=4", "data.num_classes=3", "batching.size=4")
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "network",
    [
        "model=timm model.name=test_vit data.image_shape=[3,32,32]",
        "model=timm model.name=test_resnet data.image_shape=[3,32,32]",
        "model=timm model.name=test_efficientnet data.image_shape=[3,32,32]",
        "model=timm model.name=test_nfnet data.image_shape=[3,32,32]",
        "model=timm model.name=test_vit data.image_shape=[3,32,32] precision=bf16",
        "model=resnet20 data.image_shape=[3,8,8]",
        pytest.param("model=resnet18 data.image_shape=[3,32,32]", marks=SLOW),
        pytest.param("model=resnet50 data.image_shape=[3,32,32]", marks=SLOW),
        pytest.param("model=mobilenetv2_140 data.image_shape=[3,32,32]", marks=SLOW),
        # Its first gradient is 6e4 long (94 layers normalize over few values): after a step of lr=0.1, SGD's too, the
        # next training loss is finite, but evaluation overflows, as running statistics are those of other weights.
        pytest.param("model=inception_v3 data.image_shape=[3,75,75] optimizer.lr=1e-5", marks=SLOW),
    ],
)
def test_networks_take_a_step(trained, network):
    command = ("optimizer=ehnewton", "optimizer.cg_max_iter=2", *TINY, *network.split())
    folder = trained(*command, "duration=1steps", "logger=none")
    row = rows(folder, "train")[-1]
    assert row["step"] == 1
    assert row["hvps"] >= 1
    assert 0 < row["step_length"] < math.inf
    assert math.isfinite(row["total"])
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())
    assert math.isfinite(summary(folder)["final"]["loss"])
