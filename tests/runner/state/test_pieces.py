"""The small pieces of the runner, each against a plain statement of what it does."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from trainopt.optimizers import L2
from trainopt.runner.config.durations import Duration
from trainopt.runner.config.forms.rules import satisfies
from trainopt.runner.config.run_names import MAX_BYTES, run_name
from trainopt.runner.metrics.accuracy import accuracies
from trainopt.runner.metrics.build import default_metrics
from trainopt.runner.objectives import CrossEntropy
from trainopt.runner.reporting.style import running_mean
from trainopt.runner.state.clocks import Clocks
from trainopt.runner.state.evaluation import evaluate
from trainopt.runner.state.objective import Objective
from trainopt.runner.state.progress import Agenda, Progress
from trainopt.runner.system.files import json_line
from trainopt.runner.training.divergence import Diverged, FiniteCheck

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("20epochs", 20, "epochs"),
        ("1epoch", 1, "epochs"),
        ("0.05epochs", Fraction(1, 20), "epochs"),
        (".5epochs", Fraction(1, 2), "epochs"),
        ("300steps", 300, "steps"),
        ("1e3steps", 1000, "steps"),
        (" 2 epochs ", 2, "epochs"),
    ],
)
def test_durations_are_read(text, amount, unit):
    assert Duration.parse(text) == Duration(Fraction(amount), unit)


@pytest.mark.parametrize("text", ["", "10", "epochs", "0epochs", "-1epochs", "1.5steps", "1 year", 3])
def test_what_is_no_duration_is_refused(text):
    assert not Duration.is_valid(text)


def walk(sizes, agenda_durations, start=0):
    """What an agenda says after each update, the first `start` of them made before it was built."""
    progress = Progress(epoch_size=37)
    said = []
    agenda = Agenda(progress, **agenda_durations) if not start else None
    for i, size in enumerate(sizes, start=1):
        progress.step += 1
        progress.samples_passed += size
        if agenda is not None:
            said.append(sorted(agenda.due()))
        if i == start:
            agenda = Agenda(progress, **agenda_durations)
    return said


durations = st.one_of(
    st.integers(1, 9).map("{}steps".format),
    st.sampled_from(["0.05epochs", "0.3epochs", "1epochs", "2.5epochs"]),
)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), durations, durations)
def test_the_agenda_is_the_brute_force_one(sizes, first, second):
    said = walk(sizes, {"first": first, "second": second})
    step = samples = 0
    for size, names in zip(sizes, said, strict=True):
        before = step, samples
        step, samples = step + 1, samples + size
        expected = []
        for name, text in (("first", first), ("second", second)):
            length = Duration.parse(text).amount * (1 if text.endswith("steps") else 37)
            was, now = (before[0], step) if text.endswith("steps") else (before[1], samples)
            if now // length > was // length:
                expected.append(name)
        assert names == expected


@given(st.lists(st.integers(0, 12), min_size=2, max_size=40), durations, st.data())
def test_an_agenda_built_in_the_middle_says_the_rest(sizes, every, data):
    start = data.draw(st.integers(1, len(sizes) - 1))
    assert walk(sizes, {"a": every}, start) == walk(sizes, {"a": every})[start:]


def test_clocks_are_apart_and_add_up():
    now = [0.0]
    ours = Clocks(CPU, now=lambda: now[0])
    now[0] = 1.0
    with ours.running("train"):
        now[0] = 5.0
        with ours.running("evaluation"):
            now[0] = 7.0
        with ours.running("other"):
            now[0] = 7.5
        now[0] = 9.0
    now[0] = 9.25
    expected = {"train": 4 + 1.5, "evaluation": 2.0, "probes": 0.0, "checkpoint": 0.0, "other": 1 + 0.5 + 0.25}
    assert ours.state_dict() == expected
    again = Clocks(CPU)
    again.load_state_dict(ours.state_dict())
    assert again.state_dict()["train"] == 5.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_caught(value):
    check = FiniteCheck(CPU)
    check.begin(torch.tensor(1.0, requires_grad=True))
    assert check.value == 1.0
    with pytest.raises(Diverged) as outcome:
        check.begin(torch.tensor(value))
    assert outcome.value.values == {"loss": str(value)}


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_caught_and_others_are_left_alone(value):
    check = FiniteCheck(CPU)
    check.begin(torch.tensor(1.0))
    embedding = torch.sparse_coo_tensor([[1, 1]], [[1.0], [2.0]], (3, 1), check_invariants=True)
    graph = (torch.ones(2, requires_grad=True) ** 2).sum()
    gradients = [torch.tensor([[1.0, -0.0], [1e-45, 3e38]]), torch.ones(2, dtype=torch.float64), embedding, graph]
    check.look_at(gradients)
    check.look_at(gradients[:2])
    assert gradients[0].tolist() == [[1.0, -0.0], [torch.tensor(1e-45).item(), torch.tensor(3e38).item()]]
    with pytest.raises(Diverged) as outcome:
        check.look_at([*gradients, torch.tensor([1.0, value])])
    assert outcome.value.values == {"loss": "1.0", "gradient_norm": str(abs(value))}


def test_the_objective_is_the_sum_of_its_terms():
    torch.manual_seed(0)
    network = nn.Linear(4, 3).double()
    inputs, targets = torch.randn(6, 4, dtype=torch.float64), torch.randint(3, (6,))

    def with_auxiliary(x):
        return network(x), 2 * network(x)

    penalties = {"l2": (L2(0.1), [network.weight])}
    total, terms, logits = Objective(with_auxiliary, penalties, CrossEntropy(0.2), auxiliary_weight=0.4)(
        inputs, targets
    )
    logp = torch.log_softmax(network(inputs), 1)
    smooth = 0.8 * nn.functional.one_hot(targets, 3).double() + 0.2 / 3
    assert torch.allclose(terms["cross_entropy"], -(smooth * logp).sum(1).mean(), rtol=1e-12)
    second = cross_entropy(2 * network(inputs), targets, label_smoothing=0.2)
    assert torch.allclose(terms["auxiliary"], 0.4 * second, rtol=1e-12)
    assert torch.allclose(terms["l2"], 0.1 * network.weight.square().sum(), rtol=1e-12)
    assert torch.allclose(total, sum(terms.values()), rtol=1e-12)
    assert torch.equal(logits, network(inputs))


def test_evaluation_is_exact_whatever_the_batches_and_leaves_modes_and_generator_alone():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 7))
    network.train()
    network[2].eval()
    inputs, targets = torch.randn(50, 4), torch.randint(7, (50,))

    class Source:
        def __len__(self):
            return 50

        def ordered(self, size):
            yield from zip(inputs.split(size), targets.split(size), strict=True)

    state = torch.get_rng_state()
    found = [
        evaluate(network, network, Source(), size, CrossEntropy(), default_metrics(7, CrossEntropy()))
        for size in (50, 7, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in network] == [True, True, False, True]
    with torch.no_grad():
        logits = network.eval()(inputs)
    ranks = (logits > logits.gather(1, targets[:, None])).sum(1)
    for row in found:
        assert row["loss"] == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-6)  # float32
        assert row["top1"] == pytest.approx(100 * (ranks == 0).double().mean().item())
        assert row["top5"] == pytest.approx(100 * (ranks < 5).double().mean().item())


def test_accuracies_are_those_of_each_batch():
    torch.manual_seed(0)
    batches = [(torch.randn(size, 5), torch.randint(5, (size,))) for size in (4, 7, 4, 1)]
    expected = [100 * (logits.argmax(1) == targets).double().mean().item() for logits, targets in batches]
    assert accuracies(batches) == pytest.approx(expected)
    assert accuracies([]) == []


def test_accuracies_of_mixed_images_are_what_the_targets_give_to_the_classes_found():
    """The weighted mean of the shares that are taken for the one class and for the other."""
    torch.manual_seed(0)
    batches, expected = [], []
    for size in (4, 7, 4):
        logits, one, other = torch.randn(size, 5), torch.randint(5, (size,)), torch.randint(5, (size,))
        batches.append((logits, 0.3 * torch.eye(5)[one] + 0.7 * torch.eye(5)[other]))
        found = logits.argmax(1)
        expected.append(100 * (0.3 * (found == one) + 0.7 * (found == other)).double().mean().item())
    assert accuracies(batches) == pytest.approx(expected)
    assert accuracies(batches[2:]) == accuracies(batches)[2:]  # bitwise: rows wait for each other or not


def test_rows_are_strict_json():
    assert (
        json_line({"a": 1.5, "b": float("nan"), "c": {"d": float("inf")}}) == '{"a": 1.5, "b": null, "c": {"d": null}}'
    )


@pytest.mark.parametrize(
    ("value", "rule", "kept"),
    [
        (3, "integer >= 1", True),
        (3.0, "integer >= 1", False),
        (True, "integer >= 1", False),
        (0, "number > 0", False),
        (float("inf"), "number > 0", False),
        (1, "number in (0, 1]", True),
        (0, "number in (0, 1]", False),
        (None, "number > 0 or null", True),
        (None, "true or false or null", True),
        ([], "list of integer >= 1", True),
        ([1, 0], "list of integer >= 1", False),
        ([1, 1], "list of 3 integer >= 1", False),
        (["1epochs"], "list of duration", True),
        ("", "text", False),
        (False, "one of false", True),
        (0, "one of false", False),
        ("b", "one of a, b", True),
    ],
)
def test_rules(value, rule, kept):
    assert satisfies(value, rule) is kept


def test_names_of_runs_do_not_depend_on_the_order_and_are_never_too_long():
    choices = {"model": "mlp", "data": "digits", "optimizer": "sgd"}
    typed = ["seed=1", "model=mlp", "optimizer.lr=0.1", "logger=none", "data.path=/a b/c.npz"]
    name = run_name(choices, typed)
    assert name == "mlp-digits-sgd,data.path=_a_b_c.npz-4a2806e4,optimizer.lr=0.1,seed=1"
    assert run_name(choices, typed[::-1]) == name
    assert run_name(choices, ["data.path=a_b"]) != run_name(choices, ["data.path=a b"])
    long = run_name(choices, [f"model.hidden=[{','.join(['12'] * 100)}]"])
    assert len(long) <= MAX_BYTES
    assert long != run_name(choices, [f"model.hidden=[{','.join(['12'] * 101)}]"])


def test_the_running_mean_keeps_the_ends_and_lines():
    import numpy as np

    line = np.arange(400.0)
    assert running_mean(line) == pytest.approx(line)
    wave = np.tile([0.0, 1.0], 200)
    assert np.abs(running_mean(wave)[15:-15] - 0.5).max() < 0.03


def test_progress_counts_a_persistent_batch_once_in_epochs():
    progress = Progress(epoch_size=10)
    for after in ((0, 0, 1, 1), (0, 4, 0, 2), (0, 4, 1, 3), (1, 0, 0, 4)):
        progress.advance(SimpleNamespace(after=after))
    assert (progress.step, progress.epochs, progress.samples_passed) == (4, 1.0, 10)
    again = Progress(epoch_size=10)
    again.load_state_dict(progress.state_dict())
    assert again == progress
