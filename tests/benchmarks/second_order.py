"""What second order costs, in gradients: a further Hessian-vector product, a step, and memory.

Every figure is the median of ratios of interleaved pairs on one batch. A gradient is a forward and a backward
pass; a further product is one for which the gradient's graph is there already, where a tool can keep it.
A process keeps its memory while times are taken (for ours and for the peers): otherwise fresh
pages, which every loop that trains reuses, are half of what is measured. Memory is the growth of a fresh process.

By counting operations a product costs 1.5 gradients on the MLP and 2.0 on the others, a Gauss-Newton product 4/3
(1.2 on the MLP), the curvature along a direction 1 and 2/3.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pairs import hardware, peak_megabytes, ratios, report, resident, seconds, start
from trainopt.models import MLP, ResNet
from trainopt.optimizers import Curvature, EHNewton, FastDoubleBackward, hessian_vector_product

CASES = ("mlp", "resnet20", "resnet18")
BOUNDS = {"mlp": 1.6, "resnet20": 2.5, "resnet18": 2.2}
TITLES = {
    "mlp": "MLP 784-500-500-10, batch 128",
    "resnet20": "ResNet-20, batch norm in train mode, batch 128",
    "resnet18": "timm's resnet18 at 64x64, batch 32",
    "resnet50": "timm's resnet50 at 224x224, batch 64",  # on a GPU, in gpu.py
}
DEPTHS = (20, 56, 110)
PRESET = {  # optimizer=ehnewton_auto, with steps so short that the problem stays the same
    "lr": 1e-4,
    "cg_max_iter": 1,
    "curvature": "gauss_newton",
    "preconditioner": "kronecker",
    "subspace": "last_step",
    "subspace_every": 5,
    "damping_per_output": True,
    "loss_floor": 0.0,
}


class Case:
    """A network in training mode with one batch."""

    def __init__(self, name: str, batch: int | None = None):
        torch.manual_seed(0)
        if name == "mlp":
            self.network, shape = MLP((1, 28, 28), 10, hidden=[500, 500]), (batch or 128, 1, 28, 28)
        elif name == "resnet18":
            self.network, shape = timm.create_model("resnet18", num_classes=10), (batch or 32, 3, 64, 64)
        elif name == "resnet50":
            self.network, shape = timm.create_model("resnet50", num_classes=1000), (batch or 64, 3, 224, 224)
        else:
            depth = int(name.removeprefix("resnet"))
            self.network, shape = ResNet(in_channels=3, num_classes=10, depth=depth), (batch or 128, 3, 32, 32)
        self.network.train()
        self.inputs, self.targets = torch.randn(shape), torch.randint(10, (shape[0],))
        self.params = list(self.network.parameters())
        self.vectors = [torch.randn_like(p) for p in self.params]

    def loss(self) -> Tensor:
        return cross_entropy(self.network(self.inputs), self.targets)

    def gradient(self) -> object:
        return torch.autograd.grad(self.loss(), self.params)


def ours(case: Case) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields what this package computes after the gradient."""
    hessian, along = Curvature(case.loss, case.params), Curvature(case.loss, case.params, quadratic_form_only=True)
    newton = Curvature(case.loss, case.params, "gauss_newton")
    yield "a further Hessian product", lambda: hessian.matvec(case.vectors)
    yield "the curvature along a direction, Hessian", lambda: along.quadratic_form(case.vectors)
    yield "a further Gauss-Newton product", lambda: newton.matvec(case.vectors)
    yield "the curvature along a direction, Gauss-Newton", lambda: newton.quadratic_form(case.vectors)


def peers(case: Case) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields what others compute; the first two can keep the gradient's graph."""
    gradients = torch.autograd.grad(case.loss(), case.params, create_graph=True)
    yield (
        "plain double backward",
        lambda: torch.autograd.grad(gradients, case.params, case.vectors, retain_graph=True),
    )
    yield "PyHessian (batch norm in evaluation mode: another matrix)", pyhessian_product(case)
    yield "curvlinops HessianLinearOperator", curvlinops_product(case)
    yield "torch.autograd.functional.hvp", functional_product(case)
    yield (
        "our hessian_vector_product outside a FastDoubleBackward, gradient included",
        lambda: hessian_vector_product(case.loss(), case.params, case.vectors),
    )


def pyhessian_product(case: Case) -> Callable[[], object]:
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product as product

    def run() -> object:
        return product(tool.gradsH, tool.params, case.vectors)

    tool = hessian(case.network, nn.CrossEntropyLoss(), data=(case.inputs, case.targets), cuda=False)
    case.network.train()
    case.network.zero_grad()
    return run


def curvlinops_product(case: Case) -> Callable[[], object]:
    from curvlinops import HessianLinearOperator

    operator = HessianLinearOperator(
        case.network,
        nn.CrossEntropyLoss(),
        case.params,
        [(case.inputs, case.targets)],
        check_deterministic=False,
    )
    vector = torch.cat([v.flatten() for v in case.vectors])
    return lambda: operator @ vector


def functional_product(case: Case) -> Callable[[], object]:
    names = [name for name, _ in case.network.named_parameters()]

    def loss(*params: Tensor) -> Tensor:
        outputs = torch.func.functional_call(
            case.network, dict(zip(names, params, strict=True)), (case.inputs,), strict=False
        )
        return cross_entropy(outputs, case.targets)

    params = tuple(p.detach() for p in case.params)
    return lambda: torch.autograd.functional.hvp(loss, params, tuple(case.vectors))


def products() -> bool:
    """Measures products against a gradient."""
    holds = True
    for name in CASES:
        case = Case(name)
        pairs = 151 if name == "mlp" else 11
        print(f"\n{TITLES[name]}: in gradients")
        plain = 0.0
        for what, product in ours(case):
            ratio = ratios(lambda f=product: seconds(f), lambda c=case: seconds(c.gradient), pairs)[2]
            if what == "a further Hessian product":
                plain = ratio
                holds &= report(what, ratio, BOUNDS[name])
            else:
                print(f"{what:<64} {ratio:7.3f}")
        for what, product in peers(Case(name)):
            try:
                product()
            except Exception as error:  # noqa: BLE001 - what a peer cannot do is part of the comparison
                print(f"{what:<64}   fails ({type(error).__name__})")
                continue
            ratio = ratios(lambda f=product: seconds(f), lambda c=case: seconds(c.gradient), pairs // 2)[2]
            print(f"{what:<64} {ratio:7.3f}  ({ratio / plain:.2f} times ours)")
    return holds


def ten(step: Callable[[], object]) -> None:
    for _ in range(10):
        step()


def sgd_step_of(case: Case) -> Callable[[], None]:
    sgd = torch.optim.SGD(case.params, lr=1e-4)

    def step() -> None:
        sgd.zero_grad()
        case.loss().backward()
        sgd.step()

    return step


def preset_steps() -> bool:
    """Measures means of ten steps of the preset: two of them compute the curvature, and one updates the factors."""
    holds = True
    print("\nTen steps of the preset, optimizer=ehnewton_auto, in ten of SGD")
    for name in ("mlp", "resnet20"):
        case = Case(name)
        preset = EHNewton(case.params, **PRESET)
        ten(lambda o=preset, c=case: o.step(c.loss))  # the first cost more
        ours, theirs = partial(ten, lambda o=preset, c=case: o.step(c.loss)), partial(ten, sgd_step_of(case))
        ratio = ratios(lambda f=ours: seconds(f), lambda f=theirs: seconds(f), 8)[2]
        if name == "mlp":
            print(f"{TITLES[name]:<64} {ratio:7.3f}")
        else:
            holds &= report(TITLES[name], ratio, 1.9)
    return holds


def steps() -> bool:
    """Measures steps of EHNewton against steps of SGD on ResNet-20."""
    case, holds = Case("resnet20"), True
    sgd_step = sgd_step_of(case)
    print("\nResNet-20, batch 128: a step of EHNewton in steps of SGD")
    for curvature, iterations, bound in (("hessian", 1, 3.6), ("gauss_newton", 1, 2.6), ("hessian", 20, None)):
        optimizer = EHNewton(case.params, lr=1e-4, cg_max_iter=iterations, cg_tol=0.0, curvature=curvature, damping=1.0)
        pairs = 11 if iterations == 1 else 3
        ratio = ratios(lambda o=optimizer: seconds(lambda: o.step(case.loss)), lambda: seconds(sgd_step), pairs)[2]
        made = optimizer.last_step["cg_iterations"]
        what = f"{curvature}, at most {iterations} iterations (the last step made {made})"
        if bound is None:
            print(f"{what:<64} {ratio:7.3f}")
        else:
            holds &= report(what, ratio, bound)
    return holds


def memory() -> bool:
    """Measures peaks of memory against that of a gradient."""
    print("\nPeak memory, in that of a gradient")
    holds = True
    for name, bound in (("resnet20", 3.0), ("resnet18", 2.0)):
        gradient = peak_megabytes(name, "gradient")
        of_case = ("preset",) if name == "resnet20" else ()  # factors of wide convolutions are larger than the rest
        for what in ("product", "step 1 hessian", "step 1 gauss_newton", *of_case):
            holds &= report(f"{TITLES[name]}: {what}", peak_megabytes(name, what) / gradient, bound)
        many = f"{TITLES[name]}: step 3 hessian (five more vectors)"
        print(f"{many:<64} {peak_megabytes(name, 'step 3 hessian') / gradient:7.3f}")
    print("\nPeak memory of a step with 3 iterations and of a gradient over depth, batch 32 (MB)")
    steps_of = []
    for depth in DEPTHS:
        gradient, step = (peak_megabytes(f"resnet{depth}", what, 32) for what in ("gradient", "step 3 hessian"))
        steps_of.append(step)
        print(f"ResNet-{depth:<57} {gradient:7.0f} {step:7.0f}")
    growth = (steps_of[-1] / steps_of[0]) / (DEPTHS[-1] / DEPTHS[0])
    return holds & report("growth of a step's memory in that of the depth, 20 to 110", growth, 1.0)


def grow(name: str, what: str, batch: int | None = None) -> None:
    """Prints by how many MB this process grows."""
    torch.set_num_threads(2)
    small = Case("mlp", batch=2)  # what libraries allocate once
    EHNewton(small.params, lr=0.0, cg_max_iter=2).step(small.loss)
    case = Case(name, batch)
    before = resident("VmRSS")
    for _ in range(2):
        if what == "gradient":
            case.gradient()
        elif what == "product":
            with FastDoubleBackward():
                loss = case.loss()
            hessian_vector_product(loss, case.params, case.vectors, retain_graph=False)
        elif what == "preset":
            EHNewton(case.params, **PRESET).step(case.loss)
        else:
            _, iterations, curvature = what.split()
            optimizer = EHNewton(
                case.params, lr=0.0, damping=1.0, cg_max_iter=int(iterations), cg_tol=0.0, curvature=curvature
            )
            optimizer.step(case.loss)
    print((resident("VmHWM") - before) / 1024)


def main() -> bool:
    """Measures all."""
    warnings.simplefilter("ignore")  # of the peers
    torch.set_num_threads(2)
    print(f"\nSecond order. {hardware()}; timm {timm.__version__}")
    return products() & preset_steps() & steps() & memory()


if __name__ == "__main__":
    start(main, grow)
