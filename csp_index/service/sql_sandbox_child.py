"""One SELECT in a process of its own: `python -m csp_index.service.sql_sandbox_child`, started by `sql_sandbox`.

The first line of standard input is the `Order` as JSON. The process opens the index and writes a line that says
`ready`, or an error. The rest of the input is the statement. The answer is a line of JSON, `truncated` and `bytes` or
an error, and that many bytes of rows as an Arrow IPC stream. An error is {"error": its class in `errors`, "message"};
no message shows where the index is. Before the process reads the statement, it gives up what no SELECT needs: memory,
files to write, priority; an alarm of the system ends it if nothing else does. SQL sees all data of the index, including
the addresses of images and the settings of runs. It sees no file, variable, setting or folder of the machine.
"""

# ruff: noqa: E402
from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

from csp_index.arrow_alone import load_arrow_alone

load_arrow_alone()  # before anything loads pyarrow: no answer is a data frame

import pyarrow as pa

from csp_index.errors import CspIndexError, QueryError, one_line
from csp_index.query.reader import Reader
from csp_index.query.sql import SqlLimits
from csp_index.store.connect import open_snapshot
from csp_index.store.tables import Store

STATEMENT_BYTES = 100_000  # most bytes of a statement
MARGIN_BYTES = 2**20  # of an answer besides its rows: names of columns, borders of batches
IDLE_SECONDS = 300  # after which a process without a statement ends
_FILES = 1024  # open at once
_NICENESS = 5  # pages go before SQL


@dataclass(frozen=True, slots=True)
class Order:
    """The index to open, and what its one statement may use."""

    uri: str
    versions: dict[str, int]  # of every table
    memory: int  # bytes, beyond those of the process once the index is open
    seconds: float
    rows: int
    bytes: int


class _FixedReader(Reader):
    """A reader of an open index."""

    def __init__(self, store: Store) -> None:
        self.uri, self._store = store.uri, store


def main() -> None:
    """Answer one statement and end."""
    answers = _private_output()
    os.nice(_NICENESS)
    order = Order(**json.loads(sys.stdin.buffer.readline()))
    try:
        reader = _FixedReader(open_snapshot(order.uri, order.versions))
        os.environ["HOME"] = "/"  # DuckDB would show the names of the folders in an error or a setting
        os.chdir("/")
        reader.sql("SHOW TABLES")  # opens all views: what a statement loads must be there before the limits
    except CspIndexError as exc:
        _send_error(answers, order, exc)
        return
    _send(answers, {"ready": True})
    _confine(order)
    signal.setitimer(signal.ITIMER_REAL, IDLE_SECONDS)
    statement = sys.stdin.buffer.read(STATEMENT_BYTES)
    if not statement:
        return
    signal.setitimer(signal.ITIMER_REAL, order.seconds + 1)
    try:
        _answer(answers, order, reader, statement.decode())
    except CspIndexError as exc:
        _send_error(answers, order, exc)
    except Exception as exc:  # at the boundary of the process: any failure of the statement becomes one line
        _send_error(answers, order, QueryError(f"SQL failed: {one_line(exc)}"))


def _private_output() -> BinaryIO:
    """Return standard output under another number, so that output of libraries does not mix with answers."""
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    return answers


def _confine(order: Order) -> None:
    """Take away from this process what no SELECT needs."""
    import resource  # not on Windows, where `sql_sandbox` starts no process

    used = 0
    with contextlib.suppress(FileNotFoundError), open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    times = resource.getrusage(resource.RUSAGE_SELF)
    # DuckDB computes in one thread, Lance reads in others: twice the seconds are for all of them.
    seconds = int(times.ru_utime + times.ru_stime + 2 * order.seconds) + 2
    for kind, limit in (
        (resource.RLIMIT_AS, used + order.memory if used else resource.RLIM_INFINITY),  # macOS has no such limit
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _FILES),
    ):
        hard = resource.getrlimit(kind)[1]
        lower = min((value for value in (limit, hard) if value != resource.RLIM_INFINITY), default=limit)
        resource.setrlimit(kind, (lower, lower))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _answer(answers: BinaryIO, order: Order, reader: Reader, statement: str) -> None:
    limits = SqlLimits(f"{order.memory}B", 1, order.seconds, order.rows, order.bytes)
    result = reader.sql(statement, limits=limits)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, result.table.schema) as stream:
        stream.write_table(result.table)
    rows = sink.getvalue()
    if rows.size > order.bytes + MARGIN_BYTES:
        raise QueryError(f"the answer has {result.table.num_columns} columns, too many to send: name fewer")
    _send(answers, {"truncated": result.truncated, "bytes": rows.size}, rows)


def _send_error(answers: BinaryIO, order: Order, error: CspIndexError) -> None:
    message = str(error)
    for place in (order.uri, order.uri.lstrip("/")):  # Lance leaves the first slash out
        message = message.replace(place, "the index")
    _send(answers, {"error": type(error).__name__, "message": message})


def _send(answers: BinaryIO, head: dict[str, Any], rows: Any = b"") -> None:
    answers.write(json.dumps(head).encode() + b"\n")
    answers.write(rows)
    answers.flush()


if __name__ == "__main__":
    main()
