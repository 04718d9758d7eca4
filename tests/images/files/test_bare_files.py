"""Metadata that cannot be parsed, or not be written again, never cost a picture or its orientation."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from pictures import encoded
from PIL import Image, ImageOps

from csp_index.errors import SourceError
from csp_index.images.decode import decode
from csp_index.images.files.bare_files import ORIENTATION, without_metadata

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8))
PNG, JPEG = encoded(PICTURE), encoded(PICTURE, "JPEG", quality=95)


def tiff_tags(tags: list[tuple[int, int, int, bytes]], behind: bytes = b"") -> bytes:
    """Tags of (number, kind, count, four bytes) as EXIF data, written by hand so that they may be wrong."""
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + behind


def turned(turn: int) -> tuple[int, int, int, bytes]:
    return ORIENTATION, 3, 1, struct.pack("<HH", turn, 0)


def chunk(kind: bytes, body: bytes, sound: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not sound))


def after_header(*chunks: bytes) -> bytes:
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def segment(number: int, body: bytes) -> bytes:
    return bytes([0xFF, number]) + struct.pack(">H", len(body) + 2) + body


def with_segments(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


# orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("turn", range(10))
def test_a_picture_is_turned_as_pillow_turns_it(kind: str, turn: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    data = encoded(PICTURE, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(np.asarray(decode(data)), np.asarray(expected))
    bare = without_metadata(data)
    if bare is not None:  # all that is left of the metadata is the orientation
        assert np.array_equal(np.asarray(decode(bare)), np.asarray(expected))


@pytest.mark.parametrize(
    "tag",
    [
        (0x11A, 2, 4, b"72\0\0"),  # a resolution that is a text
        (0x11A, 10, 1, struct.pack("<I", 38)),  # a negative one
        (0x100, 2, 4, b"abc\0"),  # a width that is a text
        (0x103, 4, 1, struct.pack("<I", 70000)),  # a number too large for its tag
        (0x8825, 4, 1, struct.pack("<I", 38)),  # places of the globe that lie in the middle of something else
        (0x8825, 4, 1, struct.pack("<I", 10**9)),  # and beyond the end
        (0x8769, 2, 9, struct.pack("<I", 10**9)),
        (0x927C, 7, 10**8, struct.pack("<I", 8)),  # a maker's note that is longer than the file
        (0x9999, 99, 3, b"\0\0\0\0"),  # a kind that does not exist
        (0x132, 5, 1, struct.pack("<I", 38)),  # a fraction by zero in place of a date
    ],
)
def test_a_tag_that_cannot_be_written_again_does_not_cost_the_turn(tag: tuple[int, int, int, bytes]) -> None:
    exif = tiff_tags([turned(6), tag], struct.pack("<ii", -3, 0) + b"\0" * 8)
    expected = np.asarray(PICTURE.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(np.asarray(decode(after_header(chunk(b"eXIf", exif)))), expected)
    assert decode(with_segments(segment(0xE1, b"Exif\0\0" + exif))).size == (6, 9)


@pytest.mark.parametrize("tag", [(ORIENTATION, 2, 2, b"6\0\0\0"), (ORIENTATION, 3, 3, b"\x08\0\0\0"), turned(77)])
def test_an_orientation_that_is_none_leaves_the_picture_as_it_is(tag: tuple[int, int, int, bytes]) -> None:
    data = after_header(chunk(b"eXIf", tiff_tags([tag], b"\6\0" * 9)))
    assert np.array_equal(np.asarray(decode(data)), np.asarray(PICTURE))


def test_an_orientation_in_xmp_alone_is_obeyed() -> None:
    xmp = b'<x tiff:Orientation="3"/>'
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
    expected = np.asarray(PICTURE.transpose(Image.Transpose.ROTATE_180))
    for further in ([], [chunk(b"pHYs", b"short")]):
        assert np.array_equal(np.asarray(decode(after_header(chunk(b"iTXt", text), *further))), expected)
    # the second marker is too short for Pillow to open the file, so that the metadata are left out
    data = with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp), segment(0xEE, b"Adobe"))
    upright = np.asarray(decode(JPEG))
    assert np.array_equal(np.asarray(decode(data)), upright[::-1, ::-1])


# metadata that Pillow stops at

MILLION = zlib.compress(b"A" * 1_000_000)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"A" * (2 << 20))),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"A" * (2 << 20))),
        chunk(b"iCCP", b"p\0\0" + zlib.compress(b"A" * (2 << 20))),
        chunk(b"iCCP", b"p\0\7garbage"),
        chunk(b"zTXt", b"Comment\0\5garbage"),
        chunk(b"tEXt", b"Comment\0hello", sound=False),
        *(chunk(kind, b"") for kind in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"acTL", b"fcTL", b"cICP", b"tIME")),
        b"".join(chunk(b"zTXt", b"k%d\0\0" % n + MILLION) for n in range(66)),
    ],
)
def test_a_png_is_read_whatever_it_says_beside_its_pixels(extra: bytes) -> None:
    assert np.array_equal(np.asarray(decode(after_header(extra))), np.asarray(PICTURE))
    upside_down = decode(after_header(extra, chunk(b"eXIf", tiff_tags([turned(3)]))))
    assert np.array_equal(np.asarray(upside_down), np.asarray(PICTURE)[::-1, ::-1])


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe"),
        segment(0xEE, b"Adobe\0"),
        segment(0xE2, b"MPF\0II*\0garbage and more of it"),
        segment(0xE2, b"ICC_PROFILE\0\7\1garbage"),
        segment(0xED, b"Photoshop 3.0\0008BIM\x03\xed\xff"),
        segment(0xFE, b"\xff" * 300),
    ],
)
def test_a_jpeg_is_read_whatever_its_markers_say(extra: bytes) -> None:
    assert np.array_equal(np.asarray(decode(with_segments(extra))), np.asarray(decode(JPEG)))
    exif = segment(0xE1, b"Exif\0\0" + tiff_tags([turned(3)]))
    assert np.array_equal(np.asarray(decode(with_segments(exif, extra))), np.asarray(decode(JPEG))[::-1, ::-1])


def test_a_jpeg_of_four_colors_keeps_them_when_its_metadata_are_left_out() -> None:
    data = encoded(PICTURE.convert("CMYK"), "JPEG")
    spoiled = data[:2] + segment(0xE0, b"JFIF\0") + data[2:]
    assert np.array_equal(np.asarray(decode(spoiled)), np.asarray(decode(data)))


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_endian": True}])
def test_a_tiff_is_read_whatever_tags_precede_those_of_its_pixels(options: dict[str, str]) -> None:
    order = ">" if options.pop("big_endian", None) else "<"  # type: ignore[arg-type]
    exif = Image.Exif()
    exif[271] = "a maker of cameras"  # its tag comes before the one that says where the pixels are
    exif[ORIENTATION] = 3
    exif.endian = order
    data = bytearray(encoded(PICTURE, "TIFF", exif=exif, **options))
    mark = "II" if data.startswith(b"II") else "MM"
    order = "<" if mark == "II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    place = next(p for p in range(start + 2, len(data), 12) if struct.unpack_from(order + "H", data, p)[0] == 271)
    struct.pack_into(order + "II", data, place + 4, 100, 10**9)
    assert np.array_equal(np.asarray(decode(bytes(data))), np.asarray(PICTURE)[::-1, ::-1])


def test_an_avif_is_read_whatever_its_exif_data_are() -> None:
    data = encoded(PICTURE, "AVIF", quality=100, exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    spoiled = data.replace(b"II*\0", b"XXXX")
    assert spoiled != data
    assert np.array_equal(np.asarray(decode(spoiled)), np.asarray(decode(data)))


# what stays damaged


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


@pytest.mark.parametrize("spoil", [cut, lambda data: data[:40], lambda data: data[:2]])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "AVIF"])
def test_pixels_that_are_damaged_are_a_failure_with_a_reason(kind: str, spoil: Callable[[bytes], bytes]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(SourceError) as error:
        decode(spoil(encoded(noise, kind)))
    assert str(error.value) and "\n" not in str(error.value) and "BytesIO" not in str(error.value)


def test_pixels_of_a_png_with_a_wrong_sum_are_a_failure() -> None:
    place = PNG.index(b"IDAT") + 6
    spoiled = PNG[:place] + bytes([PNG[place] ^ 1]) + PNG[place + 1 :]
    with pytest.raises(SourceError):
        decode(spoiled)


def test_what_has_no_metadata_is_left_alone() -> None:
    for data in (encoded(PICTURE, "BMP"), b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0"):
        bare = without_metadata(data)
        assert bare is None or len(bare) <= 60
