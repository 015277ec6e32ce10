"""What the Gram matrix of per-sample gradients and its figures cost at every step; and what peers take for it.

Every figure is the median of ratios of interleaved pairs on one batch: of processor times on one thread, of times with
OMP_NUM_THREADS=2. A step is a forward and a backward pass and SGD with momentum. A process keeps its memory while
times are taken, as in every loop that trains. Peak memory is the growth of a fresh process, the median of three.

By counting multiplications, a step with the matrix costs 1.33 of one without for the rows of the gradients, as much as
once more the gradient of the weights, and products of rows: 0.03, 0.07, 0.14 of a step at batch 32, 64, 128. With
share_gradients, the gradient of the weights is the sum of the rows, and is not computed again; the bounds are for this.

The peers compute the matrix alone, as `gradient_gram` does, of batch norm in evaluation mode, which BackPACK and vmap
can do; Opacus takes no batch norm at all, and is compared on the network with group norm in its place.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pairs import hardware, peak_megabytes, processor_seconds, ratios, report, resident, start
from pairs import seconds as elapsed_seconds
from trainopt.models import ResNet
from trainopt.optimizers import gradient_gram
from trainopt.optimizers.per_sample.recorder import GramRecorder
from trainopt.optimizers.per_sample.spectrum import moments, spectrum

BOUNDS = {32: (1.35, 15), 64: (1.35, 11), 128: (1.5, 7)}  # of steps, by batch size; and the number of pairs
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
CHUNK = 16  # samples that vmap takes at a time
seconds = processor_seconds if THREADS == 1 else elapsed_seconds


class Case:
    """A residual network with one batch, its steps with and without the matrix."""

    def __init__(self, depth: int, batch: int, train: bool = True, group_norm: bool = False):
        torch.manual_seed(0)
        self.network = ResNet(in_channels=3, num_classes=10, depth=depth).train(train)
        if group_norm:
            replace_batch_norm(self.network)
        self.inputs, self.targets = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
        self.params = list(self.network.parameters())
        self.optimizer = torch.optim.SGD(self.params, lr=1e-4, momentum=0.9)
        self.recorder = GramRecorder(self.network)
        self.sharing_recorder = GramRecorder(self.network, share_gradients=True)

    def loss(self) -> Tensor:
        return cross_entropy(self.network(self.inputs), self.targets)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def recorded_step(self) -> None:
        self._recorded_step(self.recorder)

    def sharing_step(self) -> None:
        self._recorded_step(self.sharing_recorder)

    def _recorded_step(self, recorder: GramRecorder) -> None:
        with recorder.recording():
            self.step()
        gram = recorder.gram()
        moments(gram), spectrum(gram)

    def gram(self) -> Tensor:
        return gradient_gram(self.network, cross_entropy, self.inputs, self.targets)


def replace_batch_norm(network: nn.Module) -> None:
    """Puts group norm in the place of each batch norm."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(8, child.num_features))


def steps() -> bool:
    """Measures steps with the matrix against steps without."""
    holds = True
    print("\nA step with the matrix, in steps without; ResNet-20, batch norm in training mode")
    for batch, (bound, pairs) in BOUNDS.items():
        case = Case(20, batch)
        print(f"{f'batch {batch}':<64} {recorded(case.recorded_step, case, pairs):7.3f}")
        holds &= report(f"batch {batch}, share_gradients", recorded(case.sharing_step, case, pairs), bound)
    case = Case(110, 32)
    for name, step in (("", case.recorded_step), (", share_gradients", case.sharing_step)):
        print(f"{f'ResNet-110, batch 32{name}':<64} {recorded(step, case, 3):7.3f}")
    return holds


def recorded(step: Callable[[], None], case: Case, pairs: int) -> float:
    """Returns the median of ratios of a step with the matrix to one without."""
    return ratios(lambda: seconds(step), lambda: seconds(case.step), pairs)[2]


def peers(batch: int) -> Iterator[tuple[str, Case, Callable[[], Tensor]]]:
    """Yields what else computes the matrix, with the case that ours computes."""
    case = Case(20, batch, train=False)
    yield f"torch.func: vmap of grad, {CHUNK} samples at a time, batch {batch}", case, vmap_gram(case)
    yield f"BackPACK: BatchGrad, batch {batch}", case, backpack_gram(case)
    case = Case(20, batch, group_norm=True)
    yield f"Opacus: GradSampleModule, group norm, batch {batch}", case, opacus_gram(case)


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
    twin = Case(20, len(case.inputs), group_norm=True)
    return run


def ahead_of_peers() -> bool:
    """Measures what computes the same matrix against ours."""
    holds = True
    print("\nThe matrix by others, in ours; ResNet-20, batch norm in evaluation mode")
    for name, case, peer in (*peers(32), *peers(128)):
        try:
            product, expected = peer(), case.gram()
        except ImportError:
            print(f"{name:<64}   is not installed")
            continue
        except Exception as error:  # noqa: BLE001 - what a peer cannot do is part of the comparison
            print(f"{name:<64}   fails ({type(error).__name__})")
            continue
        torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        ratio = ratios(lambda p=peer: seconds(p), lambda c=case: seconds(c.gram), 7)[2]
        holds &= report(name, ratio, 1.0, above=True)
    return holds


def memory() -> bool:
    """Measures the peak of a step with the matrix against that of a step without."""
    print("\nPeak memory of a step with the matrix, in that of a step without")
    holds = True
    for depth, batch in ((20, 32), (20, 128), (110, 32)):
        plain = peak(depth, batch, "step")
        for name, step in (("", "recorded_step"), (", share_gradients", "sharing_step")):
            holds &= report(f"ResNet-{depth}, batch {batch}{name}", peak(depth, batch, step) / plain, 1.2)
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
    print(f"\nPer-sample gradients. {hardware()}.")
    return steps() & ahead_of_peers() & memory()


if __name__ == "__main__":
    start(main, grow)
