"""What a result is a result of: network, data, duration and seeds, and whether the runs had converged."""

import math
import re
from collections.abc import Iterable

import pandas as pd

from ..reporting.method_styles import part_label
from ..system.files import plural
from .differences import configs_as_text
from .methods import ACCURACY_COLUMNS, Comparison

OUR_TEST_SETS = {"breast_cancer", "diabetes", "digits", "modular_addition"}  # these data come without one
LISTED = 5  # methods, and seeds of a method, that are named
SAMPLES = {"training_images": "training samples", "test_images": "test samples"}  # of summaries


def setting_text(comparison: Comparison) -> str:
    """Returns what all runs have in common, in a sentence: network, data, duration, and seeds of a method."""
    text = configs_as_text(comparison.runs.configs)
    summaries = comparison.runs.summaries

    def common(key: str) -> str:
        return str(text[key].iloc[0]) if key in text and text[key].nunique() == 1 else ""

    model, data = (part_label(group, common(f"choices.{group}")) for group in ("model", "data"))
    trained = " on ".join(filter(None, [common("choices.model") and model, common("choices.data") and data]))
    parts = [trained] if trained else []
    for key, name in SAMPLES.items():
        counts = summaries[key].dropna().unique() if key in summaries else []
        parts += [f"{int(counts[0]):,} {name}"] if len(counts) == 1 and counts[0] else []
    steps = summaries["steps"].dropna().unique() if "steps" in summaries else []
    length = f" ({int(steps[0]):,} steps)" if len(steps) == 1 and not common("duration").endswith("steps") else ""
    parts += [f"{length_text(common('duration'))}{length}"] if common("duration") else []
    counts = sorted({len(method.runs) for method in comparison.methods})
    number = plural(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    parts.append(f"{number} of each method")
    return f"{', '.join(parts)}."


def seeds_text(comparison: Comparison) -> str:
    """Returns which seeds of other methods each method lacks, in sentences; empty where all have the same."""
    known = {seed for method in comparison.methods for seed in method.seeds}
    lacking = [(m.label, sorted(known - {*m.seeds})) for m in comparison.methods if known - {*m.seeds}]
    if not lacking:
        return ""
    parts = [f"{label} lacks {', '.join(first_of(map(str, seeds), 'more'))}" for label, seeds in lacking]
    return (
        f"Methods have different seeds: {'; '.join(first_of(parts, 'more methods'))}. If runs were left out for their"
        " results, means and tests are biased."
    )


def first_of(texts: Iterable[str], what: str) -> list[str]:
    """Returns the first LISTED texts, and how many more there are.

    >>> first_of("abcdefg", "more")
    ['a', 'b', 'c', 'd', 'e', '2 more']
    """
    texts = list(texts)
    return [*texts[:LISTED], *([f"{len(texts) - LISTED} {what}"] if len(texts) > LISTED else [])]


def length_text(typed: str) -> str:
    """Returns a duration in words.

    >>> length_text("1epochs"), length_text("0.5epochs"), length_text("10min")
    ('1 epoch', '0.5 epochs', '10 min')
    """
    text = re.sub(r"([a-z]+)$", r" \1", typed)
    return text.removesuffix("s") if text in ("1 epochs", "1 steps") else text


def sets_text(comparison: Comparison) -> str:
    """Returns how the test set and the validation set were made, in sentences."""
    text = configs_as_text(comparison.runs.configs)
    data = set(text.get("choices.data", ()))
    if len(data) != 1 or data == {"none"}:
        return ""
    choice = split_text(comparison)
    test = f"held out of the data set, {choice}" if data <= OUR_TEST_SETS else "that of the data set"
    sentences = [f"Test set of all runs: {test}."]
    fractions = set(text.get("data.validation", ())) - {"", "0.0", "0"}
    if len(fractions) == 1:
        sentences.append(f"Validation set: {percent(fractions.pop())} of the training set, {choice}.")
    return " ".join(sentences)


def split_text(comparison: Comparison) -> str:
    """Returns how samples are held out."""
    summaries = comparison.runs.summaries
    has_classes = "classes" in summaries and summaries["classes"].notna().any()
    return f"chosen once{', with the classes in proportion,' if has_classes else ''} for every method and seed"


def percent(fraction: str) -> str:
    """Returns a fraction in percent.

    >>> percent("0.1")
    '10 %'
    """
    return f"{100 * float(fraction):.4g} %"


def horizon_text(comparison: Comparison) -> str:
    """Returns in how many runs the loss was still falling at the end, in a sentence; empty where in none."""
    summaries = comparison.runs.summaries
    if not {"lowest_loss.step", "steps"} <= set(summaries):
        return ""
    ended = summaries[summaries["status"] != "diverged"]
    is_falling = ended["lowest_loss.step"] == ended["steps"]
    falling = int(is_falling.sum())
    if not falling:
        return ""
    sets = " or ".join(sorted(ended["best_on"].dropna().unique()))
    counts = [(m.label, int(is_falling.reindex(m.runs).sum()), len(m.runs)) for m in comparison.methods]
    by_method = ", ".join(f"{label} {count} of {number}" for label, count, number in counts)
    return (
        f"In {falling} of {plural(len(summaries), 'run')}{f' ({by_method})' if len(counts) > 1 else ''} the loss on the"
        f" {sets} set was lowest at the last evaluation: they may not have converged, and after a longer duration the"
        " order of the methods may be another."
    )


def last_change_text(comparison: Comparison) -> str:
    """Returns how much the tested metric changed at the end of runs, in a sentence; empty where that is not known."""
    metric, runs = comparison.metrics[comparison.metric], comparison.runs
    first, _, name = metric.column.partition(".")
    ended = runs.summaries.index[runs.summaries["status"] != "diverged"]
    records = runs.metrics[runs.metrics["run"].isin(ended)]
    changes = [last_change(part, "test", name) for _, part in records.groupby("run")] if first == "final" else []
    largest = max((abs(change) for change in changes if not math.isnan(change)), default=None)
    if largest is None:
        return ""
    label = metric.label.removeprefix("final ")
    unit = " points" if label.endswith(" (%)") else ""
    return (
        f"Between the last two evaluations, the {label.removesuffix(' (%)')} of a run changed by up to"
        f" {largest:{metric.form}}{unit}: final values depend on when runs end."
    )


def last_change(records: pd.DataFrame, kind: str, column: str) -> float:
    """Returns the change of a metric from the evaluation before the last one to the last; nan where a run has not both.

    Args:
        records: of one run.
        kind: of the evaluations; that before the first step is left out.
        column: the metric.
    """
    if column not in records:
        return math.nan
    rows = records[(records["kind"] == kind) & (records["step"] > 0)].drop_duplicates("step", keep="last")
    values = pd.to_numeric(rows[column], errors="coerce")
    return float(values.iloc[-1] - values.iloc[-2]) if len(values) > 1 else math.nan


def one_sample_text(comparison: Comparison) -> str:
    """Returns what one test sample is of the tested accuracy, in a sentence; empty where another metric is tested."""
    metric, summaries = comparison.metrics[comparison.metric], comparison.runs.summaries
    counts = summaries["test_images"].dropna().unique() if "test_images" in summaries else []
    if metric.column not in ACCURACY_COLUMNS or "validation" in metric.label or len(counts) != 1 or not counts[0]:
        return ""
    return f"One of the {int(counts[0]):,} test samples is {100 / counts[0]:.2g} points."
