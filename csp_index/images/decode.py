"""Read images by URI: encoded bytes in, RGB pixels out, in the requested order.

Knows nothing about how a source is listed (``sources.py``) or what is done with the pixels. A URI is enough to read an
image again:

- a file: its absolute path (a ``#`` in the name of an existing file is part of the name)
- a file in an object store: ``s3://bucket/folder/0001.jpg``
- a row of a parquet file: ``/abs/file.parquet#17``
- a member of a tar shard: ``/abs/shard.tar#dir/0001.jpg``
- a row of a ``datasets.save_to_disk`` directory: ``/abs/dir#17``, or ``/abs/dir#train/17`` when it has splits
- an item of the caller's dataset: ``dataset:NAME/17``, as long as the caller's program keeps the dataset

A row's URI ends in ``@column`` if the user named an image column other than the automatic one. One unreadable image
never stops the stream: it becomes an :class:`ImageFailure` that says why.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from PIL import Image, ImageOps, UnidentifiedImageError

from csp_index.errors import SourceError, one_line
from csp_index.files.regular_files import read_bytes
from csp_index.images.files.bare_files import without_metadata
from csp_index.images.files.bucket_files import is_in_bucket, read_bucket
from csp_index.images.files.containers import ContainerReader, container_of
from csp_index.images.files.costly_files import check_decoder, check_file_cost
from csp_index.images.files.dicom import dicom_picture
from csp_index.images.files.formats import DICOM, HEAD, STORED_FORMATS, advice, decoded_formats, kind_of, text_instead
from csp_index.images.files.pixels import DEEP_MODES, check_shape, to_rgb, upright, upright_size
from csp_index.images.memory_images import MemoryImage, find_image
from csp_index.settings import MAX_IMAGE_BYTES, MAX_PIXELS

IN_MEMORY = "dataset:"
"""The start of the URI of an image that is in no file: an item of the caller's dataset."""

_THUMBNAIL_QUALITY = 90
_PHOTOMETRIC, _MIN_IS_WHITE = 262, 0  # of TIFF
_REDUCED_FORMATS = frozenset({"JPEG", "MPO"})  # whose decoder gives a smaller picture for less work


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of a source, not read yet; `read` returns it if the URI is not enough to find it.

    `failure` says why it cannot be read, where the listing knows that already.
    """

    uri: str
    metadata: dict[str, object] = field(default_factory=dict)
    read: Callable[[], MemoryImage] | None = field(default=None, repr=False, compare=False)
    failure: str | None = None


class ImageSource(Protocol):
    """A stable stream of images; ``name`` is its resolved path, or ``dataset:NAME`` for an object of the caller."""

    name: str

    def refs(self) -> Iterator[ImageRef]:
        """Yield every image of the source in a stable order."""
        ...


@runtime_checkable
class NamesImages(ImageSource, Protocol):
    """A source that names its images without reading what is known about them."""

    def uris(self) -> Iterator[str]:
        """Yield the URI of every image of the source, in the order of `refs`."""
        ...


def uris_of(source: ImageSource) -> Iterator[str]:
    """Yield the URI of every image of a source; its metadata are read only where its images cannot be named else."""
    return source.uris() if isinstance(source, NamesImages) else (ref.uri for ref in source.refs())


@dataclass(frozen=True, slots=True)
class ImageRead:
    """An image that was read: width and height of the upright picture, sha256 of the encoded bytes.

    `image` is smaller than that where a draft of it was decoded.
    """

    uri: str
    sha256: str
    width: int
    height: int
    image: Image.Image


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """An image that cannot be used, and why, in one line; `by_model`: it can be read, and a model fails on it."""

    uri: str
    reason: str
    by_model: bool = False


def same_file(read: ImageRead | ImageFailure, sha256: str | None) -> ImageRead | ImageFailure:
    """Return the image, or a failure if its file does not have this hash (None or "": the hash is unknown)."""
    if isinstance(read, ImageFailure) or not sha256 or sha256 == read.sha256:
        return read
    return ImageFailure(read.uri, "it is another file than the one indexed")


@dataclass(frozen=True, slots=True)
class Picture:
    """An upright RGB picture, and the width and height that it has in full."""

    image: Image.Image
    width: int
    height: int


def decode(data: bytes, *, max_pixels: int | None = None) -> Image.Image:
    """Return the picture in ``data`` as upright RGB: see `decode_picture`."""
    return decode_picture(data, max_pixels=max_pixels).image


def decode_picture(data: bytes, *, max_pixels: int | None = None, draft: int | None = None) -> Picture:
    """Return the picture in ``data`` as upright RGB, with its full size.

    EXIF orientation is applied, transparency is blended onto white, an animation gives its first frame, and values of
    more than eight bits are scaled (see ``pixels.gray_scale``). Metadata that cannot be read cost nothing. Raises
    SourceError, with a one-line reason, for anything that is not a whole image, and for one that has more than
    ``max_pixels`` pixels (by default the setting) or is too narrow (``pixels.check_shape``).

    With ``draft`` a JPEG whose short side has at least twice as many pixels as that is decoded at a half, a quarter or
    an eighth of its size: the smallest whose short side has at least ``draft`` pixels.
    """
    if not data:
        raise SourceError("the file is empty")
    most = MAX_PIXELS.value() if max_pixels is None else max_pixels
    kind = kind_of(data[:HEAD])
    if kind == DICOM:
        whole = to_rgb(dicom_picture(data, most))
        return Picture(whole, whole.width, whole.height)
    try:
        return _decoded(data, most, draft)
    except SourceError:
        raise
    except Image.DecompressionBombError as exc:
        raise SourceError(f"the image has more pixels than the limit of {most:,}: {one_line(exc)}") from exc
    except Exception as exc:  # a damaged file can raise nearly anything from the many decoders
        bare = without_metadata(data)
        reason = _reason(exc, kind, data[:HEAD])
    if bare is None:
        raise SourceError(reason)
    try:
        return _decoded(bare, most, draft)
    except SourceError:
        raise
    except Exception as exc:
        raise SourceError(reason) from exc


def decode_stored(data: object, *, max_pixels: int | None = None) -> Image.Image:
    """Return a picture that csp_index itself encoded, a thumbnail or a derived image, as RGB.

    An index may come from a stranger, so nothing but JPEG and PNG is opened. Raises SourceError, in one line, for
    anything else, also for None, and for more than ``max_pixels`` pixels (by default the setting).
    """
    most = MAX_PIXELS.value() if max_pixels is None else max_pixels
    with _stored(data, most) as image:
        return _checked_rgb(image, most).image


def stored_size(data: object) -> tuple[int, int]:
    """Return width and height of a picture that `decode_stored` reads, from its head alone. Raises SourceError."""
    with _stored(data, MAX_PIXELS.value()) as image:
        return image.size


@contextmanager
def _stored(data: object, max_pixels: int) -> Iterator[Image.Image]:
    if not isinstance(data, bytes):
        raise SourceError("the index has no picture of it")
    try:
        with _opened(data, max_pixels, STORED_FORMATS) as image:
            check_shape(*image.size, max_pixels)
            yield image
    except SourceError:
        raise
    except Exception as exc:  # Pillow raises many kinds of errors on damaged files
        raise SourceError(f"its picture in the index is no JPEG or PNG that can be read: {one_line(exc)}") from exc


def _decoded(data: bytes, max_pixels: int, draft: int | None) -> Picture:
    with _opened(data, max_pixels, decoded_formats()) as image:
        return _checked_rgb(image, max_pixels, draft)


def _opened(data: bytes, max_pixels: int, formats: Sequence[str]) -> Image.Image:
    allowed = Image.MAX_IMAGE_PIXELS
    if allowed is not None and allowed < max_pixels <= MAX_PIXELS.value():
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow's own limit, of the whole process: the user set a larger one
    check_file_cost(data, max_pixels)
    image = Image.open(io.BytesIO(data), formats=tuple(formats))
    check_decoder(image)
    return image


def _reason(exc: Exception, kind: str | None, head: bytes) -> str:
    if not isinstance(exc, UnidentifiedImageError):
        return one_line(exc)
    if kind is None:
        instead = text_instead(head)
        return f"not an image but {instead}" if instead else "not an image that Pillow can read"
    return f"it begins like a file of {kind}, but cannot be read: {advice(kind) or 'damaged, or of an unusual kind'}"


def _checked_rgb(image: Image.Image, max_pixels: int, draft: int | None = None) -> Picture:
    check_shape(*image.size, max_pixels)
    full = _reduce(image, draft) if draft is not None and image.format in _REDUCED_FORMATS else None
    inverted = image.mode in DEEP_MODES and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _MIN_IS_WHITE
    image.load()
    check_shape(*image.size, max_pixels)  # decoding may bring another size than the head says
    rgb = to_rgb(upright(image))
    if inverted:  # Pillow inverts up to eight bits by itself
        rgb = ImageOps.invert(rgb)
    return Picture(rgb, *(rgb.size if full is None else upright_size(image, full)))


def _reduce(image: Image.Image, draft: int) -> tuple[int, int] | None:
    """Let a JPEG that is large enough be decoded smaller; return its full size, None if it is decoded whole."""
    full = image.size
    if min(full) < 2 * draft:
        return None
    image.draft(None, (draft, draft))
    return full


def thumbnail(image: Image.Image, size: int = 128) -> bytes:
    """Return a JPEG of the image that fits into ``size`` x ``size`` pixels; a smaller image is not enlarged."""
    small = image.copy()
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.convert("RGB").save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
    return buffer.getvalue()


def read_images(uris: Iterable[str], draft: int | None = None) -> Iterator[ImageRead | ImageFailure]:
    """Yield each image, or its failure, in the order of ``uris``; one at a time is in memory.

    Neighboring URIs of one container are read in one pass: a parquet file group by group, the image column alone.
    ``draft`` is that of `decode_picture`.
    """
    containers = ContainerReader()
    try:
        for uri in uris:
            yield read_image(uri, fetch(containers, uri), draft)
    finally:
        containers.close()


Payload = bytes | MemoryImage | SourceError | None
"""What an image is decoded from: encoded bytes, the caller's picture, or an error; None stands for a plain file."""


def fetch(reader: ContainerReader, uri: str) -> Payload:
    """Return the bytes of an image in a container, a picture in memory, or an error; None for a plain file.

    Call it for the images of a container in their order, from one thread.
    """
    image = find_image(uri)
    if image is not None:
        return image
    if is_in_bucket(uri):
        return None
    if uri.startswith(IN_MEMORY):
        return SourceError("the dataset it came from is not at hand: give it again, index.add_images(dataset)")
    address = container_of(uri)
    if address is None:
        return None
    try:
        return reader.read(address)
    except SourceError as exc:
        return SourceError(str(exc))  # without the frames that hold what was read


def read_plain(uri: str, *, patient: bool = True) -> bytes:
    """Return the bytes of an image in a file of its own, on a disk or in an object store, `patient` with a slow one.

    Raises OSError or SourceError, which are about this image alone, and StoreError where the object store cannot be
    reached at all.
    """
    return read_bucket(uri, MAX_IMAGE_BYTES, patient=patient) if is_in_bucket(uri) else read_bytes(uri, MAX_IMAGE_BYTES)


def read_image(uri: str, payload: Payload, draft: int | None = None) -> ImageRead | ImageFailure:
    """Return the image decoded from what `fetch` returned, or its failure; a plain file (None) is read here.

    The hash of a picture in memory covers its width and height, then its RGB pixels row by row. ``draft`` is that of
    `decode_picture`.
    """
    try:
        if isinstance(payload, MemoryImage):
            image = _checked_rgb(payload.image, MAX_PIXELS.value()).image
            size = f"{image.width}x{image.height}\n".encode()
            return ImageRead(uri, hashlib.sha256(size + image.tobytes()).hexdigest(), image.width, image.height, image)
        if payload is None:
            payload = read_plain(uri)
        if isinstance(payload, SourceError):
            return ImageFailure(uri, one_line(payload))
        picture = decode_picture(payload, draft=draft)
    except (OSError, ValueError, MemoryError, SourceError) as exc:
        return ImageFailure(uri, one_line(exc))
    return ImageRead(uri, hashlib.sha256(payload).hexdigest(), picture.width, picture.height, picture.image)
