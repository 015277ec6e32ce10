"""`trainopt evaluate --ensemble`: several networks that classify together, by the mean of their probabilities."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from ..state.evaluation import evaluation_mode, predictions
from ..state.run import Run
from ..system.display import Display
from ..system.errors import UserError
from ..system.files import shown
from .checkpoints import Member, check_same_images, find_members, runs_of
from .evaluate import enough_memory

CERTAIN = 1e-6  # by so much, at most, the loss with fitted weights lies above the lowest one
SMALLEST = 1e-300  # probability, in the place of 0, whose logarithm is none


def evaluate_ensemble(
    paths: Iterable[str | Path],
    weights: Sequence[float] | str | None = None,
    checkpoint: str = "last",
    device: str | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Evaluates the ensemble of several checkpoints on their test images.

    With p_k(c | x) what network k gives to class c (softmax), the ensemble gives sum_k w_k p_k(c | x), where the
    weights w_k >= 0 add up to 1: all equal, and those of `weights` (von Bachmann 2020, section 1.2.4).

    The networks are evaluated one after the other; of each, its probabilities (N, classes) are kept in float64.

    Args:
        paths: of runs, of checkpoints in RUN/checkpoints/, or of sweeps, whose runs are taken; at least two
            networks. They may be of different kinds, or snapshots of one run.
        weights: one number >= 0 a network, which are divided by their sum; or `fit`: those with the lowest
            cross-entropy on the held-out images; None: none but the equal ones.
        checkpoint: `best` or `last`, of runs.
        device: as in the configuration; None: each run's own.
        display: for notes; None: they are not said.

    Returns:
        A dict: `members` (each with run, checkpoint, step, loss, top1, top5), `mean_of_members`, `ensemble` with
        equal weights, `weighted` (with `weights` and where these are from) or None, `pairs` (`members`, two
        numbers; `disagreement`, the percentage of images that the two take for different classes; `correlation`,
        Pearson's, of being wrong, None where a network is never or always wrong), and `images`.

    Raises:
        UserError: there are less than two, their images differ, weights do not fit, or one cannot be read.
    """
    members = find_members(paths, checkpoint)
    if len(members) < 2:
        raise UserError(f"--ensemble: takes two checkpoints or more, and got {len(members)}")
    check_same_images(members)
    given = None if weights is None or weights == "fit" else checked_weights(weights, len(members))
    if weights == "fit" and not members[0].config.data.validation:
        raise UserError(
            "--weights fit: needs held-out images, and these runs have none; data.validation=0.1 holds some out"
        )
    kinds = ("test", "validation") if weights == "fit" else ("test",)
    display = display or Display(quiet=True)
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    labels: dict[str, np.ndarray] = {}
    about = []
    with enough_memory():
        for member, run in zip(members, runs_of(members, device, display), strict=True):
            for kind in kinds:
                labels[kind] = torch.as_tensor(run.evaluation_sets[kind].labels).cpu().numpy()
                found[kind].append(probabilities(run, kind))
            about.append({**described(member), "step": run.progress.step})
    stacked = {kind: np.stack(found.pop(kind)) for kind in kinds}
    return {
        "images": len(labels["test"]),
        **combined(stacked["test"], labels["test"], about),
        "weighted": weighted(stacked, labels, given),
    }


def described(member: Member) -> dict[str, Any]:
    """Returns which checkpoint of which run a member is."""
    return {"run": shown(member.folder), "checkpoint": member.path.name, "name": member.name}


def checked_weights(weights: Sequence[float] | str, count: int) -> np.ndarray:
    """Returns weights divided by their sum; UserError where they are not as many as needed, or negative."""
    given = np.asarray(weights if not isinstance(weights, str) else [], dtype=float)
    if given.shape != (count,) or not np.isfinite(given).all() or given.min() < 0 or given.sum() == 0:
        text = weights if isinstance(weights, str) else ",".join(f"{w:g}" for w in weights)
        raise UserError(f"--weights {text}: must be fit, or {count} numbers >= 0, one a network, and not all 0")
    return given / given.sum()


def probabilities(run: Run, kind: str) -> np.ndarray:
    """Returns what a run's network gives to each class (N, classes), in evaluation mode, for one of its sets."""
    images, size = run.evaluation_sets[kind], run.evaluation_batch_size
    with evaluation_mode(run.network):
        batches = predictions(run.forward, images, size, run.autocast)
        return torch.cat([logits.cpu().double().softmax(1) for logits, _ in batches]).numpy()


def combined(found: np.ndarray, labels: np.ndarray, about: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns figures of the members, of their ensemble with equal weights, and of each pair.

    Args:
        found: probabilities (K, N, classes).
        labels: (N,).
        about: what is said of each member beside its figures.
    """
    members = [{**words, **figures(p, labels)} for words, p in zip(about, found, strict=True)]
    keys = ("loss", "top1", "top5")
    return {
        "members": members,
        "mean_of_members": {key: float(np.mean([member[key] for member in members])) for key in keys},
        "ensemble": figures(found.mean(0), labels),
        "pairs": pairs(found.argmax(2), labels),
    }


def weighted(
    found: dict[str, np.ndarray], labels: dict[str, np.ndarray], given: np.ndarray | None
) -> dict[str, Any] | None:
    """Returns figures of the ensemble with given weights, or fitted ones; None where there are neither.

    Args:
        found: probabilities (K, N, classes) on the test images; with `validation`, weights are fitted on these.
        labels: (N,) of the same sets.
        given: weights (K,), or None.
    """
    how: dict[str, Any] = {"fitted_on": None}
    if "validation" in found:
        given, gap = fitted_weights(of_the_truth(found["validation"], labels["validation"]))
        how = {"fitted_on": "validation", "fit_gap": gap}
    if given is None:
        return None
    return {"weights": given.tolist(), **how, **figures(np.tensordot(given, found["test"], 1), labels["test"])}


def figures(p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns mean cross-entropy, top-1 and top-5 accuracy (percent) of probabilities (N, classes)."""
    best = torch.from_numpy(p).topk(min(5, p.shape[1]), dim=1).indices.numpy() == labels[:, None]
    return {
        "loss": float(-np.log(np.maximum(of_the_truth(p[None], labels), SMALLEST)).mean()),
        "top1": 100 * float(best[:, 0].mean()),
        "top5": 100 * float(best.any(1).mean()),
    }


def of_the_truth(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns what networks give to the right classes (K, N), of what they give to all (K, N, classes)."""
    return p[:, np.arange(len(labels)), labels]


def fitted_weights(p: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the weights with the lowest cross-entropy of the weighted mean, and how far from it they may be.

    It minimises  L(w) = -mean_i log(sum_k w_k p_ki)  over  w >= 0, sum_k w_k = 1:  a convex function, by
    sequential quadratic programming (scipy's SLSQP). With g_k = mean_i p_ki / sum_j w_j p_ji, that is -dL/dw_k,
    convexity says

        L(w) - min L  <=  max_k g_k - 1,

    which is what is returned beside the weights, in nats.

    >>> weights, gap = fitted_weights(np.array([[0.8, 0.2], [0.2, 0.8]]))
    >>> weights.round(6).tolist()
    [0.5, 0.5]

    Args:
        p: probabilities of the right classes, (K, N).

    Raises:
        UserError: no weights were found that are so good for certain.
    """
    count = len(p)
    p = np.maximum(p, SMALLEST)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(w @ p, SMALLEST)
        return float(-np.log(mixed).mean()), -(p / mixed).mean(1)

    together = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    found = minimize(
        loss,
        np.full(count, 1 / count),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints=[together],
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    w = np.maximum(found.x, 0)
    w /= w.sum()
    gap = float(max(0.0, -loss(w)[1].min() - 1))
    if not gap <= CERTAIN:
        raise UserError(f"--weights fit: no weights were found that are certain to be within {CERTAIN:g} of the best")
    return w, gap


def pairs(classes: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Returns disagreement (percent) and correlation of errors of each two networks.

    With e_k = 1 where network k is wrong, else 0, the correlation is Pearson's of e_k and e_l over the images
    (phi): None where a network is always or never wrong.

    Args:
        classes: what each network takes each image for, (K, N).
        labels: (N,).
    """
    wrong = (classes != labels).astype(float)
    centred = wrong - wrong.mean(1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(1))
    return [
        {
            "members": [k, m],
            "disagreement": 100 * float((classes[k] != classes[m]).mean()),
            "correlation": float((centred[k] * centred[m]).mean() / (deviation[k] * deviation[m]))
            if deviation[k] * deviation[m] > 0
            else None,
        }
        for k, m in combinations(range(len(classes)), 2)
    ]
