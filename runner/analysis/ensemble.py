"""`trainopt evaluate --ensemble`: an ensemble of networks, by the mean of their predicted probabilities."""

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
from .checkpoints import check_same_images, find_checkpoints, rebuilt_runs
from .evaluate import evaluation_errors_explained

MAX_GAP = 1e-6  # nats between the loss of fitted weights and the lowest possible one
MIN_PROBABILITY = 1e-300  # in the place of 0, which has no logarithm


def evaluate_ensemble(
    paths: Iterable[str | Path],
    weights: Sequence[float] | str | None = None,
    checkpoint: str = "last",
    device: str | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Evaluates the ensemble of several checkpoints on their test set.

    With p_k(c | x) the probability (softmax) of class c from network k, the ensemble predicts sum_k w_k p_k(c | x).
    The weights w_k >= 0 add up to 1: all equal, and those of `weights` (von Bachmann 2020, section 1.2.4).

    The networks are evaluated one after the other; their probabilities (N, classes) are stored in float64.

    Args:
        paths: of runs, of checkpoints in RUN/checkpoints/, or of sweeps, all of whose runs are taken; at least two
            networks. They may have different architectures, or be snapshots of one run.
        weights: one number >= 0 for each network, which are divided by their sum; or `fit`: the weights with the
            lowest cross-entropy on the validation set; None: only equal weights.
        checkpoint: `best` or `last`, of runs.
        device: as in the configuration; None: each run's own.
        display: for notes; None: they are not printed.

    Returns:
        A dict: `members` (each with run, checkpoint, step, loss, top1, top5), `mean_of_members`, `ensemble` with
        equal weights, `weighted` (with `weights` and the set that they were fitted on) or None, `pairs` (`members`,
        two numbers; `disagreement`, the percentage of images that the two assign to different classes;
        `correlation`, Pearson's, of their errors, None where a network is never or always wrong), and `images`.

    Raises:
        UserError: there are less than two, their images differ, weights do not fit, or one cannot be read.
    """
    checkpoints = find_checkpoints(paths, checkpoint)
    if len(checkpoints) < 2:
        raise UserError(f"--ensemble: takes two or more checkpoints, got {len(checkpoints)}")
    check_same_images(checkpoints)
    fixed = None if weights is None or weights == "fit" else normalise_weights(weights, len(checkpoints))
    if weights == "fit" and not checkpoints[0].config.data.validation:
        raise UserError("--weights fit: needs a validation set, as with data.validation=0.1, and these runs have none")
    kinds = ("test", "validation") if weights == "fit" else ("test",)
    by_kind: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    labels: dict[str, np.ndarray] = {}
    members = []
    with evaluation_errors_explained():
        runs = rebuilt_runs(checkpoints, device, display or Display(quiet=True))
        for reference, run in zip(checkpoints, runs, strict=True):
            for kind in kinds:
                labels[kind] = run.evaluation_sets[kind].targets.cpu().numpy()
                by_kind[kind].append(probabilities(run, kind))
            members.append({**reference.description(), "step": run.progress.step})
    stacked = {kind: np.stack(by_kind.pop(kind)) for kind in kinds}
    return {
        "images": len(labels["test"]),
        **ensemble_metrics(stacked["test"], labels["test"], members),
        "weighted": weighted_metrics(stacked, labels, fixed),
    }


def normalise_weights(weights: Sequence[float] | str, count: int) -> np.ndarray:
    """Returns weights divided by their sum; UserError unless they are `count` numbers >= 0, not all 0."""
    values = np.asarray(weights if not isinstance(weights, str) else [], dtype=float)
    if values.shape != (count,) or not np.isfinite(values).all() or values.min() < 0 or values.sum() == 0:
        text = weights if isinstance(weights, str) else ",".join(f"{w:g}" for w in weights)
        raise UserError(f"--weights {text}: must be fit, or {count} numbers >= 0, one for each network, not all 0")
    return values / values.sum()


def probabilities(run: Run, kind: str) -> np.ndarray:
    """Returns the probabilities (N, classes) that a run's network predicts for one of its evaluation sets."""
    loss = run.objective.loss
    if run.num_classes is None or not loss.is_softmax:
        what = "targets are numbers" if run.num_classes is None else f"objective={loss.term} trains no softmax"
        raise UserError(f"--ensemble: averages probabilities of classes, and these runs have none: {what}")
    images, size = run.evaluation_sets[kind], run.evaluation_batch_size
    with evaluation_mode(run.network):
        batches = predictions(run.forward, images, size, run.autocast)
        return torch.cat([logits.cpu().double().softmax(1) for logits, _ in batches]).numpy()


def ensemble_metrics(p: np.ndarray, labels: np.ndarray, members: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the metrics of each network, of their ensemble with equal weights, and of each pair.

    Args:
        p: probabilities (K, N, classes).
        labels: (N,).
        members: of each network, what else its entry holds.
    """
    entries = [{**entry, **classification_metrics(one, labels)} for entry, one in zip(members, p, strict=True)]
    keys = ("loss", "top1", "top5")
    return {
        "members": entries,
        "mean_of_members": {key: float(np.mean([entry[key] for entry in entries])) for key in keys},
        "ensemble": classification_metrics(p.mean(0), labels),
        "pairs": pairwise_metrics(p.argmax(2), labels),
    }


def weighted_metrics(
    p: dict[str, np.ndarray], labels: dict[str, np.ndarray], weights: np.ndarray | None
) -> dict[str, Any] | None:
    """Returns the metrics of the ensemble with fixed or fitted weights; None where there are neither.

    Args:
        p: probabilities (K, N, classes) on the test set, and on `validation` where weights are fitted on it.
        labels: (N,) of the same sets.
        weights: fixed ones (K,), or None.
    """
    fit: dict[str, Any] = {"fitted_on": None}
    if "validation" in p:
        weights, gap = fit_weights(true_class_probabilities(p["validation"], labels["validation"]))
        fit = {"fitted_on": "validation", "fit_gap": gap}
    if weights is None:
        return None
    metrics = classification_metrics(np.tensordot(weights, p["test"], 1), labels["test"])
    return {"weights": weights.tolist(), **fit, **metrics}


def classification_metrics(p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns mean cross-entropy, top-1 and top-5 accuracy (percent) of probabilities (N, classes)."""
    best = torch.from_numpy(p).topk(min(5, p.shape[1]), dim=1).indices.numpy() == labels[:, None]
    return {
        "loss": float(-np.log(np.maximum(true_class_probabilities(p[None], labels), MIN_PROBABILITY)).mean()),
        "top1": 100 * float(best[:, 0].mean()),
        "top5": 100 * float(best.any(1).mean()),
    }


def true_class_probabilities(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the probabilities of the true classes (K, N) from those of all classes (K, N, classes)."""
    return p[:, np.arange(len(labels)), labels]


def fit_weights(p: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the weights (K,) with the lowest cross-entropy of the weighted mean, and a bound on their gap to it.

    Minimises L(w) = -mean_i log(sum_k w_k p_ki) over w >= 0, sum_k w_k = 1. L is convex; the method is sequential
    quadratic programming (scipy's SLSQP). With g_k = mean_i p_ki / sum_j w_j p_ji = -dL/dw_k, convexity gives the
    bound, in nats:

        L(w) - min L  <=  max_k g_k - 1

    >>> weights, gap = fit_weights(np.array([[0.8, 0.2], [0.2, 0.8]]))
    >>> weights.round(6).tolist()
    [0.5, 0.5]

    Args:
        p: probabilities of the true classes, (K, N).

    Raises:
        UserError: the bound is above MAX_GAP.
    """
    count = len(p)
    p = np.maximum(p, MIN_PROBABILITY)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(w @ p, MIN_PROBABILITY)
        return float(-np.log(mixed).mean()), -(p / mixed).mean(1)

    sum_is_one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    result = minimize(
        loss,
        np.full(count, 1 / count),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints=[sum_is_one],
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    w = np.maximum(result.x, 0)
    w /= w.sum()
    gap = float(max(0.0, -loss(w)[1].min() - 1))
    if not gap <= MAX_GAP:
        raise UserError(f"--weights fit: did not converge; the loss may be {gap:.2g} above the lowest one")
    return w, gap


def pairwise_metrics(classes: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Returns disagreement (percent) and correlation of errors of each two networks.

    With e_k = 1 where network k is wrong, else 0, the correlation is Pearson's of e_k and e_l over the images
    (phi); None where a network is always or never wrong.

    Args:
        classes: predicted by each network for each image, (K, N).
        labels: (N,).
    """
    wrong = (classes != labels).astype(float)
    centred = wrong - wrong.mean(1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(1))
    pairs = []
    for k, m in combinations(range(len(classes)), 2):
        scale = deviation[k] * deviation[m]
        correlation = float((centred[k] * centred[m]).mean() / scale) if scale > 0 else None
        disagreement = 100 * float((classes[k] != classes[m]).mean())
        pairs.append({"members": [k, m], "disagreement": disagreement, "correlation": correlation})
    return pairs
