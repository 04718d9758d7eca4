"""Ray: the connection to a cluster, and the pool of workers (`ray_worker`). Only this file imports ray.

Knows nothing about the order in which shards are formed and marked (`ray_indexer`). Ray restarts a worker that died and
repeats its calls.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from csp_index import settings
from csp_index.errors import ClusterError, CspIndexError, SettingError, one_line
from csp_index.files import code_folders
from csp_index.images.decode import ImageRef
from csp_index.indexing.model_columns import Part
from csp_index.indexing.ray_worker import Worker, WriteOrder, recipe

_CONNECT, _ANSWER, _START = 5, 20, 600  # seconds to wait: for a connection, for Ray's answer, for the first worker
_RESTARTS = 10  # of a worker that died, so that a batch that kills every worker ends the run
_CALLS = 4  # in progress per worker, at most


@dataclass(eq=False, slots=True)
class PoolWorker:
    """A worker that is ready, and its number of unfinished calls."""

    actor: Any
    calls: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Chunk:
    """Neighboring images that one worker decodes: where their report and their pixels will be."""

    report: Any
    pixels: Any
    worker: PoolWorker


class WorkerPool:
    """The workers of one pass. A call is submitted at once and its result fetched later; `close` ends the workers."""

    def __init__(self, parts: Sequence[Part], uri: str, draft: int | None = None) -> None:
        """Start the workers, which decode with `draft`; the first call waits until one is ready."""
        self._ray = ray = ray_module()
        kind = "GPU" if any(part.model.device.type == "cuda" for part in parts) else "CPU"
        options: dict[str, Any] = {"max_restarts": _RESTARTS, "max_task_retries": -1, "scheduling_strategy": "SPREAD"}
        if kind == "GPU":
            options["num_gpus"] = 1
        address = uri if "://" in uri else os.path.abspath(uri)
        paths, size = [*sys.path, *code_folders.known()], settings.THUMBNAIL_SIZE.value()
        with _translated():
            actor_class = ray.remote(**options)(Worker)
            recipes = [recipe(part) for part in parts]
            self._actors = [actor_class.remote(recipes, address, paths, size, draft) for _ in range(_count(ray, kind))]
            self._starting = {actor.load.remote(): actor for actor in self._actors}
        self._ready: list[PoolWorker] = []
        self._busy: dict[Any, PoolWorker] = {}

    @property
    def ready(self) -> int:
        """The number of ready workers: at least one after the first call."""
        return len(self._ready)

    def decode(self, refs: Sequence[ImageRef], numbers: Sequence[int]) -> Chunk:
        """Submit the reading, decoding and preprocessing of images for some parts."""
        worker = self._least_busy()
        report, pixels = self._call(worker, "decode", 3, refs, numbers)
        return Chunk(report, pixels, worker)

    def compute(
        self, numbers: Sequence[int], uris: Sequence[str], pieces: Sequence[tuple[Chunk, int, int]]
    ) -> tuple[Any, Any]:
        """Submit one batch, made of rows start .. stop - 1 of chunks; return where its report and outputs will be."""
        self.settle(_CALLS * self.ready)
        rows = [(start, stop) for _, start, stop in pieces]
        worker = self._least_busy(pieces[0][0].worker)
        pixels = (chunk.pixels for chunk, _, _ in pieces)
        report, outputs = self._call(worker, "compute", 3, numbers, uris, rows, *pixels)
        return report, outputs

    def write(self, order: WriteOrder, outputs: Sequence[Any]) -> Any:
        """Submit the writing of one shard; return where its fragments will be listed."""
        self.settle(_CALLS * self.ready)
        (fragments,) = self._call(self._least_busy(), "write", 2, order, *outputs)
        return fragments

    def get(self, result: Any) -> Any:
        """Wait for a result, or for a list of them, and return it."""
        with _translated():
            return self._ray.get(result)

    def is_done(self, result: Any) -> bool:
        """Return whether a call has ended, well or badly."""
        with _translated():
            return bool(self._ray.wait([result], timeout=0, fetch_local=False)[0])

    def settle(self, limit: int = 1) -> None:
        """Wait until fewer than `limit` calls are in progress; raise the error of a call that failed."""
        timeout: int | None = 0
        while self._busy:
            with _translated():
                calls = list(self._busy)
                done, _ = self._ray.wait(calls, num_returns=len(calls) if timeout == 0 else 1, timeout=timeout)
            for call in done:
                self._busy.pop(call).calls -= 1
                self.get(call)
            if len(self._busy) < limit:
                return
            timeout = None

    def close(self) -> None:
        """End the workers at once."""
        for actor in self._actors:
            with suppress(Exception):  # a cluster that is gone has no workers
                self._ray.kill(actor)

    def _least_busy(self, home: PoolWorker | None = None) -> PoolWorker:
        """Return the worker with the fewest calls; among equals `home`, whose machine has the pixels."""
        while self._starting:
            with _translated():
                ready, _ = self._ray.wait(list(self._starting), timeout=0 if self._ready else _START)
            if not ready:
                break
            self.get(ready)
            self._ready.append(PoolWorker(self._starting.pop(ready[0])))
        if not self._ready:
            raise ClusterError(
                f"no worker is ready after {_START} s: check with `ray status` whether the cluster is full"
            )
        return min(self._ready, key=lambda worker: (worker.calls, worker is not home))

    def _call(self, worker: PoolWorker, method: str, results: int, *arguments: Any) -> Sequence[Any]:
        with _translated():
            futures: list[Any] = getattr(worker.actor, method).options(num_returns=results).remote(*arguments)
        worker.calls += 1
        self._busy[futures[0]] = worker
        return futures[1:]


def _count(ray: Any, kind: str) -> int:
    """Return how many workers to start."""
    requested = settings.RAY_ACTORS.value()
    if requested == 0:
        raise SettingError("setting ray_actors is 0: expected auto, or at least one worker")
    available = int(ray.cluster_resources().get(kind, 0))
    if not available:
        raise ClusterError(f"the Ray cluster has no {kind}: add machines, or choose another --device")
    return requested or available


# connecting


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to the cluster at an address, or else start one here, which ends with the context.

    Without `address`, the environment's RAY_ADDRESS counts. A program that is already connected to Ray stays connected.
    Raises ClusterError.
    """
    ray = ray_module()
    cluster = address or os.environ.get("RAY_ADDRESS") or "local"
    if ray.is_initialized() and address is None:
        yield
        return
    if cluster != "local":
        _check(cluster)
    if ray.is_initialized():
        raise ClusterError(
            f"this program is already connected to Ray: leave out {address}, or call ray.shutdown() first"
        )
    try:
        _connect(ray, cluster)
        yield
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        with warnings.catch_warnings():
            # Starting a process forks first, which Lance warns about; the new program starts at once.
            warnings.filterwarnings("ignore", message="lance(db fork support)? is ")
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (Exception, SystemExit) as exc:  # Ray exits where the cluster does not answer
        where = "cannot be started here" if address == "local" else f"at {address} cannot be connected"
        raise ClusterError(f"Ray {where}: {one_line(exc)}") from exc


def ray_module() -> Any:
    """Return the module ray, set to keep its messages off the terminal. Raises ClusterError if it is missing."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else reports of dead workers go to stdout
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # else results that nobody fetches are logged
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its future default; otherwise it warns
    try:
        import ray
    except ImportError as exc:
        raise ClusterError("engine ray needs Ray, which is missing: pip install 'csp_index[ray]'") from exc
    return ray


def _check(address: str) -> None:
    """Refuse an address where no cluster answers; Ray itself would retry for minutes."""
    advice = "start one with `ray start --head`, or leave the address out to use this machine alone"
    if address != "auto":
        try:
            parts = urlsplit(f"//{address}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or not port:
            raise ClusterError(
                f"{address!r} is not the address of a Ray cluster: expected HOST:PORT, for example head:6379"
            )
        try:
            socket.create_connection((host, port), timeout=_CONNECT).close()
        except OSError as exc:
            raise ClusterError(f"no Ray cluster answers at {address}: {one_line(exc)}; {advice}") from exc
    status = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "status", "--address", address]
    try:
        subprocess.run(status, timeout=_ANSWER, check=True, capture_output=True)
    except (subprocess.SubprocessError, OSError) as exc:
        raise ClusterError(f"no Ray cluster answers at {address}: `ray status` fails there; {advice}") from exc


@contextmanager
def _translated() -> Iterator[None]:
    """Raise an error of a worker as it was raised there, and Ray's own errors as ClusterError."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as exc:
        cause: object = exc
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        if isinstance(cause, CspIndexError):
            raise cause from None
        message = f"{type(cause).__name__}: {one_line(cause)}" if isinstance(cause, BaseException) else one_line(exc)
        raise ClusterError(f"a worker failed: {message}") from exc
    except RayError as exc:
        raise ClusterError(
            f"the Ray cluster failed: {one_line(exc)}; the same command resumes where it stopped"
        ) from exc
