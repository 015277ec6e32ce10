"""From runs to methods: what differs, figures with their spread, and tests against a baseline."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ..records.frames import Runs
from ..records.run_folder import DONE, KEYS_WITHOUT_EFFECT
from ..state.progress import HVP_COST
from ..system.errors import UserError, nearest
from .significance import Estimate, Verdict, compare_with_baseline, estimate, holm

# name: (column of the summaries, what it is, whether more is better)
METRICS = {
    "final_top1": ("final.top1", "final top-1 (%)", True),
    "final_top5": ("final.top5", "final top-5 (%)", True),
    "final_loss": ("final.loss", "final loss", False),
    "best_top1": ("best_top1.value", "best top-1 (%)", True),
    "best_top5": ("best_top5.value", "best top-5 (%)", True),
    "lowest_loss": ("lowest_loss.value", "lowest loss", False),
    "train_seconds": ("train_seconds", "training time (s)", False),
}
AXES = {
    "steps": "step",
    "epochs": "epoch",
    "samples": "samples",
    "gradients": "gradient_equivalents",
    "seconds": "train_seconds",
}
COST = f"a Hessian-vector product counts as up to {HVP_COST} gradients"
SEED = "seed"
NAMES = ("choices.logger", "choices.experiment", "choices.debug")  # what these choose has keys of its own
RULE = (
    "A diverged run counts as a network that knows nothing: accuracy 100 / classes, loss ln(classes), target never"
    " reached. One of a test function counts as not a number."
)


@dataclass
class Method:
    """Runs that differ by nothing but their seed.

    Attributes:
        name: what tells it from the other methods, as in `optimizer=adam optimizer.lr=0.01`.
        runs: their folders.
        seeds: theirs, in the same order.
        diverged: how many of them did.
        figures: an estimate for each of METRICS.
        to_target: for each of AXES, an estimate over the runs that reached the target.
        reached: how many runs did.
        trials: folders of the runs of learning-rate searches for it.
        trial_gradients: what these cost, in gradient equivalents.
        verdict: against the baseline, on the chosen metric; None for the baseline.
    """

    name: str
    runs: list[str]
    seeds: list[int]
    diverged: int = 0
    figures: dict[str, Estimate] = field(default_factory=dict)
    to_target: dict[str, Estimate] = field(default_factory=dict)
    reached: int = 0
    trials: list[str] = field(default_factory=list)
    trial_gradients: int = 0
    verdict: Verdict | None = None


@dataclass
class Comparison:
    """Methods side by side.

    Attributes:
        methods: in the order in which their runs were given.
        baseline: the name of the one that the others are compared with.
        metric: on which.
        target: top-1 accuracy (%) that the way to is measured.
        differing: the keys that tell the methods apart.
        obstacles: why the runs should not be compared; empty where nothing speaks against it.
        runs: the frames; `summaries` with diverged runs replaced as RULE says, `metrics` with
            `gradient_equivalents`.
    """

    methods: list[Method]
    baseline: str
    metric: str
    target: float
    differing: list[str]
    obstacles: list[str]
    runs: Runs

    @property
    def has_accuracies(self) -> bool:
        """Whether any of the runs has: those of test functions have none."""
        return has_accuracies(self.runs.summaries)


def usable(summary: dict[str, Any]) -> str | None:
    """Says why a run is left out, or None."""
    status = summary.get("status")
    if status in DONE:
        return None
    return "is still running, or was killed" if status == "running" else f"is {status}"


def compare(
    runs: Runs,
    by: list[str] | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    target: float | None = None,
    names: Mapping[str, str] | None = None,
) -> Comparison:
    """Compares methods.

    Args:
        runs: finished and diverged ones.
        by: keys whose values make a method, as `optimizer` or `optimizer.lr`; None: whatever differs.
        baseline: a method's name or a part of it that no other has; None: the first.
        metric: one of METRICS; None: final_top1, or final_loss where the runs have no accuracies.
        target: top-1 accuracy in percent; None: the highest that every run that did not diverge reached.
        names: the method of each run, where that is known; `by` is then None.

    Raises:
        UserError: there are no runs, or a key, a baseline or a metric that is none of theirs.
    """
    if runs.summaries.empty:
        raise UserError("compare: none of the folders holds a run that has ended")
    if metric is not None and metric not in METRICS:
        known = f"there are {', '.join(METRICS)}"
        raise UserError(f"--metric {metric}: no such metric{nearest(metric, METRICS)}; {known}")
    runs = derived(runs)
    metric = metric or ("final_top1" if has_accuracies(runs.summaries) else "final_loss")
    differing = chosen_keys(runs.configs, by) if by else differing_keys(runs.configs)
    methods = group(runs, differing, names)
    obstacles = incomparable(runs, differing)
    if target is None:
        ended = runs.summaries[runs.summaries["status"] != "diverged"]
        lowest = ended["best_top1.value"].min()
        target = 0.0 if math.isnan(lowest) else math.floor(10 * lowest) / 10
    reached = first_reached(runs, target)
    for method in methods:
        chosen = runs.summaries.loc[method.runs]
        method.diverged = int((chosen["status"] == "diverged").sum())
        there_is = {name: runs.summaries[column].notna().any() for name, (column, _, _) in METRICS.items()}
        method.figures = {
            name: estimate(list(chosen[column]) if there_is[name] else []) for name, (column, _, _) in METRICS.items()
        }
        there = reached.loc[reached.index.intersection(method.runs)]
        method.reached = len(there)
        method.to_target = {axis: estimate(list(there[column])) for axis, column in AXES.items()}
    chosen_baseline = find_baseline(methods, baseline)
    judge(methods, chosen_baseline, runs.summaries[METRICS[metric][0]])
    return Comparison(methods, chosen_baseline.name, metric, target, differing, obstacles, runs)


def derived(runs: Runs) -> Runs:
    """Returns runs with `gradient_equivalents` in their rows, and summaries with the best top-5, as RULE says."""
    runs = replace(runs, metrics=runs.metrics.assign(gradient_equivalents=gradient_equivalents(runs.metrics)))
    if "top5" in runs.metrics:  # summaries have no such entry
        best_top5 = selection_rows(runs).groupby("run")["top5"].max()
        runs = replace(runs, summaries=runs.summaries.assign(**{"best_top5.value": best_top5}))
    return replace(runs, summaries=with_rule(runs.summaries))


def with_rule(summaries: pd.DataFrame) -> pd.DataFrame:
    """Returns summaries in which diverged runs have the figures that RULE gives them."""
    found = summaries.reindex(columns=dict.fromkeys([*summaries, *(column for column, _, _ in METRICS.values())]))
    for run in found.index[found["status"] == "diverged"]:
        if pd.isna(found.at[run, "classes"]):
            found.loc[run, ["final.loss", "lowest_loss.value"]] = math.nan
            continue
        classes = int(found.at[run, "classes"])
        top1, top5, loss = 100 / classes, 100 * min(5, classes) / classes, math.log(classes)
        found.loc[run, ["final.top1", "best_top1.value"]] = top1
        found.loc[run, ["final.top5", "best_top5.value"]] = top5
        found.loc[run, ["final.loss", "lowest_loss.value"]] = loss
    columns = [column for column, _, _ in METRICS.values()]
    found[columns] = found[columns].apply(pd.to_numeric)  # what was not finite is null in a summary
    return found


def has_accuracies(summaries: pd.DataFrame) -> bool:
    """Returns whether any of the runs has: those of test functions have none."""
    return bool(summaries["final.top1"].notna().any())


def text_of(value: Any) -> str:
    """Returns a value of a configuration as one types it."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else str(value).replace(" ", "")


def as_text(configs: pd.DataFrame) -> pd.DataFrame:
    """Returns the configurations as text."""
    return configs.map(text_of)


def varied_keys(text: pd.DataFrame) -> list[str]:
    """Returns the keys that differ, but for the seed and for what changes nothing about a run's numbers."""
    return [
        key
        for key in text
        if key != SEED and key not in NAMES and not key.startswith(KEYS_WITHOUT_EFFECT) and text[key].nunique() > 1
    ]


def differing_keys(configs: pd.DataFrame) -> list[str]:
    """Returns the keys that tell the methods apart: choices, and keys that differ within the same choices.

    That Adam's learning rate is not SGD's follows from `optimizer=adam`, and is no key of its own.
    """
    text = as_text(configs)
    varied = varied_keys(text)
    choices = [key for key in varied if key.startswith("choices.")]
    others = [key for key in varied if key not in choices]
    if choices:
        parts = text.groupby(choices, sort=False)
        others = [key for key in others if (parts[key].nunique() > 1).any()]
    return [*choices, *others]


def chosen_keys(configs: pd.DataFrame, by: Iterable[str], what: str = "--by") -> list[str]:
    """Returns the columns that keys as people type them mean; UserError, about `what`, for one that no run has."""
    found = []
    for key in by:
        column = f"choices.{key}" if f"choices.{key}" in configs else key
        if column not in configs:
            known = [c.removeprefix("choices.") for c in configs]
            raise UserError(f"{what} {key}: none of the runs has such a key{nearest(key, known)}")
        found.append(column)
    return found


def group(runs: Runs, keys: list[str], names: Mapping[str, str] | None) -> list[Method]:
    """Returns the methods, in the order in which their first runs come; the same run twice counts once.

    They are the runs with the same values of these keys or, where the runs have names, with the same name.

    Raises:
        UserError: runs of one method differ by more than their seed.
    """
    text = as_text(runs.configs)
    methods: dict[tuple[str, ...], Method] = {}
    seen: dict[str, str] = {}
    for run in runs.configs.index:
        fingerprint = runs.summaries.at[run, "fingerprint"]
        if fingerprint in seen:
            runs.problems.append((run, f"is the same run as {seen[fingerprint]}"))
            continue
        seen[fingerprint] = run
        if names is None:
            values = tuple(text.at[run, key] for key in keys)
            name = " ".join(f"{k.removeprefix('choices.')}={v}" for k, v in zip(keys, values, strict=True) if v)
        else:
            values, name = (names[run],), names[run]
        method = methods.setdefault(values, Method(name or "all runs", [], []))
        method.runs.append(run)
        method.seeds.append(int(runs.summaries.at[run, SEED]))
    for method in methods.values():
        more = varied_keys(text.loc[method.runs])
        if more:
            shown = ", ".join(key.removeprefix("choices.") for key in more[:5])
            raise UserError(f"--by: runs of {method.name} differ by more than their seed: {shown}; add a key")
    return list(methods.values())


def incomparable(runs: Runs, differing: list[str]) -> list[str]:
    """Returns why these runs should not be compared, a line each."""
    obstacles = []
    data = [key for key in differing if key == "choices.data" or key.startswith("data.")]
    other_sets = [
        key
        for key in ("training_images", "validation_images", "test_images")
        if key in runs.summaries and runs.summaries[key].nunique(dropna=False) > 1
    ]
    if data or other_sets:
        keys = ", ".join([key.removeprefix("choices.") for key in data] or other_sets)
        obstacles.append(f"different data: {keys}")
    if runs.summaries["best_on"].nunique() > 1:
        obstacles.append("best figures are taken on the validation set in some runs, on the test set in others")
    code = {"commit": "commits", "versions.trainopt": "versions", "dirty": "states (uncommitted changes or none)"}
    for column, what in code.items():
        values = runs.environments[column].dropna().unique() if column in runs.environments else []
        if len(values) > 1:
            obstacles.append(f"different {what} of the program: {', '.join(str(v)[:12] for v in values)}")
    return obstacles


def gradient_equivalents(counts: pd.DataFrame) -> pd.Series:
    """Returns what gradients and Hessian-vector products cost together, in gradient evaluations."""
    by_counts = counts["gradients"] + HVP_COST * counts["hvps"]
    return counts["gradient_equivalents"].fillna(by_counts) if "gradient_equivalents" in counts else by_counts


def selection_rows(runs: Runs) -> pd.DataFrame:
    """Returns the evaluations that best figures are taken from: of the validation set, or else of the test set."""
    kind = runs.metrics["run"].map(runs.summaries["best_on"])
    return runs.metrics[runs.metrics["kind"] == kind]


def first_reached(runs: Runs, target: float) -> pd.DataFrame:
    """Returns the first evaluation of each run at which its accuracy is at least `target` (top-1, percent)."""
    rows = selection_rows(runs)
    rows = rows.reindex(columns=dict.fromkeys([*rows, "top1"]))
    ended = runs.summaries.index[runs.summaries["status"] != "diverged"]
    there = rows[(rows["top1"] >= target) & rows["run"].isin(ended)]
    return there.drop_duplicates("run").set_index("run")[list(AXES.values())]


def find_baseline(methods: list[Method], wanted: str | None) -> Method:
    """Returns the method that `wanted` names, whole or by a part that no other has; None: the first."""
    if wanted is None:
        return methods[0]
    found = [m for m in methods if m.name == wanted] or [m for m in methods if wanted in m.name]
    if len(found) != 1:
        what = "several methods" if found else "no method"
        raise UserError(f"--baseline {wanted}: means {what}; there are {'; '.join(m.name for m in methods)}")
    return found[0]


def judge(methods: list[Method], baseline: Method, values: pd.Series) -> None:
    """Compares every other method with the baseline, and correct for their number."""

    def by_seed(method: Method) -> dict[int, float]:
        return dict(zip(method.seeds, values.loc[method.runs], strict=True))

    others = [m for m in methods if m is not baseline]
    verdicts = [compare_with_baseline(by_seed(m), by_seed(baseline)) for m in others]
    for method, verdict, p in zip(others, verdicts, holm([v.p for v in verdicts]), strict=True):
        method.verdict = replace(verdict, adjusted=p)


def conclusion(comparison: Comparison) -> str:
    """Returns what the tests say, in a sentence."""
    what = METRICS[comparison.metric][1]
    others = [(m.name, m.verdict) for m in comparison.methods if m.verdict is not None]
    if not others:
        return "There is one method: nothing to compare it with."
    told = [(name, v) for name, v in others if v.says_something]
    if not told:
        return f"No test: {others[0][1].kind}."
    more_is_better = METRICS[comparison.metric][2]
    parts = [
        f"{name} is {'better' if (v.difference > 0) == more_is_better else 'worse'} than {comparison.baseline}"
        for name, v in told
        if v.is_significant
    ]
    if parts:
        return f"On {what}: {'; '.join(parts)}."
    return f"On {what} no method differs significantly from {comparison.baseline}."
