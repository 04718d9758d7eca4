"""Encoded pictures without their metadata, for those whose metadata stop a decoder that could read the pixels.

A comment of two megabytes, a broken color profile or a tag that points beyond the end of the file says nothing about
the pixels. What is left of the metadata is the orientation, where it can be read. Knows nothing about pixels.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator

ORIENTATION = 0x0112
"""The EXIF and TIFF tag that says how the stored picture is turned."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_JPEG_SCAN = 0xDA
_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
_ADOBE_BYTES = 12  # of the marker that says how colors are stored; what is shorter says nothing
# Width to compression, photometric, fill order, strips, samples, planes, predictor, palette, tiles, extra samples and
# the tables of JPEG and of YCbCr: what the pixels cannot be read without.
_TIFF_PIXELS = frozenset(
    {254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 338, 339, 347}
    | {529, 530, 531, 532}
)
_WHOLE = {1: "B", 3: "H", 4: "I"}  # kinds of tags that are one whole number
_XMP_TURN = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def without_metadata(data: bytes) -> bytes | None:
    """Return the same picture with no metadata but its orientation, None for a format or a file that has none.

    Pixels are copied as they are, so a file whose pixels are damaged stays damaged.
    """
    for start, strip in _FORMATS.items():
        if data.startswith(start) or (start == b"ftyp" and data[4:8] == start):
            try:
                return strip(data)
            except (IndexError, ValueError, struct.error):  # not even the frame of the file is sound
                return None
    return None


def turn_of(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation 1-8 that EXIF data or, without one, XMP data name; 1 where neither can be read.

    Only the first directory is read, entry by entry, so no other tag can be in the way.
    """
    try:
        head = exif.find(b"Exif\0\0") + 6 if exif.startswith(b"Exif\0\0") else 0
        order = {b"II": "<", b"MM": ">"}[exif[head : head + 2]]
        start = head + struct.unpack_from(order + "I", exif, head + 4)[0]
        for place in range(start + 2, start + 2 + 12 * struct.unpack_from(order + "H", exif, start)[0], 12):
            tag, kind, count = struct.unpack_from(order + "HHI", exif, place)
            if tag == ORIENTATION and count == 1 and kind in _WHOLE:
                (turn,) = struct.unpack_from(order + _WHOLE[kind], exif, place + 8)
                return int(turn) if 1 <= turn <= 8 else 1
    except (KeyError, struct.error):
        pass
    match = _XMP_TURN.search(xmp)
    return int(match[1]) if match else 1


def _exif_of(turn: int) -> bytes:
    """Return EXIF data that hold an orientation alone, without the marker that JPEG puts in front."""
    return struct.pack("<4sIHHHIII", b"II*\0", 8, 1, ORIENTATION, 3, 1, turn, 0)


def _bare_png(data: bytes) -> bytes:
    chunks = list(_png_chunks(data))
    exif = next((body for kind, body, _ in chunks if kind == b"eXIf"), b"")
    xmp = b"".join(body for kind, body, _ in chunks if kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp"))
    kept = [raw for kind, _, raw in chunks if kind in _PNG_PIXELS]
    new = _exif_of(turn_of(exif, xmp))
    turned = struct.pack(">I", len(new)) + b"eXIf" + new + struct.pack(">I", zlib.crc32(b"eXIf" + new))
    return _PNG + b"".join([*kept[:1], turned, *kept[1:]])


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield kind, content and whole of each chunk; the last one is cut where the file is."""
    place = len(_PNG)
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + size
        yield kind, data[place + 8 : end - 4], data[place:end]
        place = end


def _bare_jpeg(data: bytes) -> bytes:
    kept, exif, xmp, place = [data[:2]], b"", b"", 2
    while (marker := data[place + 1]) != _JPEG_SCAN:
        if data[place] != 0xFF:
            raise ValueError("no marker where one must be")
        if marker == 0xFF:  # a marker may be filled up in front
            place += 1
            continue
        end = place + 2 + struct.unpack_from(">H", data, place + 2)[0]
        body = data[place + 4 : end]
        if marker == 0xE1:
            exif = exif or (body[6:] if body.startswith(b"Exif\0") else b"")
            xmp += body if b"adobe.com/xap" in body[:40] else b""
        elif marker == 0xE0 and body.startswith(b"JFIF"):  # it says that the colors are YCbCr
            kept.append(b"\xff\xe0" + struct.pack(">H", len(_JFIF) + 2) + _JFIF)
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE) or (marker == 0xEE and len(body) >= _ADOBE_BYTES):
            kept.append(data[place:end])
        place = end
    new = b"Exif\0\0" + _exif_of(turn_of(exif, xmp))
    kept.insert(1, b"\xff\xe1" + struct.pack(">H", len(new) + 2) + new)
    return b"".join(kept) + data[place:]


def _bare_tiff(data: bytes) -> bytes:
    """Return a TIFF whose first directory names nothing but pixels; the data stay where they are."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    entries = [data[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    kept = [entry for entry in entries if _is_about_pixels(entry, order)]
    head = struct.pack(order + "H", len(kept)) + b"".join(kept) + b"\0\0\0\0"
    return data[:start] + head + data[start + len(head) :]


def _is_about_pixels(entry: bytes, order: str) -> bool:
    tag, kind, count = struct.unpack_from(order + "HHI", entry)
    if tag != ORIENTATION:
        return tag in _TIFF_PIXELS
    return (kind, count) == (3, 1) and struct.unpack_from(order + "H", entry, 8)[0] in range(1, 9)


def _bare_avif(data: bytes) -> bytes:
    """Return an AVIF or HEIC file whose EXIF and XMP items have a kind that no decoder knows."""
    head, bare = data[: data.find(b"mdat")], bytearray(data)
    for match in re.finditer(rb"infe.{8}(?:..)?(Exif|mime)", head, re.DOTALL):
        bare[match.start(1) : match.end(1)] = b"none"
    return bytes(bare)


_FORMATS: dict[bytes, Callable[[bytes], bytes]] = {
    _PNG: _bare_png,
    b"\xff\xd8\xff": _bare_jpeg,
    b"II*\0": _bare_tiff,
    b"MM\0*": _bare_tiff,
    b"ftyp": _bare_avif,
}
