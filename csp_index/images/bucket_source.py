"""Image files below a prefix of an object store, as those of a folder are.

Two passes list the objects, one to know what there is and one for the images; only images are read whole. Shards and
tables of sub-folders are passed over: they are read at random places, for which they must lie on a disk.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from csp_index.errors import SourceError
from csp_index.files.regular_files import user_path
from csp_index.images.class_folders import ClassFolders
from csp_index.images.decode import ImageRef
from csp_index.images.files.bucket_files import bucket_head, bucket_names, is_file_in_bucket, read_bucket
from csp_index.images.files.formats import image_extensions
from csp_index.images.folders import TABLES, TAR_ENDINGS, alike, described, describes, ending_of
from csp_index.images.passed_over import HIDDEN, ContentCheck, PassedOver
from csp_index.images.sample_metadata import sample_metadata
from csp_index.images.tables.join_table import PathTable
from csp_index.settings import MAX_METADATA_BYTES, MAX_TEXT_BYTES

_SHARDS: Final = "(in a bucket: copy it to a folder)"
_log = logging.getLogger(__name__)


class BucketSource:
    """Image files below an address such as ``s3://bucket/folder``, with what their names and neighbors say.

    A table ``metadata.csv``, ``.jsonl`` or ``.parquet`` directly below the address, or a local one that the user names,
    is joined to the images. ``notes`` says what joined. Raises SourceError where the address cannot be listed, holds no
    image, or the table does not fit.
    """

    def __init__(
        self,
        uri: str,
        metadata: str | Path | None = None,
        metadata_key: str | None = None,
        class_names: str | Path | None = None,
    ) -> None:
        self.name = uri.rstrip("/")
        self.passed_over = PassedOver()
        self._endings, self._unnamed = image_extensions(), set[int]()
        next(bucket_names(self.name), None)  # a bucket that cannot be listed is refused before anything else
        beside = next((name for name in TABLES if is_file_in_bucket(self._uri(name))), None)
        folders, named = self._look(beside, keeps_names=metadata is not None or beside is not None)
        if not folders:
            listed = str(self.passed_over).partition(": ")[2]
            raise SourceError(
                f"{self.name} holds no images: {self.passed_over.total():,} other files lie below it"
                f"{f' ({listed})' if listed else ''}"
            )
        self._table = self._joined(metadata, metadata_key, named, beside)
        self._classes = ClassFolders(None, folders, None if class_names is None else user_path(class_names))
        self.notes = () if self._table is None else tuple(self._table.notes)
        for line in self.notes:
            _log.log(logging.INFO if self._table and self._table.complete else logging.WARNING, "%s", line)

    @property
    def class_notes(self) -> Sequence[str]:
        """What was guessed about classes."""
        return self._classes.notes

    def refs(self) -> Iterator[ImageRef]:
        """Yield the images sorted by path; an image of which nothing is known has no metadata."""
        for name, beside in self._images():
            metadata = dict(self._classes.columns(name))
            for other in beside:
                try:
                    data = read_bucket(self._uri(other), MAX_METADATA_BYTES)
                    metadata |= sample_metadata(ending_of(other)[1:], data)
                except SourceError as exc:
                    yield ImageRef(self._uri(other), failure=str(exc))
            yield ImageRef(self._uri(name), {**metadata, **self._row(name)})

    def uris(self) -> Iterator[str]:
        """Yield the URI of every image, sorted by path; no file is read."""
        return (self._uri(name) for name, _ in self._images())

    def _images(self) -> Iterator[tuple[str, list[str]]]:
        for names in alike(self._visible(PassedOver())):
            pictures = [name for name in names if self._is_known(name)]
            yield from described(pictures, filter(describes, names)).items()

    def _look(self, table: str | None, *, keeps_names: bool) -> tuple[Counter[str], list[str]]:
        """Return how many images each folder holds, and the names of all if they are to be kept; count the others."""
        folders, pictures, check = Counter[str](), list[str](), ContentCheck()
        for names in alike(self._visible(self.passed_over)):
            known = [name for name in names if self._is_known(name) or self._looks_like_one(name, table, check)]
            used = {name for beside in described(known, filter(describes, names)).values() for name in beside}
            self.passed_over.update(ending_of(name) for name in names if describes(name) and name not in used)
            folders.update(name.rpartition("/")[0] for name in known)
            pictures += known if keeps_names else ()
        return folders, pictures

    def _visible(self, passed_over: PassedOver) -> Iterator[str]:
        for name, size in bucket_names(self.name):
            hidden = [part for part in name.split("/") if part.startswith(".")]
            if hidden:  # pictures are counted that are hidden themselves, not those of hidden folders
                counts = hidden == [name.rpartition("/")[2]] and not hidden[0].startswith("._")
                passed_over.update({HIDDEN: 1} if counts and ending_of(name) in self._endings else {})
            elif size or ending_of(name):  # an empty object without an ending marks a folder
                yield name

    def _is_known(self, name: str) -> bool:
        return ending_of(name) in self._endings or hash(name) in self._unnamed

    def _looks_like_one(self, name: str, table: str | None, check: ContentCheck) -> bool:
        """Return whether a file is an image by its content; one that is passed over is counted."""
        ending = ending_of(name)
        if describes(name) or name == table:
            return False
        if name.lower().endswith(TAR_ENDINGS):
            self.passed_over[f"tar shards {_SHARDS}"] += 1
        elif ending == ".parquet" or name.rpartition("/")[2] in TABLES:
            self.passed_over[f"{ending} {_SHARDS}"] += 1
        elif reason := check.reason(ending, partial(bucket_head, self._uri(name))):
            self.passed_over[reason] += 1
        else:
            self._unnamed.add(hash(name))
            return True
        return False

    def _joined(
        self, metadata: str | Path | None, key: str | None, images: list[str], beside: str | None
    ) -> PathTable | None:
        """Return the table about the images: the user's, else the one that lies beside them."""
        root = Path(f"/{self.name.partition('://')[2]}")  # in cells, addresses may begin like this
        if metadata is not None:
            self.passed_over.update([] if beside is None else [ending_of(beside)])
            return PathTable(user_path(metadata), root, images, self._endings, key)
        if beside is None:
            if key is not None:
                raise SourceError(f"the metadata key {key!r} is given without a table: name it by --metadata")
            return None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / beside
            try:
                file.write_bytes(read_bucket(self._uri(beside), MAX_TEXT_BYTES))
                return PathTable(file, root, images, self._endings, key)
            except SourceError as exc:
                raise SourceError(f"{self._uri(beside)}: {exc}".replace(f"{folder}/", "")) from exc

    def _row(self, name: str) -> Mapping[str, object]:
        return {} if self._table is None else self._table.row(name)

    def _uri(self, name: str) -> str:
        return f"{self.name}/{name}"
