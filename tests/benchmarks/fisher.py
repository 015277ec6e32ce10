"""What the Gram matrix of per-sample gradients and its figures cost at every step; and what peers take for it.

Every time is the median of ratios of interleaved pairs on one batch, on one thread (OMP_NUM_THREADS=2: on two). A
step is a forward and a backward pass and SGD with momentum. A process keeps its memory while
times are taken, as in every loop that trains. Peak memory is the growth of a fresh process, the median of three.

The peers compute the same matrix, of batch norm in evaluation mode, which is the mode that all of them can do. By
counting operations the matrix costs 0.3 of a step: once more the gradient of the weights, and products of rows.
The bounds are for a CPU with matrix units, on which optimizers/per_sample/kernels.c computes these;
TRAINOPT_KERNELS=0 shows what PyTorch's operations take.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pairs import hardware, peak_megabytes, ratios, report, resident, seconds, start
from trainopt.models import ResNet
from trainopt.optimizers.per_sample.kernels import kernels
from trainopt.optimizers.per_sample.recorder import GramRecorder
from trainopt.optimizers.per_sample.spectrum import moments, spectrum

BOUNDS = {32: (1.3, 15), 64: (1.3, 11), 128: (1.45, 7)}  # of steps, by batch size; and the number of pairs
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
CHUNK = 16  # samples that vmap takes at a time


class Case:
    """A residual network with one batch, its steps with and without the matrix."""

    def __init__(self, depth: int, batch: int, train: bool = True):
        torch.manual_seed(0)
        self.network = ResNet(in_channels=3, num_classes=10, depth=depth).train(train)
        self.inputs, self.targets = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
        self.params = list(self.network.parameters())
        self.optimizer = torch.optim.SGD(self.params, lr=1e-4, momentum=0.9)
        self.recorder = GramRecorder(self.network)

    def loss(self) -> Tensor:
        return cross_entropy(self.network(self.inputs), self.targets)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def recorded_step(self) -> None:
        with self.recorder.recording():
            self.step()
        gram = self.recorder.gram()
        moments(gram), spectrum(gram)

    def gram(self) -> Tensor:
        with self.recorder.recording():
            torch.autograd.grad(self.loss(), self.params)
        return self.recorder.gram()


def steps() -> bool:
    """Measures steps with the matrix against steps without."""
    holds = True
    print("\nA step with the matrix, in steps without; ResNet-20, batch norm in training mode")
    for batch, (bound, pairs) in BOUNDS.items():
        holds &= report(f"batch {batch}", recorded(Case(20, batch), pairs), bound)
    print(f"{'ResNet-110, batch 32':<64} {recorded(Case(110, 32), 3):7.3f}")
    return holds


def recorded(case: Case, pairs: int) -> float:
    return ratios(lambda: seconds(case.recorded_step), lambda: seconds(case.step), pairs)[2]


def peers(case: Case) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yields what else computes the matrix."""
    yield f"torch.func: vmap of grad, {CHUNK} samples at a time", vmap_gram(case)
    yield "BackPACK: BatchGrad", backpack_gram(case)
    yield "Opacus: GradSampleModule", opacus_gram(case)


def product(rows: list[Tensor]) -> Tensor:
    """Returns the sum of rows times their transpose over parameters."""
    return sum((r.flatten(1) @ r.flatten(1).T for r in rows[1:]), rows[0].flatten(1) @ rows[0].flatten(1).T)


def vmap_gram(case: Case) -> Callable[[], Tensor]:
    weights = {name: p.detach() for name, p in case.network.named_parameters()}
    buffers = dict(case.network.named_buffers())

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = torch.func.functional_call(case.network, (weights, buffers), (x[None],))
        return cross_entropy(outputs, y[None])

    rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), chunk_size=CHUNK)
    return lambda: product(list(rows(weights, case.inputs, case.targets).values()))


def backpack_gram(case: Case) -> Callable[[], Tensor]:
    def run() -> Tensor:
        from backpack import backpack, extend
        from backpack.extensions import BatchGrad

        if not tools:
            tools.extend((extend(twin.network), extend(nn.CrossEntropyLoss())))
        network, loss_function = tools
        with backpack(BatchGrad()):
            loss_function(network(twin.inputs), twin.targets).backward()
        rows = [p.grad_batch for p in twin.params]
        for p in twin.params:
            del p.grad_batch
        return product(rows) * len(twin.inputs) ** 2

    tools: list[nn.Module] = []
    twin = Case(20, len(case.inputs), train=False)
    return run


def opacus_gram(case: Case) -> Callable[[], Tensor]:
    def run() -> Tensor:
        from opacus import GradSampleModule

        if not tools:
            tools.append(GradSampleModule(twin.network, strict=False))
        cross_entropy(tools[0](twin.inputs), twin.targets).backward()
        rows = [p.grad_sample for p in twin.params]
        tools[0].zero_grad()
        return product(rows)

    tools: list[nn.Module] = []
    twin = Case(20, len(case.inputs), train=False)
    return run


def ahead_of_peers() -> bool:
    """Measures what computes the same matrix against ours."""
    case, holds = Case(20, 32, train=False), True
    expected = case.gram()
    print("\nThe matrix by others, gradients included, in ours; ResNet-20, batch 32, batch norm in evaluation mode")
    for name, peer in peers(case):
        try:
            product = peer()
        except ImportError:
            print(f"{name:<64}   is not installed")
            continue
        except Exception as error:  # noqa: BLE001 - what a peer cannot do is part of the comparison
            print(f"{name:<64}   fails ({type(error).__name__})")
            continue
        torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        holds &= report(name, ratios(lambda p=peer: seconds(p), lambda: seconds(case.gram), 7)[2], 1.0, above=True)
    return holds


def memory() -> bool:
    """Measures the peak of a step with the matrix against that of a step without."""
    print("\nPeak memory of a step with the matrix, in that of a step without")
    holds = True
    for depth, batch in ((20, 32), (20, 128), (110, 32)):
        ratio = peak(depth, batch, "recorded_step") / peak(depth, batch, "step")
        holds &= report(f"ResNet-{depth}, batch {batch}", ratio, 1.2)
    return holds


def peak(depth: int, batch: int, what: str) -> float:
    """Returns by how many MB a fresh process grows while it makes two steps, the median of three."""
    return median(peak_megabytes(depth, batch, what) for _ in range(3))


def grow(depth: int, batch: int, what: str) -> None:
    """Prints by how many MB this process grows."""
    torch.set_num_threads(THREADS)
    Case(8, 2).recorded_step()  # what libraries allocate once
    case = Case(depth, batch)
    before = resident("VmRSS")
    for _ in range(2):
        getattr(case, what)()
    print((resident("VmHWM") - before) / 1024)


def main() -> bool:
    """Measures all."""
    warnings.simplefilter("ignore")  # of the peers
    torch.set_num_threads(THREADS)
    print(f"\nPer-sample gradients. {hardware()}. Kernels: {'PyTorch' if kernels() is None else 'own'}")
    return steps() & ahead_of_peers() & memory()


if __name__ == "__main__":
    start(main, grow)
