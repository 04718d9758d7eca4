"""The application on a socket, bound before anything else starts; connections without a request close after a time.

Knows nothing about the index.
"""

# ruff: noqa: E402
from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from csp_index.arrow_alone import load_arrow_alone

load_arrow_alone()  # before anything loads pyarrow, also in each process of several: pages have no data frames

from csp_index.errors import SettingError, one_line
from csp_index.service.config import ServiceSettings
from csp_index.service.http.guard import SECURITY_HEADERS
from csp_index.service.http.schemas import Fault

_HEALTH_SECONDS = 60  # within which a process must answer a health check: loading models keeps it busy
_SPARE = 32  # connections beyond the most, while none of them is idle
_STUCK_SECONDS = 3  # beyond the grace: within these the steps of a computation end
_KEEP_SECONDS = 15  # that a connection stays open for the next request
_log = logging.getLogger("csp_index.service")

BACKLOG = 256  # connections that wait to be accepted


def bind(settings: ServiceSettings) -> socket.socket:
    """Return a socket at the address that does not accept connections yet. Raises SettingError if the port is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[
            0
        ]
        listener = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise SettingError(f"host {settings.host} is not an address of this machine ({one_line(exc)})") from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as exc:
        listener.close()
        raise SettingError(
            f"{settings.host} port {settings.port} cannot be listened on ({one_line(exc)}): give another --port"
        ) from exc
    return listener


def run(app: Any, settings: ServiceSettings, listener: socket.socket, started: Callable[[], None]) -> None:
    """Serve until a signal comes, and finish the requests in progress. Calls `started` when requests can come.

    The process is to end then: threads that compute do not keep it for longer than some seconds after the grace.
    Raises KeyboardInterrupt at the end if the signal was Ctrl-C's, or one that is treated like it.
    """
    _Server(uvicorn_config(app, settings), started).run(sockets=[listener])


def uvicorn_config(app: Any, settings: ServiceSettings, workers: int = 1) -> uvicorn.Config:
    """Return the configuration of uvicorn for an application, or for a function that makes one in each process."""
    return _Config(
        app,
        factory=workers > 1,
        workers=workers,
        arrival=settings.arrival,
        connections=min(settings.connections, _open_files() // 2),
        http=_Impatient,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG
        if workers == 1
        else 1,  # asyncio accepts this many connections at once, and leaves none to other processes
        timeout_keep_alive=_KEEP_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.grace),
        timeout_worker_healthcheck=_HEALTH_SECONDS,
    )


def log_to_stderr() -> None:
    """Write one line of JSON per request and per error to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name, level in (("csp_index.service", logging.INFO), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def _open_files() -> int:
    """Return how many files this process may have open."""
    if sys.platform == "win32":
        return 2**31
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**31 if most == resource.RLIM_INFINITY else most


class _Config(uvicorn.Config):
    """The configuration, with the seconds within which a request must begin, and the most open connections."""

    def __init__(self, app: Any, *, arrival: float, connections: int, **options: Any) -> None:
        super().__init__(app, **options)
        self.arrival, self.connections = arrival, connections
        self.idle: dict[_Impatient, None] = {}  # connections that wait for a request, the oldest first


class _Server(uvicorn.Server):
    """Calls a function when it has started, and ends its process in bounded time, whatever its threads compute."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._report = started
        self._end: threading.Timer | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._report()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a process that has not ended some seconds after the grace is cut off.

        Nothing calls that off when the server has ended: a thread may still compute an answer that it gave up.
        """
        super().handle_exit(sig, frame)
        if self._end is None:
            self._end = threading.Timer((self.config.timeout_graceful_shutdown or 0) + _STUCK_SECONDS, _cut_off)
            self._end.daemon = True
            self._end.start()


def _cut_off() -> None:
    # The interpreter would wait for threads that compute, and the supervisor of the service for the interpreter.
    _log.error("the service ended before a computation reached its next step")
    os._exit(0)


class _Impatient(H11Protocol):
    """Closes a connection whose request line and headers do not arrive within some seconds.

    Where too many are open, the one that has been idle longest makes room for a new one, so that probes are answered.
    """

    config: _Config
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.config.connections and self.config.idle:
            next(iter(self.config.idle))._abort()
        if len(self.connections) > self.config.connections + _SPARE:
            self._abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self.config.idle.pop(self, None)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note_idle()

    def _note_idle(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.config.idle.setdefault(self)
        else:
            self.config.idle.pop(self, None)

    def _abort(self) -> None:
        self.connections.discard(self)  # it counts no longer: many may come before the loop says that it is lost
        self.config.idle.pop(self, None)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer that this is no HTTP, in the shape of all errors, and close."""
        fault, request_id = (
            Fault(400, "bad-request", "the data sent is not a request of HTTP/1.1"),
            secrets.token_hex(8),
        )
        body = json.dumps(fault.document(request_id)).encode()
        headers = SECURITY_HEADERS | {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "cache-control": "no-store",
            "connection": "close",
            "x-request-id": request_id,
        }
        for event in (h11.Response(status_code=400, headers=list(headers.items())), h11.Data(body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        self._note_idle()
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.config.arrival, self.transport.close)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class _Lines(logging.Formatter):
    """Passes on requests, which are JSON already, and writes all other records as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno <= logging.INFO:
            return text
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": now, "level": record.levelname.lower(), "message": text})
