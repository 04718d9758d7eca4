"""What a file costs to decode beyond its pixels, looked at before it is decoded.

A file of 100 kB may hold hours of work or gigabytes while it names few pixels. Formats that open a picture of another
format inside themselves, whatever its size, are not decoded at all (``formats``). Knows nothing about how pixels are
used.
"""

from __future__ import annotations

import io
import re
import struct
from typing import Final

from PIL import Image

from csp_index.errors import SourceError
from csp_index.images.files.pixels import check_shape

MOST_SCANS: Final = 100
"""Scans of a JPEG, at most; programs that make small files write about a dozen."""

# Markers of JPEG that have a length: no stuffed or filling byte, no restart, no start of the picture.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_SCAN, _END = b"\xda", b"\xd9"
_JPEG, _ICON = b"\xff\xd8\xff", b"\0\0\1\0"
_MOST_IN_ICON = 64  # pictures
_HEAD, _ENTRY = struct.Struct("<4xH"), struct.Struct("<12xI")  # of an icon: how many pictures, and where one begins


def check_file_cost(data: bytes, max_pixels: int) -> None:
    """Raise SourceError for a file whose decoding would cost much more than the size that it names says.

    That is a JPEG of more than `MOST_SCANS` scans, each of which goes over all its pixels; and an icon, which Pillow
    decodes as it opens it, with a picture of more than `max_pixels` pixels.
    """
    if data.startswith(_JPEG) and _scans(data) > MOST_SCANS:
        raise SourceError(
            f"the JPEG has more than {MOST_SCANS} scans, each of which goes over the whole picture: save it again, or "
            "leave it out"
        )
    if data.startswith(_ICON):
        _check_icon(data, max_pixels)


def check_decoder(image: Image.Image) -> None:
    """Raise SourceError for an opened picture that Pillow would unpack in Python, a pixel at a time."""
    if any(tile[0] == "fits_gzip" for tile in getattr(image, "tile", ())):
        raise SourceError("it is FITS packed by gzip, which is not read: unpack it (funpack), or save it as TIFF")


def _scans(data: bytes) -> int:
    """Return how many scans a JPEG has, counted up to one more than there may be."""
    place = count = 0
    while count <= MOST_SCANS and (marker := _MARKER.search(data, place)) and marker[1] != _END:
        count += marker[1] == _SCAN
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return count


def _check_icon(data: bytes, max_pixels: int) -> None:
    """Raise SourceError if an icon holds too many pictures, or one that is too large by its own head."""
    (count,) = _HEAD.unpack(data[:6].ljust(6, b"\0"))
    if count > _MOST_IN_ICON:
        raise SourceError(f"the icon holds {count:,} pictures, more than {_MOST_IN_ICON}: save one of them alone")
    for place in range(6, min(6 + 16 * count, len(data) - 15), 16):
        (offset,) = _ENTRY.unpack(data[place : place + 16])
        with Image.open(io.BytesIO(data[offset:]), formats=("PNG", "DIB")) as inner:
            halves = 1 if inner.format == "PNG" else 2  # below the picture lies its mask
            check_shape(inner.width, max(1, inner.height // halves), max_pixels)
