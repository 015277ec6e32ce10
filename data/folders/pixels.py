"""Image files as RGB images of 8 bits a channel.

Images with more than 8 bits (16-bit grayscale, integers of 32 bits, float) are divided by one number for the whole
data set, the value of white: the brightness of an image relative to another stays. All other images have the pixels
that torchvision's ImageFolder reads, but for transparent ones, which are composited on white.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DamagedImage, DataError, one_line

FLOAT = "F"  # Pillow's mode of float images; those of integers with more than 8 bits begin with I
WHITES = (255, 1023, 4095, 16383, 65535)  # largest values of 8, 10, 12, 14 and 16 bits
ORIENTATION, UPRIGHT = 0x0112, 1  # an EXIF tag and its usual value

TRANSPARENT = "transparent: composited on white"
ANIMATED = "of several frames: the first one is read"
ROTATED = "with an EXIF orientation, which is not applied, as in torchvision: turn the files themselves"
REDUCED = "with 16 bits a color: the upper 8 are read"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image file is.

    Args:
        path: of the file.
        problem: why it cannot be read, a line that begins with its name; None: it can.
        traits: of `TRANSPARENT`, `ANIMATED`, `ROTATED` and `REDUCED`.
        low, high: smallest and largest value of an image with more than 8 bits; None: it has 8.
        is_float: whether that image has float values.
        color_high: largest value in 8 bits of an image that has 16 bits a color; None: it has fewer.
    """

    path: str
    problem: str | None = None
    traits: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    is_float: bool = False
    color_high: int | None = None


def read_image(path: str, white: float | None) -> Image.Image:
    """Reads an image file as RGB.

    Args:
        path: of the file.
        white: value of white in images with more than 8 bits; None: there are none.

    Raises:
        DataError: it cannot be read, or has values beyond white; the text begins with the path.
    """
    with _opened(path) as image:
        if not _is_deep(image):
            return _to_rgb(image)
        if white is None:
            raise DataError(
                f"{path}: has more than 8 bits a pixel, unlike the images that were looked at before the first step;"
                " begin a new run with data.check=true, or with data.max_value=65535, the value of white"
            )
        values = _values(image, path)
        if values.max() > white:
            raise DataError(f"{path}: has values up to {values.max():g}, more than data.max_value={white:g}")
        gray = np.rint(values * (255 / white)).astype(np.uint8)
        if image.has_transparency_data:
            gray[values == image.info["transparency"]] = 255
        return Image.fromarray(gray).convert("RGB")


def look_at(path: str, whole: bool) -> ImageFacts:
    """Returns what an image file is.

    Args:
        path: of the file.
        whole: read all of its pixels; otherwise only where there are more than 8 bits.
    """
    try:
        with _opened(path) as image:
            facts: dict[str, Any] = {"traits": _traits(image)}
            if _is_deep(image):
                values = _values(image, path)
                facts |= {"low": float(values.min()), "high": float(values.max()), "is_float": image.mode == FLOAT}
            elif REDUCED in facts["traits"]:
                facts["color_high"] = int(np.asarray(image.convert("RGB")).max())
            elif whole:
                _to_rgb(image)
            return ImageFacts(path, **facts)
    except DataError as error:
        return ImageFacts(path, problem=str(error))


def smallest_white(facts: list[ImageFacts]) -> float | None:
    """Returns the value of white for images with more than 8 bits: of the fewest bits that hold all their values.

    For float images it is 1 where no value is larger. None: there are no such images.

    Raises:
        DataError: there is no such number; the text begins with the path of an image.
    """
    deep = [image for image in facts if image.high is not None]
    if not deep:
        return None
    floats = [image for image in deep if image.is_float]
    if floats and len(floats) < len(deep):
        integers = next(image for image in deep if not image.is_float)
        raise DataError(f"{floats[0].path}: has float values, but {integers.path} integers; save all alike")
    brightest = max(deep, key=lambda image: image.high or 0)
    whites = [white for white in ((1, *WHITES) if floats else WHITES) if white >= (brightest.high or 0)]
    if not whites:
        raise DataError(f"{brightest.path}: has values up to {brightest.high:g}; set data.max_value, which is white")
    return whites[0]


def check_reduced(facts: list[ImageFacts]) -> None:
    """Raises DataError if colors of 16 bits hold so few values that their upper 8 bits are nearly black."""
    colors = [image for image in facts if image.color_high is not None]
    if colors and max(image.color_high or 0 for image in colors) < 64:  # 64: of 14 bits
        raise DataError(
            f"{colors[0].path}: has 16 bits a color, of which all images use 14 at most, and the upper 8 are read;"
            " save them with 8 bits a color"
        )


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Opens an image file; whatever a decoder raises while entered becomes a DataError that begins with the path."""
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        what = "of an unknown format" if Path(path).stat().st_size else "empty"
        raise DamagedImage(f"{path}: cannot be read as an image (the file is {what})") from error
    except OSError as error:
        raise DamagedImage(f"{path}: cannot be read as an image ({error.strerror or one_line(error)})") from error
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error and more
        raise DamagedImage(f"{path}: cannot be read as an image ({one_line(error)[:160]})") from error


def _is_deep(image: Image.Image) -> bool:
    return image.mode[0] in "IF"


def _values(image: Image.Image, path: str) -> np.ndarray:
    """Returns the pixels (H, W) float64 of an image with more than 8 bits."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DamagedImage(f"{path}: cannot be read as an image (it has pixels that are nan or infinite)")
    if values.min() < 0:
        raise DamagedImage(f"{path}: cannot be read as an image (it has values below 0, {values.min():g}; 0 is black)")
    return values


def _to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image of 8 bits as RGB; where it is transparent, on white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() != (255, 255):
        layer = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return layer.convert("RGB")


def _traits(image: Image.Image) -> tuple[str, ...]:
    """Returns what about an image a user may not expect, as far as its header says."""
    raw_modes = str([tile.args for tile in getattr(image, "tile", None) or ()])
    is_photo = image.format in ("JPEG", "MPO", "WEBP")
    return tuple(
        trait
        for trait, holds in {
            TRANSPARENT: image.has_transparency_data,
            ANIMATED: getattr(image, "is_animated", False),
            ROTATED: is_photo and image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT,
            REDUCED: ";16" in raw_modes and not _is_deep(image),
        }.items()
        if holds
    )
