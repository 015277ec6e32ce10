"""The keys that searches tuned: their default values, and their values in the best trials."""

import math

from ...config.options import shipped_option
from ..differences import configs_as_text, typed_text
from ..methods import Comparison, Method
from ..tables.noted_table import short
from .searches import MethodSearch, Trial

DEFAULTS = "defaults."  # of environment.json
MANY_TRIALS = 8  # finished, from which on the best quarter is shown
BEST_QUARTER = "in the best quarter"
COVERED_TRIALS = 32  # finished, from which on a quarter can cover much of a range
QUARTER = " In the best quarter: the values of the best quarter of the finished trials."
COVERED = " Where they cover much of what was searched, the key mattered little there."
CHANCE = " Of so few trials, chance alone makes such ranges narrow or wide."
FEW = f" With fewer than {MANY_TRIALS} finished trials nothing can be said about which of the keys mattered."


def default_value(comparison: Comparison, method: Method, key: str) -> str:
    """Returns the default of a key as text: of the YAML of our option, or of the user's optimizer; empty for others."""
    key = key.lstrip("+")
    group, _, name = key.partition(".")
    option = configs_as_text(comparison.runs.configs).get(f"choices.{group}", {}).get(method.runs[0], "")
    content = shipped_option(group, option)
    return typed_text(content[name]) if name in content else own_defaults(comparison, method).get(key, "")


def own_defaults(comparison: Comparison, method: Method) -> dict[str, str]:
    """Returns the defaults in the signature of an optimizer of the user's, as text; none of an option of ours.

    They are in the run's environment.json: to import the class would be to run code that a run's folder names.
    """
    recorded = comparison.runs.environments.loc[method.runs[0]]
    keys = [str(column) for column in recorded.index if str(column).startswith(DEFAULTS)]
    values = {key.removeprefix(DEFAULTS): typed_text(recorded[key]) for key in keys}
    return {key: value for key, value in values.items() if value}


def default_trial(comparison: Comparison, method: Method) -> float:
    """Returns the metric of the trial that had the default value of each searched key; nan where none had."""
    search = comparison.searches[method.name]
    defaults = {key: same_text(default_value(comparison, method, key)) for key in search.best}
    trials = [t for t in search.trials if {key: same_text(value) for key, value in t.params.items()} == defaults]
    return trials[0].value if trials else math.nan


def same_text(value: str) -> str:
    """Returns the text that equal values share.

    >>> same_text("1e-3") == same_text("0.001"), same_text("[0.9, 0.999]")
    (True, '[0.9,0.999]')
    """
    try:
        return repr(float(value))
    except ValueError:
        return value.replace(" ", "")


def values_of_the_best(search: MethodSearch) -> dict[str, str]:
    """Returns what values each key had in the best quarter of the finished trials; empty for few trials."""
    finished: list[Trial] = sorted((t for t in search.trials if math.isfinite(t.value)), key=lambda t: t.value)
    if len(finished) < MANY_TRIALS:
        return {}
    best = finished[: math.ceil(len(finished) / 4)]
    return {key: values_text([t.params[key] for t in best], search.ranges[key]) for key in search.best}


def values_text(values: list[str], searched: str) -> str:
    """Returns values in a few words: the lowest and the highest, or the choices in their order.

    >>> values_text(["0.02", "0.0012345"], "interval(0,1)"), values_text(["0.9", "0.0"], "choice(0.0,0.5,0.9)")
    ('0.001234 to 0.02', '0.0, 0.9')
    """
    if searched.startswith("choice("):
        return ", ".join(sorted(set(values), key=searched.find))
    numbers = sorted(map(float, values))
    ends = dict.fromkeys((short(str(numbers[0])), short(str(numbers[-1]))))
    return " to ".join(ends)
