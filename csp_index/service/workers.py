"""The same service from several processes: one interpreter computes on one core, however many threads it has.

All listen on one socket and answer alike: they read the same versions of the index, and what stands for one start of
the service (tags of answers, sessions of browsers) is made before them. Limits are of the whole service: each process
takes its share. Supervision is uvicorn's: a process that dies is replaced, one that cannot start ends them all.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess

from csp_index.errors import CspIndexError, StoreError, one_line
from csp_index.opening import open_snapshot
from csp_index.service.config import ServiceSettings
from csp_index.service.journal import SHARED_COUNTERS
from csp_index.service.server import BACKLOG, log_to_stderr, uvicorn_config

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = logging.getLogger("csp_index.service")

_START_SECONDS = 120.0  # in which a new process answers, also on a busy machine


def run(uri: str, settings: ServiceSettings, place: socket.socket, started: Callable[[], None]) -> None:
    """Serve the index from `settings.workers` processes until a signal comes; calls `started` once all answer.

    Raises KeyboardInterrupt at the end, StoreError where a process cannot start, and where there is no index.
    """
    versions = open_snapshot(uri).versions()
    part = _share(settings)
    config = uvicorn_config(partial(_worker, uri, part, versions), part, workers=settings.workers)
    with tempfile.TemporaryDirectory(prefix="csp_index_") as counters:
        os.environ[SHARED_COUNTERS] = counters
        supervisor = _Supervisor(config, [place], started)
        try:
            supervisor.run()
        finally:
            del os.environ[SHARED_COUNTERS]
    if supervisor.failed:
        raise StoreError("the service's processes could not start: its log tells why")
    raise KeyboardInterrupt


def _share(settings: ServiceSettings) -> ServiceSettings:
    """Return the settings of one process: its part of what is limited over all of them."""
    limits = ("threads", "waiting", "held_bytes", "sql_processes")
    return replace(settings, **{name: math.ceil(getattr(settings, name) / settings.workers) for name in limits})


def _worker(uri: str, settings: ServiceSettings, versions: Mapping[str, int]) -> FastAPI:
    """Return the application of one process; it ends with the process that started it."""
    from csp_index.service.app import make_app  # the process that supervises needs none of it

    log_to_stderr()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        return make_app(uri, settings, versions=versions)
    except CspIndexError as exc:
        _log.error("a process of the service cannot start: %s", one_line(exc))
        sys.exit(STARTUP_FAILURE)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class _Supervisor(Multiprocess):
    """Tells when all processes answer, and forgets what those that died were working on."""

    def __init__(self, config: object, sockets: list[socket.socket], started: Callable[[], None]) -> None:
        super().__init__(config, sockets)  # type: ignore[arg-type]
        self._tell = started
        self.failed = False

    def init_processes(self) -> None:
        super().init_processes()
        if all(process.wait_until_ready(_START_SECONDS, self.should_exit) for process in self.processes):
            self._tell()

    def keep_subprocess_alive(self) -> None:
        for place in self.sockets:
            place.listen(BACKLOG)  # each new process sets this to the one connection that it takes at once
        before, ending = {process.pid for process in self.processes}, self.should_exit.is_set()
        super().keep_subprocess_alive()
        self.failed = self.failed or (self.should_exit.is_set() and not ending)
        for gone in before - {process.pid for process in self.processes}:
            mark_process_dead(gone)  # type: ignore[no-untyped-call]
