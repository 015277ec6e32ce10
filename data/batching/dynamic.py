"""Batches whose size follows a plan (dynamic sampling)."""

from collections.abc import Callable, Sequence
from fractions import Fraction

from .constant import Changing
from .stages import Duration, Stages
from .stream import Position

SCOPES = ("run", "learning_rate")
LR_RULES: dict[str, float | None] = {"none": None, "linear": 1.0, "sqrt": 0.5}  # powers of the size's ratio
SHOWN = 12  # changes of the size that the start of a run names


class Dynamic(Changing):
    """The size changes in stages of equal length (Liao et al. 2018, section 4.3).

    Sizes are given one by one, or as `first`, `last` and their `number` n. These are powers of two apart, and the
    size doubles as evenly as whole doublings can, the later the better: with d = log2(last / first), the stage
    i = 0, …, n - 1 has the size

        first * 2^floor(i d / (n - 1))

    which gives the study's s32-to-512 (32, 64, 128, 256, 512), s16-to-64 (16, 16, 32, 32, 64) and s32-to-128
    (32, 32, 64, 64, 128). Where `last` is the smaller one, it is the same sequence backwards.

    A batch has the size of the stage that it begins in; `Changing` says what becomes of the rest of an epoch.

    Args:
        stages: one size a stage, in place of `first`, `last` and `number`.
        first: size of the first stage.
        last: size of the last one.
        number: of stages (the study: 5).
        scope: `run` for stages over the whole run (the study's -O), `learning_rate` for all of them again within
            each level of the learning rate (its -MS).
        lr_rule: with the ratio q of the size to that of the first stage, the learning rate is what the schedule
            says times 1 (`none`, the study's), q (`linear`: Goyal et al. 2017, arXiv 1706.02677) or its root
            (`sqrt`: Krizhevsky 2014, arXiv 1404.5997).
        persistency: K, or K of each stage, as in `Batching`.
        drop_last: leave the smaller last batch of an epoch out.
        repeat_lr_factor: of the learning rate, from one update on a batch to the next.
        duration: of the run.
        levels: returns where levels of the learning rate begin, as rising shares of the run; None: it has none.

    Raises:
        ValueError: there is no stage, first and last are no power of two apart, a word is unknown, or there are no
            levels.
    """

    def __init__(
        self,
        stages: Sequence[int] | None = None,
        first: int = 16,
        last: int = 64,
        number: int = 5,
        scope: str = "run",
        lr_rule: str = "none",
        persistency: int | Sequence[int] = 1,
        drop_last: bool = False,
        repeat_lr_factor: float = 1.0,
        duration: Duration | None = None,
        levels: Callable[[], Sequence[Fraction] | None] | None = None,
    ):
        super().__init__(persistency, drop_last, repeat_lr_factor, duration)
        for name, value, known in (("scope", scope, SCOPES), ("lr_rule", lr_rule, LR_RULES)):
            if value not in known:
                raise ValueError(f"{name}={value}: must be one of {', '.join(known)}")
        self.sizes = doublings(first, last, number) if stages is None else list(stages)
        begins: Sequence[Fraction] | None = (Fraction(0),)
        if scope == "learning_rate":
            begins = levels() if levels is not None else None
        if begins is None:
            raise ValueError(
                "scope=learning_rate: needs a schedule with levels in the unit of duration: constant, multistep,"
                " or exponential with staircase=true; or give scope=run"
            )
        if any(size < 1 for size in self.sizes):
            raise ValueError(f"stages={self.sizes}: must be >= 1")
        try:
            self._stages = Stages(self.sizes, duration, begins)
        except ValueError as error:
            raise ValueError(f"stages={self.sizes}: {error}") from None
        self.smallest, self.largest = min(self.sizes), max(self.sizes)
        self._power = LR_RULES[lr_rule]
        changes = self._power is not None and self.smallest < self.largest
        self.changes_lr = f"lr_rule={lr_rule}" if changes else None

    def size_at(self, begun: Position, epoch_size: int) -> int:
        """Returns the size of the batch that begins at a position, in epochs of `epoch_size` samples."""
        return self._stages.at(begun, epoch_size)

    def lr_factor(self, begun: Position, epoch_size: int) -> float:
        """Returns what the learning rate of the batch that begins at a position is multiplied by."""
        return 1.0 if self._power is None else (self.size_at(begun, epoch_size) / self.sizes[0]) ** self._power

    def describe(self) -> str:
        """Returns the sizes and when they change."""
        (_, first), *later = self._stages.changes()
        parts = [f"{first} images", *(f"{size} from {100 * float(share):.4g} %" for share, size in later[:SHOWN])]
        rest = f", and {len(later) - SHOWN} changes more" if len(later) > SHOWN else ""
        return ", ".join(parts) + (" of the run" if later else "") + rest


def doublings(first: int, last: int, number: int) -> list[int]:
    """Returns so many sizes from `first` to `last`, as the docstring of `Dynamic` says.

    Raises:
        ValueError: they are no power of two apart, or there is one stage for two sizes.

    >>> doublings(32, 512, 5), doublings(16, 64, 5), doublings(64, 16, 5)
    ([32, 64, 128, 256, 512], [16, 16, 32, 32, 64], [64, 32, 32, 16, 16])
    """
    if first < 1 or last < 1:
        raise ValueError(f"first={first}, last={last}: must be >= 1")
    if last < first:
        return doublings(last, first, number)[::-1]
    ratio = last // first
    if last % first or ratio & (ratio - 1):
        raise ValueError(f"first={first}, last={last}: one must be a power of two times the other; or give stages")
    times = ratio.bit_length() - 1
    if number < 1 or (number == 1 and times):
        raise ValueError(f"number={number}: must be at least {2 if times else 1}")
    return [first * 2 ** (i * times // max(1, number - 1)) for i in range(number)]
