"""Read a table about images, whatever common format it has, as Arrow columns.

Text (``text_tables``) and JSON (``json_tables``), also compressed by gzip, bzip2 or xz; parquet, Arrow or Feather; and
Excel (extra ``excel``). Knows nothing about images. What had to be guessed is in ``notes``.
"""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from csp_index.errors import SourceError, one_line
from csp_index.files.regular_files import check_file, decoded, read_bytes
from csp_index.images.tables.json_tables import read_json_table
from csp_index.images.tables.table import MetadataFile, named_columns, table_of
from csp_index.images.tables.text_tables import read_text_table
from csp_index.settings import MAX_TEXT_BYTES

_COMPRESSED: Final[dict[str, Callable[[BinaryIO], Any]]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_INDEX: Final = "__index_level_"  # of pandas
_NO_TEXT: Final = {
    b"PK\3\4": "it is an archive or an Office file: unpack it, or save it as .xlsx or CSV",
    b"\xd0\xcf\x11\xe0": "it is an old Office file: save it as .xlsx or CSV",
    b"PAR1": "it is a parquet file: let its name end in .parquet",
    b"SQLite format": "it is a database: export the table as CSV",
    b"\x80\x04": "it is a pickled object, which is never opened: save it as CSV or parquet",
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file: run `git lfs pull` in its repository",
}


def read_metadata_file(file: Path, *, header: bool = True) -> MetadataFile:
    """Read a table; without ``header`` the first line of text or Excel is a row. SourceError says what is wrong."""
    kind = file.suffix.lower()
    try:
        if kind in (".parquet", ".feather", ".arrow"):
            check_file(file, MAX_TEXT_BYTES)
            return _arrow(file, kind)
        if kind == ".xlsx":
            check_file(file, MAX_TEXT_BYTES)
            return _excel(file, header)
        data = read_bytes(file, MAX_TEXT_BYTES)
        if kind in _COMPRESSED:
            kind, data = file.with_suffix("").suffix.lower(), _decompressed(data, _COMPRESSED[kind])
        advice = next((advice for start, advice in _NO_TEXT.items() if data.startswith(start)), None)
        if advice is not None:
            raise ValueError(advice)
        if kind in (".json", ".jsonl", ".ndjson", ".geojson"):
            return read_json_table(decoded(data)[0], lines=kind in (".jsonl", ".ndjson"))
        return read_text_table(data, header=header)
    except SourceError:
        raise
    except (OSError, EOFError, ValueError, csv.Error, RecursionError, lzma.LZMAError, zlib.error) as exc:
        raise SourceError(f"the metadata table {file} cannot be read: {one_line(exc)}") from exc


def _decompressed(data: bytes, opened: Callable[[BinaryIO], Any]) -> bytes:
    with opened(io.BytesIO(data)) as stream:
        content: bytes = stream.read(MAX_TEXT_BYTES.value() + 1)
    if len(content) > MAX_TEXT_BYTES.value():
        raise ValueError(f"its content has more bytes than the setting {MAX_TEXT_BYTES.name} allows")
    return content


def _arrow(file: Path, kind: str) -> MetadataFile:
    """Return a table of parquet or Feather: decimals as floats, NaN as null, no bytes and no row numbers of pandas."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.feather
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file) if kind == ".parquet" else pyarrow.feather.read_table(file)
    columns, left_out = [], []
    for name, column in zip(table.column_names, table.columns, strict=True):
        while pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if pa.types.is_decimal(column.type):
            column = pc.cast(column, pa.float64())
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        if "binary" in str(column.type):
            left_out.append(name)
        elif not name.startswith(_INDEX):
            columns.append((name, column))
        elif not pa.types.is_integer(column.type):  # names, perhaps of images, and no numbers of rows
            columns.append(("index", column))
    twice = next((name for place, (name, _) in enumerate(columns) if name in dict(columns[:place])), None)
    if twice is not None:
        raise ValueError(f"it has two columns {twice!r}: rename one")
    notes = [f"columns of bytes are left out ({', '.join(left_out)})"] if left_out else []
    return MetadataFile(table_of([name for name, _ in columns], [column for _, column in columns]), notes)


def _excel(file: Path, header: bool) -> MetadataFile:
    try:
        import openpyxl
    except ImportError:
        raise SourceError(
            f"the metadata table {file} is an Excel file, which needs openpyxl: pip install 'csp_index[excel]', "
            "or save it as CSV"
        ) from None
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    except Exception as exc:  # zipfile's, XML parsers' and openpyxl's own
        raise ValueError(one_line(exc)) from exc
    try:
        rows = [row for row in book.worksheets[0].iter_rows(values_only=True) if any(cell is not None for cell in row)]
        sheets = book.sheetnames
    finally:
        book.close()
    if not rows:
        raise ValueError("its first sheet is empty")
    notes = [f"only its first sheet, {sheets[0]}, is read"] if len(sheets) > 1 else []
    filled = [sum(cell is not None for cell in row) for row in rows]
    above = next((place for place, count in enumerate(filled) if count > 1), 0)  # a title, then the table
    if above:
        notes.append(f"{above} row{' is' if above == 1 else 's are'} left out above the table")
    width = max(map(len, rows))
    padded = [(*row, *[None] * (width - len(row))) for row in rows[above:]]
    names = ["" if name is None else str(name) for name in padded[0]] if header else [""] * width
    cells = zip(*padded[header:], strict=True) if len(padded) > header else [()] * width
    columns = named_columns(names, [_cells(list(column)) for column in cells])
    return MetadataFile(table_of(list(columns), list(columns.values())), notes, has_header=header)


def _cells(cells: list[Any]) -> Any:
    """Return cells of one kind as they are, of several as text; a day without a time is written without one."""
    import pyarrow as pa

    plain = [cell if isinstance(cell, str | int | float | bool | None) else _moment(cell) for cell in cells]
    plain = [None if cell == "" else cell for cell in plain]
    kinds = {type(cell) for cell in plain if cell is not None}
    same = len(kinds) <= 1 or kinds == {int, float}
    try:
        return pa.array(plain if same else [None if cell is None else str(cell) for cell in plain])
    except OverflowError:  # beyond 64 bits
        return pa.array([None if cell is None else str(cell) for cell in plain])


def _moment(cell: object) -> str:
    midnight = isinstance(cell, datetime.datetime) and cell.time() == datetime.time()
    return str(cell.date() if midnight and isinstance(cell, datetime.datetime) else cell)
