"""What tests run with: a line for each option, folders of runs that no training made, a probe that measures nothing."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hydra.utils import get_object
from PIL import Image
from torch import nn

from trainopt.runner.config.options import CONF, Vocabulary, list_groups, read
from trainopt.runner.config.renamed import with_new_names
from trainopt.runner.records.run_folder import fingerprint_of, flatten

# what an option needs beside its choice; {reference} is the folder of a run with the fisher probe
NEEDS = {
    "augmentation=randaugment": "data.workers=2 augmentation.flip=0.5 augmentation.crop_padding=1",
    "optimizer=timm": "optimizer.name=adopt",
    "optimizer=pytorch_optimizer": "optimizer.name=adan",
    "optimizer=newton": "optimizer.lr=0.1 model.hidden=[2]",
    "schedule=multistep": "schedule.milestones=[3steps,1epochs]",
    "schedule=exponential": "schedule.every=2steps",
    "schedule=cosine_restarts": "schedule.period=3steps",
    "schedule=cyclic": "schedule.step_up=2steps",
    "schedule=plateau": "schedule.patience=0 schedule.min_delta=0.5 data.validation=0.2 schedule.warmup=3steps",
    "schedule=torch": (
        "schedule.scheduler._target_=torch.optim.lr_scheduler.StepLR +schedule.scheduler.step_size=2 schedule.per=step"
    ),
    "averaging=swa": "averaging.start=0.3 averaging.every=2steps",
    "batching=growth_control": "batching.C_growth=[0,3] batching.L_growth=[0.2,1]",
    "batching=follow_reference": "batching.reference={reference}",
    "regularizer=[checkpoint_distance]": "regularizer.checkpoint_distance.at=[2steps]",
}


def lines_of(*groups: str) -> dict[str, str]:
    """Returns a command line for each option of these groups, by its choice, as in optimizer=sgd."""
    lines = {}
    for group in groups:
        for option in Vocabulary([CONF]).options(group):
            choice = f"{group}=[{option}]" if group in list_groups() else f"{group}={option}"
            target = get_object(read(CONF / f"{group}/{option}.yaml").get("_target_") or "builtins.object")
            probe = f"probe.{option}.every=2steps" if group == "probe" else ""
            lines[choice] = " ".join([choice, NEEDS.get(choice, ""), probe, *probe_of(target)])
    return lines


def image_folders(top: Path, train: int = 12, val: int = 6, height: int = 10, width: int = 10) -> None:
    """Writes so many random images, as PNG, for each of two classes below top/train and top/val."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for label in ("cat", "dog"):
            folder = top / part / label
            folder.mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / f"{index}.png")


class LinearTimesOne(nn.Module):
    """A linear classifier of images, times one: EHNewton does not see that a softmax's inputs are a linear layer's."""

    def __init__(self, num_classes: int, image_shape: tuple[int, ...]):
        super().__init__()
        self.linear = nn.Linear(math.prod(image_shape), num_classes)

    def forward(self, images):
        """Returns the logits."""
        return 1.0 * self.linear(images.flatten(1))


class ScaledLoss(nn.Module):
    """Cross-entropy divided by a running mean of itself, which is a part of checkpoints."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def forward(self, outputs, targets):
        """Returns the mean over a batch; the running mean follows in training only."""
        loss = nn.functional.cross_entropy(outputs, targets)
        if torch.is_grad_enabled():
            self.mean.lerp_(loss.detach(), 0.1)
        return loss / self.mean


class Mistakes:
    """A metric of the user: the number of mistakes, and the number in each class."""

    higher_is_better = False

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    def reset(self):
        """Begins a new set."""
        self.wrong = []

    def update(self, outputs, targets):
        """Keeps the classes of the samples that are wrong."""
        self.wrong += targets[outputs.argmax(1) != targets].tolist()

    def compute(self):
        """Returns both."""
        return {"total": len(self.wrong), "by_class": np.bincount(self.wrong, minlength=self.num_classes)}


FISHER = "+probe.fisher._target_=helpers.fixtures.Measured"


def probe_of(target) -> list[str]:
    """Returns what a command needs for the probe that a class asks for in `needs_probe`."""
    name = getattr(target, "needs_probe", None)
    if name is None:
        return []
    return [f"probe=[{name}]", f"probe.{name}.every=2steps"]


class Measured:
    """C_K grows by 4 an epoch, L_K by 0.02 a step; the variance is 60 and the squared norm falls from 1 on."""

    def __init__(self, every: str = "2steps"):
        self.every = every

    def before_step(self, run, batch) -> None:
        """Looks at nothing."""

    def after_step(self, run, batch) -> dict[str, float]:
        """Returns the row."""
        step, epochs = run.progress.step, run.progress.epochs
        return {
            "C_K": 10 + 4 * epochs,
            "L_K": 0.02 * step,
            "gradient_variance": 60.0,
            "mean_gradient_norm_sq": 1 / (1 + 0.1 * step),
        }


def reference_run(folder: Path) -> Path:
    """Writes a run's rows of the probe, over many epochs, and returns its folder."""
    folder.mkdir(exist_ok=True)
    rows = [{"kind": "probe", "probe": "fisher", "epoch": e, "C_K": 10 + e, "L_K": 0.3 * e} for e in range(200)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps({**row, "step": 1}) + "\n" for row in rows))
    return folder


def made_up_run(
    folder: Path,
    seed: int = 0,
    top1: float = 90.0,
    loss: float = 0.3,
    curve: list[float] | None = None,
    status: str = "finished",
    choices: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    terms: dict[str, float] | None = None,
    reports: dict[str, float] | None = None,
    hvps: int = 0,
    seconds: float = 2.0,
) -> Path:
    """Writes a run's folder.

    Args:
        folder: where.
        seed: of the run.
        top1: final accuracy, in percent, where no curve is given.
        loss: final loss; the lowest one too.
        curve: top-1 at each evaluation, 10 steps (1 epoch, 100 samples, 10 gradients) apart; default: five points
            up to `top1`.
        status: of the summary.
        choices: options beside model=mlp, data=digits, optimizer=sgd.
        config: dotted keys beside optimizer.lr, duration and seed.
        summary: what is to stand in the summary beside or instead.
        environment: what is to stand in environment.json beside or instead.
        terms: further terms of the training loss.
        reports: what the optimizer says of its steps.
        hvps: Hessian-vector products an epoch.
        seconds: of training an epoch.
    """
    folder.mkdir(parents=True)
    curve = curve or [10.0, top1 / 2, top1 * 0.8, top1 * 0.9, top1]
    top1 = curve[-1]
    rows = []
    for epoch, value in enumerate(curve):
        counts = {"step": 10 * epoch, "epoch": float(epoch), "samples": 100 * epoch, "gradients": 10 * epoch}
        counts |= {"hvps": hvps * epoch, "train_seconds": seconds * epoch}
        if epoch:
            train = {"cross_entropy": 3.0 / epoch, **(terms or {}), "lr": 0.1 / epoch, "batch_size": 10}
            train |= {"total": train["cross_entropy"] + sum((terms or {}).values()), "top1": value}
            rows.append({"kind": "train", **counts, **train, **(reports or {})})
        test_loss = loss + 1.0 / (1 + epoch) - 1.0 / len(curve)
        rows.append({"kind": "test", **counts, "loss": test_loss, "top1": value, "top5": 99.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content: dict[str, Any] = {"seed": seed, "duration": "4epochs", "optimizer": {"lr": 0.1}}
    for key, value in (config or {}).items():
        *above, last = key.split(".")
        place = content
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    chosen = {"model": "mlp", "data": "digits", "optimizer": "sgd", **(choices or {})}
    for group in chosen.keys() - {"experiment", "logger"}:  # a chosen class is a part of the fingerprint
        content.setdefault(group, {})["_target_"] = f"made_up.{chosen[group]}"
    content, chosen = with_new_names(content, chosen)
    fingerprint = fingerprint_of(dict(flatten(content)))
    (folder / "run.yaml").write_text(yaml.safe_dump({**content, "choices": chosen, "fingerprint": fingerprint}))
    where = {"step": 10 * (len(curve) - 1), "epoch": float(len(curve) - 1)}
    last = {**where, "train_seconds": seconds * (len(curve) - 1)}
    figures = {
        "status": status,
        "fingerprint": fingerprint,
        "seed": seed,
        "steps": where["step"],
        "gradients": where["step"],
        "hvps": hvps * (len(curve) - 1),
        "train_seconds": last["train_seconds"],
        "wall_seconds": last["train_seconds"] + 1,
        "classes": 10,
        "training_images": 100,
        "test_images": 50,
        "best_on": "test",
        "final": {"loss": loss, "top1": top1, "top5": 99.0, **where},
        "best_top1": {"value": max(curve), **last},
        "lowest_loss": {"value": loss, **last},
        **({"diverged_at": {**where, "loss": "nan"}} if status == "diverged" else {}),
    }
    (folder / "summary.json").write_text(json.dumps({**figures, **(summary or {})}))
    here = {"commit": "abc", "dirty": False, "device": "cpu", "versions": {"trainopt": "0.1.0", "torch": "2.15.0"}}
    here["started"] = "2026-11-02T10:00:00+00:00"
    (folder / "environment.json").write_text(json.dumps({**here, **(environment or {})}))
    return folder


def copy_with(folder: Path, name: str, old: str, new: str) -> Path:
    """Copies a run's folder to one beside it, with one entry of a section of its run.yaml replaced."""
    copy = shutil.copytree(folder, folder.parent / name)
    text = (copy / "run.yaml").read_text()
    assert text.count(f"  {old}\n") == 1
    (copy / "run.yaml").write_text(text.replace(f"  {old}\n", f"  {new}\n"))
    return copy


def made_up_sweep(folder: Path, runs: list[dict[str, Any]], searched: list[dict[str, Any]] | None = None) -> Path:
    """Writes a sweep's folder, and its plan.

    Args:
        folder: where.
        runs: what `made_up_run` takes, for each; one of status `missing` is in the plan alone.
        searched: those of a search of learning rates.
    """
    jobs = []
    for search, parts in ((None, runs), ({"parameter": "optimizer.lr", "seeds": 1}, searched or [])):
        for about in parts:
            typed = {**about.get("choices", {}), **about.get("config", {}), "seed": about.get("seed", 0)}
            overrides = [f"{key}={value}" for key, value in typed.items()]
            name = ",".join([*overrides, *(["trial"] if search else [])])
            if about.get("status") != "missing":
                made_up_run(folder / name, **about)
            jobs.append({"folder": name, "overrides": overrides, **({"search": search} if search else {})})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps({"overrides": [], "workers": 1, "jobs": jobs}))
    return folder
