"""A CSV table about image files, joined by path.

Knows nothing about images. The table stays columnar in memory; a row becomes a dictionary only when its image is
listed.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from posixpath import basename, normpath
from typing import Any

from csp_index.errors import SourceError, one_line
from csp_index.regular_files import check_file
from csp_index.settings import MAX_TEXT_BYTES

_PATH_COLUMNS = ("path", "file_name", "filename", "file", "filepath", "file_path", "image_path", "image")
_ROWS_TRIED = 100


class PathTable:
    """The rows of a CSV (or .tsv) file by image path.

    The path column is ``path`` or another usual name, else the first column that names existing files. Its values are
    relative to ``root`` (or absolute); a bare file name also fits an image in a sub-folder if no other image has that
    name. Of two rows about one image the first counts. ``missing_rows`` counts the rows that name no image.
    """

    def __init__(self, file: Path, root: Path, images: Iterable[str]) -> None:
        self._file = file
        column = _path_column(file, root)
        table = _read(file, column)
        self._columns = table.drop_columns([column])
        requested: dict[str, int] = {}
        for row, value in enumerate(table[column].to_pylist()):
            requested.setdefault(_relative(value, root), row)
        self._rows, joined = self._join(requested, images)
        self.missing_rows = len(requested) - joined

    def row(self, relative: str) -> dict[str, object]:
        """Return the table's columns for an image; empty if it has no row."""
        index = self._rows.get(relative)
        if index is None:
            return {}
        return {name: self._columns[name][index].as_py() for name in self._columns.column_names}

    def _join(self, requested: dict[str, int], images: Iterable[str]) -> tuple[dict[str, int], int]:
        rows: dict[str, int] = {}
        by_name: dict[str, list[str]] = {}
        for relative in images:
            if relative in requested:
                rows[relative] = requested[relative]
            elif (name := basename(relative)) in requested:
                by_name.setdefault(name, []).append(relative)
        for name, paths in by_name.items():
            if name in rows:
                continue
            if len(paths) > 1:
                raise SourceError(
                    f"{self._file} names {name!r}, but {len(paths)} images share it ({paths[0]}, {paths[1]}, ...): "
                    "give paths relative to the folder"
                )
            rows[paths[0]] = requested[name]
        return rows, len(rows)


def _delimiter(file: Path) -> str:
    return "\t" if file.suffix.lower() == ".tsv" else ","


def _relative(value: object, root: Path) -> str:
    path = normpath(str(value).strip().replace("\\", "/"))
    return os.path.relpath(path, root).replace(os.sep, "/") if os.path.isabs(path) else path


def _path_column(file: Path, root: Path) -> str:
    """Return the name of the column that holds paths. Raises SourceError that lists the columns."""
    try:
        check_file(file, MAX_TEXT_BYTES)
        with open(file, newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream, delimiter=_delimiter(file))
            columns = next(lines, [])
            sample = [line for _, line in zip(range(_ROWS_TRIED), lines, strict=False)]
    except (OSError, ValueError, csv.Error) as exc:
        raise SourceError(f"the metadata table {file} cannot be read: {one_line(exc)}") from exc
    twice = next((name for place, name in enumerate(columns) if name in columns[:place]), None)
    if twice is not None:
        raise SourceError(f"the metadata table {file} has two columns {twice!r}: rename one")
    for name in _PATH_COLUMNS:
        if name in columns:
            return name
    for place, name in enumerate(columns):
        if any(place < len(line) and line[place] and (root / line[place]).is_file() for line in sample):
            return name
    listed = ", ".join(columns) or "none"
    raise SourceError(f"the metadata table {file} has no column with image paths (has: {listed}): name it 'path'")


def _read(file: Path, column: str) -> Any:
    import pyarrow as pa
    import pyarrow.csv

    try:
        return pyarrow.csv.read_csv(
            file,
            parse_options=pyarrow.csv.ParseOptions(delimiter=_delimiter(file), newlines_in_values=True),
            # As text: a file called 007 must not become the number 7.
            convert_options=pyarrow.csv.ConvertOptions(column_types={column: pa.string()}),
        )
    except (pa.ArrowException, OSError) as exc:
        raise SourceError(f"the metadata table {file} cannot be read: {one_line(exc)}") from exc
