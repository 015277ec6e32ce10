"""When each extension of EHNewton helps: the loss at equal cost, on MNIST where TRAINOPT_DATA has it, else digits.

An MLP 784-12-12-10 (64-12-12-10 on digits) is trained until a budget of gradients is spent, counting a product as
what its operations cost. Of the learning rates each variant keeps the one whose mean test loss over three seeds is
lowest. The loss shown is that of the test set; "diverged" where a seed ended above ln(10).
"""

import math
import os
from statistics import mean

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pairs import hardware
from trainopt.data import digits, torchvision_arrays
from trainopt.models import MLP
from trainopt.optimizers import EHNewton

SEEDS = (0, 1, 2)
RATES = (0.03, 0.1, 0.3, 1.0)
TWENTY = {"cg_max_iter": 20}
NEWTON = {"curvature": "gauss_newton", "damping": 0.1, **TWENTY}
# (what, images a batch, budget in gradients, variants that are compared)
CASES: tuple[tuple[str, int, int, dict[str, dict]], ...] = (
    (
        "Hessian, 1 iteration, batch 128",
        128,
        3000,
        {
            "as it is": {"cg_max_iter": 1},
            "backtracking=8": {"cg_max_iter": 1, "backtracking": 8},
            "momentum=0.9": {"cg_max_iter": 1, "momentum": 0.9},
            "curvature_share=0.25": {"cg_max_iter": 1, "curvature_share": 0.25},
            "adapt_damping": {"cg_max_iter": 1, "adapt_damping": True},
            "curvature=gauss_newton": {"cg_max_iter": 1, "curvature": "gauss_newton"},
        },
    ),
    (
        "Gauss-Newton, 1 iteration, batch 128",
        128,
        3000,
        {
            "as it is": {"cg_max_iter": 1, "curvature": "gauss_newton"},
            "momentum=0.9": {"cg_max_iter": 1, "curvature": "gauss_newton", "momentum": 0.9},
            "backtracking=8": {"cg_max_iter": 1, "curvature": "gauss_newton", "backtracking": 8},
        },
    ),
    (
        "Hessian, 20 iterations, batch 128",
        128,
        3000,
        {
            "as it is": TWENTY,
            "backtracking=8": {**TWENTY, "backtracking": 8},
            "cg_tol=0.3 cg_tol_relative": {**TWENTY, "cg_tol": 0.3, "cg_tol_relative": True},
            "both": {**TWENTY, "cg_tol": 0.3, "cg_tol_relative": True, "backtracking": 8},
        },
    ),
    (
        "Gauss-Newton, 20 iterations, damping 0.1, batch 128",
        128,
        3000,
        {
            "as it is": NEWTON,
            "cg_tol=0.3 cg_tol_relative": {**NEWTON, "cg_tol": 0.3, "cg_tol_relative": True},
            "curvature_share=0.25": {**NEWTON, "curvature_share": 0.25},
            "adapt_damping": {**NEWTON, "adapt_damping": True},
            "backtracking=8": {**NEWTON, "backtracking": 8},
            "cg_max_iter=5": {**NEWTON, "cg_max_iter": 5},
            "cg_max_iter=5 warm_start=0.95": {**NEWTON, "cg_max_iter": 5, "warm_start": 0.95},
            "cg_max_iter=5 momentum=0.9": {**NEWTON, "cg_max_iter": 5, "momentum": 0.9},
        },
    ),
    (
        "Gauss-Newton, 20 iterations, damping 1, batch 4096",
        4096,
        1500,
        {
            "as it is": {**NEWTON, "damping": 1.0},
            "adapt_damping": {**NEWTON, "damping": 1.0, "adapt_damping": True},
            "backtracking=8": {**NEWTON, "damping": 1.0, "backtracking": 8},
        },
    ),
)


def images() -> tuple[str, Tensor, Tensor, Tensor, Tensor]:
    """Returns the name of the data, and its images (N, 1, H, W) in [0, 1] and labels."""
    root = os.environ.get("TRAINOPT_DATA")
    name, data = ("MNIST", torchvision_arrays("mnist", root)) if root else ("digits", digits())
    x, x_test = (torch.tensor(x).permute(0, 3, 1, 2) / 255 for x in (data.x_train, data.x_test))
    return name, x, torch.tensor(data.y_train), x_test, torch.tensor(data.y_test)


def final_loss(data: tuple, batch: int, budget: int, seed: int, options: dict) -> float:
    """Returns the test loss when the budget is spent; infinite for a run that ended above that of a guess."""
    x, y, x_test, y_test = data
    torch.manual_seed(seed)
    network = MLP(x.shape[1:], 10, hidden=[12, 12])
    optimizer = EHNewton(network.parameters(), **options)
    generator, spent = torch.Generator().manual_seed(seed), 0.0
    while spent < budget:
        chosen = torch.randint(len(x), (min(batch, len(x)),), generator=generator)
        inputs, targets = x[chosen], y[chosen]

        def closure(share: float = 1.0, inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            some = round(share * len(inputs))
            return cross_entropy(network(inputs[:some]), targets[:some])

        if not math.isfinite(float(optimizer.step(closure))):
            return math.inf
        spent += 1 + optimizer.last_step["gradient_equivalents"]
    with torch.no_grad():
        loss = cross_entropy(network(x_test), y_test).item()
    return loss if loss < math.log(10) else math.inf


def main() -> None:
    """Prints a table for each case."""
    torch.set_num_threads(1)
    name, *data = images()
    print(f"\nExtensions of EHNewton on {name}, test loss, mean of {len(SEEDS)} seeds. {hardware()}")
    for title, batch, budget, variants in CASES:
        print(f"\n{title}, {budget:,} gradients")
        for variant, options in variants.items():
            losses = {
                lr: mean(final_loss(tuple(data), batch, budget, seed, {**options, "lr": lr}) for seed in SEEDS)
                for lr in RATES
            }
            best = min(losses, key=lambda lr: losses[lr])
            each = "  ".join("diverged" if math.isinf(value) else f"{value:8.3f}" for value in losses.values())
            result = "diverged" if math.isinf(losses[best]) else f"{losses[best]:.3f} at lr {best:g}"
            print(f"{variant:<34} {result:<20} over lr {', '.join(f'{lr:g}' for lr in RATES)}: {each}", flush=True)


if __name__ == "__main__":
    main()
