"""Whether the files of a run that has ended agree: its summary with its records and its configuration."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import cache, partial
from typing import Any

import yaml

from ..config.durations import Duration, is_time
from ..config.forms.rules import yaml_text
from ..config.options import CONF, Vocabulary, YamlLoader, shipped, shipped_option
from ..config.overrides import split_override
from ..provenance.environment import installed_version
from .metrics import METRICS_FILE, POSITION, VOID, Record, direction
from .run_folder import CONFIG, DONE, SUMMARY, fingerprint_of, flatten

NO_EVALUATIONS = ("train", "probe", "control", "event", VOID)  # kinds of records
COUNTS = ("samples", "gradients", "hvps", "train_seconds")
ROUNDING = 1e-9  # of epochs
SECONDS_AFTER, FRACTION_AFTER = 1.0, 0.05  # of training, that the clock may run on after the last record


def inconsistency(
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    choices: Mapping[str, Any],
    environment: Mapping[str, Any],
    records: Sequence[Record],
) -> str:
    """Returns in which the files of a run do not agree, in words after its name, as `has …`; empty: they agree.

    Args:
        summary: of the run; of one that has not ended nothing is said.
        config: its configuration by dotted key, under the present names.
        choices: the option of each group, under the present names.
        environment: its environment.json.
        records: of its metrics.jsonl; those that are no evaluations may be left out.
    """
    parts = []
    fingerprint = summary.get("fingerprint")
    if summary["status"] in DONE and is_changed(config, fingerprint, environment):
        value = changed_value(config, choices, environment, fingerprint)
        parts.append(f"has another configuration in {CONFIG} than it ran with, by the fingerprint in {SUMMARY}{value}")
    if summary["status"] in DONE and "code" in environment:  # earlier versions named the option of a replaced class
        parts += [f"has another class in {CONFIG} than that of {choice}" for choice in wrong_choices(config, choices)]
    if text := wrong_status(summary, config):
        parts.append(f"has the status {summary['status']} in {SUMMARY}, {text}")
    evaluations = [record for record in records if record["kind"] not in NO_EVALUATIONS]
    if summary["status"] == "finished" and evaluations:
        differing = [
            f"{name} {value:.4g} and {recorded:.4g}"
            for name, value, recorded in recorded_values(summary, evaluations)
            if isinstance(value, int | float) and isinstance(recorded, int | float) and not agree(name, value, recorded)
        ]
        if differing:
            parts.append(f"has other values in {SUMMARY} than in {METRICS_FILE}: {', '.join(differing)}")
    return " and ".join(parts)


def is_changed(config: Mapping[str, Any], fingerprint: Any, environment: Mapping[str, Any]) -> bool:
    """Returns whether a configuration is another one than that of a fingerprint, by the rules of all versions so far.

    A later version may leave keys out of a fingerprint that are not known here: its runs count as unchanged.
    """
    written_by, here = environment.get("versions", {}).get("trainopt"), installed_version("trainopt")
    if written_by and here and numbers(written_by) > numbers(here):
        return False
    return not has_fingerprint(config, fingerprint)


def has_fingerprint(config: Mapping[str, Any], fingerprint: Any) -> bool:
    """Returns whether a fingerprint is that of a configuration, by the rules of any version."""
    return fingerprint in (fingerprint_of(config, usual) for usual in (True, False))


def changed_value(
    config: Mapping[str, Any], choices: Mapping[str, Any], environment: Mapping[str, Any], fingerprint: Any
) -> str:
    """Returns which value was changed, in parentheses; empty where that is unknown: no possible value of one key fits.

    Args:
        config: of the run, as it is now.
        choices: the option of each group, under the present names.
        environment: its environment.json.
        fingerprint: of the configuration that it ran with.
    """
    for key, value in possible_values(choices, environment):
        if key in config and has_fingerprint({**config, key: value}, fingerprint):
            return f" ({key}={yaml_text(config[key])} instead of {yaml_text(value)})"
    return ""


def possible_values(choices: Mapping[str, Any], environment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of what was typed for a run, of a sweep each value, and of the defaults in conf/."""
    for word in environment.get("command", ()):
        _, key, typed = split_override(word)
        for text in (typed, *typed.split(",")):
            with suppress(yaml.YAMLError):
                yield key, yaml.load(text, YamlLoader)
    yield from flatten(shipped("config.yaml"))
    for group, option in choices.items():
        yield from flatten(shipped_option(group, str(option)), f"{group}.")


def wrong_choices(config: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    """Returns the options, as `optimizer=adam`, in whose place the configuration has the class of another of ours."""
    return [
        f"{group}={option}"
        for group, option in choices.items()
        if (target := shipped_target(group, str(option)))
        and config.get(f"{group}._target_") != target
        and config.get(f"{group}._target_") in map(partial(shipped_target, group), Vocabulary([CONF]).options(group))
    ]


@cache
def shipped_target(group: str, option: str) -> Any:
    """Returns the class of an option of ours; None where there is none."""
    return shipped_option(group, option).get("_target_")


def wrong_status(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Returns why a run cannot have ended as its summary says, in words after that; empty where it can."""
    status, length = summary["status"], config.get("duration")
    if status in DONE and (status == "diverged") != bool(summary.get("diverged_at")):
        return f"and {'no' if status == 'diverged' else 'a'} place at which it diverged"
    steps, epochs = summary.get("steps"), summary.get("epochs")
    ends_early = summary.get("stopped_early") or summary.get("range_test")
    if status != "finished" or ends_early or not Duration.is_valid(length) or is_time(length):
        return ""
    if not (isinstance(steps, int) and isinstance(epochs, int | float) and math.isfinite(epochs)):
        return ""
    passed = Duration.parse(str(length)).passed(steps, Fraction(epochs))
    return "" if passed > 1 - ROUNDING else f"and {steps} steps, fewer than duration={length}"


def numbers(version: str) -> list[int]:
    """Returns the numbers of a version.

    >>> numbers("0.10.1") > numbers("0.2.0")
    True
    """
    return [int(number) for number in re.findall(r"\d+", version)]


def agree(name: str, value: float, recorded: float) -> bool:
    """Returns whether a value of a summary is the recorded one; the training clock may have run on a little."""
    after = SECONDS_AFTER + FRACTION_AFTER * recorded if name == "train_seconds" else 0.0
    return math.isclose(value, recorded, rel_tol=1e-9) or 0 < value - recorded <= after


def recorded_values(summary: Mapping[str, Any], evaluations: Sequence[Record]) -> Iterator[tuple[str, Any, Any]]:
    """Yields (name, value in the summary, value in the records) of the results of a run, and of what they cost.

    Args:
        summary: of the run.
        evaluations: its records of them, at least one.
    """
    last, best = evaluations[-1], summary.get("best") or {}
    yield "steps", summary.get("steps"), last["step"]
    yield from ((name, summary.get(name), last.get(name)) for name in COUNTS)
    for key, step in (("final", summary.get("steps")), ("selected", best.get("step"))):
        of_test = summary.get(key) or {}
        at_step = {record["kind"]: record for record in evaluations if record["step"] == step}
        sets = {"test": of_test, **{kind: values for kind, values in of_test.items() if isinstance(values, dict)}}
        for kind, values in sets.items():
            recorded = at_step.get(kind, {})
            for name in [name for name in values if name in recorded and name not in POSITION]:
                yield f"{key} {kind} {name}", values[name], recorded[name]
    rows = [record for record in evaluations if record["kind"] == summary.get("best_on")]
    for key, name in (("best", best.get("metric", "")), ("best_top1", "top1"), ("lowest_loss", "loss")):
        more_is_better = direction(name, summary.get("metrics") or {})
        measured = [row for row in rows if isinstance(row.get(name), int | float) and not math.isnan(row[name])]
        if more_is_better is None or not measured or not summary.get(key):
            continue
        value = (max if more_is_better else min)(row[name] for row in measured)
        yield f"{key} {name}", summary[key].get("value"), value
        if key == "best":
            yield "best step", best.get("step"), next(row["step"] for row in measured if row[name] == value)
