"""Containers of many images: the address of an image in one, and its encoded bytes.

Knows nothing about pixels. The containers are parquet files, tar shards and directories of the ``datasets`` library;
``decode.py`` describes their URIs. A row's URI ends in ``@column`` if the user named an image column other than the
automatic one.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from csp_index.errors import SourceError, one_line
from csp_index.files.regular_files import check_file, read_bytes
from csp_index.images.files.formats import HEAD, text_instead
from csp_index.settings import MAX_IMAGE_BYTES, Count


def pick_image_column(schema: Any, requested: str | None = None) -> str:
    """Return the name of the image column of an Arrow schema: binary, or a struct that holds ``bytes``.

    Without ``requested``: the one column of that kind, or the one called ``image`` among several. Raises SourceError
    otherwise.
    """
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    if requested is not None:
        if requested in fitting:
            return requested
        if requested in schema.names:
            kind = schema.field(requested).type
            raise SourceError(
                f"column {requested!r} holds {kind}, not images (binary, or a struct with a field 'bytes')"
            )
        raise SourceError(f"no column {requested!r} (has: {', '.join(schema.names)})")
    if len(fitting) == 1:
        return str(fitting[0])
    if "image" in fitting:
        return "image"
    if not fitting:
        raise SourceError(
            f"no column holds images as binary or as a struct with 'bytes' (has: {', '.join(schema.names)})"
        )
    raise SourceError(f"several columns may hold images ({', '.join(fitting)}): name one with image_column")


def byte_columns(schema: Any) -> frozenset[str]:
    """Return the names of all columns of an Arrow schema that hold encoded files: none of them is metadata."""
    return frozenset(field.name for field in schema if _holds_bytes(field.type))


def load_dataset(directory: str) -> Any:
    """Return the ``datasets`` object saved in a directory. Raises SourceError if the package is missing or fails."""
    try:
        import datasets
    except ImportError as exc:
        raise SourceError(
            f"{directory} is a directory of the 'datasets' library, which is missing: pip install 'csp_index[datasets]'"
        ) from exc
    try:
        return datasets.load_from_disk(directory)
    except Exception as exc:  # the library documents no common base of its errors
        raise SourceError(f"the dataset {directory} cannot be loaded: {one_line(exc)}") from exc


def check_size(what: str, size: int, limit: Count) -> None:
    """Raise SourceError if a member or cell of so many bytes is beyond a limit."""
    if size > limit.value():
        raise SourceError(f"{what} has {size:,} bytes, more than the setting {limit.name} allows ({limit.value():,})")


class BoundedTar(tarfile.TarFile):
    """A tar file that is read to its end in bounded memory, whatever its headers say.

    One that is compressed by gzip, bzip2 or xz is decompressed on the way, so going back in it starts again at its
    beginning. Raises OSError where it cannot be opened, TarError where it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        check_file(path)
        self._file = _BoundedFile(_decompressed(path))
        try:
            super().__init__(fileobj=self._file)
        except BaseException:
            self._file.close()
            raise

    def next(self) -> tarfile.TarInfo | None:
        """Return the next member; raises TarError for one that ends before it begins: the file would never end."""
        member = super().next()
        if member is not None and self.offset <= member.offset:
            raise tarfile.ReadError(f"the size in the header at byte {member.offset:,} is negative")
        return member

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._file.close()


def _decompressed(path: str | Path) -> Any:
    """Open a file; what compressed it is known by its first bytes, whatever its name."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if instead := text_instead(head):
        raise tarfile.ReadError(f"it is {instead}")
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(path)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(path)
    return lzma.LZMAFile(path) if head.startswith(b"\xfd7zXZ\0") else io.FileIO(path)


class _BoundedFile(io.BufferedReader):
    """A file of which no single reading asks for more than the largest image: the header of a member names any size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_IMAGE_BYTES.value() + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("a header asks for more bytes than the setting max_image_bytes allows")
        return super().read(size)


def rows_at_once(metadata: Any, columns: Iterable[str], most: int) -> int:
    """Return how many rows of these columns of a parquet file to read at once: at most `most`, 1 where one is large.

    A dictionary may repeat the largest cell of a row group in all of its rows, so a row may be as large as the group.
    """
    parts = tuple(f"{name}." for name in columns)
    largest = 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = (group.column(place) for place in range(group.num_columns))
        sizes = (chunk.total_uncompressed_size for chunk in chunks if f"{chunk.path_in_schema}.".startswith(parts))
        largest = max(largest, sum(sizes))
    return max(1, min(most, MAX_IMAGE_BYTES.value() // largest))


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


@dataclass(frozen=True, slots=True)
class Address:
    """The address of an image inside a container."""

    kind: type[_Container]
    path: str
    key: str


class _Container(Protocol):
    """A file or directory of many images; keys in ascending order are read fast."""

    def __init__(self, path: str) -> None: ...

    def read(self, key: str) -> bytes: ...

    def close(self) -> None: ...


def container_of(uri: str) -> Address | None:
    """Return the address of an image in its container, or None for a plain file."""
    if "#" not in uri or os.path.isfile(uri):
        return None
    if match := re.fullmatch(r"(.+\.parquet)#(\d+(?:@.+)?)", uri, re.IGNORECASE | re.DOTALL):
        return Address(_ParquetFile, match[1], match[2])
    for match in re.finditer(r"\.(?:tar(?:\.gz|\.bz2|\.xz)?|tgz|tbz2|txz)#", uri, re.IGNORECASE):
        path = uri[: match.end() - 1]
        if os.path.isfile(path):
            return Address(_TarFile, path, uri[match.end() :])
    path, _, key = uri.rpartition("#")
    return Address(_DatasetDirectory, path, key) if os.path.isdir(path) else None


class ContainerReader:
    """Reads by address; every thread keeps its last container open, so that neighbors are read in one pass."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[str, _Container]] = {}

    def read(self, address: Address) -> bytes:
        """Return the encoded bytes of an image. Raises SourceError with a one-line reason."""
        thread = threading.get_ident()
        try:
            path, container = self._open.get(thread, ("", None))
            if container is None or path != address.path:
                self._close(thread)
                container = address.kind(address.path)
                self._open[thread] = (address.path, container)
            return container.read(address.key)
        except SourceError:  # about this image alone
            raise
        except Exception as exc:  # a damaged container can raise nearly anything from its library
            self._close(thread)  # the cursor may be anywhere now
            raise SourceError(one_line(exc)) from exc

    def close(self) -> None:
        """Close the containers that threads left open; no thread may be reading."""
        for thread in list(self._open):
            self._close(thread)

    def _close(self, thread: int) -> None:
        _, container = self._open.pop(thread, ("", None))
        if container is not None:
            container.close()


def _encoded(cell: Any, folder: str) -> bytes:
    """Return the bytes of an Arrow cell: binary itself, or the struct of bytes and path (a file below ``folder``)."""
    if cell.is_valid and "bytes" in getattr(cell, "keys", tuple)():
        names = list(cell.keys())
        path = cell["path"].as_py() if "path" in names else None
        cell = cell["bytes"]
        if not cell.is_valid and path is not None:
            return _file_below(folder, path)
    if not cell.is_valid:
        raise SourceError("the cell is empty")
    check_size("the cell", cell.as_buffer().size, MAX_IMAGE_BYTES)
    return bytes(cell.as_py())


def _file_below(folder: str, path: str) -> bytes:
    """Return the content of a file that a cell names; a table must not fetch other files of its reader."""
    place, root = os.path.realpath(os.path.join(folder, path)), os.path.realpath(folder)
    if os.path.commonpath([place, root]) != root:
        raise SourceError(f"the cell names {path}, which is not below the folder of its file: expected a path below it")
    return read_bytes(place, MAX_IMAGE_BYTES)


def _row_and_column(key: str) -> tuple[int, str | None]:
    row, _, column = key.partition("@")
    if not row.isdigit():
        raise SourceError(f"{key!r} does not name a row")
    return int(row), column or None


class _ParquetFile:
    """Rows of a parquet file: walks through one row group in small batches of the image column."""

    _BATCH = 32

    def __init__(self, path: str) -> None:
        import pyarrow.parquet as pq

        check_file(path)
        self._folder = os.path.dirname(path)
        # Without pre-buffering a group is decoded page by page: one with 100,000 images must not be read into memory
        # as a whole.
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._column = ""
        self._start = self._end = 0
        self._rows: Any = None
        self._batches: Iterator[Any] = iter(())

    def read(self, key: str) -> bytes:
        row, named = _row_and_column(key)
        total = int(self._starts[-1])
        if row >= total:
            raise SourceError(f"row {row} is not in the file, which has {total} rows")
        column = pick_image_column(self._file.schema_arrow, named)
        group_start = int(self._starts[np.searchsorted(self._starts, row, side="right") - 1])
        if column != self._column or row < self._start or self._end <= group_start:
            self._rewind(row, column)
        while row >= self._end:
            self._rows = next(self._batches).column(0)
            self._start, self._end = self._end, self._end + len(self._rows)
        return _encoded(self._rows[row - self._start], self._folder)

    def _rewind(self, row: int, column: str) -> None:
        group = int(np.searchsorted(self._starts, row, side="right") - 1)
        self._column = column
        self._start = self._end = int(self._starts[group])
        groups = range(group, self._file.num_row_groups)
        size = rows_at_once(self._file.metadata, [column], self._BATCH)
        self._batches = self._file.iter_batches(size, row_groups=groups, columns=[column])

    def close(self) -> None:
        self._batches = iter(())
        self._file.close()


class _TarFile:
    """Members of a tar shard, by name; headers are read only up to the last member needed."""

    def __init__(self, path: str) -> None:
        self._tar = BoundedTar(path)
        self._members: dict[str, tarfile.TarInfo] = {}

    def read(self, key: str) -> bytes:
        while key not in self._members:
            member = self._tar.next()
            if member is None:
                raise SourceError(f"the shard has no member {key!r}")
            self._members[member.name] = member
        check_size("the member", self._members[key].size, MAX_IMAGE_BYTES)
        stream = self._tar.extractfile(self._members[key])
        if stream is None:
            raise SourceError(f"the member {key!r} is not a file")
        with stream:
            return stream.read()

    def close(self) -> None:
        self._tar.close()


class _DatasetDirectory:
    """Rows of a ``datasets.save_to_disk`` directory."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._data = load_dataset(path)
        self._splits: dict[tuple[str, str | None], Any] = {}

    def read(self, key: str) -> bytes:
        split, _, place = key.rpartition("/")
        row, named = _row_and_column(place)
        if (split, named) not in self._splits:
            data = self._data[split] if split else self._data
            column = pick_image_column(data.features.arrow_schema, named)
            # The plain Arrow table, because the library would decode the image and the bytes are needed.
            self._splits[split, named] = data.select_columns([column]).with_format("arrow")
        data = self._splits[split, named]
        if row >= len(data):
            raise SourceError(f"row {row} is not in the dataset, which has {len(data)} rows")
        return _encoded(data[row].column(0)[0], self._path)

    def close(self) -> None:
        self._data, self._splits = None, {}
