"""Rows that a question to the index returned: as Arrow, as a data frame, in a notebook, on a terminal, in a file.

Knows nothing of how the rows came about.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import datetime
import decimal
import html
import io
import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, overload

import pyarrow as pa
import pyarrow.compute as pc

from csp_index.errors import QueryError, one_line
from csp_index.printable import printable, printable_json, shortened
from csp_index.query.items import Items
from csp_index.query.label_html import LabelDrawer
from csp_index.query.picture_html import bytes_html, bytes_told
from csp_index.query.stored_pictures import StoredPictures, StoredVeils
from csp_index.records import Label
from csp_index.store.tables import Store

if TYPE_CHECKING:
    import pandas

ResultFormat = Literal["table", "csv", "json", "parquet"]

SHOWN_ROWS = 100  # of a table for reading; the other formats hold every row
NOTEBOOK_ROWS = 20
_REPR_LABELS = 3
_LABELS = pa.schema(
    [
        ("neuron", pa.string()),
        ("method", pa.string()),
        ("state", pa.string()),
        ("rank", pa.int32()),
        ("text", pa.string()),
        ("score", pa.float64()),
        ("score_low", pa.float64()),
        ("score_high", pa.float64()),
        ("confidence", pa.float64()),
        ("probability", pa.float64()),
        ("uncertain", pa.bool_()),
        ("note", pa.string()),
    ]
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_CELL = 80  # characters of a cell in a table for reading


class Tabular(ABC):
    """What `to_arrow` returns as a table, and with it as a data frame, a stream, and in a notebook.

    It is an Arrow stream (the PyCapsule interface): `polars.DataFrame(result)`, `pandas.DataFrame.from_arrow(result)`,
    `pyarrow.table(result)` and DuckDB's `SELECT * FROM result` take it as it is.
    """

    __slots__ = ()

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows of `to_arrow` as a data frame; needs pandas."""
        return self.to_arrow().to_pandas()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        return SqlResult(self.to_arrow())._repr_html_()


@dataclass(frozen=True, slots=True)
class SqlResult(Tabular):
    """The rows a statement returned."""

    table: pa.Table
    truncated: bool = False  # a limit of SqlLimits cut the result

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"SqlResult({self._count(len(self))}: {printable(', '.join(self.table.column_names))})"

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self.table

    def rows(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Return the first `limit` rows (all by default) as dictionaries, column name to value."""
        try:
            rows: list[dict[str, Any]] = _shortest_floats(self.table.slice(0, limit)).to_pylist()
        except (OverflowError, ValueError, pa.ArrowException) as exc:
            raise QueryError(
                f"the result holds times that Python cannot hold ({one_line(exc)}): CAST them to VARCHAR"
            ) from exc
        return rows

    def as_json(self) -> dict[str, Any]:
        """Return {"columns": names, "types": Arrow's names of their types, "rows": lists of values JSON can say}."""
        rows = [[_plain(value) for value in row.values()] for row in self.rows()]
        return {
            "columns": self.table.column_names,
            "types": [str(kind) for kind in self.table.schema.types],
            "rows": rows,
        }

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.table.column_names)
        body = "".join(
            "<tr>" + "".join(f"<td>{_html_cell(value)}</td>" for value in row.values()) + "</tr>"
            for row in self.rows(NOTEBOOK_ROWS)
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{self._count(NOTEBOOK_ROWS)}</p>"

    def _count(self, rows: int) -> str:
        count = f"{len(self)} row{'' if len(self) == 1 else 's'}"
        if self.truncated:
            count = f"the first {count}, more exist"
        return f"{count}; {rows} shown" if len(self) > rows else count


@dataclass(frozen=True, slots=True)
class Labels(Tabular, Items[Label]):
    """The labels of several neurons, in neuron order; one row a neuron and candidate as a table."""

    labels: tuple[Label, ...]

    @classmethod
    def drawn(cls, store: Store, labels: Iterable[Label]) -> Labels:
        """Return labels of an index that a notebook shows with their pictures."""
        drawer = LabelDrawer(StoredPictures(store), StoredVeils(store))
        return cls(tuple(replace(label, drawer=drawer) for label in labels))

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, place: int) -> Label: ...
    @overload
    def __getitem__(self, place: slice) -> Labels: ...
    def __getitem__(self, place: int | slice) -> Label | Labels:
        return Labels(self.labels[place]) if isinstance(place, slice) else self.labels[place]

    def to_arrow(self) -> pa.Table:
        """Return one row per neuron and candidate: the columns of `labels`, and the probability of the best.

        A neuron without a label has one row without text.
        """
        rows: list[dict[str, object]] = []
        for label in self.labels:
            head: dict[str, object] = {
                "neuron": str(label.neuron),
                "method": label.method,
                "state": label.state,
                "note": label.note,
            }
            scores: list[dict[str, object]] = [
                {
                    "rank": rank,
                    "text": s.text,
                    "score": s.number,
                    "score_low": s.low,
                    "score_high": s.high,
                    "confidence": s.share,
                    "probability": None if rank else label.probability,
                    "uncertain": None if rank else label.uncertain,
                }
                for rank, s in enumerate(label.labels)
            ]
            rows += [head | row for row in scores or [{}]]
        return pa.Table.from_pylist(rows, schema=_LABELS)

    @property
    def best(self) -> SqlResult:
        """One row per neuron, its best candidate, in the columns of `to_arrow` but `rank`."""
        rows = self.to_arrow()
        return SqlResult(rows.filter(pc.fill_null(pc.equal(rows["rank"], 0), True)).drop_columns("rank"))

    def __repr__(self) -> str:
        shown = ", ".join(
            printable(f"{label.neuron}: {label.text or label.state}") for label in self.labels[:_REPR_LABELS]
        )
        return f"Labels({len(self):,}: {shown}{', …' if len(self) > _REPR_LABELS else ''})"


def write_result(result: SqlResult, format: ResultFormat, out: str | Path | None = None) -> None:
    """Write `result` to the file `out`, or to standard output.

    `json` is one array with an object a row, `csv` has a header line; both write bytes as base64, lists as JSON, and
    numbers that are not finite as null or nothing. In `csv` a text that begins with = + - or @ and is no number gets
    an apostrophe in front: a spreadsheet would run it as a formula. `table` is for reading: long values and rows after
    the first 100 are cut. An INTERVAL is text in all of them, as CAST to VARCHAR writes it: 1 month 2 days 03:00:00.5;
    `parquet` refuses one inside a list.
    """
    if format == "parquet":
        _write_parquet(result, out)
        return
    writer = {"table": _write_table, "csv": _write_csv, "json": _write_json}[format]
    if out is None:
        writer(result, sys.stdout)
        return
    with _file_errors(out), open(out, "w", encoding="utf-8", newline="") as file:
        writer(result, file)


def encode_result(result: SqlResult, format: Literal["csv", "json", "parquet"]) -> bytes:
    """Return `result` as the bytes of the file that `write_result` writes."""
    if format == "parquet":
        buffer = io.BytesIO()  # parquet seeks, a pipe does not
        _encode_parquet(result, buffer)
        return buffer.getvalue()
    text = io.StringIO()
    (_write_csv if format == "csv" else _write_json)(result, text)
    return text.getvalue().encode()


def _encode_parquet(result: SqlResult, out: Any) -> None:
    import pyarrow.parquet

    try:
        pyarrow.parquet.write_table(_without_intervals(result.table), out)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise QueryError(f"parquet cannot hold the result ({one_line(exc)}): CAST the column to VARCHAR") from exc


def _write_parquet(result: SqlResult, out: str | Path | None) -> None:
    if out is not None:
        with _file_errors(out):
            _encode_parquet(result, out)
        return
    if sys.stdout.isatty():
        raise QueryError(
            "parquet is not text and would garble the terminal: name a file to write, or redirect the output"
        )
    sys.stdout.flush()
    sys.stdout.buffer.write(encode_result(result, "parquet"))


def _write_table(result: SqlResult, file: TextIO) -> None:
    # Here, for commands that print no table start without it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numeric = [pa.types.is_integer(field.type) or pa.types.is_floating(field.type) for field in result.table.schema]
    view = Table()
    for name, right in zip(result.table.column_names, numeric, strict=True):
        view.add_column(Text(printable(name)), justify="right" if right else "left", overflow="fold")
    for row in result.rows(SHOWN_ROWS):
        view.add_row(*(Text(_short(value)) for value in row.values()))
    # In a file or pipe a row stays one line, as wide as it is.
    console = Console(file=file) if file.isatty() else Console(file=file, width=100_000)
    console.print(view)
    console.print(Text(result._count(SHOWN_ROWS)))


def _write_csv(result: SqlResult, file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    watched = file.isatty()  # a file keeps control characters
    for values in [result.table.column_names, *(row.values() for row in result.rows())]:
        cells = [_harmless(v) if isinstance(v, str) else _plain(v) for v in values]
        cells = [printable_json(v) if isinstance(v, list | dict) else v for v in cells]
        writer.writerow([printable(cell) if watched and isinstance(cell, str) else cell for cell in cells])


def _harmless(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula: such a one gets an apostrophe in front.

    >>> _harmless("=1+1"), _harmless("@x"), _harmless("red"), _harmless("-0.5")
    ("'=1+1", "'@x", 'red', '-0.5')
    """
    return f"'{text}" if text.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(text) else text


def _write_json(result: SqlResult, file: TextIO) -> None:
    lines = (printable_json(_plain(row)) for row in result.rows())
    file.write("[" + ",\n".join(lines) + "]\n")


def _plain(value: Any) -> Any:
    """Return the value as JSON can say it."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return base64.b64encode(value).decode()
        case decimal.Decimal():  # the sum of integers is one
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case pa.MonthDayNano():
            return _interval(value.months, value.days, value.nanoseconds)
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case _:
            return str(value)


def _interval(months: int, days: int, nanoseconds: int) -> str:
    """Return an interval as DuckDB writes and reads it.

    >>> _interval(0, 0, 506_278_000), _interval(-14, 1, 0)
    ('00:00:00.506278', '-1 year -2 months 1 day')
    """
    sign = -1 if months < 0 else 1
    years, left = divmod(abs(months), 12)
    counted = ((sign * years, "year"), (sign * left, "month"), (days, "day"))
    parts = [f"{count} {unit}{'' if abs(count) == 1 else 's'}" for count, unit in counted if count]
    if nanoseconds or not parts:
        seconds, rest = divmod(abs(nanoseconds), 10**9)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        parts.append(f"{'-' if nanoseconds < 0 else ''}{clock}" + (f".{rest:09}".rstrip("0") if rest else ""))
    return " ".join(parts)


def _short(value: Any) -> str:
    """Return the value as one cell of a table for reading.

    >>> _short(0.1234567891), _short(b"12345"), _short(b"GIF89a" * 999), _short([1.5] * 100)[-14:]
    ('0.123457', '<5 bytes>', '<GIF, 5,994 bytes>', '… (100 values)')
    """
    match value:
        case None:
            return ""
        case float():
            return f"{value:.6g}"
        case bytes():
            return f"<{bytes_told(value)}>"
        case list() if len(value) > 6:
            return ", ".join(_short(item) for item in value[:4]) + f", … ({len(value)} values)"
        case list():
            return ", ".join(_short(item) for item in value)
    return shortened(printable(re.sub(r"\s+", " ", str(_plain(value)))), _CELL)


def _html_cell(value: Any) -> str:
    """Return the cell; bytes that browsers show as a picture become one."""
    picture = bytes_html(value) if isinstance(value, bytes) else ""
    return picture or html.escape(_short(value))


def _shortest_floats(table: pa.Table) -> pa.Table:
    """Return float32 columns as the shortest float64 that names the same float32: 0.3, not 0.30000001192092896."""
    for position, field in enumerate(table.schema):
        if pa.types.is_float32(field.type):
            exact = table.column(position).cast(pa.string()).cast(pa.float64())
            table = table.set_column(position, field.name, exact)
    return table


def _without_intervals(table: pa.Table) -> pa.Table:
    """Return the table with text for columns of intervals, which Parquet does not know."""
    for position, field in enumerate(table.schema):
        if field.type == pa.month_day_nano_interval():
            texts = [_plain(value) for value in table.column(position).to_pylist()]
            table = table.set_column(position, field.name, pa.array(texts, pa.string()))
    return table


@contextlib.contextmanager
def _file_errors(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise QueryError(f"{path} cannot be written: {exc.strerror or exc}; name another file") from exc
