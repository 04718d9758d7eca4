"""Formats by name and by content, and pictures that need an extra."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import encoded, plain

from csp_index.errors import SourceError
from csp_index.images.decode import decode
from csp_index.images.files import formats
from csp_index.images.files.formats import HEAD, advice, has_extra, image_extensions, kind_of

pillow_heif = pytest.importorskip("pillow_heif")


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "AVIF", "HEIF", "PPM", "QOI", "DDS"]
)
def test_a_format_is_known_by_its_first_bytes(kind: str) -> None:
    decode(encoded(plain(), "PNG"))  # registers HEIF
    data = encoded(plain((1, 2, 3), (64, 64)), kind)
    assert kind_of(data[:HEAD]) == kind
    assert decode(data).size == (64, 64)


@pytest.mark.parametrize(
    "head",
    [b"", b"hello", b"BM is short for Bold Move, a text", b"P5 is a text", b"{}", b"II", b"GIF", b"%PDF-1.7",
     b"RIFF0000AVI ", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", b"PK\3\4", b"\0" * 200, b"<svg xmlns='x'>"],
)  # fmt: skip
def test_what_is_no_picture_is_not_taken_for_one(head: bytes) -> None:
    assert kind_of(head[:HEAD]) is None


def test_heic_is_decoded_with_its_extra() -> None:
    assert {".heic", ".heif"} <= image_extensions()
    pixels = np.asarray(decode(encoded(plain((200, 30, 30), (32, 16)), "HEIF", quality=95)))
    assert pixels.shape == (16, 32, 3)
    assert np.abs(pixels.astype(int) - (200, 30, 30)).max() < 12


def test_heic_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    decode(encoded(plain()))
    data = encoded(plain(), "HEIF")
    has_extra.cache_clear()
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(formats, "decoded_formats", lambda: ["PNG"])
    monkeypatch.setattr("csp_index.images.decode.decoded_formats", lambda: ["PNG"])
    try:
        assert advice("HEIF") == "pip install 'csp_index[heif]'"
        assert not {".heic", ".dcm"} & image_extensions()
        with pytest.raises(SourceError, match=r"pip install 'csp_index\[heif\]'"):
            decode(data)
        with pytest.raises(SourceError, match=r"pip install 'csp_index\[dicom\]'"):
            decode(b"\0" * 128 + b"DICM")
    finally:
        has_extra.cache_clear()


def test_a_damaged_heic_is_a_failure_with_a_reason() -> None:
    decode(encoded(plain()))
    data = encoded(plain((1, 2, 3), (64, 64)), "HEIF")
    for spoiled in (data[:60], data[: len(data) // 2], data[:-20]):
        with pytest.raises(SourceError) as error:
            decode(spoiled)
        assert "\n" not in str(error.value)


def test_avif_with_a_pillow_that_does_not_read_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(plain(), "AVIF")
    has_extra.cache_clear()
    monkeypatch.setattr(formats.features, "check", lambda name: False)
    monkeypatch.setattr("csp_index.images.decode.decoded_formats", lambda: ["PNG"])
    try:
        with pytest.raises(SourceError, match=r"begins like a file of AVIF, .*pip install 'csp_index\[heif\]'"):
            decode(data)
    finally:
        has_extra.cache_clear()
