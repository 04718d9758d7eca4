"""Read tables that are text: CSV with any usual separator, as programs and people write it, or columns of spaces.

What had to be guessed is noted. Knows nothing about images.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Final, Literal

from csp_index.files.regular_files import decoded
from csp_index.images.tables.table import MetadataFile, named_columns, table_of

_SEPARATORS: Final = ",;\t|"
_SPACES: Final = " "
_SHIFTED: Final = (_SPACES, "\t")  # tables in which the first line may lack the name of the first column
_ROWS_AT_ONCE: Final = 10_000
_TRIED: Final = 50  # rows by which a file's form is recognized
_END: Final = "\x04"  # a row of its own, unless a quote is open
_SEPARATOR_LINE: Final = re.compile(r"\s*sep=(.)\s*", re.IGNORECASE)  # with which Excel begins a file


def read_text_table(data: bytes, *, header: bool = True) -> MetadataFile:
    """Return the table in a text file; without ``header`` its first line is a row, and columns are numbered.

    Lines above the table are left out: comments, a title, a count of rows. Raises ValueError that says what is wrong.
    """
    text, note = decoded(data)
    form = _form(text)
    notes = [note] if note else []
    notes += form.notes
    rows = _rows(text, form)
    first = next(rows, None)
    if first is None:
        raise ValueError("it is empty, expected a first line with the names of columns")
    if header:
        names = [first[1][0].removeprefix("# "), *first[1][1:]]
        names = ["", *names] if form.separator in _SHIFTED and len(names) == form.width - 1 else names
    else:
        names, rows = [""] * form.width, chain([first], rows)
    columns = _columns(rows, names, form, notes)
    commas = [name for name, column in columns.items() if form.separator == ";" and _has_decimal_commas(column)]
    if commas:
        notes.append(f"decimal commas are read as points ({', '.join(commas)})")
    typed = [_typed(_with_points(column) if name in commas else column) for name, column in columns.items()]
    return MetadataFile(table_of(list(columns), typed), notes, has_header=header)


@dataclass(frozen=True, slots=True)
class _Form:
    """How a text is a table: what parts cells, in which line it begins, how many cells most rows have."""

    separator: str
    start: int
    width: int
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
    notes: tuple[str, ...] = ()


def _form(text: str) -> _Form:
    lines = list(islice(io.StringIO(text, newline=""), 2 * _TRIED))
    start, separator = 0, ""
    if lines and (match := _SEPARATOR_LINE.fullmatch(lines[0])):
        start, separator = 1, match[1]
    separator = separator or separator_of(lines)
    cells = _cells(lines[start:], separator)
    widths = [len(row) for row in (cells[-1:] if separator == _SPACES else cells[1:] or cells)]
    width = Counter(widths).most_common(1)[0][0] if cells else 0
    above = 0
    for row in cells[:-1]:
        while not lines[start].strip():
            start += 1
        if not _is_above(row, lines[start], width):
            break
        above, start = above + 1, start + 1
    notes = [f"{above} line{' is' if above == 1 else 's are'} left out above the table"] if above else []
    form = _Form(separator, start, width)
    quoting = csv.QUOTE_NONE if separator == _SPACES else _quoting(text, form, notes)
    return _Form(separator, start, width, quoting, tuple(notes))


def _is_above(cells: Sequence[str], line: str, width: int) -> bool:
    """Return whether a line stands above a table of so many columns: a title, a number of rows, or a comment."""
    title = width > 1 and bool(cells[0].strip()) and not any(cell.strip() for cell in cells[1:])
    return title or (line.startswith("# ") and len(cells) != width)


def separator_of(lines: Sequence[str]) -> str:
    r"""Return what parts most lines into equally many cells: a usual separator, or else spaces.

    >>> separator_of(["name;size (w,h)\n", "a.jpg;3\n"]), separator_of(["a.jpg 3\n", "b.jpg 4\n"])
    (';', ' ')
    """
    best, most = "", (0, 0)
    for separator in _SEPARATORS:
        widths = Counter(len(row) for row in _cells(lines, separator) if len(row) > 1)
        for width, count in widths.items():
            if (count, width) > most:
                best, most = separator, (count, width)
    rows = _cells(lines, _SPACES)
    return _SPACES if most[0] < len(rows) / 2 and _is_spaced(rows) else best or ","


def _is_spaced(rows: list[list[str]]) -> bool:
    """Return whether spaces part all lines alike, but for a number of rows, and a name less in the first line."""
    if rows and len(rows[0]) == 1 and rows[0][0].isdigit():
        rows = rows[1:]
    width = len(rows[-1]) if len(rows) > 1 else 0
    alike = width > 1 and all(len(row) == width for row in rows[1:])
    return alike and (len(rows[0]) == width or len(rows[0]) == width - 1 > 1)


def _cells(lines: Sequence[str], separator: str) -> list[list[str]]:
    """Return the first rows; a quote that is not closed makes what follows one cell."""
    if separator == _SPACES:
        return [line.split() for line in lines[:_TRIED] if line.strip()]
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=separator != "\t")
    try:
        return [row for row in islice(reader, _TRIED) if row]
    except csv.Error:
        return []


def _quoting(text: str, form: _Form, notes: list[str]) -> Literal[0, 3]:
    """Return how quotes are meant: around cells, or as they stand if a cell begins with one that is never closed."""
    if '"' not in text or _is_closed(text, form, strict=True) or _is_closed(text, form, strict=False):
        return csv.QUOTE_MINIMAL
    plain = replace(form, quoting=csv.QUOTE_NONE)
    if all(len(row) == form.width for _, row in _rows(text, plain)):
        notes.append("a cell begins with a quote that is not closed: all quotes are read as they stand")
        return csv.QUOTE_NONE
    raise ValueError("a double quote begins a cell and is not closed: close it, or write it twice inside of quotes")


def _is_closed(text: str, form: _Form, *, strict: bool) -> bool:
    """Return whether every quote is closed; if not ``strict``, in its own line."""
    row: list[str] = []
    try:
        for row in _reader(text, form, strict=strict):
            if not strict and any("\n" in cell for cell in row):
                return False
    except csv.Error:
        return False
    return row == [_END]


def _reader(text: str, form: _Form, *, strict: bool = False) -> Any:
    lines = islice(io.StringIO(text, newline=""), form.start, None)
    space = form.separator != "\t"
    return csv.reader(
        chain(lines, [_END]), delimiter=form.separator, quoting=form.quoting, skipinitialspace=space, strict=strict
    )


def _rows(text: str, form: _Form) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows with the numbers of their lines; the first may be the names of columns."""
    if form.separator == _SPACES:
        lines = islice(io.StringIO(text, newline=""), form.start, None)
        yield from ((number, line.split()) for number, line in enumerate(lines, form.start + 1) if line.strip())
        return
    reader = _reader(text, form)
    for row in reader:
        if row and row != [_END]:
            yield form.start + reader.line_num, row


def _columns(
    rows: Iterator[tuple[int, list[str]]], names: Sequence[str], form: _Form, notes: list[str]
) -> dict[str, Any]:
    """Return the columns as text by name; those without a name and a value are left out."""
    import pyarrow as pa

    width, short = len(names), 0
    blocks: list[list[Any]] = [[] for _ in names]
    while block := list(islice(rows, _ROWS_AT_ONCE)):
        for number, row in block:
            if len(row) > width and any(cell.strip() for cell in row[width:]):
                raise ValueError(
                    f"line {number} has {len(row)} cells, expected {width}: put cells that contain "
                    f"{form.separator!r} in double quotes"
                )
            short += len(row) < width
        padded = (row[:width] + [""] * (width - len(row)) for _, row in block)
        for part, cells in zip(blocks, zip(*padded, strict=True), strict=True):
            part.append(_strings(cells))
    if short:
        notes.append(f"{short} {'row has' if short == 1 else 'rows have'} fewer cells than columns: the rest is empty")
    return named_columns(names, [pa.chunked_array(part, pa.string()) for part in blocks])


def _strings(cells: Sequence[str]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.utf8_trim_whitespace(pa.array(cells, pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


_NO_NUMBER: Final = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "#N/A", "-", "?")
_ID: Final = r"^[+-]?(?:0\d|\d{19,}$|\d+[eE]\d+$)"  # 007; more digits than a number keeps; 12e4, as hashes may be
_WORDS: Final[Mapping[str, bool]] = {
    "true": True,
    "false": False,
    "True": True,
    "False": False,
    "TRUE": True,
    "FALSE": False,
}


def _has_decimal_commas(column: Any) -> bool:
    """Return whether a column of text holds numbers with a decimal comma."""
    import pyarrow.compute as pc

    cells = pc.filter(column, pc.invert(pc.is_in(column, value_set=_no_number()))).drop_null()
    whole = pc.match_substring_regex(cells, r"^[+-]?\d+$")
    parted = pc.match_substring_regex(cells, r"^[+-]?\d*,\d+(?:[eE][+-]?\d+)?$")
    return bool(pc.any(parted).as_py() and pc.all(pc.or_(whole, parted)).as_py())


def _with_points(column: Any) -> Any:
    import pyarrow.compute as pc

    return pc.replace_substring(column, ",", ".")


def _no_number() -> Any:
    import pyarrow as pa

    return pa.array(_NO_NUMBER)


def _typed(column: Any) -> Any:
    """Return a column of text as numbers or as true and false if all of its cells are; ids (`_ID`) stay text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    blank = pc.is_in(column, _no_number())
    numbers = pc.if_else(blank, pa.scalar(None, pa.string()), column)
    if numbers.null_count == len(numbers):
        return column
    if pc.any(pc.match_substring_regex(numbers, _ID)).as_py():
        return column
    for kind in (pa.int64(), pa.float64()):
        try:
            return pc.cast(numbers, kind)
        except pa.ArrowInvalid:
            continue
    if pc.all(pc.is_in(column.drop_null(), pa.array(list(_WORDS)))).as_py():
        return pc.equal(pc.utf8_lower(column), "true")
    return column
