"""What a step leaves behind: no graph, without the help of the garbage collector."""

import gc
import json
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import TARGETS, Flatten, Problem, numbers, of_cycles
from trainopt.optimizers import Curvature, EHNewton, FastDoubleBackward

# A step's activations are some 0.7 MiB: 180 steps that kept them would hold more than 100.
PROGRAM = """
import ctypes, gc, json, resource, sys, warnings
import torch
from torch import nn
from trainopt.optimizers import EHNewton

warnings.simplefilter("ignore")
torch.set_num_threads(1)
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
    nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 3),
)
inputs, targets = torch.randn(16, 3, 12, 12), torch.randint(3, (16,))

def closure():
    return nn.functional.cross_entropy(network(inputs), targets)

def resident():
    ctypes.CDLL(None).malloc_trim(0)
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

def by_closure(optimizer):
    optimizer.step(closure)

def by_backward(optimizer):
    closure().backward(create_graph=True)
    optimizer.step()
    optimizer.zero_grad()

gc.disable()
for step, options in json.loads(sys.argv[1]):
    optimizer = EHNewton(network.parameters(), lr=1e-3, **options)
    for number in range(1, 201):
        globals()[step](optimizer)
        if number == 20:
            early = resident()
    print(early, resident())
"""
PRESET = {"curvature": "gauss_newton", "preconditioner": "kronecker", "subspace": "last_step"}
RUNS = [
    ("by_closure", {"cg_max_iter": 1}),
    ("by_closure", {"cg_max_iter": 3}),
    ("by_closure", {"cg_max_iter": 1, "curvature": "gauss_newton"}),
    ("by_closure", {"cg_max_iter": 3, "curvature": "gauss_newton"}),
    ("by_closure", {"cg_max_iter": 1, **PRESET}),
    ("by_backward", {"cg_max_iter": 1}),
]


@pytest.fixture(scope="module")
def resident():
    """What a process held after 20 and after 200 steps, in MiB, for each of RUNS."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(RUNS)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [tuple(map(float, line.split())) for line in result.stdout.splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("run", range(len(RUNS)), ids=[f"{step} {options}" for step, options in RUNS])
def test_memory_after_200_steps_is_that_after_20(resident, run):
    early, late = resident[run]
    assert late < 1.03 * early


def alive():
    """Objects of curvature and of graphs of this project's functions, made since the fixture began."""
    kinds = (Curvature, FastDoubleBackward, torch.autograd.function.BackwardCFunction)
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]


def convolutional():
    torch.manual_seed(0)
    network = Flatten(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2))
    return Problem(network.double(), numbers(8, 2, 6, 6), lambda z: F.cross_entropy(z, TARGETS))


OPTIONS = [
    {"cg_max_iter": 1},
    {"cg_max_iter": 3},
    {"cg_max_iter": 1, "curvature": "gauss_newton"},
    {"cg_max_iter": 3, "curvature": "gauss_newton"},
    {"cg_max_iter": 1, **PRESET, "damping_per_output": True},
    {"cg_max_iter": 3, **PRESET, "backtracking": 2},
    {"cg_max_iter": 2, "preconditioner": "diagonal"},
    {"cg_max_iter": 2, "blocks": "parameter", "warm_start": 0.9},
    {"cg_max_iter": 2, "adapt_damping": True, "backtracking": 2, "momentum": 0.9},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_of_the_graph_outlives_a_step(no_collector, options):
    problem, before, outputs = convolutional(), len(alive()), []

    def closure():
        z = problem.network(problem.inputs)
        if z.requires_grad:
            assert len(alive()) > before
            outputs.append(weakref.ref(z))
        return problem.loss(z)

    optimizer = EHNewton(problem.params, **options)
    for _ in range(2):
        loss = optimizer.step(closure)
        assert len(alive()) == before
        assert [ref() for ref in outputs] == [None] * len(outputs)
    assert loss.grad_fn is None
    for state in optimizer.state.values():
        assert not any(value.requires_grad for value in state.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[3]])
def test_nothing_of_the_graph_outlives_a_step_whose_closure_calls_backward(no_collector, options):
    problem, before, outputs = convolutional(), len(alive()), []

    def closure():
        for p in problem.params:
            p.grad = None
        z = problem.network(problem.inputs)
        outputs.append(weakref.ref(z))
        loss = problem.loss(z)
        loss.backward()
        return loss.detach()

    optimizer = EHNewton(problem.params, **options)
    for _ in range(2):
        optimizer.step(closure)
        assert len(alive()) == before
        assert [ref() for ref in outputs] == [None] * len(outputs)


@of_cycles
@pytest.mark.parametrize("iterations", [1, 3])
def test_nothing_outlives_a_step_of_timms_convention(no_collector, iterations):
    problem, before = convolutional(), len(alive())
    optimizer = EHNewton(problem.params, cg_max_iter=iterations)
    with FastDoubleBackward():
        loss = problem.closure()
    loss.backward(create_graph=True)
    del loss
    assert len(alive()) > before  # by the cycle through the gradients
    optimizer.step()
    assert len(alive()) == before


def test_nothing_outlives_a_step_that_failed(no_collector):
    problem = convolutional()
    optimizer = EHNewton(problem.params, curvature="gauss_newton")
    before = len(alive())
    with pytest.raises(ValueError, match="must call a loss function"):
        optimizer.step(lambda: problem.network(problem.inputs).logsumexp(1).mean())
    gc.collect()  # the traceback holds frames, and those what they computed
    assert len(alive()) == before
