"""Batches whose size changes at planned times (dynamic sampling)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from .base import VariableBatchSize
from .protocols import Position
from .stages import Stages

SCOPES = ("run", "learning_rate")
LR_RULES: dict[str, float | None] = {"none": None, "linear": 1.0, "sqrt": 0.5}  # powers of the ratio of sizes
MOST_CHANGES_SHOWN = 12  # when a run starts


@dataclass(eq=False)
class Dynamic(VariableBatchSize):
    """The batch size changes in stages of equal length (Liao et al. 2018, section 4.3).

    The sizes are listed in `stages`, or follow from `first`, `last` and their `number` n. Then first and last differ
    by a power of two, and the size doubles as evenly as whole doublings can, the later the better: with
    d = log2(last / first), the stage i = 0, …, n - 1 has the size

        first * 2^floor(i d / (n - 1))

    which is the study's s32-to-512 (32, 64, 128, 256, 512), s16-to-64 (16, 16, 32, 32, 64) and s32-to-128
    (32, 32, 64, 64, 128). Where `last` is the smaller one, it is the same sequence backwards.

    A batch has the size of the stage in which it begins; `VariableBatchSize` describes the end of an epoch.

    Args:
        stages: one size a stage, in place of `first`, `last` and `number`.
        first: size in the first stage.
        last: size in the last stage.
        number: of stages (the study: 5).
        scope: `run` for stages over the whole run (the study's -O), `learning_rate` for all stages again within
            each level of the learning rate (its -MS).
        lr_rule: with the ratio q of the size to that of the first stage, the schedule's learning rate is multiplied
            by 1 (`none`, the study's), q (`linear`: Goyal et al. 2017, arXiv 1706.02677) or sqrt(q)
            (`sqrt`: Krizhevsky 2014, arXiv 1404.5997).
        levels: returns where the levels of the learning rate begin, as increasing fractions of the run; None: it has
            no levels.
        persistency, drop_last, repeat_lr_factor, duration: as in `BatchUse`.

    Raises:
        ValueError: there is no stage, first and last do not differ by a power of two, scope or lr_rule is unknown, or
            the scope is learning_rate and there are no levels.
    """

    stages: Sequence[int] | None = None
    first: int = 16
    last: int = 64
    number: int = 5
    scope: str = "run"
    lr_rule: str = "none"
    levels: Callable[[], Sequence[Fraction] | None] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (("scope", self.scope, SCOPES), ("lr_rule", self.lr_rule, LR_RULES)):
            if value not in known:
                raise ValueError(f"{name}={value}: must be one of {', '.join(known)}")
        self.sizes = list(self.stages) if self.stages is not None else doublings(self.first, self.last, self.number)
        levels: Sequence[Fraction] | None = (Fraction(0),)
        if self.scope == "learning_rate":
            levels = self.levels() if self.levels is not None else None
        if levels is None:
            raise ValueError(
                "scope=learning_rate: needs a schedule with levels in the unit of duration: constant, multistep,"
                " or exponential with staircase=true; or give scope=run"
            )
        if any(size < 1 for size in self.sizes):
            raise ValueError(f"stages={self.sizes}: must be >= 1")
        try:
            self._stages = Stages(self.sizes, self.duration, levels)
        except ValueError as error:
            raise ValueError(f"stages={self.sizes}: {error}") from None
        self.smallest, self.largest = min(self.sizes), max(self.sizes)
        self._power = LR_RULES[self.lr_rule]
        changes_lr = self._power is not None and self.smallest < self.largest
        self.changes_lr = f"lr_rule={self.lr_rule}" if changes_lr else None

    @property
    def follows_duration(self) -> bool:  # type: ignore[override]
        """Whether it has several stages over the run."""
        return super().follows_duration or len(self._stages.values) > 1

    def size_at(self, begun: Position, epoch_size: int) -> int:
        """Returns the size of the batch that begins at a position, in epochs of `epoch_size` samples."""
        return self._stages.at(begun, epoch_size)

    def lr_factor(self, begun: Position, epoch_size: int) -> float:
        """Returns the factor on the learning rate of the batch that begins at a position."""
        return 1.0 if self._power is None else (self.size_at(begun, epoch_size) / self.sizes[0]) ** self._power

    def describe(self) -> str:
        """Returns the sizes and when they change."""
        (_, first), *later = self._stages.changes()
        shown = later[:MOST_CHANGES_SHOWN]
        parts = [f"{first} images", *(f"{size} from {100 * float(fraction):.4g} %" for fraction, size in shown)]
        rest = f", and {len(later) - len(shown)} more changes" if len(later) > len(shown) else ""
        return ", ".join(parts) + (" of the run" if later else "") + rest


def doublings(first: int, last: int, number: int) -> list[int]:
    """Returns so many sizes from `first` to `last`, by the formula of `Dynamic`.

    Raises:
        ValueError: they do not differ by a power of two, or there is one stage for two sizes.

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
