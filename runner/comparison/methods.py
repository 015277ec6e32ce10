"""From runs to methods: configuration differences, metrics over seeds, and tests against a baseline."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ..config.durations import is_time
from ..records.frames import Runs
from ..records.run_folder import DONE
from ..reporting.method_styles import method_labels
from ..state.progress import HVP_COST
from ..system.errors import UserError
from .code_versions import code_obstacles, code_versions, data_checksums, program_obstacles
from .differences import configs_as_text, differing_keys, method_name, selected_keys, varied_keys
from .metrics import AXES, Metric, Target, find_metric, metrics_of, value_bounds
from .records.target_records import (
    check_target,
    converged_runs,
    first_at_target,
    gradient_equivalents,
    selection_rows,
)
from .significance import Estimate, Verdict, compare_with_baseline, estimate, holm
from .tuning.searches import MethodSearch

COST = f"a Hessian-vector product counts as up to {HVP_COST} gradients"
ACCURACY_COLUMNS = ("final.top1", "final.top5", "best_top1.value", "best_top5.value", "selected.top1", "selected.top5")
DIVERGED_RULE = (
    "A diverged run counts as a network that predicts at random: accuracy 100 / classes, cross-entropy ln(classes),"
    " target never reached. Its other metrics, and the value of a test function, count as not a number."
)
TIMED_RULE = (
    "Runs whose duration is a time end by the clock of training, without evaluations and probes: the same command makes"
    " other numbers of steps, and only runs on the same hardware with the same load beside them can be compared."
)


@dataclass
class Method:
    """Runs that differ only in their seed.

    Attributes:
        name: its configuration differences to the other methods, as in `optimizer=adam optimizer.lr=0.01`.
        label: the same as papers write it, as in `Adam, lr 0.01`.
        runs: folders of the runs.
        seeds: of the runs, in the same order.
        diverged: number of runs that diverged.
        estimates: an estimate for each metric of the comparison.
        to_target: for each of AXES, an estimate over the runs that reached the target.
        reached: number of these runs.
        trials: folders of the runs of its searches.
        trial_count: of its searches: a trial has a run for each of its seeds, and trials of one point share theirs.
        trial_gradients: cost of the trials, in gradient equivalents.
        is_tuned: whether it is known that a search chose any of its values.
        tuned_keys: the keys that the trials searched.
        verdict: against the baseline, on the selected metric; None for the baseline.
    """

    name: str
    runs: list[str]
    seeds: list[int]
    label: str = ""
    diverged: int = 0
    estimates: dict[str, Estimate] = field(default_factory=dict)
    to_target: dict[str, Estimate] = field(default_factory=dict)
    reached: int = 0
    trials: list[str] = field(default_factory=list)
    trial_count: int = 0
    trial_gradients: int = 0
    is_tuned: bool = False
    tuned_keys: set[str] = field(default_factory=set)
    verdict: Verdict | None = None

    @property
    def reached_text(self) -> str:
        """How many of its runs reached the target, as in `2 of 4`; empty where all did."""
        return f"{self.reached} of {len(self.runs)}" if self.reached < len(self.runs) else ""


def has_single_runs(methods: Iterable[Method]) -> bool:
    """Returns whether each method has one run, so that nothing is a mean over seeds."""
    return all(len(method.runs) == 1 for method in methods)


@dataclass
class Comparison:
    """Methods side by side.

    Attributes:
        methods: in the order of their first runs.
        baseline: the name of the method that the others are compared with.
        metric: the name of the metric that is tested.
        metrics: all metrics that the runs have, by name.
        target: to which the cost is measured; None: the runs have no accuracies, and none was asked for.
        has_usual_target: whether that is the highest that every run reached.
        differing: the keys in which the methods differ and that name them.
        unnamed: further keys in which they differ, where they are named by `--by`.
        obstacles: reasons not to compare the runs; empty where there are none.
        runs: the frames; in `summaries` the metrics of diverged runs are replaced as DIVERGED_RULE says, `metrics`
            has a column `gradient_equivalents`.
        searches: of a tournament: the search that tuned each method, by the method's name.
        search_values: of a tournament: the metric of that search in each final run that has it, by run.
        trial_validation_samples: of a tournament: on how many validation samples trials were compared; None: unknown.
    """

    methods: list[Method]
    baseline: str
    metric: str
    metrics: dict[str, Metric]
    target: Target | None
    differing: list[str]
    unnamed: list[str]
    obstacles: list[str]
    runs: Runs
    searches: dict[str, MethodSearch] = field(default_factory=dict)
    search_values: dict[str, float] = field(default_factory=dict)
    trial_validation_samples: int | None = None
    has_usual_target: bool = False

    @property
    def baseline_label(self) -> str:
        """The label of the baseline."""
        return next(method.label for method in self.methods if method.name == self.baseline)

    @property
    def is_timed(self) -> bool:
        """Whether any of the runs ended by the clock."""
        return "duration" in self.runs.configs and any(map(is_time, self.runs.configs["duration"]))

    @property
    def recorded(self) -> list[str]:
        """The names of the metrics of which any of the runs has a value."""
        return metrics_with_values(self.runs.summaries, self.metrics)


def exclusion_reason(summary: dict[str, Any]) -> str | None:
    """Returns why a run is left out, from its summary; None where it is not."""
    status = summary.get("status")
    if status in DONE:
        return None
    return "is still running, or was killed" if status == "running" else f"is {status}"


def compare_methods(
    runs: Runs,
    by: list[str] | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    target: Target | None = None,
    names: Mapping[str, str] | None = None,
    renames: Sequence[str] = (),
) -> Comparison:
    """Groups runs into methods and compares these.

    Args:
        runs: finished and diverged ones.
        by: keys whose values define a method, as `optimizer` or `optimizer.lr`; None: all that differ.
        baseline: a method's name or a part of it that no other has; None: the first method.
        metric: the name of a metric, as of `metrics_of`; None: final_top1, or where the runs have no accuracies the
            final value of the metric that selects their best weights, or final_loss.
        target: None: the highest top-1 accuracy that every run that did not diverge reached.
        names: the method of each run, where the plan of a tournament says so; `by` is then None.
        renames: labels of methods, as of `method_labels`.

    Raises:
        UserError: there are no runs; or a key, a baseline or a metric does not exist; or as `method_labels` and
            `check_target`.
    """
    if runs.summaries.empty:
        raise UserError("compare: none of the folders holds a run that has ended")
    metrics = recorded_metrics(runs.summaries)
    runs = with_derived_metrics(runs, metrics)
    versions = code_versions(runs.environments).reindex(runs.configs.index)
    if names is None:
        runs = replace(runs, configs=runs.configs.join(versions))
    metric = default_metric(runs.summaries, metrics) if metric is None else find_metric(metric, metrics)
    all_differing = differing_keys(runs.configs)
    differing = selected_keys(runs.configs, by) if by else all_differing
    unnamed = [key for key in all_differing if key not in differing]
    methods = group_runs(runs, differing, names, versions)
    obstacles = [*find_obstacles(runs, all_differing, metric), *code_obstacles(versions)]
    labels = method_labels((method.name for method in methods), renames)
    has_usual_target = target is None
    if target is not None:
        check_target(runs, target)
    elif has_accuracies(runs.summaries):
        lowest = runs.summaries.loc[converged_runs(runs), "best_top1.value"].min()
        target = Target(0.0 if math.isnan(lowest) else math.floor(10 * lowest) / 10)
    at_target = pd.DataFrame(columns=list(AXES.values())) if target is None else first_at_target(runs, target)
    recorded = metrics_with_values(runs.summaries, metrics)
    losses = losses_of(runs.summaries)
    lengths = runs.metrics.groupby("run")[list(AXES.values())].max()
    for method in methods:
        method.label = labels[method.name]
        summaries = runs.summaries.loc[method.runs]
        method.diverged = int((summaries["status"] == "diverged").sum())
        method.estimates = {
            name: estimate(list(summaries[one.column]) if name in recorded else [], value_bounds(one.label, losses))
            for name, one in metrics.items()
        }
        reached = at_target.loc[at_target.index.intersection(method.runs)]
        method.reached = len(reached)
        longest = lengths.loc[lengths.index.intersection(method.runs)].max()  # no run can reach it later
        method.to_target = {a: estimate(list(reached[c]), (0.0, float(longest[c]))) for a, c in AXES.items()}
    baseline_method = find_baseline(methods, baseline)
    add_verdicts(methods, baseline_method, runs.summaries[metrics[metric].column])
    return Comparison(
        methods,
        baseline_method.name,
        metric,
        metrics,
        target,
        differing,
        unnamed,
        obstacles,
        runs,
        has_usual_target=has_usual_target,
    )


def recorded_metrics(summaries: pd.DataFrame) -> dict[str, Metric]:
    """Returns the metrics that summaries have."""
    columns = [column for column in summaries if column.startswith("metrics.")]
    directions = {column.partition(".")[2]: next(iter(summaries[column].dropna()), None) for column in columns}
    sets = summaries["best_on"].unique()
    best_on = str(sets[0]) if len(sets) == 1 and isinstance(sets[0], str) else None
    return metrics_of(map(str, summaries), directions, selected_metric(summaries), best_on)


def selected_metric(summaries: pd.DataFrame) -> str | None:
    """Returns the metric that selects the best weights of all runs; None where they differ or are of old versions."""
    names = summaries["best.metric"].unique() if "best.metric" in summaries else []
    return str(names[0]) if len(names) == 1 and isinstance(names[0], str) else None


def default_metric(summaries: pd.DataFrame, metrics: Mapping[str, Metric]) -> str:
    """Returns the name of the metric that is tested where none is asked for."""
    name = f"final_{selected_metric(summaries)}"
    return "final_top1" if has_accuracies(summaries) else name if name in metrics else "final_loss"


def with_derived_metrics(runs: Runs, metrics: Mapping[str, Metric]) -> Runs:
    """Returns runs with gradient equivalents in their metrics, and the best top-5 and DIVERGED_RULE in summaries."""
    runs = replace(runs, metrics=runs.metrics.assign(gradient_equivalents=gradient_equivalents(runs.metrics)))
    if "top5" in runs.metrics:  # summaries have no such entry
        best_top5 = selection_rows(runs).groupby("run")["top5"].max()
        runs = replace(runs, summaries=runs.summaries.assign(**{"best_top5.value": best_top5}))
    return replace(runs, summaries=score_diverged(runs.summaries, metrics))


def score_diverged(summaries: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Returns summaries in which diverged runs have the metrics that DIVERGED_RULE gives them."""
    columns = [metric.column for metric in metrics.values()]
    scored = summaries.reindex(columns=dict.fromkeys([*summaries, *columns]))
    for run in scored.index[scored["status"] == "diverged"]:
        others = [column for column in columns if column not in ACCURACY_COLUMNS and column != "train_seconds"]
        scored.loc[run, others] = math.nan
        if pd.isna(scored.at[run, "classes"]):
            continue
        classes = int(scored.at[run, "classes"])
        values = {"top1": 100 / classes, "top5": 100 * min(5, classes) / classes}
        if losses_of(scored)[run] == "cross_entropy":
            values["loss"] = math.log(classes)
        for name, value in values.items():
            best = "lowest_loss.value" if name == "loss" else f"best_{name}.value"
            places = (f"final.{name}", best, f"selected.{name}")
            scored.loc[run, [column for column in places if column in columns]] = value
    scored[columns] = scored[columns].apply(pd.to_numeric)  # a value that is not finite is null in a summary
    return scored


def losses_of(summaries: pd.DataFrame) -> pd.Series:
    """Returns the loss that each run was trained with; summaries of early versions have none, and had one loss."""
    losses = summaries["objective"] if "objective" in summaries else pd.Series(None, summaries.index, dtype=object)
    return losses.fillna("cross_entropy")


def metrics_with_values(summaries: pd.DataFrame, metrics: Mapping[str, Metric]) -> list[str]:
    """Returns the names of the metrics of which any of the runs has a value."""
    return [name for name, metric in metrics.items() if summaries[metric.column].notna().any()]


def has_accuracies(summaries: pd.DataFrame) -> bool:
    """Returns whether any of the runs has accuracies: those of test functions have none."""
    return bool(summaries["final.top1"].notna().any())


def group_runs(runs: Runs, keys: list[str], names: Mapping[str, str] | None, versions: pd.DataFrame) -> list[Method]:
    """Returns the methods, in the order of their first runs; of each, one run for a seed counts.

    A method is the runs with the same values of these keys or, where the runs have names, with the same name.

    Raises:
        UserError: runs of one method differ in more than their seed.
    """
    text = configs_as_text(runs.configs)
    methods: dict[tuple[str, ...], Method] = {}
    seen: dict[tuple[str, ...], str] = {}
    for run in runs.configs.index:
        identity = (runs.summaries.at[run, "fingerprint"], *versions.fillna("").loc[run])
        if identity in seen:
            runs.problems.append((run, f"is the same run as {seen[identity]}"))
            continue
        seen[identity] = run
        values = tuple(text.at[run, key] for key in keys) if names is None else (names[run],)
        name = method_name(keys, values) if names is None else names[run]
        method = methods.setdefault(values, Method(name, [], []))
        method.runs.append(run)
        method.seeds.append(int(runs.summaries.at[run, "seed"]))
    for method in methods.values():
        more = varied_keys(text.loc[method.runs])
        if more:
            shown = ", ".join(key.removeprefix("choices.") for key in more[:5])
            raise UserError(f"--by: runs of {method.name} differ in more than their seed: {shown}; add a key")
        by_seed: dict[int, str] = {}
        for run, seed in zip(method.runs, method.seeds, strict=True):
            if (first := by_seed.setdefault(seed, run)) != run:  # with other metrics or code
                reason = f"is another run of {method.name} with seed {seed}, of which {first} counts"
                runs.problems.append((run, reason))
        method.runs, method.seeds = list(by_seed.values()), list(by_seed)
    return list(methods.values())


def find_obstacles(runs: Runs, differing: list[str], metric: str) -> list[str]:
    """Returns the reasons not to compare these runs, a line each."""
    obstacles = []
    data = [key for key in differing if key == "choices.data" or key.startswith("data.")]
    sizes = [
        key
        for key in ("training_images", "validation_images", "test_images")
        if key in runs.summaries and runs.summaries[key].nunique(dropna=False) > 1
    ]
    if data or sizes:
        keys = ", ".join([key.removeprefix("choices.") for key in data] or sizes)
        obstacles.append(f"different data: {keys}")
    if not (data or sizes) and data_checksums(runs.environments).nunique() > 1:
        of = runs.environments.get("data_checksum.of", pd.Series(dtype=object)).dropna().unique()
        obstacles.append(f"different data, though its keys are the same: {'; '.join(of)}")
    if "duration" in differing:
        lengths = runs.configs["duration"].map(str).unique()
        obstacles.append(f"different duration: {', '.join(lengths)}")
    if runs.summaries["best_on"].nunique() > 1:
        obstacles.append("best metrics are those on the validation set in some runs, on the test set in others")
    losses = [key for key in differing if key in ("choices.objective", "objective._target_")]
    if losses and metric in ("final_loss", "lowest_loss", "selected_loss"):
        obstacles.append(
            f"{metric} is of different losses ({losses[0].removeprefix('choices.')}); give another --metric"
        )
    return [*obstacles, *program_obstacles(runs.environments)]


def find_baseline(methods: list[Method], name: str | None) -> Method:
    """Returns the method of this name or label, or with this unique part in its name; None: the first."""
    if name is None:
        return methods[0]
    matches = [m for m in methods if name in (m.name, m.label)] or [m for m in methods if name in m.name]
    if len(matches) != 1:
        what = "several methods" if matches else "no method"
        raise UserError(f"--baseline {name}: means {what}; there are {'; '.join(m.name for m in methods)}")
    return matches[0]


def add_verdicts(methods: list[Method], baseline: Method, values: pd.Series) -> None:
    """Tests every other method against the baseline, with a correction for their number."""

    others = [m for m in methods if m is not baseline]
    verdicts = [compare_with_baseline(values_by_seed(m, values), values_by_seed(baseline, values)) for m in others]
    for method, verdict, p in zip(others, verdicts, holm([v.p for v in verdicts]), strict=True):
        method.verdict = replace(verdict, adjusted=p)


def values_by_method(comparison: Comparison, column: str) -> dict[str, dict[int, float]]:
    """Returns each method's values of a column of the summaries, by seed."""
    values = comparison.runs.summaries[column]
    return {method.name: values_by_seed(method, values) for method in comparison.methods}


def values_by_seed(method: Method, values: pd.Series) -> dict[int, float]:
    """Returns a method's values of a metric by seed, from those by run."""
    return dict(zip(method.seeds, values.loc[method.runs], strict=True))
