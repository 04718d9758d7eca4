"""Pictures of an index's images, read when a question needs them: the original files, else the stored thumbnails.

Knows nothing about neurons or models. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from csp_index import settings
from csp_index.errors import ProposerError, SourceError
from csp_index.images.decode import ImageRead, decode_stored, fetch, read_image, same_file
from csp_index.images.files.containers import ContainerReader
from csp_index.lru_cache import LRUCache
from csp_index.store import schema
from csp_index.store.catalog import EncoderInfo
from csp_index.store.connect import open_uncommitted
from csp_index.store.originals import ImageRoots
from csp_index.store.tables import Store
from csp_index.store.values import derived_images

_CACHE_BYTES = 64 * 2**20  # of pictures cached for later questions that show them
_LISTED = 5_000  # ids per condition


class Pictures:
    """RGB pictures by image id, at most as large as the setting `picture_side`; to be closed by `close`.

    A file that is missing, damaged, changed since it was indexed, or in no place that the user named is replaced by the
    stored thumbnail; `thumbnails` counts these pictures. Derived images come from their own table.
    """

    def __init__(self, store: Store, source: EncoderInfo, ids: np.ndarray) -> None:
        """Look up the files of these images [I]. ProposerError if the index was made without pictures."""
        self._store = open_uncommitted(store.uri)  # a separate one: threads read it while another thread writes
        self._source = source
        self._side = settings.PICTURE_SIDE.value()
        self._files_of = _files(self._store, ids[~derived_images.is_derived(ids)])
        self._roots = ImageRoots(self._store)
        self._cache = LRUCache(_CACHE_BYTES)  # by image id
        self._mutex = threading.Lock()  # for the tables and `thumbnails`
        self._files = ContainerReader()
        self.thumbnails = 0

    def close(self) -> None:
        """Close the open files; no thread may be reading."""
        self._files.close()

    def of(self, ids: Sequence[int]) -> dict[int, Image.Image]:
        """Return the pictures of image ids, by id, without those that cannot be read."""
        cached: dict[int, Image.Image] = {}
        missing: list[int] = []
        for image_id in ids:
            if (picture := self._cache.find(image_id)) is not None:
                cached[image_id] = picture
            else:
                missing.append(image_id)
        made = np.array(missing, dtype=np.int64)
        made = made[derived_images.is_derived(made)]
        fresh = self._made(made) if len(made) else {}
        # In the order of their URIs, so that a container is read once.
        for image_id in sorted((i for i in missing if i in self._files_of), key=lambda i: self._files_of[i][0]):
            picture = self._original(*self._files_of[image_id])
            if picture is not None:
                fresh[image_id] = picture
        absent = [i for i in missing if i in self._files_of and i not in fresh]
        fresh |= self._thumbnails(absent) if absent else {}
        for image_id, picture in fresh.items():
            self._cache.put(image_id, picture, _size(picture))
        return cached | fresh

    def refusal(self, ids: Sequence[int]) -> str:
        """Return why the files of images may not be opened, "" if they may."""
        for image_id in ids:
            if image_id in self._files_of and not self._roots.allow(uri := self._files_of[image_id][0]):
                return str(self._roots.refusal(uri))
        return ""

    def _original(self, uri: str, sha256: str | None) -> Image.Image | None:
        if not self._roots.allow(uri):
            return None
        read = same_file(read_image(uri, fetch(self._files, uri)), sha256)
        return self._reduced(read.image) if isinstance(read, ImageRead) else None

    def _thumbnails(self, ids: list[int]) -> dict[int, Image.Image]:
        with self._mutex:
            rows = self._store.read(schema.IMAGES, ["image_id", "thumbnail"], _among(ids))
        thumbnails = self._decoded(rows["image_id"].to_pylist(), rows["thumbnail"].to_pylist())
        with self._mutex:
            self.thumbnails += len(thumbnails)
        return thumbnails

    def _made(self, ids: np.ndarray) -> dict[int, Image.Image]:
        with self._mutex:
            rows = derived_images.read_derived(self._store, self._source, ids)
        return self._decoded(ids.tolist(), rows["picture"].to_pylist())

    def _decoded(self, ids: list[int], files: list[bytes | None]) -> dict[int, Image.Image]:
        decoded = {}
        for image_id, data in zip(ids, files, strict=True):
            try:
                decoded[image_id] = self._reduced(decode_stored(data))
            except SourceError:
                continue
        return decoded

    def _reduced(self, picture: Image.Image) -> Image.Image:
        if max(picture.size) > self._side:
            picture.thumbnail((self._side, self._side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        return picture


def _files(store: Store, ids: np.ndarray) -> dict[int, tuple[str, str | None]]:
    """Return each image's URI, and the hash of its file when it was indexed."""
    unique = np.unique(ids)
    parts = [
        store.read(schema.IMAGES, ["image_id", "uri", "sha256"], _among(unique[start : start + _LISTED].tolist()))
        for start in range(0, max(1, len(unique)), _LISTED)
    ]
    rows = pa.concat_tables(parts)
    numbers, uris, hashes = (rows[name].to_pylist() for name in ("image_id", "uri", "sha256"))
    if uris and all(uri == f"array#{number}" for number, uri in zip(numbers, uris, strict=True)):
        raise ProposerError(
            f"{store.uri} was made from arrays and has no pictures to show a model: import with --uris, a file of "
            "image paths, or index the images themselves"
        )
    return dict(zip(numbers, zip(uris, hashes, strict=True), strict=True))


def _among(ids: Sequence[int]) -> str:
    return f"image_id IN ({','.join(map(str, ids)) or 'NULL'})"


def _size(picture: Image.Image) -> int:
    return 3 * picture.width * picture.height
