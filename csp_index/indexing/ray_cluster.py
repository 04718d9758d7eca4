"""Ray: a cluster joined or started, and the workers on it that hold the models. Only this file imports ray.

A worker reads and decodes images, runs the models and writes rows where no reader sees them. It knows nothing of the
order in which shards are formed and marked (`distribute.py`). Ray starts a worker that died again and repeats what it
was doing.
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
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from csp_index import settings
from csp_index.errors import ClusterError, CspIndexError, ModelError, SettingError, one_line
from csp_index.images.containers import ContainerReader
from csp_index.images.decode import ImageFailure, ImageRef, fetch
from csp_index.images.loader import Prepared, prepare, stacked
from csp_index.indexing import commit
from csp_index.indexing.model_columns import Part, image_rows
from csp_index.models.encoders import LoadedEncoder, load_encoder
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.store import schema
from csp_index.store.catalog import Column, LayerInfo, Shard
from csp_index.store.connect import open_store
from csp_index.store.tables import Store

_CONNECT, _ANSWER, _START = 5, 20, 600  # seconds to wait: for a connection, for Ray's answer, for the first worker
_RESTARTS = 10  # of a worker that died; then a batch that kills every worker ends the run
_CALLS = 4  # under way for each worker, at most

Report = list[Prepared | ImageFailure]
Stacks = list[np.ndarray]  # for each part the pixels of R readable images, [R, ...]
Outputs = dict[str, np.ndarray]  # [B, W] for each column


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a worker makes a part of the pass again, and what must come out."""

    spec: str
    name: str | None  # of a network
    weights: str | None
    pool: str | None
    device: str
    identity: dict[str, str]
    infos: tuple[Column, ...]

    def part(self) -> Part:
        """Load the model. Raises ClusterError where it is another one than the driver's."""
        layers = [info.key.layer for info in self.infos if isinstance(info, LayerInfo)]
        model: LoadedEncoder | LoadedNetwork
        if layers:
            given = {"pool": self.pool, "weights": self.weights, "name": self.name, "device": self.device}
            model = load_network(self.spec, layers=layers, **given)  # type: ignore[arg-type]
        else:
            model = load_encoder(self.spec, device=self.device)
        for trait, expected in self.identity.items():
            if trait != "spec" and model.identity.get(trait) != expected:
                raise ClusterError(
                    f"{self.spec} is another one on the worker {socket.gethostname()}: its {trait} is "
                    f"{model.identity.get(trait)}, expected {expected}: install the same files everywhere"
                )
        return Part(model, self.infos)


def recipe(part: Part) -> Recipe:
    """Return how to make a part again on another machine."""
    model = part.model
    device = model.device.type  # a worker sees its own card alone, whatever its number here
    if not isinstance(model, LoadedNetwork):
        return Recipe(model.spec, None, None, None, device, dict(model.identity), part.infos)
    pools = {output.pool for output in model.layers.values()}
    pool = pools.pop() if len(pools) == 1 else None  # several: each layer got the usual one for its shape
    return Recipe(model.spec, model.name, model.weights, pool, device, dict(model.identity), part.infos)


@dataclass(frozen=True, slots=True)
class WriteOrder:
    """What to write of one shard: columns, and the images themselves where they are new."""

    mark: Shard
    prepared: tuple[Prepared, ...] | None
    infos: tuple[Column, ...]


class Worker:
    """A process of the cluster with every model of the pass; its methods are called one after another.

    Each returns first, for the driver to look at, how many images went through the models.
    """

    def __init__(self, recipes: Sequence[Recipe], uri: str, paths: Sequence[str], thumbnail_size: int) -> None:
        """Take in what to load; nothing is loaded yet."""
        sys.path.extend(path for path in paths if path not in sys.path)  # where the driver finds a user's own models
        self._recipes, self._uri, self._thumbnail_size = recipes, uri, thumbnail_size
        self._parts: list[Part] = []
        self._store: Store | None = None
        self._reader = ContainerReader()

    def load(self) -> int:
        """Load the models, unless they are."""
        if len(self._parts) < len(self._recipes):
            torch.set_num_threads(1)  # the other cores have workers of their own
            self._parts = [one.part() for one in self._recipes]
        return 0

    def decode(self, refs: Sequence[ImageRef], places: Sequence[int]) -> tuple[int, Report, Stacks]:
        """Return images without pixels, or failures, in order; and the readable ones' pixels for each part."""
        self.load()
        chosen = [self._parts[place].model.preprocess for place in places]
        images = [prepare(ref, fetch(self._reader, ref.uri), chosen, self._thumbnail_size) for ref in refs]
        readable = [image.pixels for image in images if isinstance(image, Prepared)]
        stacks = [stacked(pixels).numpy() for pixels in zip(*readable, strict=True)]
        return 0, [replace(image, pixels=()) if isinstance(image, Prepared) else image for image in images], stacks

    def compute(
        self, places: Sequence[int], first: str, rows: Sequence[tuple[int, int]], *chunks: Stacks
    ) -> tuple[int, Outputs]:
        """Run the parts on one batch, whose first image is called `first`: rows start .. stop - 1 of each chunk."""
        self.load()
        found: Outputs = {}
        for i, place in enumerate(places):
            # A copy: a model may write into its input, and the cluster's memory cannot be written.
            batch = np.concatenate([chunk[i][start:stop] for chunk, (start, stop) in zip(chunks, rows, strict=True)])
            for what, values in self._parts[place].compute(torch.from_numpy(batch)).items():
                if not bool(torch.isfinite(values).all()):
                    raise ModelError(f"{what} gave values that are not finite, first near {first}: check the model")
                found[what] = values.numpy()
        return sum(stop - start for start, stop in rows), found

    def write(self, order: WriteOrder, *outputs: Outputs) -> tuple[int, dict[str, list[str]]]:
        """Write one shard's rows, which no reader sees until they are appended; return the fragments of each table."""
        self._store = self._store or open_store(self._uri)
        tables = {}
        if order.prepared is not None:
            tables[schema.IMAGES] = image_rows(order.mark, order.prepared)
        for info in order.infos:
            values = torch.from_numpy(np.concatenate([output[info.what] for output in outputs]))
            tables[info.table] = commit.value_rows(info, order.mark, values)
        return 0, {name: self._store.write_fragments(name, rows) for name, rows in tables.items()}


@dataclass(eq=False, slots=True)
class Seat:
    """A worker that is ready, and how many calls it has to do."""

    actor: Any
    calls: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Chunk:
    """Neighbouring images that one worker decoded: where their report and their pixels are."""

    report: Any
    pixels: Any
    seat: Seat


class Crew:
    """The workers of one pass. A call is given out at once and answered later; `close` ends the workers."""

    def __init__(self, parts: Sequence[Part], uri: str) -> None:
        """Start the workers; the first call waits until one of them is ready."""
        self._ray = ray = library()
        kind = "GPU" if any(part.model.device.type == "cuda" for part in parts) else "CPU"
        options: dict[str, Any] = {"max_restarts": _RESTARTS, "max_task_retries": -1, "scheduling_strategy": "SPREAD"}
        if kind == "GPU":
            options["num_gpus"] = 1
        place = uri if "://" in uri else os.path.abspath(uri)
        paths, size = [*sys.path, os.getcwd()], settings.THUMBNAIL_SIZE.value()
        with _told():
            hire = ray.remote(**options)(Worker)
            self._actors = [hire.remote([*map(recipe, parts)], place, paths, size) for _ in range(_count(ray, kind))]
            self._starting = {actor.load.remote(): actor for actor in self._actors}
        self._seats: list[Seat] = []
        self._busy: dict[Any, Seat] = {}
        self._computed = 0  # images that went through the models

    @property
    def ready(self) -> int:
        """How many workers are ready, the first call apart at least one."""
        return len(self._seats)

    def computed(self) -> int:
        """Return how many images went through the models since this was asked last."""
        count, self._computed = self._computed, 0
        return count

    def decode(self, refs: Sequence[ImageRef], places: Sequence[int]) -> Chunk:
        """Have images read, decoded and preprocessed for some parts."""
        seat = self._seat()
        report, pixels = self._call(seat, "decode", 3, refs, places)
        return Chunk(report, pixels, seat)

    def compute(self, places: Sequence[int], first: str, pieces: Sequence[tuple[Chunk, int, int]]) -> Any:
        """Have one batch computed, made of rows start .. stop - 1 of chunks; return where its outputs will be."""
        self.settle(_CALLS * self.ready)
        rows = [(start, stop) for _, start, stop in pieces]
        seat = self._seat(pieces[0][0].seat)
        (outputs,) = self._call(seat, "compute", 2, places, first, rows, *(chunk.pixels for chunk, _, _ in pieces))
        return outputs

    def write(self, order: WriteOrder, outputs: Sequence[Any]) -> Any:
        """Have one shard written; return where its fragments will be listed."""
        self.settle(_CALLS * self.ready)
        (fragments,) = self._call(self._seat(), "write", 2, order, *outputs)
        return fragments

    def get(self, where: Any) -> Any:
        """Wait for an answer, or for a list of them, and return it."""
        with _told():
            return self._ray.get(where)

    def is_there(self, where: Any) -> bool:
        """Tell whether an answer is there, good or bad."""
        with _told():
            return bool(self._ray.wait([where], timeout=0, fetch_local=False)[0])

    def settle(self, limit: int = 1) -> None:
        """Wait until fewer than `limit` calls are under way; raise what went wrong in those that ended."""
        timeout: int | None = 0
        while self._busy:
            with _told():
                calls = list(self._busy)
                done, _ = self._ray.wait(calls, num_returns=len(calls) if timeout == 0 else 1, timeout=timeout)
            for call in done:
                self._busy.pop(call).calls -= 1
                self._computed += self.get(call)
            if len(self._busy) < limit:
                return
            timeout = None

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        for actor in self._actors:
            with suppress(Exception):  # a cluster that is gone has none
                self._ray.kill(actor)

    def _seat(self, home: Seat | None = None) -> Seat:
        """Return the worker with the least to do; between equals `home`, which has the pixels at hand."""
        while self._starting:  # in the first call at least
            with _told():
                ready, _ = self._ray.wait(list(self._starting), timeout=0 if self._seats else _START)
            if not ready:
                break
            self.get(ready)
            self._seats.append(Seat(self._starting.pop(ready[0])))
        if not self._seats:
            raise ClusterError(f"no worker is ready after {_START} s: is the cluster full? See `ray status`")
        return min(self._seats, key=lambda seat: (seat.calls, seat is not home))

    def _call(self, seat: Seat, method: str, answers: int, *arguments: Any) -> Sequence[Any]:
        with _told():
            found: list[Any] = getattr(seat.actor, method).options(num_returns=answers).remote(*arguments)
        seat.calls += 1
        self._busy[found[0]] = seat
        return found[1:]


def _count(ray: Any, kind: str) -> int:
    """Return how many workers to start."""
    asked = settings.RAY_ACTORS.value()
    if asked == 0:
        raise SettingError("setting ray_actors is 0: expected auto, or at least one worker")
    there = int(ray.cluster_resources().get(kind, 0))
    if not there:
        raise ClusterError(f"the Ray cluster has no {kind}: add machines, or choose another --device")
    return asked or there


# joining


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be part of the cluster at an address, or else of one started here, which ends with the context.

    Without `address` the environment's RAY_ADDRESS counts. A program that is connected to Ray already stays so.
    Raises ClusterError.
    """
    ray = library()
    chosen = address or os.environ.get("RAY_ADDRESS") or "local"
    if ray.is_initialized() and address is None:
        yield
        return
    if chosen != "local":
        _check(chosen)
    if ray.is_initialized():
        raise ClusterError(
            f"this program is connected to Ray already: leave out {address}, or call ray.shutdown() first"
        )
    try:
        _connect(ray, chosen)
        yield
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        with warnings.catch_warnings():
            # Starting a process forks first, which Lance warns of; the new program begins at once.
            warnings.filterwarnings("ignore", message="lance(db fork support)? is ")
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (Exception, SystemExit) as exc:  # Ray ends the process where the cluster does not answer
        where = "cannot be started here" if address == "local" else f"at {address} cannot be joined"
        raise ClusterError(f"Ray {where}: {one_line(exc)}") from exc


def library() -> Any:
    """Return the module ray, told to keep its own messages off the terminal. Raises ClusterError if it is missing."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else reports of dead workers go to stdout
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # else answers nobody waits for any more are logged
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its coming default: says so otherwise
    try:
        import ray
    except ImportError as exc:
        raise ClusterError("engine ray needs Ray, which is missing: pip install 'csp_index[ray]'") from exc
    return ray


def _check(address: str) -> None:
    """Refuse an address where no cluster answers; Ray itself would try for minutes."""
    advice = "start one with `ray start --head`, or leave the address out to use this machine alone"
    if address != "auto":
        try:
            parts = urlsplit(f"//{address}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or not port:
            raise ClusterError(f"{address!r} is no address of a Ray cluster: expected HOST:PORT, for example head:6379")
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
def _told() -> Iterator[None]:
    """Raise what went wrong on a worker as the error it was there, and Ray's own errors as one of ours."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as exc:
        cause: object = exc
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        if isinstance(cause, CspIndexError):
            raise cause from None
        told = f"{type(cause).__name__}: {one_line(cause)}" if isinstance(cause, BaseException) else one_line(exc)
        raise ClusterError(f"a worker failed: {told}") from exc
    except RayError as exc:
        raise ClusterError(
            f"the Ray cluster failed: {one_line(exc)}; the same command goes on where it stopped"
        ) from exc
