"""The same service in several processes: one Python interpreter computes on one core, however many threads it has.

All processes listen on one socket and give the same answers: they read the same versions of the index, and the secret
of one start of the service (for tags of responses and sessions of browsers) is made before them. Limits of the whole
service are divided among the processes, but each of them goes over the whole dataset on its own. Supervision is
uvicorn's, which waits for one process after the other; this supervisor never waits, so that it reacts to signals.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import SIGNALS, Multiprocess, Process

from csp_index.errors import StoreError, one_line
from csp_index.service.config import SHARED_COUNTERS, ServiceSettings
from csp_index.service.server import BACKLOG, log_to_stderr, uvicorn_config
from csp_index.store.connect import open_snapshot, open_version

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = logging.getLogger("csp_index.service")

_AGAIN_SECONDS = 30  # until the next try if a replacement process cannot start
_GRACE_SECONDS = 3  # beyond the time that a process has to end, before it is killed
_TICK = 0.1


def run(uri: str, settings: ServiceSettings, listener: socket.socket, started: Callable[[], None]) -> None:
    """Serve the index from `settings.workers` processes until a signal comes; calls `started` once all of them serve.

    Raises KeyboardInterrupt at the end, and StoreError if a process cannot start or there is no index.
    """
    store = open_snapshot(uri) if settings.version is None else open_version(uri, settings.version)
    versions, part = store.versions(), _share(settings)
    with tempfile.TemporaryDirectory(prefix="csp_index_", ignore_cleanup_errors=True) as counters:
        os.environ[SHARED_COUNTERS] = counters
        running = multiprocessing.get_context("spawn").Event()
        config = uvicorn_config(partial(_worker, uri, part, versions, running), part, workers=settings.workers)
        supervisor = _Supervisor(config, listener, running, started)
        try:
            supervisor.run()
        finally:
            del os.environ[SHARED_COUNTERS]
    if supervisor.failed:
        raise StoreError("the service's processes could not start: its log says why")
    raise KeyboardInterrupt


def _share(settings: ServiceSettings) -> ServiceSettings:
    """Return the settings of one process: its part of what is limited over all of them."""
    limits = ("waiting", "held_bytes", "sql_processes", "connections")
    return replace(settings, **{name: math.ceil(getattr(settings, name) / settings.workers) for name in limits})


def _worker(uri: str, settings: ServiceSettings, versions: Mapping[str, int], running: Event) -> FastAPI:
    """Return the application of one process, which ends with the process that started it.

    Where that is not possible the process ends, and all others with it; once the service is `running`, it ends later,
    so that the others go on and another try follows.
    """
    log_to_stderr()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        os.makedirs(os.environ[SHARED_COUNTERS], exist_ok=True)
        from csp_index.service.app import make_app  # the process that supervises needs none of it

        return make_app(uri, settings, versions=versions)
    except Exception as exc:  # whatever it is, it will come again
        _log.error("a process of the service cannot start: %s", one_line(exc))
    if not running.is_set():
        sys.exit(STARTUP_FAILURE)
    time.sleep(_AGAIN_SECONDS)
    sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(os.environ[SHARED_COUNTERS], ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)


class _Process(Process):
    """A process with regular health checks that never wait for its answer."""

    serving = False  # it accepts requests

    def start(self) -> None:
        """Start it out of reach of Ctrl-C, which this process handles, and so that the pipe closes when it dies."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self.child_conn.close()  # the process has its own end of the pipe
        self._ask()

    def is_well(self) -> bool:
        """Return whether it lives, and passed its last health check in time."""
        try:
            if self.parent_conn.poll():
                self.serving = bool(self.parent_conn.recv())
                self._ask()
        except (OSError, EOFError):
            return False
        return self.process.is_alive() and time.monotonic() - self._asked < self.config.timeout_worker_healthcheck

    def _ask(self) -> None:
        self._asked = time.monotonic()
        with suppress(OSError):  # it is gone: the next check finds that
            self.parent_conn.send(b"ping")


class _Supervisor(Multiprocess):
    """Calls `started` when all processes serve, replaces one that dies, and ends in bounded time."""

    processes: list[_Process]  # type: ignore[assignment]

    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, running: Event, started: Callable[[], None]
    ) -> None:
        super().__init__(config, [listener])
        for other in SIGNALS.keys() - {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}:
            signal.signal(other, signal.SIG_DFL)
        self._listener, self._running, self._started = listener, running, started
        self.failed = False

    def handle_hup(self) -> None:
        """End, because the terminal is gone."""
        self.handle_int()

    def init_processes(self) -> None:
        """Start all processes."""
        self.processes = [self._new() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Replace processes that are gone; call `started` the first time that all serve."""
        for number, process in enumerate(self.processes):
            if self.should_exit.is_set() or process.is_well():
                continue
            process.kill()
            process.join()
            mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
            if process.exitcode == STARTUP_FAILURE:
                self.failed = True
                self.should_exit.set()
            else:
                self.processes[number] = self._new()
        self._listener.listen(BACKLOG)  # each new process has set the backlog to 1, see `uvicorn_config`
        if not self._running.is_set() and all(process.serving for process in self.processes):
            self._running.set()
            self._started()

    def join_all(self) -> None:
        """Wait for the processes to end; a second signal, or too long a wait, ends them at once."""
        until = time.monotonic() + (self.config.timeout_graceful_shutdown or 0) + _GRACE_SECONDS
        while any(process.process.is_alive() for process in self.processes):
            if self.signal_queue or time.monotonic() > until:
                for process in self.processes:
                    process.process.kill()
            time.sleep(_TICK)

    def _new(self) -> _Process:
        process = _Process(self.config, self.sockets)
        process.start()
        return process
