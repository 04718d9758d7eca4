"""List image sources: which images there are and what is known about them, without reading a pixel.

A source is a folder tree, a parquet file or a folder of them, a tar shard or a folder of them, a directory of the
``datasets`` library, or a prefix of an object store that holds image files. The order is stable, and images are
yielded as they are found, so that memory does not grow with their number. A damaged shard does not stop the listing:
it gives one URI that cannot be read and becomes a failure later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from csp_index.errors import SourceError
from csp_index.files.regular_files import user_path
from csp_index.images.bucket_source import BucketSource
from csp_index.images.datasets import DatasetImages, open_dataset
from csp_index.images.decode import IN_MEMORY, ImageSource
from csp_index.images.files.bucket_files import is_in_bucket
from csp_index.images.folders import TAR_ENDINGS, FolderContents, FolderSource
from csp_index.images.memory_images import register
from csp_index.images.passed_over import PassedOver, refuse_passed_over
from csp_index.images.table_sources import DatasetSource, ParquetSource
from csp_index.images.tar_shards import TarSource

_AT_PATHS = (BucketSource, DatasetSource, FolderSource, ParquetSource, TarSource)
_FILES, _TARS, _PARQUETS = "image files", "tar shards", "parquet files"


def open_source(
    location: Any,
    name: str | None = None,
    *,
    metadata: str | Path | None = None,
    metadata_key: str | None = None,
    class_names: str | Path | None = None,
    image_column: str | None = None,
) -> ImageSource:
    """Return the source at a path, or an object as a source (`datasets.open_dataset`, with its ``name``).

    A source at a path that is open already is returned as it is.

    A folder is a ``datasets`` directory if it was written as one; else a tree of image files, a folder of tar shards
    or one of parquet files, whichever holds the most images. Hidden files and folders are skipped; files that are
    passed over are counted (`passed_over.passed_over_by`).
    ``metadata`` is a table joined to image files by its column ``metadata_key``, by default the one that fits (default
    table: ``metadata.csv``, ``.jsonl`` or ``.parquet`` in the folder, if there is one); what joined is logged.
    ``class_names`` is a file of names for folders that are classes (`class_folders.read_class_names`).
    ``image_column`` names the image column of a table, or the ending of the image members of tar shards (``jpg``).
    Raises SourceError if there is nothing to read.
    """
    about_files = {"metadata": metadata, "metadata_key": metadata_key, "class_names": class_names}
    named = [option for option, value in about_files.items() if value is not None]
    if isinstance(location, _AT_PATHS):
        return location
    if not isinstance(location, str | Path):
        if unfit := [*named, *([] if image_column is None else ["image_column"])]:
            raise SourceError(
                f"a {type(location).__name__} as a source takes no {' and no '.join(unfit)}: its items bring their own "
                "columns"
            )
        return open_dataset(location, name)
    if location == "":
        raise SourceError(
            "the place of the images is an empty text, as of a variable that is not set: give a folder, . for this one"
        )
    if name is not None:
        raise SourceError(
            f"name {name!r} is for datasets that are objects: images of {location} are named by their paths"
        )
    if is_in_bucket(str(location)):
        if image_column is not None:
            raise SourceError(f"{location} holds image files without columns, and takes no image_column: leave it out")
        return BucketSource(str(location), metadata, metadata_key, class_names)
    path = source_path(location).resolve()
    source = _open_folder(path, image_column, about_files) if path.is_dir() else _open_file(path, image_column)
    if named and not isinstance(source, FolderSource):
        raise SourceError(
            f"{path} holds its images and their columns itself, and takes no {' and no '.join(named)}: give a folder "
            "of image files, or leave that out"
        )
    if image_column is not None and isinstance(source, FolderSource):
        raise SourceError(
            f"{path} is a folder of image files without columns, and takes no image_column={image_column!r}: leave it "
            "out"
        )
    return source


def source_path(location: str | Path) -> Path:
    """Return the path of a source on a disk. Raises SourceError where nothing is."""
    path = user_path(location)
    if not os.path.exists(path):
        raise SourceError(
            f"{path} does not exist: give a folder of images, a .parquet file, a .tar shard or a folder of these"
        )
    return path


class HeldDatasets:
    """The datasets that the caller passed to one index: their images can be read while they are kept here."""

    def __init__(self) -> None:
        """Start without datasets."""
        self._images: dict[str, DatasetImages] = {}

    def open(self, source: Any, name: str | None, *, strict: bool = False, **options: Any) -> ImageSource | None:
        """Return `open_source` of the same arguments, None for None; a dataset replaces the one of its name.

        With ``strict``, a source that passes over a file is a SourceError.
        """
        if source is None:
            return None
        images = open_source(source, name, **options)
        if strict:
            refuse_passed_over(images)
        if isinstance(images, DatasetImages):
            self._images[images.name] = images
        return images

    def read_first(self) -> None:
        """Give these datasets priority over those of other indexes, for URIs that both have."""
        for images in self._images.values():
            register(images)

    def clear(self) -> None:
        """Forget all datasets."""
        self._images.clear()


def places_of(source: ImageSource | None) -> tuple[str, ...]:
    """Return the folders and files that a source reads, none for images in memory."""
    if isinstance(source, DatasetImages):
        return source.folders
    return () if source is None or source.name.startswith(IN_MEMORY) else (source.name,)


def _open_file(path: Path, image_column: str | None) -> ImageSource:
    lower = path.name.lower()
    if lower.endswith(".parquet"):
        return ParquetSource(str(path), [path], image_column)
    if lower.endswith(TAR_ENDINGS):
        return TarSource(str(path), [path], image_column)
    raise SourceError(
        f"{path} is neither a folder nor a .parquet or .tar (.tar.gz, ...) file: give the folder that holds the images"
    )


def _open_folder(path: Path, image_column: str | None, about_files: Mapping[str, Any]) -> ImageSource:
    if (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    ):
        return DatasetSource(path, image_column)
    metadata = about_files["metadata"]
    contents = FolderContents(path, None if metadata is None else user_path(metadata))
    kind = _kind_with_most(contents, image_column)
    passed_over = _without_other_kinds(contents, kind)
    if kind == _FILES:
        return FolderSource(contents, about_files["metadata_key"], about_files["class_names"])
    if kind == _TARS:
        return TarSource(str(path), contents.tars, image_column, passed_over)
    if kind == _PARQUETS:
        return ParquetSource(str(path), contents.parquets, image_column, passed_over)
    others = passed_over.total()
    listed = str(passed_over).partition(": ")[2]
    raise SourceError(
        f"{path} holds no images: found {others} other file{'' if others == 1 else 's'} in it and its sub-folders"
        f"{f' ({listed})' if listed else ''}, but none that is an image (.jpg, .png, .webp, ...), .parquet or .tar"
    )


def _kind_with_most(contents: FolderContents, image_column: str | None) -> str | None:
    """Return what the images of a folder are in: image files, tar shards or parquet files; None where there are none.

    Where there are several kinds, the one that holds the most images is taken, and the others are passed over.
    """
    present = {_FILES: contents.pictures.total(), _TARS: len(contents.tars), _PARQUETS: len(contents.parquets)}
    kinds = [kind for kind, count in present.items() if count]
    if len(kinds) < 2:
        return kinds[0] if kinds else None
    counts = {_FILES: 0 if image_column else present[_FILES]}
    for kind in kinds:
        if kind != _FILES:
            counts[kind] = _images_in(contents, kind, image_column, at_most=max(counts.values()) + 1)
    best = max(counts, key=lambda kind: counts[kind])
    return best if counts[best] else kinds[0]


def _images_in(contents: FolderContents, kind: str, image_column: str | None, at_most: int) -> int:
    """Return how many images the shards of a folder hold: 0 for tables of other bytes, no more than ``at_most``."""
    try:
        if kind == _TARS:
            source: ImageSource = TarSource(str(contents.root), contents.tars, image_column)
        else:
            source = table = ParquetSource(str(contents.root), contents.parquets, image_column)
            if not table.are_pictures():
                return 0
    except SourceError:  # they hold none, or cannot be read
        return 0
    return sum(1 for _ in islice(source.refs(), at_most))


def _without_other_kinds(contents: FolderContents, kind: str | None) -> PassedOver:
    """Count the files of the kinds that are not taken as passed over."""
    passed_over = contents.passed_over
    if kind != _FILES:
        passed_over.update({f"{ending} beside the shards": count for ending, count in contents.pictures.items()})
        passed_over.update(table.suffix for table in contents.inner.values())
    if kind != _TARS and contents.tars:
        passed_over["tar shards"] += len(contents.tars)
    if kind != _PARQUETS and contents.parquets:
        passed_over[".parquet"] += len(contents.parquets)
    return passed_over
