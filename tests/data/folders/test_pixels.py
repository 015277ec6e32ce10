"""Image files of every mode and depth: as torchvision reads them, by their range, on white, or refused by name."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from trainopt.data import DataError, image_folder
from trainopt.data.folders.pixels import look_at, read_image

RAMP = (np.arange(256) * 257).astype(np.uint16).reshape(16, 16)


def pixels(path, white=None):
    return np.asarray(read_image(str(path), white))


@pytest.fixture
def folder(tmp_path):
    """Writes arrays, images or bytes as files of two classes for training and test; returns the folder's path."""

    def write(*contents, suffix="png", **options):
        for part in ("train", "val"):
            for label in ("cat", "dog"):
                (tmp_path / part / label).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16)).save(tmp_path / part / label / "0.png")
        for number, content in enumerate(contents):
            path = tmp_path / f"train/cat/x{number}.{suffix}"
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                image = content if isinstance(content, Image.Image) else Image.fromarray(content)
                image.save(path, **options)
        return tmp_path

    return write


def deep_png(values, color):
    """Returns the bytes of a PNG of 16 bits with pixels (H, W, C), as Pillow cannot write it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
def test_opaque_images_of_8_bits_are_read_as_torchvision_does(tmp_path, mode):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)).convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    with Image.open(path) as stored:
        expected = np.asarray(stored.convert("RGB"))
    assert np.array_equal(pixels(path), expected)
    facts = look_at(str(path), whole=True)
    assert (facts.problem, facts.high) == (None, None)
    assert any("transparent" in trait for trait in facts.traits) == (mode in ("RGBA", "LA"))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_images_are_divided_by_what_their_set_needs(folder, suffix, bits):
    values = RAMP >> (16 - bits)
    path = folder(values, values // 2, suffix=suffix)
    data = image_folder(str(path))
    assert data.white == 2**bits - 1
    note = f"0 is black, {data.white} is white (data.max_value)"
    assert [f"values from 0 to {values.max()}" in line and note in line for line in data.notes] == [True]
    whole, half = (pixels(path / f"train/cat/x{i}.{suffix}", data.white)[..., 0].astype(int) for i in (0, 1))
    assert np.array_equal(whole.ravel(), np.arange(256))
    assert abs(2 * half - whole).max() <= 1 + 255 / data.white  # half as bright, up to rounding


@pytest.mark.parametrize(("factor", "white"), [(1 / 65535, 1), (1 / 257, 255), (1, 65535)])
def test_float_images_are_divided_by_what_their_set_needs(folder, factor, white):
    path = folder((RAMP * factor).astype(np.float32), suffix="tif")
    data = image_folder(str(path))
    assert data.white == white
    assert np.array_equal(pixels(path / "train/cat/x0.tif", white)[..., 1].ravel(), np.arange(256))


@pytest.mark.parametrize(
    ("contents", "options", "message"),
    [
        ([(RAMP.astype(np.float32) - 1000)], {}, r"x0.tif: cannot be read as an image \(it has values below 0, -1000"),
        ([np.full((2, 2), np.nan, np.float32)], {}, r"x0.tif: cannot be read .*nan or infinite"),
        ([np.full((2, 2), 1e6, np.float32)], {}, r"x0.tif: has values up to 1e\+06; set data.max_value"),
        ([RAMP], {"max_value": 4095}, r"x0.tif: has values up to 65535, more than data.max_value=4095"),
        ([RAMP, RAMP.astype(np.float32)], {}, r"x1.tif: has float values, but .*x0.tif integers"),
    ],
)
def test_values_without_a_meaning_are_refused_by_name(folder, contents, options, message):
    path = folder(*contents, suffix="tif")
    with pytest.raises(DataError, match=message) as error:
        image_folder(str(path), **options)
    assert str(error.value).startswith(str(path))


def test_colors_of_16_bits_are_read_with_8_or_refused_where_these_would_be_black(folder):
    colors = np.stack([RAMP, RAMP.T, RAMP], 2)
    path = folder(deep_png(colors, color=2))
    assert np.array_equal(pixels(path / "train/cat/x0.png"), colors >> 8)
    assert any("16 bits a color: the upper 8 are read" in note for note in image_folder(str(path)).notes)
    folder(deep_png(colors >> 4, color=2))
    with pytest.raises(DataError, match=r"x0.png: has 16 bits a color, of which all images use 14 at most"):
        image_folder(str(path))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
def test_transparent_images_are_composited_on_white(folder, mode):
    options = {}
    if mode in ("RGBA", "LA"):
        image = Image.new(mode, (4, 4), (100, 0) if mode == "LA" else (100, 100, 100, 0))
        image.paste((100, 255) if mode == "LA" else (100, 100, 100, 255), (0, 0, 2, 4))
    else:
        array = np.zeros((4, 4), np.uint16 if mode == "I;16" else np.uint8)
        array[:, :2] = 100
        image = Image.fromarray(array)
        if mode == "P":
            image.putpalette([value for level in range(256) for value in (level,) * 3])
        image = image.convert("RGB") if mode == "RGB" else image
        options["transparency"] = (0, 0, 0) if mode == "RGB" else 0
    path = folder(image, **options)
    read = pixels(path / "train/cat/x0.png", 255)
    assert (read[:, :2] == 100).all()
    assert (read[:, 2:] == 255).all()
    notes = image_folder(str(path)).notes
    assert notes[-1] == "1 of 5 images are transparent: composited on white"


def test_the_first_frame_is_read_and_an_orientation_left_as_it_is_and_both_are_said(folder):
    frames = [Image.new("RGB", (8, 4), color) for color in ("red", "blue")]
    path = folder(frames[0], suffix="webp", save_all=True, append_images=frames[1:], lossless=True)
    assert (pixels(path / "train/cat/x0.webp") == (255, 0, 0)).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    frames[0].save(path / "val/dog/1.jpg", exif=exif)
    assert pixels(path / "val/dog/1.jpg").shape == (4, 8, 3)
    notes = image_folder(str(path)).notes
    assert any("1 of 6 images are of several frames: the first one is read" in note for note in notes)
    assert any("with an EXIF orientation, which is not applied, as in torchvision" in note for note in notes)


def test_an_image_that_is_deeper_than_those_looked_at_is_refused(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: has more than 8 bits a pixel, unlike .* data.max_value=65535"):
        read_image(str(tmp_path / "a.png"), None)
    with pytest.raises(DataError, match=r"a.png: has values up to 65535, more than data.max_value=4095"):
        read_image(str(tmp_path / "a.png"), 4095)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"no image", "the file is of an unknown format"),
        (deep_png(RAMP[..., None], color=0)[:90], ""),
        (deep_png(RAMP[..., None], color=0)[:30], ""),
    ],
)
def test_what_is_no_image_is_named_in_one_short_line(tmp_path, content, reason):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_image(str(path), 65535)
    assert str(error.value).startswith(f"{path}: cannot be read as an image ({reason}")
    assert len(str(error.value)) < len(str(path)) + 120
    assert look_at(str(path), whole=True).problem == str(error.value)
