"""Which files are pictures: by the ending of their names, and by their first bytes where the ending says nothing.

HEIC and DICOM need a package of their own (the extras ``heif`` and ``dicom``); without it they are known by their
first bytes, so that a message can say what to install. Knows nothing about pixels.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache

from PIL import Image, features

HEAD = 132
"""Bytes from the start of a file that `kind_of` looks at."""

DICOM, HEIF = "DICOM", "HEIF"
ENDINGS = {DICOM: frozenset({".dcm", ".dicom"}), HEIF: frozenset({".heic", ".heif", ".hif"})}
"""The endings of the kinds that need an extra."""

RAW_ENDINGS = frozenset(
    {".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw", ".orf", ".pef"}
    | {".raw", ".rw2", ".sr2", ".srf", ".srw"}
)
"""The endings of what cameras record: as a picture, such a file has only the small preview that it begins with."""

_AVIF = "AVIF"
_EXTRAS = {DICOM: "dicom", HEIF: "heif", _AVIF: "heif"}  # the last brings a Pillow that reads AVIF

# Formats that Pillow registers but cannot turn into pixels by itself: stubs, write-only ones, and EPS, which starts
# Ghostscript. Then those that open a picture inside themselves without a limit of ours: of any format, EPS too, or of
# any size.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"} | {"BLP", "ICNS", "IPTC"})

MEDIA_TYPES = {kind: f"image/{kind.lower()}" for kind in ("JPEG", "PNG", "GIF", "WEBP", _AVIF)}
"""The media types of the kinds that every browser shows."""

STORED_FORMATS = ("JPEG", "PNG")
"""The formats of thumbnails and derived images: an index may come from a stranger, and no other is opened or shown."""

_SIGNS = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WEBP", rb"RIFF....WEBP"),
    ("BMP", rb"BM.{8}...\x00[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00"),
    ("TIFF", rb"II[*+]\x00|MM\x00[*+]"),
    ("JPEG2000", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51\x00"),
    (_AVIF, rb"....ftyp.{0,32}avi[fs]"),
    (HEIF, rb"....ftyp.{0,32}(?:hei[cmsx]|hev[cms1x]|mif1|msf1)"),
    (DICOM, rb".{128}DICM|[\x02\x08]\x00.\x00(?:UL|OB|UI|CS|DA|TM|SH)"),
    ("PSD", rb"8BPS\x00\x01"),
    ("QOI", rb"qoif"),
    ("DDS", rb"DDS \x7c\x00\x00\x00"),
    ("PPM", rb"P[1-6]\s(?:#[^\n]*\n|\s)*\d+\s+\d+\s"),
)
_TEXTS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run `git lfs pull` in its repository",
    b"<!doctype html": "a web page, which was saved instead of the file",
    b"<html": "a web page, which was saved instead of the file",
    b"<?xml": "XML, such as the error of a server or a drawing in SVG",
    b"<svg": "a drawing in SVG: convert it to PNG",
    b"{": "JSON, such as the error of a server",
}
_PATTERNS = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _SIGNS)


def kind_of(head: bytes) -> str | None:
    """Return the format whose files begin like this, by Pillow's name for it or DICOM; None if there is none.

    >>> kind_of(b"GIF89a..."), kind_of(b"hello")
    ('GIF', None)
    """
    return next((kind for kind, pattern in _PATTERNS if pattern.match(head)), None)


def stored_type(data: object) -> str:
    """Return the media type of a picture in a table of the index, JPEG or PNG; "" of anything else.

    >>> stored_type(b"\\x89PNG\\r\\n\\x1a\\n"), stored_type(b"GIF89a"), stored_type(None)
    ('image/png', '', '')
    """
    kind = kind_of(data[:HEAD]) if isinstance(data, bytes) else None
    return MEDIA_TYPES[kind] if kind in STORED_FORMATS else ""


@cache
def decoded_formats() -> list[str]:
    """Return the formats that Pillow decodes here, HEIC among them if its extra is installed."""
    if has_extra(HEIF):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    Image.init()
    return [kind for kind in Image.ID if kind not in _NOT_DECODED]


def image_extensions() -> frozenset[str]:
    """Return the file name endings that count as images: lower case, with the dot.

    >>> ".jpg" in image_extensions(), ".pdf" in image_extensions(), ".txt" in image_extensions()
    (True, False, False)
    """
    formats = decoded_formats()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in formats}
    return frozenset(endings | (ENDINGS[DICOM] if has_extra(DICOM) else set()))


def text_instead(head: bytes) -> str:
    """Return what a file is that should be a picture or a container and begins like text; "" if it is no such text.

    >>> text_instead(b"version https://git-lfs.github.com/spec/v1")
    'a pointer of Git LFS, not the file itself: run `git lfs pull` in its repository'
    """
    start = head.lstrip().lower()
    return next((what for sign, what in _TEXTS.items() if start.startswith(sign)), "")


def known_endings() -> frozenset[str]:
    """Return the endings of image files, also of those that cannot be read here: a table may name originals."""
    return image_extensions().union(*ENDINGS.values())


@cache
def has_extra(kind: str) -> bool:
    """Return whether what HEIC, DICOM or AVIF needs is installed; Pillow reads AVIF if it was built with it."""
    if kind == _AVIF:
        return bool(features.check("avif"))
    return importlib.util.find_spec({HEIF: "pillow_heif", DICOM: "pydicom"}[kind]) is not None


def advice(kind: str) -> str:
    """Return what to do about a file of a kind that cannot be read here; "" if there is nothing to do.

    >>> advice("PNG")
    ''
    """
    return f"pip install 'csp_index[{_EXTRAS[kind]}]'" if kind in _EXTRAS and not has_extra(kind) else ""
