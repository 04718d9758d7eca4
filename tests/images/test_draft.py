"""Large JPEGs decoded at a reduced size: never too small, as large as they are in the table, no other file changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded
from PIL import Image

from csp_index.images.decode import ImageRead, decode_picture, read_image


def soft(width: int, height: int) -> Image.Image:
    """A picture without fine detail, so that every way of reducing it gives nearly the same."""
    small = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("size", "draft", "smaller"),
    [
        ((800, 600), 301, (800, 600)),
        ((800, 600), 300, (400, 300)),
        ((801, 600), 151, (401, 300)),
        ((800, 600), 150, (200, 150)),
        ((600, 800), 75, (75, 100)),
        ((800, 600), 1, (100, 75)),  # an eighth is the least
    ],
)
def test_a_draft_is_the_smallest_that_is_large_enough(
    size: tuple[int, int], draft: int, smaller: tuple[int, int]
) -> None:
    picture = decode_picture(encoded(soft(*size), "JPEG", quality=95), draft=draft)
    assert (picture.image.size, (picture.width, picture.height)) == (smaller, size)
    expected = np.asarray(soft(*size).resize(smaller, Image.Resampling.BOX), dtype=float)
    assert np.abs(np.asarray(picture.image, dtype=float) - expected).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_other_kinds_of_files_are_decoded_whole(kind: str) -> None:
    data = encoded(soft(320, 240), kind)
    whole, draft = decode_picture(data), decode_picture(data, draft=20)
    assert draft.image.tobytes() == whole.image.tobytes() and draft.image.size == (320, 240)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_full_size_is_that_of_the_upright_picture(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(soft(320, 200), "JPEG", exif=exif, quality=95)
    whole, draft = decode_picture(data), decode_picture(data, draft=50)
    assert (draft.width, draft.height) == (whole.width, whole.height) == whole.image.size
    assert draft.image.size == (whole.width // 4, whole.height // 4)
    difference = np.asarray(whole.image.resize(draft.image.size, Image.Resampling.BOX), dtype=float)
    assert np.abs(difference - np.asarray(draft.image)).max() < 12


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_gray_and_printed_jpegs_are_reduced_too(mode: str) -> None:
    picture = decode_picture(encoded(soft(320, 200).convert(mode), "JPEG", quality=95), draft=50)
    assert (picture.image.mode, picture.image.size) == ("RGB", (80, 50))


def test_a_file_is_the_same_file_however_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(soft(320, 200), "JPEG"))
    read = read_image(str(path), None, 50)
    assert isinstance(read, ImageRead)
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (read.width, read.height, read.image.size) == (320, 200, (80, 50))
