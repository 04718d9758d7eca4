"""Files of little size that would cost hours or gigabytes to decode are refused before they are decoded."""

from __future__ import annotations

import gzip
import struct
from unittest.mock import Mock

import pytest
from pictures import encoded
from PIL import Image, IptcImagePlugin

from csp_index.errors import SourceError
from csp_index.images.decode import decode, decode_stored
from csp_index.images.files.costly_files import MOST_SCANS
from csp_index.images.files.formats import decoded_formats


def progressive(more: int) -> bytes:
    """A progressive JPEG whose last scan comes `more` times more than it need."""
    data = encoded(Image.new("L", (32, 32)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * more + b"\xff\xd9"


def field(record: int, number: int, content: bytes) -> bytes:
    return bytes([0x1C, record, number]) + struct.pack(">H", len(content)) + content


def iptc(inner: bytes) -> bytes:
    """An IPTC file that says 8 x 8 gray pixels and holds another file."""
    size = field(3, 20, struct.pack(">I", 8)) + field(3, 30, struct.pack(">I", 8))
    return field(3, 60, b"\1\0") + size + field(3, 120, struct.pack(">I", 5)) + field(8, 10, inner)


def packed_fits() -> bytes:
    def head(*cards: str) -> bytes:
        return "".join(card.ljust(80) for card in (*cards, "END")).ljust(2880).encode()

    names = {"BITPIX": 8, "NAXIS": 2, "NAXIS1": 0, "NAXIS2": 0, "ZIMAGE": "T", "ZCMPTYPE": "'GZIP_1  '"}
    names |= {"ZBITPIX": 32, "ZNAXIS": 2, "ZNAXIS1": 16, "ZNAXIS2": 16}
    lines = (f"{name:<8}= {value}" for name, value in names.items())
    start = head("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0")
    return start + head("XTENSION= 'BINTABLE'", *lines) + gzip.compress(bytes(16 * 16 * 4))


def icon(inner: bytes, count: int = 1) -> bytes:
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 6 + 16 * count)
    return struct.pack("<HHH", 0, 1, count) + entry * count + inner


def test_a_jpeg_of_too_many_scans_is_refused_wherever_it_comes_from() -> None:
    assert decode(progressive(10)).size == (32, 32)
    with pytest.raises(SourceError, match="more than 100 scans"):
        decode(progressive(MOST_SCANS))
    with pytest.raises(SourceError, match="more than 100 scans"):
        decode_stored(progressive(MOST_SCANS))


def test_what_looks_like_scans_in_metadata_or_behind_the_picture_is_not_counted() -> None:
    honest = encoded(Image.new("RGB", (16, 16)), "JPEG", comment=b"\xff\xda" * 500)
    assert decode(honest + b"\xff\xda\x00\x02" * 500).size == (16, 16)


def test_the_picture_in_an_icon_is_measured_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode(icon(encoded(Image.new("RGBA", (16, 16))))).size == (16, 16)
    assert decode(encoded(Image.new("RGBA", (16, 16)), "ICO", bitmap_format="bmp")).size == (16, 16)
    opened = Mock(side_effect=AssertionError("decoded"))
    monkeypatch.setattr("PIL.IcoImagePlugin.IcoImageFile.load", opened)
    with pytest.raises(SourceError, match="200 x 100 pixels, more than the limit of 1,000"):
        decode(icon(encoded(Image.new("L", (200, 100)))), max_pixels=1000)
    with pytest.raises(SourceError, match="65 pictures, more than 64"):
        decode(icon(encoded(Image.new("L", (2, 2))), 65))


def test_a_picture_inside_another_is_never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """EPS would start Ghostscript, and a PNG be of any size."""
    assert not {"IPTC", "BLP", "ICNS", "EPS"} & set(decoded_formats())
    opened = Mock(side_effect=AssertionError("opened"))
    monkeypatch.setattr(IptcImagePlugin.IptcImageFile, "load", opened)
    for inner in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", encoded(Image.new("L", (300, 300)))):
        with pytest.raises(SourceError, match="not an image that Pillow can read"):
            decode(iptc(inner), max_pixels=1000)


def test_fits_packed_by_gzip_is_refused() -> None:
    with pytest.raises(SourceError, match="FITS packed by gzip"):
        decode(packed_fits())
