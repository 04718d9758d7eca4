"""Ray: the connection to a cluster, and the pool of workers that run the models. Only this file imports ray.

A worker reads and decodes images, runs the models and writes rows where no reader sees them. It knows nothing about the
order in which shards are formed and marked (`ray_indexer`). Ray restarts a worker that died and repeats its calls.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from csp_index import code_folders, settings
from csp_index.errors import ClusterError, CspIndexError, ModelError, SettingError, SourceError, one_line
from csp_index.images.containers import ContainerReader
from csp_index.images.decode import ImageFailure, ImageRef, fetch
from csp_index.images.loader import Prepared, prepare, stacked
from csp_index.indexing import commit
from csp_index.indexing.model_columns import Part, image_rows
from csp_index.models.encoders import LoadedEncoder, load_encoder
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.store import schema
from csp_index.store.catalog import Column, LayerInfo, Shard
from csp_index.store.connect import open_uncommitted
from csp_index.store.history.digests import shard_digest
from csp_index.store.tables import Store

_CONNECT, _ANSWER, _START = 5, 20, 600  # seconds to wait: for a connection, for Ray's answer, for the first worker
_RESTARTS = 10  # of a worker that died, so that a batch that kills every worker ends the run
_CALLS = 4  # in progress per worker, at most

Report = list[Prepared | ImageFailure]
Stacks = list[np.ndarray]  # per part, the pixels of R readable images, [R, ...]
Outputs = dict[str, np.ndarray]  # [B, W] per column


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a worker needs to load the same model, and the identity that the model must have."""

    spec: str
    name: str | None  # of a network
    weights: str | None
    pools: dict[str, str]  # of a network's layers
    device: str
    identity: dict[str, str]
    infos: tuple[Column, ...]

    def part(self) -> Part:
        """Load the model. Raises ClusterError where it differs from the driver's."""
        layers = [info.key.layer for info in self.infos if isinstance(info, LayerInfo)]
        model: LoadedEncoder | LoadedNetwork
        if layers:
            options: dict[str, Any] = {"weights": self.weights, "name": self.name, "device": self.device}
            options |= {"allow_random": "random" in self.identity, "allow_missing": True}  # as the driver allowed
            model = load_network(self.spec, layers=layers, pool=self.pools, **options)
        else:
            model = load_encoder(self.spec, device=self.device)
        for trait, expected in self.identity.items():
            if trait not in ("spec", "random") and model.identity.get(trait) != expected:
                raise ClusterError(
                    f"{self.spec} differs on the worker {socket.gethostname()}: its {trait} is "
                    f"{model.identity.get(trait)}, expected {expected}: install the same files on every machine"
                )
        return Part(model, self.infos)


def recipe(part: Part) -> Recipe:
    """Return what another machine needs to load the same part."""
    model = part.model
    device = model.device.type  # a worker sees only its own GPU, whatever the number here
    if not isinstance(model, LoadedNetwork):
        return Recipe(model.spec, None, None, {}, device, dict(model.identity), part.infos)
    pools = {layer: output.pool for layer, output in model.layers.items()}
    return Recipe(model.spec, model.name, model.weights, pools, device, dict(model.identity), part.infos)


@dataclass(frozen=True, slots=True)
class WriteOrder:
    """What to write for one shard: its columns, and the images themselves where they are new."""

    mark: Shard
    prepared: tuple[Prepared, ...] | None
    infos: tuple[Column, ...]


class Worker:
    """A process of the cluster with every model of the pass; Ray calls its methods one after another.

    Each method returns first how many images went through the models, which the driver counts.
    """

    def __init__(self, recipes: Sequence[Recipe], uri: str, paths: Sequence[str], thumbnail_size: int) -> None:
        """Remember what to load; nothing is loaded yet."""
        sys.path.extend(path for path in paths if path not in sys.path)  # where the driver finds a user's own models
        self._recipes, self._uri, self._thumbnail_size = recipes, uri, thumbnail_size
        self._parts: list[Part] = []
        self._store: Store | None = None
        self._reader = ContainerReader()

    def load(self) -> int:
        """Load the models, unless they are loaded."""
        if len(self._parts) < len(self._recipes):
            torch.set_num_threads(1)  # the other cores have their own workers
            self._parts = [one.part() for one in self._recipes]
        return 0

    def decode(self, refs: Sequence[ImageRef], numbers: Sequence[int]) -> tuple[int, Report, Stacks]:
        """Return images without pixels, or failures, in order; and the pixels of the readable ones, per part."""
        self.load()
        preprocess = [self._parts[number].model.preprocess for number in numbers]
        images = []
        for ref in refs:
            payload = fetch(self._reader, ref.uri) if ref.failure is None else SourceError(ref.failure)
            images.append(prepare(ref, payload, preprocess, self._thumbnail_size))
        readable = [image.pixels for image in images if isinstance(image, Prepared)]
        stacks = [stacked(pixels).numpy() for pixels in zip(*readable, strict=True)]
        return 0, [replace(image, pixels=()) if isinstance(image, Prepared) else image for image in images], stacks

    def compute(
        self, numbers: Sequence[int], names: Sequence[str], rows: Sequence[tuple[int, int]], *chunks: Stacks
    ) -> tuple[int, Outputs]:
        """Run the parts on one batch, rows start .. stop - 1 of each chunk; `names` are those of its images."""
        self.load()
        outputs: Outputs = {}
        for i, number in enumerate(numbers):
            # A copy: a model may write into its input, and the cluster's memory is read-only.
            batch = np.concatenate([chunk[i][start:stop] for chunk, (start, stop) in zip(chunks, rows, strict=True)])
            for what, values in self._parts[number].compute(torch.from_numpy(batch)).items():
                bad = (~torch.isfinite(values)).flatten(1).any(1).nonzero().flatten().tolist()
                if bad:
                    raise ModelError(
                        f"{what} gave values that are not finite on {len(bad)} of {len(values)} images, first "
                        f"{names[bad[0]]}: check the model, or index with engine local, which goes on without them"
                    )
                outputs[what] = values.numpy()
        return sum(stop - start for start, stop in rows), outputs

    def write(self, order: WriteOrder, *outputs: Outputs) -> tuple[int, WrittenShard]:
        """Write one shard's rows, which no reader sees until they are appended."""
        self._store = self._store or open_uncommitted(self._uri)
        tables, digests = {}, {}
        if order.prepared is not None:
            tables[schema.IMAGES] = image_rows(order.mark, order.prepared)
            digests[schema.IMAGES] = shard_digest([tables[schema.IMAGES]])
        for info in order.infos:
            values = torch.from_numpy(np.concatenate([output[info.what] for output in outputs]))
            tables[info.table] = commit.value_rows(info, order.mark, values)
            digests[info.what] = shard_digest([tables[info.table]])
        fragments = {name: self._store.write_fragments(name, rows) for name, rows in tables.items()}
        return 0, WrittenShard(fragments, digests)


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What a worker wrote of one shard: the fragments of each table, and the digest of each column's rows."""

    fragments: Mapping[str, list[str]]
    digests: Mapping[str, str]


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

    def __init__(self, parts: Sequence[Part], uri: str) -> None:
        """Start the workers; the first call waits until one is ready."""
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
            self._actors = [actor_class.remote(recipes, address, paths, size) for _ in range(_count(ray, kind))]
            self._starting = {actor.load.remote(): actor for actor in self._actors}
        self._ready: list[PoolWorker] = []
        self._busy: dict[Any, PoolWorker] = {}
        self._computed = 0  # images that went through the models

    @property
    def ready(self) -> int:
        """The number of ready workers: at least one after the first call."""
        return len(self._ready)

    def computed(self) -> int:
        """Return how many images went through the models since the last call."""
        count, self._computed = self._computed, 0
        return count

    def decode(self, refs: Sequence[ImageRef], numbers: Sequence[int]) -> Chunk:
        """Submit the reading, decoding and preprocessing of images for some parts."""
        worker = self._least_busy()
        report, pixels = self._call(worker, "decode", 3, refs, numbers)
        return Chunk(report, pixels, worker)

    def compute(self, numbers: Sequence[int], names: Sequence[str], pieces: Sequence[tuple[Chunk, int, int]]) -> Any:
        """Submit one batch, made of rows start .. stop - 1 of chunks; return where its outputs will be."""
        self.settle(_CALLS * self.ready)
        rows = [(start, stop) for _, start, stop in pieces]
        worker = self._least_busy(pieces[0][0].worker)
        (outputs,) = self._call(worker, "compute", 2, numbers, names, rows, *(chunk.pixels for chunk, _, _ in pieces))
        return outputs

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
                self._computed += self.get(call)
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
