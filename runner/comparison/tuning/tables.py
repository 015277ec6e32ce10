"""Tables of how the methods of a comparison were tuned, for the report, table.md and table.tex."""

import math
import re

import numpy as np
import pandas as pd

from ...reporting.method_styles import key_label
from ...system.files import plural
from ...trials.boundary import choice_components
from ..differences import configs_as_text, varied_keys
from ..methods import Comparison
from ..setting import first_of, length_text, percent, split_text
from ..tables.noted_table import NotedTable, short
from .chosen import chosen_values, length_differs
from .expected_best import ESTIMATE, ESTIMATE_LIMITS, ORDER_TEXT, WORST, best_after, trial_counts, worst_value
from .keys import (
    BEST_QUARTER,
    CHANCE,
    COVERED,
    COVERED_TRIALS,
    FEW,
    QUARTER,
    default_trial,
    default_value,
    own_defaults,
    values_of_the_best,
)
from .searches import MethodSearch

KINDS = {
    "random": "random search",
    "qmc": "quasi-random search (scrambled Sobol points)",
    "tpe": "a tree-structured Parzen estimator (TPE)",
    "rule": "the learning-rate rule of Zorca 2020 (section 4.3.2)",
}
BOUNDARY = "At a boundary: close to an end of what was searched; a better value may lie beyond it."
CLOSE = (
    "Close is within 5 % of the range (of its logarithm where it is logarithmic), the lowest or highest of several"
    " numbers, or the lowest or highest value that the rule tried; 0 as the lowest is no boundary."
)
DEFAULT = "Default values are those of conf/optimizer/NAME.yaml, and of the signature of your own classes."
GAIN = "The gap between the best and the median trial shows what tuning gained{drawn}."
METHODS_AT_DEFAULTS = (
    "hydra.sweeper.methods takes methods with the default values, too: they have no trials, and final runs beside the"
    " others."
)
SOURCES = "The sources of the ranges are in conf/space, and shown by trainopt optimizer=NAME --space."
NOT_TUNED = "Values that differ between the methods and were not searched; “tuned” stands where they were."


OFF = {"", "null", "false"}  # a switch of one optimizer that is off is no value


def tuning_tables(comparison: Comparison) -> list[NotedTable]:
    """Returns the tables that have any rows."""
    tables = [tuned_values(comparison), budget(comparison), chosen_values(comparison), best_of_trials(comparison)]
    tables.append(untuned_values(comparison))
    return [table for table in tables if table.rows]


def tuned_values(comparison: Comparison) -> NotedTable:
    """Returns the chosen value of each key of each method, with what was searched."""
    rows = []
    best = {name: values_of_the_best(search) for name, search in comparison.searches.items()}
    for method in comparison.methods:
        if (search := comparison.searches.get(method.name)) is None:
            continue
        for key, value in search.best.items():
            row = [method.label, key.lstrip("+"), short(value), short(default_value(comparison, method, key))]
            searched = "; ".join([range_text(search.ranges[key]), *fixed_texts(search.ranges[key], key)])
            row += [searched, best[method.name].get(key, ""), place_text(search, key)]
            rows.append(row)
    header = ["method", "key", "chosen", "default", "searched", BEST_QUARTER, "at a boundary"]
    if not any(best.values()):
        del header[5]
        rows = [row[:5] + row[6:] for row in rows]
    counts = [len([v for v in search.values if math.isfinite(v)]) for search in comparison.searches.values()]
    spread = COVERED if min(counts, default=0) >= COVERED_TRIALS else CHANCE
    note, details = (BOUNDARY + QUARTER, CLOSE + spread) if any(best.values()) else (BOUNDARY, CLOSE + FEW)
    return NotedTable("tuned", "Tuned values", header, rows, note, DEFAULT, range(len(header)), details)


def range_text(typed: str) -> str:
    """Returns what was searched of a key, from Hydra's way of typing it.

    >>> range_text("tag(log,interval(0.001,1.0))"), range_text("interval(1,9)"), range_text("choice(0.0,0.5,0.9)")
    ('0.001 to 1.0, logarithmic', '1 to 9', 'one of 0.0, 0.5, 0.9')
    >>> range_text("choice([0.5,0.999],[0.9,0.999])")
    'one of [0.5,0.999], [0.9,0.999]'
    """
    if match := re.fullmatch(r"(tag\(log,)?interval\(([^,()]+),([^,()]+)\)\)?", typed):
        return f"{match[2]} to {match[3]}{', logarithmic' if match[1] else ''}"
    if match := re.fullmatch(r"choice\((.*)\)", typed):
        return f"one of {re.sub(r',(?![^[]*])', ', ', match[1])}"
    return typed


def place_text(search: MethodSearch, key: str) -> str:
    """Returns whether the best value of a key lies at a boundary of what was searched."""
    ends = [end for end in search.at_boundary if end.partition("[")[0] == key]
    return "yes" if ends == [key] else ", ".join(map(key_label, ends)) or "no"


def fixed_texts(searched: str, key: str) -> list[str]:
    """Returns which components of a list were the same in all choices, in a text for each.

    >>> fixed_texts("choice([0.5,0.999],[0.9,0.999])", "optimizer.betas")
    ['β₂ fixed']
    """
    components = choice_components(searched)
    fixed = [index for index, numbers in enumerate(components) if len(components) > 1 and len(set(numbers)) == 1]
    return [f"{key_label(f'{key}[{index}]')} fixed" for index in fixed]


def boundary_note(comparison: Comparison) -> str:
    """Returns which chosen values lie at a boundary of what was searched, in sentences; empty where none does."""
    texts = []
    for method in comparison.methods:
        search = comparison.searches.get(method.name)
        keys = [key_label(key) for key in search.at_boundary] if search else []
        texts += [f"{', '.join(keys)} of {method.label}"] if keys else []
    if not texts:
        return ""
    return (
        f"Chosen at an end of the searched range: {'; '.join(texts)}. Better values may lie beyond it, and with a wider"
        " range the order of the methods may be another."
    )


def one_search_text(comparison: Comparison) -> str:
    """Returns on how many trials the chosen values rest, in a sentence; empty where nothing was searched."""
    counts = sorted({len(search.values) for search in comparison.searches.values()})
    if not counts:
        return ""
    number = plural(counts[0], "trial") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} trials"
    return (
        f"Each method was tuned by one search of {number}: another search may choose other values, which"
        " intervals and tests over seeds do not show."
    )


def tuned_text(comparison: Comparison) -> str:
    """Returns which methods were tuned and which were not, in a sentence; empty where all were, or none."""
    tuned, untuned = ([m.label for m in comparison.methods if m.is_tuned is is_tuned] for is_tuned in (True, False))
    if not tuned or not untuned:
        return ""
    hint = "" if comparison.searches else " (no search is known; --tuning SWEEP names one)"
    return f"Tuned: {', '.join(first_of(tuned, 'more'))}; not tuned: {', '.join(first_of(untuned, 'more'))}{hint}."


def selection_text(comparison: Comparison) -> str:
    """Returns that trials were chosen by another metric than the tested one, in a sentence; empty where by the same."""
    search = next(iter(comparison.searches.values()), None)
    if search is None or search.metric.partition(" ")[2] == comparison.metric.removeprefix("final_"):
        return ""
    return (
        f"Trials were chosen by {search.metric}, which is not tested; {comparison.metrics[comparison.metric].label} is,"
        " and other values of the keys may be better for it."
    )


def default_text(comparison: Comparison) -> str:
    """Returns which methods had a trial at their default values, and its metric, in a sentence."""
    values = {m.label: default_trial(comparison, m) for m in comparison.methods if m.name in comparison.searches}
    metric = next(iter(comparison.searches.values())).metric
    known = [
        f"{label} ({f'{metric} {value:.4g}' if math.isfinite(value) else 'diverged or failed'})"
        for label, value in values.items()
        if not math.isnan(value)
    ]
    unknown = [label for label, value in values.items() if math.isnan(value)]
    if not known:
        return "No trial had the default values of all searched keys: whether they do as well is not known."
    others = f", none of {', '.join(unknown)} had" if unknown else ""
    return f"A trial of {' and one of '.join(known)} had the default values of all searched keys{others}."


def margin_texts(comparison: Comparison) -> list[str]:
    """Returns by how much the chosen trials are the best, and changed at their end, in a sentence each."""
    searches = [(m.label, s) for m in comparison.methods if (s := comparison.searches.get(m.name)) is not None]
    finite = [(label, sorted(v for v in search.values if math.isfinite(v))) for label, search in searches]
    margins = [f"{label} by {values[1] - values[0]:.2g}" for label, values in finite if len(values) > 1]
    changes = [f"{label} {s.chosen_change:+.2g}" for label, s in searches if not math.isnan(s.chosen_change)]
    metric = searches[0][1].metric
    texts = [f"The second-best trial has a higher {metric} than the best: {', '.join(margins)}."] if margins else []
    if changes:
        texts.append(
            f"Between the last two evaluations of the chosen trial, {metric} changed by {', '.join(changes)}:"
            " the choice depends on when trials end."
        )
    return texts


def budget(comparison: Comparison) -> NotedTable:
    """Returns the number of trials of each method, how they ended, and the metric of the best one."""
    if not comparison.searches:
        return NotedTable("budget", "", [], [], "")
    states = list(dict.fromkeys(state for search in comparison.searches.values() for state in search.states))
    metrics = dict.fromkeys(search.metric for search in comparison.searches.values())
    at_defaults = {m.name: default_trial(comparison, m) for m in comparison.methods if m.name in comparison.searches}
    has_defaults = any(map(math.isfinite, at_defaults.values()))
    rows = []
    for method in comparison.methods:
        search = comparison.searches.get(method.name)
        if search is None:
            rows.append(
                [method.label, "0", *("" for _ in (*states, "best", "median", *["default"] * has_defaults)), "0"]
            )
            continue
        counts = [str(search.states[state]) for state in states]
        values = [search.best_value, float(np.median(search.values)), at_defaults[method.name]]
        cells = [f"{value:.4g}" if math.isfinite(value) else "" for value in values[: 2 + has_defaults]]
        rows.append([method.label, str(len(search.values)), *counts, *cells, f"{method.trial_gradients:,}"])
    header = ["method", "trials", *states, f"best {', '.join(metrics)}", "median", *["default values"] * has_defaults]
    header.append("gradients of the trials")
    hint = METHODS_AT_DEFAULTS
    if any(search.sampler_seed is not None for search in comparison.searches.values()):
        hint = f"{SOURCES} {METHODS_AT_DEFAULTS}"
    note, details = budget_note(comparison), budget_details(comparison)
    return NotedTable("budget", "Tuning budget", header, rows, note, hint, details=details)


def budget_note(comparison: Comparison) -> str:
    """Returns how the searches worked, in sentences."""
    search = next(iter(comparison.searches.values()))
    seeds = f"seed{'s' if len(search.seeds) > 1 else ''} {', '.join(map(str, search.seeds))}"
    final = comparison.runs.configs.loc[comparison.methods[0].runs[0]]
    parts = [
        f"Search: {KINDS[search.kind]}. A trial is a run of {length_text(search.duration)} with {seeds}, a final run"
        f" one of {length_text(str(final['duration']))} with seeds that no trial had. Trials are compared by"
        f" {search.metric}{'' if search.kind == 'rule' else ' after their last step'}"
        f"{', a mean over the seeds' if len(search.seeds) > 1 else ''}."
    ]
    if length_differs(comparison):
        parts.append("What is best after the one duration need not be best after the other.")
    return " ".join(parts)


def budget_details(comparison: Comparison) -> str:
    """Returns what the searches share and hold out, and what they show and do not show, in sentences."""
    search = next(iter(comparison.searches.values()))
    final = comparison.runs.configs.loc[comparison.methods[0].runs[0]]
    parts = []
    if search.sampler_seed is not None:
        parts.append(
            f"The sampler of every method has seed {search.sampler_seed}: as far as the keys of two spaces are, in"
            " their order, of the same kind, trials of the same number lie at the same relative places of both (common"
            " random numbers). The searches are then not independent, and places may suit one better than the other."
            " All methods have as many trials, which cover a space of more keys more thinly."
        )
    if search.metric.startswith("validation"):
        held_out = search.validation or final.get("data.validation")
        used = "do so too" if final.get("data.validation") else "train on all of it"
        number = comparison.trial_validation_samples
        samples = "," if number is None else f", {number:,} samples,"
        parts.append(
            f"Trials hold out {percent(str(held_out))} of the training set{samples} {split_text(comparison)}, and are"
            f" compared there; final runs {used}."
        )
    drawn = "" if search.kind in ("rule", "tpe") else "; the median stands for a point drawn from the space"
    parts += [GAIN.format(drawn=drawn), default_text(comparison), *margin_texts(comparison)]
    untuned = [method.label for method in comparison.methods if method.name not in comparison.searches]
    if untuned:
        parts.append(f"Nothing of {', '.join(untuned)} was searched.")
    return " ".join(parts)


def best_of_trials(comparison: Comparison) -> NotedTable:
    """Returns the metric of the best of 1, 2, 4 and so on trials of each method."""
    searches = comparison.searches
    counts = trial_counts(max((len(search.values) for search in searches.values()), default=1))
    rows = []
    for method in comparison.methods:
        search = searches.get(method.name)
        if search is not None:
            ns = [n for n in counts if n <= len(search.values)]
            cells = [expected_text(*best_after(search, n, worst_value(searches))) for n in ns]
            rows.append([method.label, *cells, *("" for _ in counts[len(ns) :])])
    kinds = {search.kind for search in searches.values()}
    note, details = (ESTIMATE, f"{ESTIMATE_LIMITS} {WORST}") if kinds == {"random"} else (ORDER_TEXT, WORST)
    header = ["method", *(f"{n} trial{'s' if n > 1 else ''}" for n in counts)]
    metric = next(iter(searches.values())).metric if searches else ""
    best = "Expected best" if kinds == {"random"} else "Best"
    return NotedTable("trials", f"{best} {metric} of so many trials", header, rows, note, details=details)


def untuned_values(comparison: Comparison) -> NotedTable:
    """Returns the keys that differ between the methods and that were not searched for all of them."""
    methods = comparison.methods
    text = configs_as_text(comparison.runs.configs).loc[[method.runs[0] for method in methods]]
    for method in methods:
        for key, value in own_defaults(comparison, method).items():
            row = text[key] if key in text else pd.Series("", text.index)
            text[key] = row.mask((row.index == method.runs[0]) & (row == ""), value)
    rows = []
    for key in varied_keys(text):
        if key.startswith("choices.") or key.endswith("_target_"):
            continue
        tuned = [key in method.tuned_keys for method in methods]
        values = [short(value) for value in text[key]]
        untuned = {value for value, is_tuned in zip(values, tuned, strict=True) if not is_tuned}
        if untuned - OFF:
            cells = ["tuned" if is_tuned else value for value, is_tuned in zip(values, tuned, strict=True)]
            rows.append([key, *cells])
    return NotedTable("untuned", "Not tuned", ["key", *(method.label for method in methods)], rows, NOT_TUNED)


def expected_text(value: float, deviation: float | None) -> str:
    """Returns a value, with its standard deviation where it has one."""
    return f"{value:.4g}" if deviation is None else f"{value:.4g} (SD {deviation:.2g})"
