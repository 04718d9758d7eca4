"""The original picture of an image, from its file: bounded, upright, without the file's metadata, never by a path.

An id is all that names an image. Its file is opened only below places that the user named, and shown only while it is
the file that was indexed. What is wrong is told without an address.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Any, Final

from PIL import Image

from csp_index.errors import BusyError, NotFoundError, SourceError, StoreError, one_line
from csp_index.images.files.bucket_files import is_in_bucket
from csp_index.images.files.containers import container_of
from csp_index.service.documents.image import stored_thumbnail
from csp_index.service.snapshot import Snapshot
from csp_index.settings import SERVE_ORIGINAL_SIDE
from csp_index.store.originals import read_indexed
from csp_index.store.values.derived_images import is_derived

READ_AT_ONCE: Final = 4
"""Originals that are read at the same time: each may have `max_image_bytes`, and come from a slow object store."""
_AT_ONCE: Final = 2  # originals that are decoded at the same time: one of 89 million pixels takes 270 MB
_PATIENCE: Final = 10.0  # seconds that a request waits for its turn
_LOSSLESS: Final = 512  # pixels: a picture whose sides are no longer is sent as it is, pixel by pixel
_QUALITY: Final = 90
_log = logging.getLogger("csp_index.service")
_turns = BoundedSemaphore(_AT_ONCE)


def original_picture(snapshot: Snapshot, image_id: int) -> tuple[bytes, str]:
    """Return the picture of an image's file, and its media type; of a derived image the picture in the index.

    It is upright RGB, at most `serve_original_side` pixels long, and written anew: PNG where it is small, else JPEG.
    NotFoundError, without an address, where the file may not be opened, is gone, is another one or cannot be read;
    BusyError where too many are being decoded, or an object store does not answer.
    """
    snapshot.check_image(image_id)
    if is_derived(image_id):
        return stored_thumbnail(snapshot, image_id)
    row = _row(snapshot, image_id)
    if not row["sha256"] or not snapshot.image_roots.allow(row["uri"]):
        raise NotFoundError(
            f"the original of image {image_id} is not opened: it lies in no place that was named for this service, or "
            "came without a file: name the folder of the images by CSP_INDEX_IMAGE_ROOTS"
        )
    side = SERVE_ORIGINAL_SIDE.value()
    try:
        decode = read_indexed(snapshot.image_roots, row["uri"], row["sha256"])  # slow where it comes from afar
        with _turn():
            return _encoded(decode(side).image, side)
    except SourceError:
        raise NotFoundError(
            f"the original of image {image_id} is not shown: its file is gone, cannot be read, or is another one than "
            "was indexed"
        ) from None
    except StoreError as exc:  # its message names the object store
        _log.error("the original of image %d: %s", image_id, one_line(exc))
        raise BusyError(
            f"the original of image {image_id} cannot be read just now: its object store does not answer, or refuses"
        ) from None


def has_original(snapshot: Snapshot, image_id: int) -> bool:
    """Return whether there seems to be a file to show: it may be opened, and is there unless in an object store.

    Its content is not read, and no request is sent.
    """
    if is_derived(image_id):
        return True
    row = _row(snapshot, image_id)
    if not row["sha256"] or not snapshot.image_roots.allow(row["uri"]):
        return False
    uri = row["uri"]
    return is_in_bucket(uri) or container_of(uri) is not None or os.path.isfile(uri)


@contextmanager
def _turn() -> Iterator[None]:
    if not _turns.acquire(timeout=_PATIENCE):
        raise BusyError("too many original pictures are being decoded: try again in some seconds")
    try:
        yield
    finally:
        _turns.release()


def _row(snapshot: Snapshot, image_id: int) -> dict[str, Any]:
    return snapshot.image_rows([image_id], ["uri", "sha256"])[image_id]


def _encoded(picture: Image.Image, side: int) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.info.clear()  # Pillow would write an ICC profile and comments of the file
    if max(picture.size) <= _LOSSLESS:
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue(), "image/png"
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue(), "image/jpeg"
