"""Search spaces: what Hydra's overrides leave open, as distributions of Optuna."""

import math
from typing import Any, cast

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ..config.run_names import key_of
from ..system.errors import UserError

Space = dict[str, BaseDistribution]  # by key, with the plus signs that were typed


def read_space(overrides: list[Override]) -> Space:
    """Returns the distribution of each key that is swept.

    `interval(a,b)` is any number from a to b, `int(interval(a,b))` any integer, `range(a,b,step)` and `choice(x,y)`
    (or `x,y`) are one of so many values; `tag(log,…)` makes numbers equally likely on a logarithmic scale.

    Raises:
        UserError: a distribution has no values, or a range is one that there is not.
    """
    return {key_of(str(o.input_line)): _distribution(o) for o in overrides if o.is_sweep_override()}


def _distribution(override: Override) -> BaseDistribution:
    sweep = override.value()
    text = str(override.input_line)
    unknown = set(getattr(sweep, "tags", ())) - {"log"}
    if unknown:
        raise UserError(f"{text}: the tag {min(unknown)} has no meaning here; tag(log,…) is a logarithmic scale")
    try:
        if isinstance(sweep, IntervalSweep):
            return _numbers(sweep.start, sweep.end, None, "log" in sweep.tags)
        if isinstance(sweep, RangeSweep):
            start, stop, step = cast(tuple[float, float, float], (sweep.start, sweep.stop, sweep.step))
            count = math.ceil((stop - start) / step - 1e-9)  # `stop` is left out, as in Python
            return _numbers(start, start + (count - 1) * step, step, "log" in sweep.tags)
        if isinstance(sweep, ChoiceSweep):
            return CategoricalDistribution(list(override.sweep_string_iterator()))
    except ValueError as error:
        raise UserError(f"{text}: {_first_line(error)}") from error
    raise UserError(f"{text}: cannot be searched; give interval(a,b), range(a,b), choice(x,y) or x,y")


def _numbers(low: Any, high: Any, step: Any, log: bool) -> BaseDistribution:
    if isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)


def _first_line(error: ValueError) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def override_of(key: str, value: Any) -> str:
    """Returns the override that gives a key one value of its distribution."""
    return f"{key}={value}"  # choices are encoded already


def corners(space: Space) -> list[dict[str, Any]]:
    """Returns points that use every bound of a space and every choice in it: what a check of the space looks at."""
    ends = {key: _ends(distribution) for key, distribution in space.items()}
    number = max((len(values) for values in ends.values()), default=1)
    return [{key: values[i % len(values)] for key, values in ends.items()} for i in range(number)]


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def as_text(distribution: BaseDistribution) -> str:
    """Returns a distribution as Hydra writes it.

    >>> as_text(FloatDistribution(1e-4, 0.1, log=True))
    'tag(log,interval(0.0001,0.1))'
    """
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({','.join(map(str, distribution.choices))})"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if isinstance(distribution, IntDistribution):
        text = f"int(interval({low},{high}))" if step == 1 else f"range({low},{high + 1},{step})"
    else:
        text = f"interval({low},{high})" if step is None else f"range({low},{high + step / 2:.12g},{step})"
    return f"tag(log,{text})" if distribution.log else text
