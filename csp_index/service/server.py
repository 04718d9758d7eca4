"""The application on a socket, bound before anything else starts; connections without a request close after a time.

Knows nothing about the index.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from csp_index.errors import SettingError, one_line
from csp_index.service.config import ServiceSettings
from csp_index.service.http.guard import SECURITY_HEADERS
from csp_index.service.http.schemas import Fault

_HEALTH_SECONDS = 60  # within which a process must answer a health check: loading models keeps it busy
_KEEP_SECONDS = 15  # that a connection stays open for the next request
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
        http=_Impatient,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG
        if workers == 1
        else 1,  # asyncio accepts this many connections at once, and leaves none to other processes
        timeout_keep_alive=_KEEP_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.timeout) + 1,
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


class _Config(uvicorn.Config):
    """The configuration, with the seconds within which a request must begin."""

    def __init__(self, app: Any, *, arrival: float, **options: Any) -> None:
        super().__init__(app, **options)
        self.arrival = arrival


class _Server(uvicorn.Server):
    """Calls a function when it has started."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._report = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._report()


class _Impatient(H11Protocol):
    """Closes a connection whose request line and headers do not arrive within some seconds."""

    config: _Config
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

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
