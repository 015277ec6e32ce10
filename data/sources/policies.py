"""Augmentation by the random policies of torchvision, one image at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .augmentation import Augmentation

INTERPOLATIONS = ("nearest", "bilinear")


@dataclass(frozen=True)
class Policy(Augmentation):
    """Augmentation of each image by a policy of torchvision, before all other changes.

    `fill` is also the colour of the pixels that the policy moves into an image.

    Args:
        interpolation: of the policy, `nearest` or `bilinear`.
    """

    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation={self.interpolation}: must be one of {', '.join(INTERPOLATIONS)}")

    def image_transforms(self, mean: Sequence[float]) -> list[Callable]:
        """Returns the policy, and then `transforms`.

        Args:
            mean: of the images, per channel, on the [0, 1] scale.
        """
        fill = [round(255 * value) for value in mean] if self.fill == "mean" else None
        return [self.policy(fill), *self.transforms]

    def policy(self, fill: list[int] | None) -> Callable:
        """Returns torchvision's transform.

        Args:
            fill: colour of pixels that it moves into an image, per channel; None: black.
        """
        raise NotImplementedError

    @property
    def is_random(self) -> bool:
        """Whether an image differs from epoch to epoch."""
        return True


@dataclass(frozen=True)
class RandAugment(Policy):
    """RandAugment (Cubuk et al. 2020, arXiv 1909.13719): torchvision.transforms.v2.RandAugment.

    Args:
        num_ops: operations an image.
        magnitude: of all operations, one of num_magnitude_bins.
        num_magnitude_bins: number of magnitudes.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, num_ops=self.num_ops, num_magnitude_bins=self.num_magnitude_bins)
        if not 0 <= self.magnitude < self.num_magnitude_bins:
            raise ValueError(f"magnitude={self.magnitude}: must be in [0, {self.num_magnitude_bins})")

    def policy(self, fill: list[int] | None) -> Callable:
        """Returns torchvision's transform."""
        from torchvision.transforms import v2

        options = {"interpolation": v2.InterpolationMode(self.interpolation), "fill": fill}
        return v2.RandAugment(self.num_ops, self.magnitude, self.num_magnitude_bins, **options)


@dataclass(frozen=True)
class TrivialAugment(Policy):
    """TrivialAugment (Mueller and Hutter 2021, arXiv 2103.10158): torchvision.transforms.v2.TrivialAugmentWide.

    Args:
        num_magnitude_bins: number of magnitudes.
    """

    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, num_magnitude_bins=self.num_magnitude_bins)

    def policy(self, fill: list[int] | None) -> Callable:
        """Returns torchvision's transform."""
        from torchvision.transforms import v2

        return v2.TrivialAugmentWide(self.num_magnitude_bins, v2.InterpolationMode(self.interpolation), fill)


@dataclass(frozen=True)
class AugMix(Policy):
    """AugMix (Hendrycks et al. 2020, arXiv 1912.02781) without its consistency loss: torchvision.transforms.v2.AugMix.

    Args:
        severity: of the operations, 1 to 10.
        mixture_width: number of chains.
        chain_depth: operations a chain; -1: one to three, at random.
        alpha: of the Beta and Dirichlet distributions of the weights.
        all_ops: whether brightness, contrast, color and sharpness are among the operations, as in CIFAR-10-C.
    """

    interpolation: str = "bilinear"
    severity: int = 3
    mixture_width: int = 3
    chain_depth: int = -1
    alpha: float = 1.0
    all_ops: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, mixture_width=self.mixture_width)
        for name, right, rule in (
            ("severity", 1 <= self.severity <= 10, "in [1, 10]"),
            ("chain_depth", self.chain_depth == -1 or self.chain_depth >= 1, ">= 1, or -1"),
            ("alpha", self.alpha > 0, "> 0"),
        ):
            if not right:
                raise ValueError(f"{name}={getattr(self, name)}: must be {rule}")

    def policy(self, fill: list[int] | None) -> Callable:
        """Returns torchvision's transform."""
        from torchvision.transforms import v2

        options = {"interpolation": v2.InterpolationMode(self.interpolation), "fill": fill}
        return v2.AugMix(self.severity, self.mixture_width, self.chain_depth, self.alpha, self.all_ops, **options)


def check_at_least(least: int, **values: int) -> None:
    """Raises ValueError, which names the argument, where a value is smaller."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}={value}: must be >= {least}")
