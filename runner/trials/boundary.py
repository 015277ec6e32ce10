"""Whether a chosen value lies at a boundary of what was searched, from the texts of both. Needs no Optuna."""

import math
import re

FRACTION = 0.05  # of a range, at each of its ends
NUMBER = r"([^,()]+)"


def boundary_keys(key: str, value: str, searched: str) -> list[str]:
    """Returns the key if its value lies at a boundary; of a list, those of its components that do.

    Boundaries are the lowest and the highest FRACTION of a range, and the lowest and the highest of several numbers.
    A range or numbers that begin at 0 have a boundary at their other end alone: few keys can be negative. Choices that
    are no numbers have none.

    >>> boundary_keys("optimizer.lr", "0.0011", "tag(log,interval(0.001,1.0))")
    ['optimizer.lr']
    >>> boundary_keys("optimizer.betas", "[0.5,0.999]", "choice([0.5,0.999],[0.9,0.999])")
    ['optimizer.betas[0]']
    >>> boundary_keys("optimizer.weight_decay", "0.0", "choice(0.0,0.1)")
    []

    Args:
        key: that was searched.
        value: its best one, as text.
        searched: its distribution, as Hydra writes it.
    """
    if match := re.fullmatch(rf"(tag\(log,)?(?:int\()?interval\({NUMBER},{NUMBER}\)+", searched):
        is_log, low, high = bool(match[1]), float(match[2]), float(match[3])
    elif match := re.fullmatch(rf"(tag\(log,)?range\({NUMBER},{NUMBER},{NUMBER}\)+", searched):
        is_log, low, step = bool(match[1]), float(match[2]), float(match[4])
        high = low + (math.ceil((float(match[3]) - low) / step - 1e-9) - 1) * step  # the end is left out
    else:
        components, chosen = choice_components(searched), numbers_of(value)
        at_end = [is_end(x, numbers) for x, numbers in zip(chosen, components, strict=False)]
        names = [f"{key}[{index}]" if value.startswith("[") else key for index in range(len(chosen))]
        return [name for name, is_one in zip(names, at_end, strict=False) if is_one]
    return [key] if in_end_of_range(float(value), low, high, is_log) else []


def choice_components(searched: str) -> list[list[float]]:
    """Returns the numbers among which a search chose, for each component of lists; empty where they are no numbers.

    >>> choice_components("choice([0.5,0.999],[0.9,0.999])"), choice_components("choice(true,false)")
    ([[0.5, 0.9], [0.999, 0.999]], [])
    """
    choices = re.fullmatch(r"choice\((.*)\)", searched)
    values = [numbers_of(text) for text in re.split(r",(?![^[]*])", choices[1])] if choices else [[]]
    return [list(numbers) for numbers in zip(*values, strict=True)] if len(set(map(len, values))) == 1 else []


def numbers_of(text: str) -> list[float]:
    """Returns a number, or the numbers of a list; empty where there are others.

    >>> numbers_of("0.9"), numbers_of("[0.9, 0.999]"), numbers_of("true")
    ([0.9], [0.9, 0.999], [])
    """
    try:
        return [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        return []


def is_end(value: float, numbers: list[float]) -> bool:
    """Returns whether a value is the lowest number, unless that is 0, or the highest, unless all are the same."""
    low, high = min(numbers), max(numbers)
    return low < high and (value == high or value == low != 0)


def in_end_of_range(value: float, low: float, high: float, is_log: bool) -> bool:
    """Returns whether a value lies in the highest FRACTION of a range, or in the lowest, unless that begins at 0."""
    if low == high:
        return False
    start, end, at = (math.log(x) if is_log else x for x in (low, high, value))
    position = (at - start) / (end - start)
    return position >= 1 - FRACTION or (position <= FRACTION and low != 0)
