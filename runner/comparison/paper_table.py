"""The table of a comparison for a paper: LaTeX with booktabs, a line for each method, the best in bold."""

import math
from collections.abc import Sequence

from ..reporting.tables import LAYOUTS, Tex, escape_latex, latex
from ..system.errors import UserError, continued, nearest
from .figures.target import target_limits, target_rule
from .methods import Comparison, Method, values_by_method
from .metrics import AXES, SECONDS_RULE, cost_form
from .setting import one_sample_text, seeds_text, setting_text
from .significance import LEVEL, MIN_SEEDS, Estimate, half_width, methods_in_bold
from .tables.layout import fitting_layout, table_width
from .tables.noted_table import FOR_TEXT
from .tables.text import EQUAL_P, forced_text, has_equal_p, interval_of_difference, interval_of_effect, with_decimals
from .tuning.tables import one_search_text, selection_text, tuned_text

TARGET = "_to_target"
TEST_COLUMNS = {
    "difference": "difference",
    "interval": Tex("95\\,\\% interval of the difference"),
    "p": Tex("$p$"),
    "effect": Tex("Hedges' $g$"),
    "effect_interval": Tex("95\\,\\% interval of $g$"),
}
COUNT_COLUMNS = {"n": Tex("$n$"), "diverged": "diverged", "tuning_trials": "trials", "tuning_gradients": "gradients"}
FIRST = ("p", "difference", "diverged", "n", "interval", TARGET, "final_loss")  # in a narrow table, after the metric
BOLD_RULE = "Bold type: each mean is tested against the best as differences are, each metric by itself."
TEST_NAMES = {"paired": "a paired $t$-test", "Welch": "Welch's $t$-test"}


def column_names(comparison: Comparison) -> list[str]:
    """Returns the names of the columns that a table may have."""
    costs = [f"{axis}{TARGET}" for axis in AXES] if comparison.target is not None else []
    return [*comparison.recorded, *TEST_COLUMNS, *costs, *COUNT_COLUMNS]


def default_columns(comparison: Comparison, axis: str) -> list[str]:
    """Returns the columns of a table that is not asked for others, wherever they fit: the result and its cost."""
    known = column_names(comparison)
    names = [comparison.metric, "difference", "interval", "p", "final_loss", f"{axis}{TARGET}"]
    has_trials = len({method.trial_count for method in comparison.methods}) > 1
    has_ns = len({len(method.runs) for method in comparison.methods}) > 1
    names += (
        ["tuning_trials"] * has_trials + ["n"] * has_ns + ["diverged"] * any(m.diverged for m in comparison.methods)
    )
    has_test = any(method.verdict and method.verdict.has_p_value for method in comparison.methods)
    return [name for name in dict.fromkeys(names) if name in known and (has_test or name not in TEST_COLUMNS)]


def check_columns(comparison: Comparison, columns: Sequence[str]) -> None:
    """Raises UserError for a column that a table cannot have."""
    known = column_names(comparison)
    for name in columns:
        if name not in known:
            problem = f"--columns {name}: no such column{nearest(name, known)}"
            raise UserError(continued(problem, f"there are {', '.join(known)}"))


def paper_table(
    comparison: Comparison, axis: str, width: float, asked: Sequence[str] = (), label: str = "tab:comparison"
) -> str:
    """Returns the table in LaTeX, with a caption that says what the numbers are.

    Args:
        comparison: the methods.
        axis: one of AXES, for the cost to the target.
        width: of a column of the page, in inches.
        asked: names of columns, as of `column_names`; none: those of `default_columns` that fit into the width.
        label: for references to it.
    """
    names = list(asked) or default_columns(comparison, axis)
    columns = names if asked else fitting_columns(comparison, names, width)
    header, rows = table_cells(comparison, columns)
    layout = fitting_layout(header, rows, width)
    left_out = ", ".join(name for name in names if name not in columns)
    notes = []
    if left_out:
        notes.append(f"% left out, as {width:.3g} in are too narrow for them: {left_out}")
        notes.append(f"% with them: --columns {','.join(names)}, or a larger --width")
    if layout is None:
        needed = table_width(header, rows, LAYOUTS[-1])
        notes.append(
            f"% needs {needed:.2g} in, more than {width:.3g} in: spans the page, and shrinks where that is narrower"
        )
    notes.append(f"{FOR_TEXT}{escape_latex(details)}" if (details := caption_details(comparison, columns)) else "")
    text = Tex(caption(comparison, columns))
    table = latex(header, rows, text, label, layout=layout or LAYOUTS[-1], is_wide=layout is None)
    return "".join(f"{note}\n" for note in notes if note) + table


def fitting_columns(comparison: Comparison, names: Sequence[str], width: float) -> list[str]:
    """Returns those of some columns that fit into a width (inches): the metric, and then in the order of FIRST."""

    def fits(columns: Sequence[str]) -> bool:
        return fitting_layout(*table_cells(comparison, columns), width) is not None

    def rank(name: str) -> int:
        kind = TARGET if name.endswith(TARGET) else name
        return FIRST.index(kind) if kind in FIRST else len(FIRST)

    columns = [comparison.metric]
    for name in sorted((name for name in names if name not in columns), key=rank):
        columns += [name] if fits([*columns, name]) else []
    return [name for name in names if name in columns]


def table_cells(comparison: Comparison, columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Returns (header, rows) of a table with these columns."""
    header = ["method", *(column_header(comparison, name) for name in columns)]
    cells = [column_cells(comparison, name) for name in columns]
    return header, [list(row) for row in zip([method.label for method in comparison.methods], *cells, strict=True)]


def column_header(comparison: Comparison, name: str) -> str:
    """Returns the head of a column."""
    if name in comparison.metrics:
        return comparison.metrics[name].label
    if name.endswith(TARGET):
        return f"{name.removesuffix(TARGET)} to {comparison.target}"
    return (TEST_COLUMNS | COUNT_COLUMNS)[name]


def column_cells(comparison: Comparison, name: str) -> list[str]:
    """Returns the cells of a column, one for each method."""
    methods = comparison.methods
    if name in comparison.metrics:
        metric = comparison.metrics[name]
        bold: set[str] = set()
        if metric.more_is_better is not None and len(methods) > 1:
            bold = methods_in_bold(values_by_method(comparison, metric.column), metric.more_is_better)
        return [estimate_cell(m.estimates[name], metric.form, m.name in bold) for m in methods]
    if name.endswith(TARGET):
        axis = name.removesuffix(TARGET)
        cells = [estimate_cell(method.to_target[axis], cost_form(axis)) for method in methods]
        missed = [f" ({method.reached_text})" if method.reached_text else "" for method in methods]
        return [Tex(cell + note) for cell, note in zip(cells, missed, strict=True)]
    if name in TEST_COLUMNS:
        return [test_cell(method, name, comparison.metrics[comparison.metric].form) for method in methods]
    count = {
        "n": lambda m: len(m.runs),
        "diverged": lambda m: m.diverged,
        "tuning_trials": lambda m: m.trial_count,
        "tuning_gradients": lambda m: m.trial_gradients,
    }[name]
    return [f"{count(method):,}" for method in methods]


def estimate_cell(value: Estimate, form: str, is_best: bool = False) -> Tex:
    """Returns a mean with half of its 95 % interval, which fewer than MIN_SEEDS seeds have not."""
    if value.n == 0 or math.isnan(value.mean):
        return Tex("--")
    form = with_decimals(form, value.mean)
    mean = f"{value.mean:{form}}".replace("-", "$-$")
    mean = f"\\textbf{{{mean}}}" if is_best else mean
    return Tex(f"{mean} $\\pm$ {half_width(value):{form}}" if value.n >= MIN_SEEDS else mean)


def test_cell(method: Method, name: str, form: str) -> str:
    """Returns a value of a method's test against the baseline."""
    verdict = method.verdict
    if verdict is None:
        return Tex("baseline" if name == "difference" else "")
    if name == "difference":
        return Tex("--") if math.isnan(verdict.difference) else f"{verdict.difference:+{form}}"
    if not verdict.has_p_value:
        return Tex("--")
    if name == "interval":
        return interval_of_difference(verdict, form) or Tex("--")
    if name == "effect_interval":
        return interval_of_effect(verdict) or Tex("--")
    if name == "effect":
        return f"{verdict.effect:+.2f}"
    return Tex("$<$0.001" if verdict.adjusted < 0.001 else f"{verdict.adjusted:.3f}")


def caption(comparison: Comparison, columns: Sequence[str]) -> str:
    """Returns what the numbers of a table are, in LaTeX: n, interval, test, correction, and the rule for bold type."""
    methods = comparison.methods
    counts = sorted({len(method.runs) for method in methods})
    n = f"$n = {counts[0]}$" if len(counts) == 1 else f"$n = {counts[0]}$ to ${counts[-1]}$"
    text = f"Mean over {n} seeds"
    if counts[-1] >= MIN_SEEDS:
        few = f"; from {MIN_SEEDS} seeds on" if counts[0] < MIN_SEEDS else ""
        text += f" $\\pm$ half of its 95\\,\\% interval (Student's $t$, not cut at impossible values{few})"
    settings = [make(comparison) for make in (forced_text, setting_text, seeds_text, tuned_text)]
    sentences = [*(escape_latex(setting.removesuffix(".")) for setting in settings if setting), text]
    tests = [method.verdict for method in methods if method.verdict and method.verdict.has_p_value]
    if tests and set(columns) & set(TEST_COLUMNS):
        kinds = " or ".join(TEST_NAMES[kind] for kind in dict.fromkeys(verdict.kind for verdict in tests))
        baseline = escape_latex(comparison.baseline_label)
        metric = escape_latex(comparison.metrics[comparison.metric].label)
        sentences.append(
            f"Differences and tests: {metric} against {baseline}; {kinds}, two-sided,"
            f" with Holm's correction for {len(tests)} {'test' if len(tests) == 1 else 'tests'}"
            + ("; the interval beside a difference is its own, not corrected" if "interval" in columns else "")
            + ("; intervals of $g$ by the noncentral $t$ distribution" if "effect_interval" in columns else "")
        )
        if has_equal_p(comparison):
            sentences.append(EQUAL_P.format(p="$p$"))
    if len(methods) > 1 and any(name in comparison.metrics for name in columns):
        others = f" and each that does not differ significantly from it ($p \\ge {LEVEL:g}$)"
        tested = f"{others}; none where no method differs"
        sentences.append(f"Bold: the best mean of a metric{tested if counts[-1] >= MIN_SEEDS else ', without a test'}")
    if axes := target_axes(columns):
        rule = target_rule(comparison, ", ".join(axes))
        sentences.append(escape_latex(f"{rule[0].upper()}{rule[1:]}"))
    if any("seconds" in name for name in columns):
        sentences.append(SECONDS_RULE.removesuffix("."))
    if any(method.diverged for method in methods):
        sentences.append("A diverged run counts as a network that predicts at random")
    return ". ".join(sentences) + "."


def caption_details(comparison: Comparison, columns: Sequence[str]) -> str:
    """Returns what the numbers of a table do not show, in sentences; empty where there is nothing to say."""
    sentences = [one_search_text(comparison), selection_text(comparison)]
    if any(method.verdict and method.verdict.has_p_value for method in comparison.methods):
        tested = f"Only {comparison.metrics[comparison.metric].label} is tested against the baseline."
        sentences += [tested, one_sample_text(comparison), BOLD_RULE]
    sentences += [f"A{target_limits(comparison, axis).partition(': give')[0][1:]}." for axis in target_axes(columns)]
    return " ".join(filter(None, sentences))


def target_axes(columns: Sequence[str]) -> list[str]:
    """Returns the axes of those columns that are costs to the target."""
    return [name.removesuffix(TARGET) for name in columns if name.endswith(TARGET)]
