"""The application on a socket: bound before anything else starts, impatient with who does not say what they want.

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

_HEALTH_SECONDS = 60  # in which a process must say that it lives: loading models keeps it busy
_KEEP_SECONDS = 15  # a connection stays open for the next request
BACKLOG = 256  # connections that wait to be taken


def bound(settings: ServiceSettings) -> socket.socket:
    """Return a socket at the address, which nobody can connect to yet. Raises SettingError where it is taken."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise SettingError(f"host {settings.host} is not an address of this machine ({one_line(exc)})") from exc
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
    except OSError as exc:
        found.close()
        raise SettingError(
            f"{settings.host} port {settings.port} cannot be listened on ({one_line(exc)}): give another --port"
        ) from exc
    return found


def run(app: Any, settings: ServiceSettings, place: socket.socket, started: Callable[[], None]) -> None:
    """Serve until a signal comes; requests on their way are answered. Calls `started` when the first can come.

    Raises KeyboardInterrupt at the end where the signal was Ctrl-C's, or one that was made to be like it.
    """
    _Server(uvicorn_config(app, settings), started).run(sockets=[place])


def uvicorn_config(app: Any, settings: ServiceSettings, workers: int = 1) -> uvicorn.Config:
    """Return how uvicorn is to serve an application, or what makes one in each of several processes."""
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
        backlog=BACKLOG if workers == 1 else 1,  # asyncio takes so many connections at once, and leaves none to others
        timeout_keep_alive=_KEEP_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.timeout) + 1,
        timeout_worker_healthcheck=_HEALTH_SECONDS,
    )


def log_to_stderr() -> None:
    """Write one line of JSON for each request, and for what goes wrong, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name, level in (("csp_index.service", logging.INFO), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


class _Config(uvicorn.Config):
    """Knows, too, within how many seconds a request must begin."""

    def __init__(self, app: Any, *, arrival: float, **options: Any) -> None:
        super().__init__(app, **options)
        self.arrival = arrival


class _Server(uvicorn.Server):
    """Tells when it has started."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell()


class _Impatient(H11Protocol):
    """Closes a connection whose request does not begin, or whose first lines do not end, within some seconds."""

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
        """Tell in the one shape of errors that this is no HTTP, and close."""
        fault, request_id = (
            Fault(400, "bad-request", "what was sent is not a request of HTTP/1.1"),
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
    """Requests come as JSON; everything else becomes it."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno <= logging.INFO:
            return text
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": now, "level": record.levelname.lower(), "message": text})
