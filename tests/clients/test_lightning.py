"""The optimizers under Lightning's Trainer, in manual and in automatic optimization, as its users write them."""

import lightning
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from helpers.references import closure_of, error, flat
from trainopt.optimizers import AdaptiveNesterov, EHNewton, Newton

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),  # hints
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
]
BATCHES = 6


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCHES * 16, 5, generator=generator)
    return TensorDataset(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long())


def batches():
    return DataLoader(data(), batch_size=16)


class Automatic(lightning.LightningModule):
    """A module as in Lightning's introduction."""

    def __init__(self, optimizer):
        super().__init__()
        self.network, self.optimizer = network(), optimizer

    def configure_optimizers(self):
        return self.optimizer(self.parameters())

    def training_step(self, batch, index):
        inputs, targets = batch
        return F.cross_entropy(self.network(inputs), targets)


class Manual(Automatic):
    """Manual optimization without a closure."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.automatic_optimization = False

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, index), create_graph=True)
        optimizer.step()


class ManualWithClosure(Manual):
    """Manual optimization with a closure that calls backward, as an optimizer that looks ahead needs it."""

    def training_step(self, batch, index):
        optimizer = self.optimizers()

        def closure():
            optimizer.zero_grad()
            loss = Automatic.training_step(self, batch, index)
            self.manual_backward(loss)
            return loss.detach()

        optimizer.step(closure)


def fit(module, tmp_path, **options):
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module, batches())
    return module.trainer.optimizers[0]


def plain(optimizer):
    """The weights after the same steps in a plain loop, with closures that return the loss."""
    model = network()
    ours = optimizer(model.parameters())
    for inputs, targets in batches():
        ours.step(closure_of(ours, lambda x=inputs, y=targets: F.cross_entropy(model(x), y)))
    return flat(model.parameters())


OPTIMIZERS = {
    "EHNewton, 1 iteration": lambda p: EHNewton(p, lr=0.3, cg_max_iter=1, weight_decay=0.1),
    "EHNewton, 20 iterations": lambda p: EHNewton(p, lr=0.3, damping=0.1),
    "EHNewton, Gauss-Newton": lambda p: EHNewton(p, lr=0.3, cg_max_iter=5, curvature="gauss_newton"),
    "EHNewton, K-FAC Gauss-Newton": lambda p: EHNewton(
        p, lr=1.0, cg_max_iter=1, curvature="gauss_newton", preconditioner="kronecker", subspace="last_step"
    ),
    "Newton": lambda p: Newton(p, lr=0.3, damping=1.0),
    "AdaptiveNesterov": AdaptiveNesterov,
}
SECOND_ORDER = [name for name in OPTIMIZERS if name != "AdaptiveNesterov"]
WITHOUT_CLOSURE = [name for name in SECOND_ORDER if "Gauss" not in name]  # that matrix is one of the loss function


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_automatic_optimization_makes_the_steps_of_a_plain_loop(name, tmp_path):
    module = Automatic(OPTIMIZERS[name])
    optimizer = fit(module, tmp_path)
    assert error(flat(module.parameters()), plain(OPTIMIZERS[name])) < 1e-5
    assert not any(p.grad is not None and p.grad.requires_grad for p in module.parameters())
    assert optimizer.last_step


@pytest.mark.parametrize("name", WITHOUT_CLOSURE)
def test_manual_optimization_makes_them_too(name, tmp_path):
    module = Manual(OPTIMIZERS[name])
    fit(module, tmp_path)
    assert error(flat(module.parameters()), plain(OPTIMIZERS[name])) < 1e-4  # other kernels


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_manual_optimization_with_a_closure_makes_them_too(name, tmp_path):
    module = ManualWithClosure(OPTIMIZERS[name])
    fit(module, tmp_path)
    assert error(flat(module.parameters()), plain(OPTIMIZERS[name])) < 1e-5


def test_a_clipped_gradient_is_followed(tmp_path):
    """The Trainer clips between backward and the step: the right-hand side is what `.grad` holds then."""
    module = Automatic(lambda p: EHNewton(p, lr=0.3, damping=0.0, cg_max_iter=1))
    ours = fit(module, tmp_path, gradient_clip_val=1e-3, limit_train_batches=1)
    model = network()
    inputs, targets = next(iter(batches()))
    F.cross_entropy(model(inputs), targets).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert norm > 1e-3
    before = flat(network().parameters())
    change = flat(module.parameters()) - before
    # along -g, whose length the quadratic model gives: clipping changes its length and nothing else
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    scale = -change.norm() / gradient.norm()
    assert ours.last_step["fallbacks"] == 0
    assert error(change, scale * gradient) < 1e-3
    assert ours.last_step["directional_derivative"] == pytest.approx(change.dot(gradient).item() / 0.3, rel=1e-2)


def test_gradients_of_several_batches_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="^the closure adds to gradients of another batch, whose curvature is not known"
    ):
        fit(Automatic(OPTIMIZERS["EHNewton, 1 iteration"]), tmp_path, accumulate_grad_batches=2)


def test_adaptive_nesterov_in_manual_optimization_says_that_it_needs_a_closure(tmp_path):
    with pytest.raises(
        ValueError, match=r"^AdaptiveNesterov.step: the closure must return the loss, .*step\(closure\)"
    ):
        fit(Manual(OPTIMIZERS["AdaptiveNesterov"]), tmp_path)


@pytest.mark.parametrize("module", [Manual, Automatic])
@pytest.mark.parametrize("name", ["EHNewton, 20 iterations", "Newton"])
def test_mixed_precision_with_a_gradient_scaler_trains_or_says_what_is_missing(module, name, tmp_path):
    scaled = module(OPTIMIZERS[name])
    plugin = lightning.pytorch.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    if module is Automatic:  # the Trainer calls backward outside of the step, without a graph
        with pytest.raises(ValueError, match=r"self.manual_backward\(loss, create_graph=True\)"):
            fit(scaled, tmp_path, plugins=[plugin])
        return
    optimizer = fit(scaled, tmp_path, plugins=[plugin])
    assert error(flat(scaled.parameters()), plain(OPTIMIZERS[name])) < 0.02  # half precision
    assert optimizer.last_step.get("fallbacks", 0) == 0


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.:UserWarning")  # Lightning says it once
@pytest.mark.parametrize("name", ["EHNewton, 1 iteration", "Newton"])
def test_a_training_step_that_returns_none_skips_the_step(name, tmp_path):
    class Skipping(Automatic):
        def training_step(self, batch, index):
            return None if index == 1 else super().training_step(batch, index)

    module = Skipping(OPTIMIZERS[name])
    fit(module, tmp_path, limit_train_batches=2)
    once = Automatic(OPTIMIZERS[name])
    fit(once, tmp_path, limit_train_batches=1)
    assert torch.equal(flat(module.parameters()), flat(once.parameters()))


def test_a_schedule_and_a_checkpoint_of_the_trainer_go_on_bit_for_bit(tmp_path):
    class Scheduled(Automatic):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=2 * BATCHES)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def trained(epochs, path, start=None):
        module = Scheduled(lambda p: EHNewton(p, cg_max_iter=3))
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, default_root_dir=path,
        )  # fmt: skip
        trainer.fit(module, batches(), ckpt_path=start)
        trainer.save_checkpoint(path / "last.ckpt")
        return flat(module.parameters())

    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = trained(2, tmp_path / "whole")
    trained(1, tmp_path / "parts")
    assert torch.equal(trained(2, tmp_path / "parts", tmp_path / "parts/last.ckpt"), whole)


@pytest.mark.parametrize(
    ("name", "gives_closure"),
    [*((name, True) for name in SECOND_ORDER), *((name, False) for name in WITHOUT_CLOSURE)],
)
def test_fabric_makes_them_too(name, gives_closure):
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    model = network()
    model, optimizer = fabric.setup(model, OPTIMIZERS[name](model.parameters()))
    for inputs, targets in fabric.setup_dataloaders(batches()):
        if gives_closure:
            optimizer.step(lambda x=inputs, y=targets: F.cross_entropy(model(x), y))
        else:
            optimizer.zero_grad()
            fabric.backward(F.cross_entropy(model(inputs), targets), create_graph=True)
            optimizer.step()
    assert error(flat(model.parameters()), plain(OPTIMIZERS[name])) < 1e-4
