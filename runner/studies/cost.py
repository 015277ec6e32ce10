"""A study's plan on the screen: the number of runs, their cost, and the sweeps that will not be run."""

from fractions import Fraction
from typing import Any

from rich.console import Console

from ..config.durations import Duration
from ..records.job_table import ENDED
from ..system.display import plain_table, print_table
from .plan import StudyPlan, SweepState

Cost = dict[str, Fraction]  # by unit


def show_plan(plan: StudyPlan, console: Console) -> None:
    """Prints what will be run, and what it costs."""
    scale, name = plan.scale, plan.study.name
    selected = [sweep for sweep in plan.sweeps.values() if not sweep.is_left_out]
    has_time = scale.minutes is not None and len(selected) == len(plan.sweeps)
    minutes = f"; about {scale.minutes:g} min" if has_time else ""
    print_line(console, f"{name}: {plan.study.title} ({plan.study.source})")
    print_line(console, f"{plan.scale_name}: {scale.about}{minutes}; in {plan.folder}")
    table = plain_table("sweep", "runs", "done", "each", "total")
    runs, done, total = 0, 0, Cost()
    states = expected_not_run(plan)
    for sweep in selected:
        ended = sum(job.state in ENDED for job in sweep.job_statuses())
        each, cost = sweep_cost(sweep.jobs)
        more = "+" * sweep.grows
        label = sweep.name if sweep.name not in states else f"{sweep.name} (not run)"
        table.add_row(label, f"{len(sweep.jobs)}{more}", str(ended), each, cost_text(cost) + more)
        runs, done = runs + len(sweep.jobs), done + ended
        total = {unit: total.get(unit, Fraction(0)) + cost.get(unit, 0) for unit in {**total, **cost}}
    more = "+" * any(sweep.grows for sweep in selected)
    table.add_row("total", f"{runs}{more}", str(done), "", f"{cost_text(total)}{more}")
    print_table(console, table)
    if more:
        print_line(console, "+: and the runs that a search adds")
    by_reason: dict[str | None, list[str]] = {}
    for sweep_name, state in states.items():
        by_reason.setdefault(state.reason, []).append(sweep_name)
    for reason, names in by_reason.items():
        print_line(console, f"not run: {', '.join(names)}: {reason}")
    console.print()


def expected_not_run(plan: StudyPlan) -> dict[str, SweepState]:
    """Returns the sweeps that will not be run, as far as is known before the first run, by name."""
    states: dict[str, SweepState] = {}
    for sweep in plan.sweeps.values():
        reason = sweep.obstacle(states)
        if reason is not None and sweep.state().state != "done":
            states[sweep.name] = SweepState(sweep.folder, "not_run", reason)
    return states | plan.of_other_scales()


def print_line(console: Console, text: str) -> None:
    """Prints a line without markup and without wrapping it."""
    console.print(text, markup=False, soft_wrap=True)


def sweep_cost(jobs: list[dict[str, Any]]) -> tuple[str, Cost]:
    """Returns the durations of the jobs of a sweep as text, and their sum.

    >>> sweep_cost([{"duration": "5epochs"}, {"duration": "20epochs"}])
    ('5 to 20 epochs', {'epochs': Fraction(25, 1)})
    """
    total: Cost = {}
    durations: dict[str, list[Fraction]] = {}
    for job in jobs:
        duration = Duration.parse(job["duration"])
        durations.setdefault(duration.unit, []).append(duration.amount)
    parts = []
    for unit, amounts in durations.items():
        total[unit] = sum(amounts, Fraction(0))
        low, high = min(amounts), max(amounts)
        parts.append(cost_text({unit: high}) if low == high else f"{amount_text(low)} to {amount_text(high)} {unit}")
    return ", ".join(parts), total


def cost_text(cost: Cost) -> str:
    """Returns a cost as text.

    >>> cost_text({"steps": Fraction(4500), "epochs": Fraction(5, 2)})
    '4,500 steps, 2.5 epochs'
    """
    return ", ".join(f"{amount_text(n)} {unit[:-1] if n == 1 else unit}" for unit, n in cost.items())


def amount_text(amount: Fraction) -> str:
    """Returns a number of epochs or steps as text."""
    return f"{int(amount):,}" if amount.denominator == 1 else f"{float(amount):,.4g}"
