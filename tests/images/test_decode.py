"""Decoding, thumbnails, and reading by URI."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import BLUE, GREEN, RED, WHITE, encoded, plain, png
from PIL import Image

from csp_index.errors import SourceError
from csp_index.images.decode import ImageFailure, ImageRead, decode, read_images, thumbnail

# decoding


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA"])
def test_lossless_formats_keep_their_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(np.asarray(decode(encoded(plain(BLUE), kind, **options))), np.asarray(plain(BLUE)))


def test_exif_orientation_turns_the_image_upright() -> None:
    image = plain(RED, (6, 4))
    image.paste(BLUE, (0, 0, 2, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees to the left when it was stored
    upright = decode(encoded(image, "JPEG", exif=exif, quality=95, subsampling=0))
    assert upright.size == (4, 6)
    assert np.asarray(upright)[0, 2, 2] > 200, "the left side is the top now"
    assert np.asarray(upright)[5, 2, 0] > 200


def test_damaged_exif_does_not_cost_the_image() -> None:
    assert decode(encoded(plain(), "JPEG", exif=b"Exif\x00\x00broken")).size == (6, 4)


def test_cmyk_becomes_rgb() -> None:
    assert np.asarray(decode(encoded(plain(RED).convert("CMYK"), "JPEG", quality=95)))[1, 1].tolist() == pytest.approx(
        RED, abs=6
    )


def test_alpha_is_laid_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 0))
    image.putpixel((1, 0), (*RED, 128))
    pixels = np.asarray(decode(encoded(image)))
    assert pixels[0, 0].tolist() == list(WHITE)
    assert pixels[0, 1].tolist() == pytest.approx([255, 127, 127], abs=1)
    grey = np.asarray(decode(encoded(Image.new("LA", (1, 1), (0, 0)))))
    assert grey[0, 0].tolist() == list(WHITE)


def test_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN, *BLUE, 9, 9, 9])
    image.putdata([2, 1])
    for kind in ("PNG", "GIF"):
        assert np.asarray(decode(encoded(image, kind, transparency=2)))[0].tolist() == [list(WHITE), list(GREEN)]
        assert np.asarray(decode(encoded(image, kind)))[0].tolist() == [list(BLUE), list(GREEN)]


def test_one_bit_image_is_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert np.asarray(decode(encoded(image)))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(kind: str) -> None:
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    assert np.asarray(decode(encoded(Image.fromarray(values), kind)))[0, :, 0].tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0, np.nan]], np.float32), [0, 128, 255, 0]),
        (np.array([[-5.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0.0, 65535.0]], np.float32), [0, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 100_000, 200_000]], np.int32), [0, 128, 255]),
    ],
)
def test_float_and_long_images_are_scaled_by_their_range(values: Any, expected: list[int]) -> None:
    assert np.asarray(decode(encoded(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == expected


def test_animation_gives_its_first_frame() -> None:
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(plain(RED), kind, save_all=True, append_images=[plain(BLUE)])
        assert np.asarray(decode(data))[0, 0].tolist() == pytest.approx(RED, abs=3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_truncated_image_is_an_error(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(SourceError) as error:
        decode(data[: len(data) // 2])
    assert "\n" not in str(error.value)
    assert str(error.value)


def test_what_is_no_image_is_told() -> None:
    with pytest.raises(SourceError, match="not an image that Pillow can read"):
        decode(b"hello, this is text")
    with pytest.raises(SourceError, match="empty"):
        decode(b"")


def test_postscript_is_not_run() -> None:
    with pytest.raises(SourceError, match="not an image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def test_decompression_bomb_is_an_error_before_it_is_decoded() -> None:
    with pytest.raises(SourceError, match="6 x 4 pixels, more than the limit of 20"):
        decode(png(1), max_pixels=20)


def test_thumbnail_fits_and_is_never_enlarged() -> None:
    small = Image.open(io.BytesIO(thumbnail(plain(RED, (400, 100)))))
    assert (small.format, small.size) == ("JPEG", (128, 32))
    assert Image.open(io.BytesIO(thumbnail(plain(RED, (20, 10))))).size == (20, 10)


# reading by URI


def test_read_images_keeps_the_order_and_tells_failures(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    (tmp_path / "7.png").write_bytes(b"broken")
    uris = [f"{tmp_path}/{number}.png" for number in range(22)]
    results = list(read_images(uris))
    assert [result.uri for result in results] == uris
    assert {result.uri for result in results if isinstance(result, ImageFailure)} == {uris[7], uris[20], uris[21]}
    assert results[20] == ImageFailure(uris[20], "No such file or directory")
    first = results[0]
    assert isinstance(first, ImageRead)
    assert (first.width, first.height, first.image.mode) == (6, 4, "RGB")
    assert first.sha256 == hashlib.sha256(png(0)).hexdigest()


def test_damaged_images_of_every_format_never_stop_the_stream(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    uris = []
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        data = bytearray(encoded(noise, kind))
        for trial in range(10):
            spoiled = bytearray(data[: int(rng.integers(1, len(data)))])
            spoiled[int(rng.integers(len(spoiled)))] ^= 0xFF
            path = tmp_path / f"{kind}{trial}"
            path.write_bytes(spoiled)
            uris.append(str(path))
    results = list(read_images(uris))
    assert [result.uri for result in results] == uris
    assert all("\n" not in result.reason and result.reason for result in results if isinstance(result, ImageFailure))


def test_gray_tiff_of_16_bits_in_which_white_is_the_least_value() -> None:
    """Pillow inverts such values of up to eight bits, and leaves those of more as they are."""
    values = np.array([[0, 65535]], dtype=np.uint16)
    image = decode(encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0}))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (0, 0, 0)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b'{"error": "not found"}', "JSON"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    ],
)
def test_text_instead_of_an_image_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(SourceError, match=f"not an image but .*{reason}"):
        decode(data)
