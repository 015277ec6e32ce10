"""A study's plan as people read it: how many runs, how long they are, what is not run and why."""

from fractions import Fraction
from typing import Any

from rich.console import Console

from ..config.durations import Duration
from ..records.job_table import ENDED
from ..system.display import plain_table
from .plan import StudyPlan, SweepState

Cost = dict[str, Fraction]  # by unit


def show_plan(plan: StudyPlan, console: Console) -> None:
    """Prints what will be run, and what it costs."""
    scale, name = plan.scale, plan.study.name
    minutes = "" if scale.minutes is None else f"; about {scale.minutes:g} min"
    say(console, f"{name}: {plan.study.title} ({plan.study.source})")
    say(console, f"{plan.scale_name}: {scale.about}{minutes}; in {plan.folder}")
    table = plain_table("sweep", "runs", "done", "each", "in sum")
    runs, done, cost = 0, 0, Cost()
    states = foreseen(plan)
    for sweep in plan.sweeps.values():
        here = sum(e.state in ENDED for e in sweep.entries())
        each, whole = costs(sweep.jobs)
        more = "+" * sweep.grows
        name = sweep.name if sweep.name not in states else f"{sweep.name} (not run)"
        table.add_row(name, f"{len(sweep.jobs)}{more}", str(here), each, cost_text(whole) + more)
        runs, done = runs + len(sweep.jobs), done + here
        cost = {unit: cost.get(unit, Fraction(0)) + whole.get(unit, 0) for unit in {**cost, **whole}}
    more = "+" * any(sweep.grows for sweep in plan.sweeps.values())
    table.add_row("in sum", f"{runs}{more}", str(done), "", f"{cost_text(cost)}{more}")
    console.print(table)
    if more:
        say(console, "+: and the runs that its search leads to")
    by_reason: dict[str | None, list[str]] = {}
    for sweep_name, state in states.items():
        by_reason.setdefault(state.reason, []).append(sweep_name)
    for reason, names in by_reason.items():
        say(console, f"not run: {', '.join(names)}: {reason}")
    console.print()


def foreseen(plan: StudyPlan) -> dict[str, SweepState]:
    """Returns the sweeps that will not be run, as far as can be said before."""
    found: dict[str, SweepState] = {}
    for sweep in plan.sweeps.values():
        reason = sweep.hindrance(found)
        if reason is not None and sweep.state().state != "done":
            found[sweep.name] = SweepState(sweep.folder, "not_run", reason)
    return found | plan.apart()


def say(console: Console, text: str) -> None:
    """Prints a line as it is."""
    console.print(text, markup=False, soft_wrap=True)


def costs(jobs: list[dict[str, Any]]) -> tuple[str, Cost]:
    """Returns how long the jobs of a sweep are, as text, and how long in sum.

    >>> costs([{"duration": "5epochs"}, {"duration": "20epochs"}])
    ('5 to 20 epochs', {'epochs': Fraction(25, 1)})
    """
    whole: Cost = {}
    lengths: dict[str, list[Fraction]] = {}
    for job in jobs:
        duration = Duration.parse(job["duration"])
        lengths.setdefault(duration.unit, []).append(duration.amount)
    parts = []
    for unit, found in lengths.items():
        whole[unit] = sum(found, Fraction(0))
        low, high = min(found), max(found)
        parts.append(cost_text({unit: high}) if low == high else f"{number(low)} to {number(high)} {unit}")
    return ", ".join(parts), whole


def cost_text(cost: Cost) -> str:
    """Writes a cost.

    >>> cost_text({"steps": Fraction(4500), "epochs": Fraction(5, 2)})
    '4,500 steps, 2.5 epochs'
    """
    return ", ".join(f"{number(n)} {unit[:-1] if n == 1 else unit}" for unit, n in cost.items())


def number(amount: Fraction) -> str:
    """Writes a number of epochs or steps."""
    return f"{int(amount):,}" if amount.denominator == 1 else f"{float(amount):,.4g}"
