"""Images in the columns of tables: parquet files and directories of the ``datasets`` library.

Every column but those that hold encoded files is metadata. A column of class numbers, whose names the library keeps
with the table, gets a second one with the names: `label_name` beside `label`. Knows nothing about pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from csp_index.errors import SourceError, one_line
from csp_index.files.regular_files import check_file, open_file
from csp_index.images.decode import ImageRef
from csp_index.images.files.containers import (
    ContainerReader,
    byte_columns,
    check_size,
    container_of,
    load_dataset,
    pick_image_column,
    rows_at_once,
)
from csp_index.images.files.formats import HEAD, kind_of, text_instead
from csp_index.images.passed_over import PassedOver
from csp_index.settings import MAX_METADATA_BYTES

_ROWS_AT_ONCE = 1024
_CELLS_TRIED = 8


class ParquetSource:
    """Rows of parquet files; every column but those that hold encoded files is metadata."""

    def __init__(
        self, name: str, files: list[Path], image_column: str | None, passed_over: PassedOver | None = None
    ) -> None:
        """Look for the files that have an image column; ``passed_over`` is what lies beside them.

        Raises SourceError where no file has one. A file that cannot be read is listed, to become a failure.
        """
        self.name = name
        self.passed_over = passed_over or PassedOver()
        self._column = image_column
        problems: dict[Path, SourceError] = {}
        for file in files:
            try:
                _check_image_column(file, image_column)
            except SourceError as exc:
                problems[file] = exc
        if len(problems) == len(files):
            raise problems[files[0]]
        without = {file for file, problem in problems.items() if not isinstance(problem, _UnreadableError)}
        self._files = [file for file in files if file not in without]
        self.passed_over.update({".parquet without images": len(without)} if without else {})

    def refs(self) -> Iterator[ImageRef]:
        """Yield the rows of all files, in the order of the files."""
        for file in self._files:
            yield from _guarded(self._rows(file), f"{file}#0")

    def are_pictures(self) -> bool:
        """Return whether one of the first cells begins like a picture: a column of bytes may hold anything."""
        reader = ContainerReader()
        try:
            for ref in islice(self.refs(), _CELLS_TRIED):
                address = container_of(ref.uri)
                try:
                    if address is not None and kind_of(reader.read(address)[:HEAD]):
                        return True
                except SourceError:  # an empty cell
                    continue
            return False
        finally:
            reader.close()

    def _rows(self, file: Path) -> Iterator[ImageRef]:
        import pyarrow.parquet as pq

        check_file(file)
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            suffix = _column_suffix(schema, self._column)
            blobs, classes = byte_columns(schema), _class_names(schema)
            columns = [name for name in schema.names if name not in blobs]
            if not columns:
                yield from (ImageRef(f"{file}#{row}{suffix}") for row in range(table.metadata.num_rows))
                return
            row = 0
            for batch in table.iter_batches(rows_at_once(table.metadata, columns, _ROWS_AT_ONCE), columns=columns):
                too_large = _too_large(batch)
                for place, values in enumerate(_rows_of(batch, too_large)):
                    _add_names(values, classes)
                    yield ImageRef(f"{file}#{row}{suffix}", values)
                    for name, reason in too_large.get(place, {}).items():
                        yield ImageRef(f"{file}#{row}@{name}", failure=reason)
                    row += 1


class _UnreadableError(SourceError):
    """A file is no parquet file, or a damaged one."""


def _check_image_column(file: Path, image_column: str | None) -> None:
    import pyarrow.parquet as pq

    try:
        check_file(file)
        schema = pq.read_schema(file)
    except Exception as exc:  # pyarrow raises several kinds, OSError among them
        raise _UnreadableError(f"{file} cannot be read as parquet: {_why(file, exc)}") from exc
    try:
        pick_image_column(schema, image_column)
    except SourceError as exc:
        raise SourceError(f"{file}: {exc}") from exc


def _why(file: Path, exc: Exception) -> str:
    try:
        with open_file(file) as stream:
            instead = text_instead(stream.read(HEAD))
    except OSError:
        instead = ""
    return f"it is {instead}" if instead else one_line(exc)


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
    """Rows of a ``datasets.save_to_disk`` directory, split after split."""

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
            known, classes = bool(rows.column_names), _class_names(schema)
            for start in range(0, len(data), _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, len(data))
                batch = rows[start:stop].to_pylist() if known else [{}] * (stop - start)
                for row, values in enumerate(batch, start):
                    _add_names(values, classes)
                    yield ImageRef(f"{self.name}#{prefix}{row}{suffix}", {**split, **values})


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the names of classes by the column of their numbers, as the ``datasets`` library writes them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        kinds = [(name, kind) for name, kind in features.items() if kind.get("_type") == "ClassLabel"]
        return {name: [str(text) for text in kind["names"]] for name, kind in kinds}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # not by that library
        return {}


def _add_names(values: dict[str, Any], classes: Mapping[str, Sequence[str]]) -> None:
    for column, names in classes.items():
        number = values.get(column)
        if isinstance(number, int) and 0 <= number < len(names):  # -1 stands for no class
            values.setdefault(f"{column}_name", names[number])


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
