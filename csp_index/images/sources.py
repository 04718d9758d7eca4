"""List image sources: which images there are and what is known about them, without reading a pixel.

A source is a folder tree, a parquet file or a folder of them, a tar shard or a folder of them, or a directory of the
``datasets`` library. The order is stable, and images are yielded as they are found, so that memory does not grow with
their number. A damaged shard does not stop the listing: it gives one URI that cannot be read and becomes a failure
later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from csp_index.errors import SourceError, one_line
from csp_index.images.containers import byte_columns, check_size, load_dataset, pick_image_column, rows_at_once
from csp_index.images.datasets import DatasetImages, open_dataset
from csp_index.images.decode import IN_MEMORY, ImageRef, ImageSource
from csp_index.images.formats import image_extensions
from csp_index.images.memory_images import register
from csp_index.images.metadata import PathTable
from csp_index.images.tar_shards import TarSource
from csp_index.regular_files import check_file, user_path
from csp_index.settings import MAX_METADATA_BYTES

__all__ = ["FolderSource", "HeldDatasets", "ImageRef", "ImageSource", "open_source", "walk"]

_ROWS_AT_ONCE = 1024
_log = logging.getLogger(__name__)


def open_source(
    location: Any,
    name: str | None = None,
    *,
    metadata: str | Path | None = None,
    metadata_key: str | None = None,
    image_column: str | None = None,
) -> ImageSource:
    """Return the source at a path, or an object as a source (`datasets.open_dataset`, with its ``name``).

    A folder is a ``datasets`` directory if it was written as one, else a tree of image files if it holds one (at any
    depth), else a folder of parquet files, else one of tar shards. Hidden files and folders are skipped.
    ``metadata`` is a table joined to image files by its column ``metadata_key``, by default the one that fits (default
    table: ``metadata.csv``, ``.jsonl`` or ``.parquet`` in the folder, if there is one); what joined is logged.
    ``image_column`` names the image column of a table, or the ending of the image members of tar shards (``jpg``).
    Raises SourceError if there is nothing to read.
    """
    if not isinstance(location, str | Path):
        if metadata is not None or metadata_key is not None or image_column is not None:
            raise SourceError("metadata and image_column are for files: the items of a dataset bring their own columns")
        return open_dataset(location, name)
    if name is not None:
        raise SourceError(
            f"name {name!r} is for datasets that are objects: images of {location} are named by their paths"
        )
    path = user_path(location)
    if not os.path.exists(path):
        raise SourceError(
            f"{path} does not exist: give a folder of images, a .parquet file, a .tar shard or a folder of these"
        )
    path = path.resolve()
    source = (
        _open_folder(path, metadata, metadata_key, image_column) if path.is_dir() else _open_file(path, image_column)
    )
    if (metadata is not None or metadata_key is not None) and not isinstance(source, FolderSource):
        raise SourceError(
            f"a metadata table joins image files by path, but {path} holds its images and their columns itself"
        )
    if image_column is not None and isinstance(source, FolderSource):
        raise SourceError(
            f"image_column={image_column!r} was given, but {path} is a folder of image files and has no columns"
        )
    return source


class HeldDatasets:
    """The datasets that the caller passed to one index: their images can be read while they are kept here."""

    def __init__(self) -> None:
        """Start without datasets."""
        self._images: dict[str, DatasetImages] = {}

    def open(self, source: Any, name: str | None, *, image_column: str | None, **table: Any) -> ImageSource | None:
        """Return `open_source` of the same arguments, None for None; a dataset replaces the one of its name."""
        if source is None:
            return None
        images = open_source(source, name, image_column=image_column, **table)
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
    kind = path.suffix.lower()
    if kind == ".parquet":
        return ParquetSource(str(path), [path], image_column)
    if kind == ".tar":
        return TarSource(str(path), [path], image_column)
    raise SourceError(f"{path} is neither a folder nor a .parquet or .tar file: give the folder that holds the images")


def _open_folder(
    path: Path, metadata: str | Path | None, metadata_key: str | None, image_column: str | None
) -> ImageSource:
    if (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    ):
        return DatasetSource(path, image_column)
    endings = image_extensions()
    shards: dict[str, list[Path]] = {".parquet": [], ".tar": []}
    others = 0
    for relative in walk(path):
        ending = PurePosixPath(relative).suffix.lower()
        if ending in endings:
            return FolderSource(path, metadata, metadata_key)
        if ending in shards:
            shards[ending].append(path / relative)
        else:
            others += 1
    if shards[".parquet"]:
        return ParquetSource(str(path), shards[".parquet"], image_column)
    if shards[".tar"]:
        return TarSource(str(path), shards[".tar"], image_column)
    raise SourceError(
        f"{path} holds no images: found {others} other file{'' if others == 1 else 's'} in it and its sub-folders, "
        "but none that ends like an image (.jpg, .png, .webp, ...), .parquet or .tar"
    )


def walk(root: Path) -> Iterator[str]:
    """Yield the path of every file below a folder, relative to it, sorted as whole strings.

    Only the names of one folder at each depth are in memory. Names that start with a dot are skipped. Links to folders
    are followed, but not in circles. Pipes, devices and broken links are included, so that reading them reports a
    failure.
    """
    return _walk(os.fspath(root), "", frozenset())


def _walk(folder: str, prefix: str, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            # A folder sorts with its slash, which makes the whole listing sorted: 'a-b.png' < 'a/c.png'.
            names = sorted(entry.name + "/" * _is_folder(entry) for entry in entries if not entry.name.startswith("."))
    except OSError as exc:
        raise SourceError(f"the folder {folder} cannot be listed: {one_line(exc)}") from exc
    for name in names:
        if name.endswith("/"):
            yield from _walk(os.path.join(folder, name[:-1]), prefix + name, above | {real})
        else:
            yield prefix + name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


class FolderSource:
    """Image files below a folder, with the rows of a table about them.

    ``missing_rows`` counts the rows of the table whose image does not exist.
    """

    def __init__(self, root: Path, metadata: str | Path | None = None, metadata_key: str | None = None) -> None:
        self.name = str(root)
        self._root = root
        self._endings = image_extensions()
        file = _own_table(root) if metadata is None else user_path(metadata)
        if file is None and metadata_key is not None:
            raise SourceError(f"the metadata key {metadata_key!r} is given without a table: name it by --metadata")
        self._table = None if file is None else PathTable(file, root, self._images(), self._endings, metadata_key)
        self.missing_rows = self._table.missing_rows if self._table is not None else 0
        for line in self._table.notes if self._table is not None else ():
            _log.warning("%s", line)

    def refs(self) -> Iterator[ImageRef]:
        """Yield the images sorted by path; an image without a row has no metadata."""
        folder = self._root.as_posix().rstrip("/")
        for relative in self._images():
            # A name that is not UTF-8 cannot be stored: escaped, it fails as "no such file" and is among the failures.
            uri = f"{folder}/{relative}".encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            yield ImageRef(uri, self._table.row(relative) if self._table is not None else {})

    def _images(self) -> Iterator[str]:
        return (path for path in walk(self._root) if os.path.splitext(path)[1].lower() in self._endings)


def _own_table(root: Path) -> Path | None:
    """Return the table that lies in a folder of images."""
    files = (root / f"metadata{ending}" for ending in (".csv", ".jsonl", ".parquet"))
    return next((file for file in files if file.is_file()), None)


class ParquetSource:
    """Rows of parquet files; every column but those that hold encoded files is metadata."""

    def __init__(self, name: str, files: list[Path], image_column: str | None) -> None:
        import pyarrow.parquet as pq

        self.name = name
        self._files = files
        self._column = image_column
        try:
            check_file(files[0])
            schema = pq.read_schema(files[0])
        except Exception as exc:  # pyarrow raises several kinds, OSError among them
            raise SourceError(f"{files[0]} cannot be read as parquet: {one_line(exc)}") from exc
        try:
            pick_image_column(schema, image_column)
        except SourceError as exc:
            raise SourceError(f"{files[0]}: {exc}") from exc

    def refs(self) -> Iterator[ImageRef]:
        """Yield the rows of all files, in the order of the files."""
        for file in self._files:
            yield from _guarded(self._rows(file), f"{file}#0")

    def _rows(self, file: Path) -> Iterator[ImageRef]:
        import pyarrow.parquet as pq

        check_file(file)
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            suffix = _column_suffix(schema, self._column)
            blobs = byte_columns(schema)
            columns = [name for name in schema.names if name not in blobs]
            if not columns:
                yield from (ImageRef(f"{file}#{row}{suffix}") for row in range(table.metadata.num_rows))
                return
            row = 0
            for batch in table.iter_batches(rows_at_once(table.metadata, columns, _ROWS_AT_ONCE), columns=columns):
                too_large = _too_large(batch)
                for place, values in enumerate(_rows_of(batch, too_large)):
                    yield ImageRef(f"{file}#{row}{suffix}", values)
                    for name, reason in too_large.get(place, {}).items():
                        yield ImageRef(f"{file}#{row}@{name}", failure=reason)
                    row += 1


def _too_large(batch: Any) -> dict[int, dict[str, str]]:
    """Return why cells of a batch are too large to be metadata, by row and column."""
    import pyarrow as pa

    reasons: dict[int, dict[str, str]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.nbytes <= MAX_METADATA_BYTES.value():
            continue
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        for row in range(len(column)):
            try:
                check_size("the metadata", column.slice(row, 1).nbytes, MAX_METADATA_BYTES)
            except SourceError as exc:
                reasons.setdefault(row, {})[name] = str(exc)
    return reasons


def _rows_of(batch: Any, too_large: Mapping[int, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return the rows of a batch, with None in place of the cells that are too large."""
    names = sorted({name for columns in too_large.values() for name in columns})
    rest = [name for name in batch.schema.names if name not in names]
    rows: list[dict[str, Any]] = batch.select(rest).to_pylist() if rest else [{} for _ in range(batch.num_rows)]
    for name in names:
        for row, value in enumerate(batch.column(name)):
            rows[row][name] = None if name in too_large.get(row, {}) else value.as_py()
    return rows


class DatasetSource:
    """Rows of a ``datasets.save_to_disk`` directory, split after split; class labels stay numbers."""

    def __init__(self, path: Path, image_column: str | None) -> None:
        self.name = str(path)
        self._column = image_column
        data = load_dataset(str(path))
        self._splits: dict[str, Any] = (
            {f"{name}/": part for name, part in data.items()} if isinstance(data, dict) else {"": data}
        )
        for split in self._splits.values():
            pick_image_column(split.features.arrow_schema, image_column)

    def refs(self) -> Iterator[ImageRef]:
        """Yield the rows of all splits; the split is in the URI and, where there are several, in the metadata."""
        for prefix, data in self._splits.items():
            schema = data.features.arrow_schema
            suffix = _column_suffix(schema, self._column)
            split: dict[str, object] = {"split": prefix.rstrip("/")} if prefix else {}
            rows = data.remove_columns(sorted(byte_columns(schema))).with_format("arrow")
            known = bool(rows.column_names)
            for start in range(0, len(data), _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, len(data))
                batch = rows[start:stop].to_pylist() if known else [{}] * (stop - start)
                for row, values in enumerate(batch, start):
                    yield ImageRef(f"{self.name}#{prefix}{row}{suffix}", {**split, **values})


def _column_suffix(schema: Any, named: str | None) -> str:
    """Return the end of the URI that names the image column: empty if it is the automatic one."""
    column = pick_image_column(schema, named)
    try:
        automatic = pick_image_column(schema)
    except SourceError:
        automatic = ""
    return "" if column == automatic else f"@{column}"


def _guarded(refs: Iterable[ImageRef], broken: str) -> Iterator[ImageRef]:
    """Yield the images; where the file turns out to be damaged, yield ``broken`` with the reason."""
    try:
        yield from refs
    except Exception as exc:  # the library raises several kinds
        yield ImageRef(broken, failure=one_line(exc))
