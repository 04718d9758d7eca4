"""Read a table about images, whatever common format it has, as Arrow columns.

CSV with any usual separator and encoding, JSON (a list of objects, objects by id, columns), JSON lines, parquet,
Arrow or Feather, and Excel (extra ``excel``). Knows nothing about images. What had to be guessed is in ``notes``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from csp_index.errors import SourceError, one_line
from csp_index.regular_files import check_file, read_bytes
from csp_index.settings import MAX_TEXT_BYTES

ENDINGS: Final = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".feather", ".arrow", ".xlsx")
_SEPARATORS: Final = ",;\t|"
_ROWS_AT_ONCE: Final = 10_000
_MARKS: Final = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass
class MetadataFile:
    """The columns of a table, text as text, numbers as numbers, empty cells null; and what was guessed about it."""

    columns: Any  # pyarrow.Table
    notes: list[str] = field(default_factory=list)


def read_metadata_file(file: Path) -> MetadataFile:
    """Read a table. Raises SourceError that says what is wrong with it."""
    kind = file.suffix.lower()
    try:
        if kind in (".parquet", ".feather", ".arrow"):
            check_file(file, MAX_TEXT_BYTES)
            result = MetadataFile(_arrow(file, kind))
        elif kind == ".xlsx":
            check_file(file, MAX_TEXT_BYTES)
            result = _excel(file)
        elif kind in (".json", ".jsonl", ".ndjson"):
            result = _json(_text(read_bytes(file, MAX_TEXT_BYTES))[0])
        else:
            result = _csv(read_bytes(file, MAX_TEXT_BYTES))
    except SourceError:
        raise
    except (OSError, ValueError, csv.Error, RecursionError) as exc:  # ArrowInvalid is a ValueError
        raise SourceError(f"the metadata table {file} cannot be read: {one_line(exc)}") from exc
    names = result.columns.column_names
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise SourceError(f"the metadata table {file} has two columns {twice!r}: rename one")
    return result


def _arrow(file: Path, kind: str) -> Any:
    import pyarrow.feather
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file) if kind == ".parquet" else pyarrow.feather.read_table(file)
    index = [name for name in table.column_names if name.startswith("__index_level_")]  # of pandas
    return table.drop_columns(index).replace_schema_metadata(None)


def _text(data: bytes) -> tuple[str, list[str]]:
    """Return the text of a file: UTF-8, UTF-16 with its mark, or else Windows-1252, which is noted."""
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding), []
    except UnicodeDecodeError:
        if encoding != "utf-8" or b"\0" in data:
            raise ValueError("it is not text, expected a table in UTF-8") from None
    try:
        return data.decode("cp1252"), ["it is not UTF-8 and was read as Windows-1252"]
    except UnicodeDecodeError:
        raise ValueError("it is neither UTF-8 nor Windows-1252: save it as UTF-8") from None


def _csv(data: bytes) -> MetadataFile:
    text, notes = _text(data)
    separator = _separator(text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    names = [name.strip() for name in next(lines, [])]
    if not names:
        raise ValueError("it is empty, expected a first line with the names of columns")
    if len(names) > 1 and not names[0]:
        names[0] = "Unnamed: 0"  # as pandas calls the index that it wrote
    short = 0
    blocks: list[list[Any]] = [[] for _ in names]
    for rows in _blocks(lines):
        for number, row in rows:
            if len(row) > len(names) and any(cell.strip() for cell in row[len(names) :]):
                raise ValueError(
                    f"line {number} has {len(row)} cells, expected {len(names)}: put cells that contain "
                    f"{separator!r} in double quotes"
                )
            if len(row) < len(names):
                short += 1
        padded = (row[: len(names)] + [""] * (len(names) - len(row)) for _, row in rows)
        for block, cells in zip(blocks, zip(*padded, strict=True), strict=True):
            block.append(_strings(cells))
    if short:
        notes.append(f"{short} {'row has' if short == 1 else 'rows have'} fewer cells than columns: the rest is empty")
    return MetadataFile(_table(names, [_typed(_joined(block)) for block in blocks]), notes)


def _blocks(lines: Any) -> Iterator[list[tuple[int, list[str]]]]:
    block: list[tuple[int, list[str]]] = []
    for row in lines:
        if row:
            block.append((lines.line_num, row))
        if len(block) == _ROWS_AT_ONCE:
            yield block
            block = []
    if block:
        yield block


def _separator(text: str) -> str:
    """Return the separator that is most frequent in the first line, outside quotes."""
    outside = "".join(text.lstrip("\n\r").partition("\n")[0].split('"')[::2])
    return max(_SEPARATORS, key=outside.count)


def _json(text: str) -> MetadataFile:
    notes: list[str] = []
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(value, dict):
        value = _rows_of(value, notes)
    if isinstance(value, dict) and "images" in value:
        others = ", ".join(name for name in value if name != "images")
        if others:
            notes.append(f"of its parts only 'images' is read, not {others}")
        value = value["images"]
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise ValueError("expected a list of objects, one per image, or objects by the names of images")
    names = list(dict.fromkeys(name for row in value for name in row))
    import pyarrow as pa

    def column(name: str) -> Any:
        cells = [row.get(name) for row in value]
        try:
            return pa.array([None if cell == "" else cell for cell in cells])
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # of several kinds
            return pa.array([cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells])

    return MetadataFile(_table(names, [column(name) for name in names]), notes)


def _rows_of(value: dict[str, Any], notes: list[str]) -> Any:
    """Return rows from a dictionary: of objects by id, of lists by column; another one as it is."""
    parts = list(value.values())
    if parts and all(isinstance(part, dict) for part in parts):
        return [{"key": name, **part} for name, part in value.items()]
    lists = bool(parts) and all(isinstance(part, list) for part in parts)
    if lists and len({len(part) for part in parts}) == 1 and not all(isinstance(cell, dict) for cell in parts[0]):
        return [dict(zip(value, row, strict=True)) for row in zip(*parts, strict=True)]
    if parts and all(isinstance(part, str | int | float | bool | None) for part in parts):
        notes.append("its names are images, and its values stand in the column 'value'")
        return [{"key": name, "value": part} for name, part in value.items()]
    return value


def _excel(file: Path) -> MetadataFile:
    try:
        import openpyxl
    except ImportError:
        raise SourceError(
            f"the metadata table {file} is an Excel file, which needs openpyxl: pip install 'csp_index[excel]', "
            "or save it as CSV"
        ) from None
    import pyarrow as pa

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
    names = ["" if name is None else str(name).strip() for name in rows[0]]
    places = [place for place, name in enumerate(names) if name]
    columns = []
    for place in places:
        cells = [row[place] if place < len(row) else None for row in rows[1:]]
        plain = [cell if isinstance(cell, str | int | float | bool | None) else str(cell) for cell in cells]
        kinds = {type(cell) for cell in plain if cell is not None}
        same = len(kinds) <= 1 or kinds == {int, float}
        columns.append(pa.array(plain if same else [None if cell is None else str(cell) for cell in plain]))
    notes = [f"only its first sheet, {sheets[0]}, is read"] if len(sheets) > 1 else []
    return MetadataFile(_table([names[place] for place in places], columns), notes)


def _strings(cells: Sequence[str]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.utf8_trim_whitespace(pa.array(cells, pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _joined(parts: Sequence[Any]) -> Any:
    import pyarrow as pa

    return pa.chunked_array(parts, pa.string())


def _table(names: Sequence[str], columns: Sequence[Any]) -> Any:
    import pyarrow as pa

    return pa.Table.from_arrays(list(columns), names=list(names))


_NO_NUMBER: Final = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "#N/A", "-", "?")
_WORDS: Final[Mapping[str, bool]] = {
    "true": True,
    "false": False,
    "True": True,
    "False": False,
    "TRUE": True,
    "FALSE": False,
}


def _typed(column: Any) -> Any:
    """Return a column of text as numbers or as true and false if all of its cells are; an id like 007 stays text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    blank = pc.is_in(column, pa.array(_NO_NUMBER))
    numbers = pc.if_else(blank, pa.scalar(None, pa.string()), column)
    if numbers.null_count == len(numbers):
        return column
    if pc.any(pc.match_substring_regex(numbers, r"^[+-]?0\d")).as_py():
        return column
    for kind in (pa.int64(), pa.float64()):
        try:
            return pc.cast(numbers, kind)
        except pa.ArrowInvalid:
            continue
    if pc.all(pc.is_in(column.drop_null(), pa.array(list(_WORDS)))).as_py():
        return pc.equal(pc.utf8_lower(column), "true")
    return column
