"""SQL from strangers: every statement runs in a process of its own, which is killed from outside at its limits.

DuckDB's own limits do not stop every statement, so nothing here relies on them: a process that runs too long or sends
too much is killed, and the rows that it sends are checked. The process runs `sql_sandbox_child`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

from csp_index import errors, settings
from csp_index.errors import BusyError, CspIndexError, QueryError, SettingError
from csp_index.query.results import SqlResult, encode_result
from csp_index.service import sql_sandbox_child
from csp_index.service.config import ServiceSettings
from csp_index.service.documents.shapes import SqlDocument, SqlExample, SqlSchemaDocument, SqlView
from csp_index.service.sql_sandbox_child import IDLE_SECONDS, MARGIN_BYTES, STATEMENT_BYTES, Order
from csp_index.service.sql_view_texts import what_is_in
from csp_index.store.locations import location_of

_START_SECONDS = 30.0  # for a new process to open the index, also on a busy machine
_LEAST_BYTES = 2**16  # smallest limit of an answer: the views with their columns must fit
_GRACE_SECONDS = 0.5  # for a process to end by itself at its limit, with a better message
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B", re.IGNORECASE)
_KEYS = ("AWS_", "GOOGLE_", "AZURE_", "HOME")  # without them an index in an object store cannot be read

_FUNCTIONS: list[SqlView] = [
    {
        "name": "activations('model/layer/neuron')",
        "columns": [{"name": "image_id", "type": "BIGINT"}, {"name": "activation", "type": "FLOAT"}],
        "about": "All activations of one neuron; the address may be an expression.",
    }
]
_EXAMPLES = {
    "What is indexed": """
        SELECT model, layer, count(*) AS neurons, max(images) AS images, count(*) FILTER ("max" <= 0) AS dead
        FROM neurons
        GROUP BY model, layer ORDER BY model, layer""",
    "Labels with the highest score": """
        SELECT address, method, text, score
        FROM neuron_labels WHERE text IS NOT NULL
        ORDER BY score DESC LIMIT 20""",
    "Labels that many neurons share": """
        SELECT text, count(*) AS neurons, avg(score) AS score
        FROM neuron_labels WHERE text IS NOT NULL
        GROUP BY text ORDER BY neurons DESC, text LIMIT 20""",
    "Labels with the longest lead over the next one": """
        SELECT address, first.method, first.text, first.score - next.score AS lead
        FROM neuron_labels AS first JOIN labels AS next USING (address, run_id)
        WHERE next.rank = 1
        ORDER BY lead DESC LIMIT 20""",
    "Neurons that fire most rarely": """
        SELECT address, firing_rate, mean, "max", top_images[1] AS top_image
        FROM neurons WHERE firing_rate > 0
        ORDER BY firing_rate LIMIT 20""",
    "Images that excite most neurons": """
        SELECT image_id, uri, count(*) AS neurons
        FROM (SELECT unnest(top_images[1:10]) AS image_id FROM neurons) JOIN images USING (image_id)
        GROUP BY image_id, uri ORDER BY neurons DESC, image_id LIMIT 20""",
    "Images that excite one neuron": """
        SELECT image_id, uri, activation
        FROM (SELECT address FROM neurons LIMIT 1) AS one, activations(one.address) JOIN images USING (image_id)
        ORDER BY activation DESC LIMIT 20""",
    "Latest runs": """
        SELECT command, state, started, ended - started AS took, message
        FROM runs
        ORDER BY started DESC LIMIT 10""",
}
_DESCRIBE = """
    SELECT list({'name': view, 'columns': columns} ORDER BY view) AS views FROM (
        SELECT table_name AS view, list({'name': column_name, 'type': data_type} ORDER BY column_index) AS columns
        FROM duckdb_columns() WHERE NOT internal AND NOT starts_with(table_name, '_') GROUP BY table_name
    )
"""


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """The rows of a statement, `truncated` if a limit cut them, and the `seconds` that it ran."""

    table: pa.Table
    truncated: bool
    seconds: float


class SqlRunner:
    """Runs SELECTs over an index at fixed versions, each in a process of its own. Threads may share it.

    After the first statement one spare process with the index open always waits for the next one; unused for some
    minutes, it ends.
    """

    def __init__(self, uri: str | Path, versions: Mapping[str, int], config: ServiceSettings) -> None:
        """Note the index, its versions (see `Store.versions`) and the limits; no process starts yet.

        Raises SettingError if sql_memory is no size, sql_bytes is too small, or the system cannot limit processes.
        """
        if os.name != "posix":
            raise SettingError("SQL over HTTP needs Linux or macOS, which limit processes: serve without it (--no-sql)")
        if config.sql_bytes < _LEAST_BYTES:
            raise SettingError(f"setting sql_bytes is {config.sql_bytes}: expected at least {_LEAST_BYTES}")
        self._order = Order(
            uri=location_of(uri).address,
            versions=dict(versions),
            memory=_size(settings.SQL_MEMORY.value()),
            seconds=config.sql_seconds,
            rows=config.sql_rows,
            bytes=config.sql_bytes,
        )
        self._processes = config.sql_processes
        self._turns = threading.BoundedSemaphore(self._processes)
        self._mutex = threading.Lock()
        self._spare: _Child | None = None
        self._closed = False
        self._views: list[SqlView] = []

    def run(self, statement: str) -> SqlAnswer:
        """Run one SELECT and return its rows, cut to the limits.

        Blocks while the statement waits for its turn and runs, each within the limit of seconds. Raises QueryError,
        BusyError if its turn did not come, StoreError if the index is gone.
        """
        text = _checked(statement)
        with self._turn():
            child = self._take_spare() or _Child(self._order)
            with contextlib.closing(child):
                child.wait()
                self.prepare()
                return child.run(text)

    def prepare(self) -> None:
        """Start the process of the next statement, unless one waits already."""
        with self._mutex:
            if self._spare is None and not self._closed:
                self._spare = _Child(self._order)

    def close(self) -> None:
        """End the waiting process; running ones end with their statements."""
        self._closed = True
        spare = self._take_spare()
        if spare is not None:
            spare.close()

    def schema_document(self) -> SqlSchemaDocument:
        """Return what SQL can use: views with their columns, functions, and examples that run on any index."""
        if not self._views:
            views = self.run(_DESCRIBE).table["views"][0].as_py()
            self._views = [view | {"about": what_is_in(view["name"])} for view in views]
        examples: list[SqlExample] = [
            {"title": title, "sql": textwrap.dedent(sql).strip()} for title, sql in _EXAMPLES.items()
        ]
        return {"views": self._views, "functions": _FUNCTIONS, "examples": examples}

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for a turn."""
        if not self._turns.acquire(timeout=self._order.seconds):
            raise BusyError(
                f"{self._processes} SQL statements are running, the most at once, and none ended within "
                f"{self._order.seconds:g} s: try again"
            )
        try:
            yield
        finally:
            self._turns.release()

    def _take_spare(self) -> _Child | None:
        with self._mutex:
            spare, self._spare = self._spare, None
        if spare is not None and spare.is_stale():
            spare.close()
            return None
        return spare


def write_rows(answer: SqlAnswer) -> SqlDocument:
    """Return an answer for JSON: columns, types, rows (lists), truncated, seconds. Raises QueryError."""
    table = SqlResult(answer.table).as_json()
    return {
        "columns": table["columns"],
        "types": table["types"],
        "rows": table["rows"],
        "truncated": answer.truncated,
        "seconds": round(answer.seconds, 3),
    }


def write_file(answer: SqlAnswer, format: Literal["csv", "json", "parquet"]) -> bytes:
    """Return an answer as the bytes of a file. Raises QueryError if the format cannot express it."""
    return encode_result(SqlResult(answer.table), format)


class _Child:
    """A process for one statement. `close` ends it in any state."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-X", "utf8", "-m", sql_sandbox_child.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(order.uri),
            start_new_session=True,
        )
        self._write(json.dumps(asdict(order)).encode() + b"\n")

    def is_stale(self) -> bool:
        """Return whether the process has ended, or will soon."""
        return self._process.poll() is not None or time.monotonic() - self._started > IDLE_SECONDS - 10

    def wait(self) -> None:
        """Wait until the process has opened the index. Raises BusyError if that takes too long, or its error."""
        with self._killed_after(_START_SECONDS):
            line = _pipe(self._process.stdout).readline()
        if not line:
            raise BusyError("no process for the SQL statement could be started in time: try again")
        _head(line)

    def run(self, statement: bytes) -> SqlAnswer:
        """Run the statement; the process serves for no other."""
        limit = self._order.bytes + 2 * MARGIN_BYTES
        start = time.monotonic()
        with self._killed_after(self._order.seconds + _GRACE_SECONDS):
            self._write(statement)
            with contextlib.suppress(BrokenPipeError):
                _pipe(self._process.stdin).close()
            output = _pipe(self._process.stdout).read(limit)
        seconds = time.monotonic() - start
        line, newline, rows = output.partition(b"\n")
        if not newline or len(output) == limit:
            raise QueryError(self._broken(seconds))
        head = _head(line)
        if len(rows) != head.get("bytes"):  # killed while it sent them; some of them might still be read as a stream
            raise QueryError(self._broken(seconds))
        try:
            table = pa.ipc.open_stream(rows).read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError) as exc:
            if "does not fit in precision" in str(exc):  # a HUGEINT goes up to 39 digits
                raise QueryError(
                    "a number has more than the 38 digits that can be sent: CAST its column to VARCHAR or DOUBLE"
                ) from exc
            raise QueryError(f"the rows cannot be sent ({errors.one_line(exc)}): choose plainer columns") from exc
        return SqlAnswer(table, bool(head.get("truncated")), seconds)

    def close(self) -> None:
        """Kill the process if it still runs, and close its pipes."""
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                _pipe(pipe).close()

    def _broken(self, seconds: float) -> str:
        """Return why there is no answer."""
        if seconds >= self._order.seconds:
            return f"the SQL statement ran longer than {self._order.seconds:g} s: simplify it, or raise sql_seconds"
        return (
            "the SQL statement took more memory than the limit, or crashed the SQL worker in another way: simplify it, "
            "or raise sql_memory"
        )

    def _write(self, data: bytes) -> None:
        pipe = _pipe(self._process.stdin)
        with contextlib.suppress(BrokenPipeError):  # a process that ended early has sent an error or nothing
            pipe.write(data)
            pipe.flush()

    def _kill(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # it must not kill the next process of this number


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise QueryError("a process for SQL has no pipe: expected one")
    return pipe


def _head(line: bytes) -> dict[str, Any]:
    """Return the first line of an answer, or raise the error in it."""
    try:
        head: dict[str, Any] = dict(json.loads(line))
        kind = getattr(errors, head["error"]) if "error" in head else None
    except (ValueError, TypeError, AttributeError) as exc:
        raise QueryError("the SQL worker crashed: simplify the statement") from exc
    if isinstance(kind, type) and issubclass(kind, CspIndexError):
        raise kind(str(head.get("message")))
    return head


def _checked(statement: str) -> bytes:
    """Return the statement in the form that is sent to the process."""
    try:
        text = statement.encode()
    except UnicodeEncodeError:
        raise QueryError("the SQL statement has half of a surrogate pair: expected Unicode text") from None
    if not text.strip():
        raise QueryError("the SQL statement is empty: write one, for example: SELECT * FROM images LIMIT 5")
    if len(text) > STATEMENT_BYTES:
        raise QueryError(f"the SQL statement has {len(text):,} bytes: expected at most {STATEMENT_BYTES:,}")
    return text


def _environment(uri: str) -> dict[str, str]:
    """Return the variables of a process: secrets are among them only if the index cannot be read without."""
    variables = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    if "://" in uri:
        variables |= {name: value for name, value in os.environ.items() if name.startswith(_KEYS)}
    # Where this process finds its modules; "" is the current folder.
    variables["PYTHONPATH"] = os.pathsep.join(os.path.abspath(place) for place in sys.path)
    return variables | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "LANCE_CPU_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }


def _size(text: str) -> int:
    """Return a size in DuckDB's notation in bytes.

    >>> _size("2GB"), _size("1.5 MiB")
    (2000000000, 1572864)
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise SettingError(f"setting sql_memory is {text!r}: expected a size such as 512MB or 2GB (default 2GB)")
    number, prefix, binary = match.groups()
    power = "KMGT".find(prefix.upper()) + 1 if prefix else 0
    return int(float(number) * (1024 if binary else 1000) ** power)
