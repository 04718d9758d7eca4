"""Read-only SQL over the store: one SELECT, run by DuckDB inside this process, on views it is handed.

Knows nothing of where the views come from: a view is a Lance dataset, or anything else with the interface of
pyarrow's datasets, or an Arrow table. DuckDB hands the columns and filters of a statement down to a dataset, so only
what a statement needs is read. Files, network, extensions, settings and the variables of the process are out of a
statement's reach. The limits stop mistakes, not attackers: SQL from strangers belongs in a process of its own.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
from duckdb.func import ARROW

from csp_index.errors import CspIndexError, QueryError, one_line
from csp_index.query.named_views import needed_views
from csp_index.query.results import ResultFormat, SqlResult, write_result

__all__ = ["ReadActivations", "ResultFormat", "SqlLimits", "SqlResult", "run_sql", "write_result"]

ReadActivations = Callable[[str], pa.Table]

_BATCH = 2048  # rows fetched at once if the bytes are limited: what does not fit is in memory for a moment
_DEEPEST = 500  # open parentheses: DuckDB's parser takes 0.25 s for 500 that are not closed, 6.5 s for 3,000
_NEURON = pa.struct([("image_id", pa.int64()), ("activation", pa.float32())])
_MACRO = """
CREATE MACRO activations(address) AS TABLE
SELECT unnest(_read_activations(address), recursive := true)
"""


@dataclass(frozen=True, slots=True)
class SqlLimits:
    """What one statement may use."""

    memory: str = "2GB"
    threads: int | None = None  # None: one for each core
    seconds: float | None = None
    rows: int | None = None  # further rows are cut off, and the result says so
    bytes: int | None = None  # of the result in memory; further rows are cut off, too


def run_sql(
    tables: Mapping[str, Any],
    statement: str,
    *,
    definitions: Mapping[str, str] | None = None,
    read_activations: ReadActivations | None = None,
    limits: SqlLimits | None = None,
) -> SqlResult:
    """Run one SELECT over `tables`, each a view of that name; only those that the statement needs are taken of them.

    `definitions` says for some views what they show of their table: a SELECT that names the table as {}. Where a table
    is None, the SELECT is over other views, which come before it.

    `FROM activations('model/layer/77')` calls `read_activations` with the address and gives its columns image_id and
    activation; the address may be any expression, also one over another view's columns. Raises QueryError, or what
    `read_activations` raised.

    >>> run_sql({"images": pa.table({"image_id": [0, 1, 2]})}, "SELECT max(image_id) AS last FROM images").rows()
    [{'last': 2}]
    """
    limits, definitions = limits or SqlLimits(), definitions or {}
    failures: list[CspIndexError] = []
    connection = _connect(limits)
    try:
        with _translated(failures, tuple(tables)):
            _add_activations(connection, read_activations, failures)
            connection.execute("SET TimeZone = 'UTC'")  # the day of a time must not depend on the machine
            connection.execute("SET lock_configuration = true")
            select = _only_select(connection, statement)
            with _time_limit(connection, limits.seconds):
                needed = needed_views(connection, statement, tables, definitions)
                _add_views(connection, tables, definitions, needed)
                try:
                    return _fetch(connection, select, limits)
                except duckdb.CatalogException:  # it names something that is not there: the error says what is
                    _add_views(connection, tables, definitions, tables.keys() - needed)
                    return _fetch(connection, select, limits)
    finally:
        connection.close()


def _connect(limits: SqlLimits) -> duckdb.DuckDBPyConnection:
    settings: dict[str, Any] = {
        "enable_external_access": False,
        "python_enable_replacements": False,  # a misspelt view must not become a variable of the process
        "temp_directory": "",  # out of memory is an error, not a folder in the working directory
        "memory_limit": limits.memory,
        "threads": limits.threads or os.cpu_count() or 1,
    }
    try:
        return duckdb.connect(":memory:", config=settings)
    except duckdb.Error as exc:
        raise QueryError(f"the limits of SQL are wrong: {_one_line(exc)}") from exc


def _only_select(connection: duckdb.DuckDBPyConnection, statement: str) -> duckdb.Statement:
    """Return the one statement in the text if it only reads."""
    try:
        statement.encode()
    except UnicodeEncodeError as exc:
        raise QueryError(f"the SQL statement is not UTF-8 text: {one_line(exc)}") from exc
    if _depth(statement) > _DEEPEST:  # DuckDB's parser takes seconds for them, and cannot be interrupted
        raise QueryError(f"the SQL statement has more than {_DEEPEST:,} open parentheses: nest it less deep")
    parsed = connection.extract_statements(statement)
    if len(parsed) != 1:
        raise QueryError(f"got {len(parsed)} SQL statements, expected one, for example: SELECT * FROM images LIMIT 5")
    kind = parsed[0].type
    if kind != duckdb.StatementType.SELECT:
        raise QueryError(
            f"{kind.name} is refused: SQL here only reads; write a SELECT (or FROM, WITH, VALUES, DESCRIBE, SUMMARIZE)"
        )
    return parsed[0]


def _depth(statement: str) -> int:
    """Return the most parentheses that are open at once, also where they are in a text or a comment.

    >>> _depth("SELECT ((1) + (2))"), _depth("((("), _depth("SELECT 1")
    (2, 3, 0)
    """
    steps = (1 if match[0] == "(" else -1 for match in re.finditer(r"[()]", statement))
    return max(accumulate(steps), default=0)


def _fetch(connection: duckdb.DuckDBPyConnection, select: duckdb.Statement, limits: SqlLimits) -> SqlResult:
    """Run the statement and stop reading at the first row beyond the limits."""
    relation = connection.sql(select)
    reader = relation.to_arrow_reader() if limits.bytes is None else relation.to_arrow_reader(_BATCH)
    rows, left = limits.rows, limits.bytes
    batches, truncated = [], False
    for batch in reader:
        size = batch.num_rows if rows is None else min(batch.num_rows, rows)
        if left is not None:
            size = _fitting(batch, size, left)
            left -= batch.slice(0, size).nbytes
        rows = None if rows is None else rows - size
        batches.append(batch.slice(0, size))
        if truncated := size < batch.num_rows:
            break
    table = pa.Table.from_batches(batches, schema=reader.schema)
    return SqlResult(table.rename_columns(_unique(table.column_names)), truncated)


def _fitting(batch: pa.RecordBatch, rows: int, size: int) -> int:
    """Return how many of the first `rows` rows take at most `size` bytes."""
    if batch.slice(0, rows).nbytes <= size:
        return rows
    return bisect.bisect_right(range(1, rows + 1), size, key=lambda count: batch.slice(0, count).nbytes)


def _unique(names: list[str]) -> list[str]:
    """Return the names with repeated ones numbered, because a row is a dictionary.

    >>> _unique(["text", "score", "text"])
    ['text', 'score', 'text_1']
    """
    result: list[str] = []
    for name in names:
        number, candidate = 0, name
        while candidate in result:
            number += 1
            candidate = f"{name}_{number}"
        result.append(candidate)
    return result


def _add_views(
    connection: duckdb.DuckDBPyConnection,
    tables: Mapping[str, Any],
    definitions: Mapping[str, str],
    needed: Collection[str],
) -> None:
    """Add the needed views in the order of `tables`, in which those that are over others come after them."""
    for name in tables:
        if name in needed:
            _add_view(connection, name, tables[name], definitions.get(name))


def _add_view(connection: duckdb.DuckDBPyConnection, name: str, source: Any, definition: str | None) -> None:
    if definition is None:
        connection.register(name, _without_float16(source))
        return
    if source is not None:
        connection.register(f"_{name}", _without_float16(source))
    select = definition.format(quoted(f"_{name}"))
    connection.execute(f"CREATE VIEW {quoted(name)} AS {select}")


def quoted(name: str) -> str:
    """Return a name as a SQL identifier, whatever it contains.

    >>> print(quoted('a"b'))
    "a""b"
    """
    return '"' + name.replace('"', '""') + '"'


def _add_activations(
    connection: duckdb.DuckDBPyConnection, read: ReadActivations | None, failures: list[CspIndexError]
) -> None:
    """Define `activations(address)`: a table macro, around a function that reads only the neurons it is called with."""
    if read is None:
        return

    def read_lists(addresses: pa.ChunkedArray) -> pa.Array:
        try:
            neurons = [_neuron_rows(read(address)) for address in addresses.to_pylist()]
        except CspIndexError as exc:
            failures.append(exc)  # DuckDB would wrap its text into its own
            raise
        ends = [0]
        for rows in neurons:
            ends.append(ends[-1] + len(rows))
        values = pa.concat_arrays(neurons) if neurons else pa.array([], _NEURON)
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)

    rows = connection.list_type(connection.struct_type({"image_id": "BIGINT", "activation": "FLOAT"}))
    # Declared free of side effects, the call would be folded while planning, which is ten times slower.
    connection.create_function("_read_activations", read_lists, ["VARCHAR"], rows, type=ARROW, side_effects=True)
    connection.execute(_MACRO)


def _neuron_rows(table: pa.Table) -> pa.StructArray:
    columns = [table[field.name].cast(field.type).combine_chunks() for field in _NEURON]
    return pa.StructArray.from_arrays(columns, fields=list(_NEURON))


@contextlib.contextmanager
def _time_limit(connection: duckdb.DuckDBPyConnection, seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except duckdb.InterruptException as exc:
        raise QueryError(
            f"the SQL statement ran longer than {seconds:g} s: narrow it down, or raise the limit"
        ) from exc
    finally:
        timer.cancel()


@contextlib.contextmanager
def _translated(failures: list[CspIndexError], views: tuple[str, ...]) -> Iterator[None]:
    """Turn DuckDB's errors into one-liners that keep its hint; errors of `read_activations` come through unchanged."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException) as exc:
        if failures:
            raise failures[0] from exc
        message = _one_line(exc)
        if re.search(r"Table with name .* does not exist", message):
            message += f" (views: {', '.join(views)})"
        raise QueryError(f"SQL failed: {message}") from exc


def _one_line(exc: Exception) -> str:
    """Return the message without the extract of the statement under it, and without settings that are locked here."""
    text = re.split(r"\n+(?:LINE \d+:|Possible solutions:)", str(exc))[0]
    return re.sub(r"\s+", " ", text).strip()


class _Widened(pyarrow.dataset.Dataset):  # type: ignore[misc]  # pyarrow has no types
    """A dataset whose float16 columns read as float32.

    DuckDB refuses a source with float16 even in a column it is not asked for. This has what DuckDB asks of a dataset:
    a schema, and a scanner that takes columns and a filter.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    @property
    def schema(self) -> pa.Schema:
        return _widened_schema(self._dataset.schema)

    def scanner(self, columns: list[str] | None = None, filter: Any = None, **options: Any) -> _WidenedScanner:
        return _WidenedScanner(self._dataset.scanner(columns=columns, filter=filter, **options))


class _WidenedScanner:
    """The scan of a _Widened dataset."""

    def __init__(self, scanner: Any) -> None:
        self._reader = scanner.to_reader()

    def to_reader(self) -> pa.RecordBatchReader:
        schema = _widened_schema(self._reader.schema)
        return pa.RecordBatchReader.from_batches(schema, (_cast(batch, schema) for batch in self._reader))


def _without_float16(source: Any) -> Any:
    schema = getattr(source, "schema", None)
    if not isinstance(schema, pa.Schema) or schema == _widened_schema(schema):
        return source
    if isinstance(source, pyarrow.dataset.Dataset):
        return _Widened(source)
    return _cast(source, _widened_schema(schema))


def _cast(rows: Any, schema: pa.Schema) -> Any:
    columns = [column.cast(field.type) for column, field in zip(rows.columns, schema, strict=True)]
    return type(rows).from_arrays(columns, schema=schema)


def _widened_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(_widened(field.type)) for field in schema])


def _widened(kind: pa.DataType) -> pa.DataType:
    """Return the type with float32 for float16, also inside lists."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_widened(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_widened(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_widened(kind.value_type))
    return kind
