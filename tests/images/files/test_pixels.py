"""From decoded pictures to upright RGB: shapes that are refused, and conversions band by band."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from pictures import encoded
from PIL import Image

from csp_index import settings
from csp_index.errors import SourceError
from csp_index.images.decode import ImageFailure, decode, read_image
from csp_index.images.files.pixels import bands, check_shape, gray_scale, to_rgb
from csp_index.images.memory_images import MemoryImage


@pytest.mark.parametrize("size", [(30_000, 1), (100_000, 1), (1, 1_000_000), (1010, 10), (10, 1010)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_strip_is_refused_before_a_model_enlarges_it(size: tuple[int, int], kind: str) -> None:
    with pytest.raises(SourceError, match=rf"has {size[0]} x {size[1]} pixels: one side is more than 100 times"):
        decode(encoded(Image.new("L", size), kind))
    failure = read_image("dataset:x/0", MemoryImage(Image.new("RGB", size)))
    assert isinstance(failure, ImageFailure) and "max_side_ratio" in failure.reason


def test_a_panorama_and_a_dot_are_read() -> None:
    for size in ((1000, 10), (10, 1000), (1, 1), (3, 3), (100, 1)):
        assert decode(encoded(Image.new("RGB", size))).size == size


def test_both_limits_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.MAX_SIDE_RATIO.variable, "4")
    monkeypatch.setenv(settings.MAX_PIXELS.variable, "100")
    check_shape(20, 5)
    with pytest.raises(SourceError, match="more than 4 times"):
        decode(encoded(Image.new("RGB", (21, 5 - 1))))
    with pytest.raises(SourceError, match="11 x 10 pixels, more than the limit of 100"):
        decode(encoded(Image.new("RGB", (11, 10))))
    monkeypatch.setenv(settings.MAX_SIDE_RATIO.variable, "1000000")
    monkeypatch.delenv(settings.MAX_PIXELS.variable)
    assert decode(encoded(Image.new("RGB", (30_000, 1)))).size == (30_000, 1)


def test_a_larger_limit_of_pixels_raises_that_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    data = encoded(Image.new("L", (10, 10)))
    with pytest.raises(SourceError, match="more pixels than the limit of 30"):
        decode(data, max_pixels=30)
    assert Image.MAX_IMAGE_PIXELS == 40
    assert decode(data).size == (10, 10)
    assert settings.MAX_PIXELS.default == Image.MAX_IMAGE_PIXELS


def test_an_icon_that_holds_a_larger_picture_than_it_says_is_refused() -> None:
    icon = bytearray(encoded(Image.new("RGB", (200, 200)), "ICO", sizes=[(200, 200)]))
    icon[6:8] = bytes([16, 16])
    with pytest.raises(SourceError, match="200 x 200 pixels, more than the limit of 1,000"):
        decode(bytes(icon), max_pixels=1000)


# conversions


def picture(mode: str, size: tuple[int, int] = (1500, 1400)) -> Image.Image:
    rng = np.random.default_rng(0)
    if mode == "P":
        image = Image.fromarray(rng.integers(0, 4, size[::-1], dtype=np.uint8)).convert("P")
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
        image.info["transparency"] = bytes([0, 128, 255, 7])
        return image
    if mode == "RGB":
        image = Image.fromarray(rng.integers(0, 3, (*size[::-1], 3), dtype=np.uint8))
        image.info["transparency"] = (1, 1, 1)
        return image
    channels = {"LA": 2, "RGBA": 4}[mode]
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], channels), dtype=np.uint8), mode)


@pytest.mark.parametrize("mode", ["P", "RGB", "LA", "RGBA"])
def test_transparency_is_blended_band_by_band_as_at_once(mode: str) -> None:
    image = picture(mode)
    assert len(list(bands(*image.size))) > 1
    paper = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(expected))


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_values_are_scaled_band_by_band_as_at_once(kind: Any) -> None:
    values = np.random.default_rng(0).integers(-5 * (kind != np.uint16), 60_000, (1400, 1500)).astype(kind)
    gray = values.astype(np.float64).clip(min=0)
    expected = np.rint(gray * (255 / (65535.0 if kind != np.float32 else gray_scale("F", gray.max())))).astype(np.uint8)
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(values)))[:, :, 1], expected)


def test_bands_cover_every_row_once() -> None:
    for width, height in ((1, 1), (1, 3_000_000), (3_000_000, 2), (1024, 5000)):
        rows = [row for start, end in bands(width, height) for row in (start, end)]
        assert rows[0] == 0 and rows[-1] == height and rows[1:-1:2] == rows[2::2]


def test_a_deep_picture_takes_little_more_memory_than_its_pixels() -> None:
    image = Image.fromarray(np.zeros((4000, 4000), dtype=np.uint16))
    tracemalloc.start()
    to_rgb(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 16e6, "once it took 8 bytes a pixel several times"
