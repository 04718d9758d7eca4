"""A worker of a cluster: it reads and decodes images, runs the models and writes rows where no reader sees them.

Knows nothing about Ray, nor about the order in which shards are formed and marked (`ray_indexer`).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from csp_index.errors import ClusterError, ModelError, SourceError
from csp_index.images.decode import ImageFailure, ImageRef, fetch
from csp_index.images.files.containers import ContainerReader
from csp_index.images.loader import Prepared, prepare, stacked
from csp_index.indexing import commit
from csp_index.indexing.model_columns import Maps, Part, image_rows, watch_of
from csp_index.indexing.model_outputs import outputs_of
from csp_index.models.encoders import LoadedEncoder, load_encoder
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.store import schema
from csp_index.store.catalog import Column, LayerInfo, Shard
from csp_index.store.connect import open_uncommitted
from csp_index.store.history.digests import shard_digest
from csp_index.store.tables import Store

Report = list[Prepared | ImageFailure]
Stacks = list[np.ndarray]  # per part, the pixels of R usable images, [R, ...]


@dataclass(frozen=True, slots=True)
class WorkerOutput:
    """What a batch gave: values [B, W] and the maps that may be kept, by column, of the images that the models took."""

    values: dict[str, np.ndarray]
    maps: Maps


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
    watched: tuple[LayerInfo, ...] = ()  # the layers whose activation maps are kept

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
        return Part(model, self.infos, watch_of(self.watched))


def recipe(part: Part) -> Recipe:
    """Return what another machine needs to load the same part."""
    model = part.model
    device = model.device.type  # a worker sees only its own GPU, whatever the number here
    if not isinstance(model, LoadedNetwork):
        return Recipe(model.spec, None, None, {}, device, dict(model.identity), part.infos)
    pools = {layer: output.pool for layer, output in model.layers.items()}
    place = (model.spec, model.name, model.weights, pools, device)
    return Recipe(*place, dict(model.identity), part.infos, part.watched)


@dataclass(frozen=True, slots=True)
class WriteOrder:
    """What to write for one shard: its columns, and the images themselves where they are new.

    `rows` are those of each batch that belong to the shard, from start to stop - 1.
    """

    mark: Shard
    prepared: tuple[Prepared, ...] | None
    infos: tuple[Column, ...]
    rows: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """The rows of a batch that all models took, the failures, and the error if they took none."""

    rows: list[int]
    failures: list[ImageFailure]
    broken: str | None


class Worker:
    """A process of the cluster with every model of the pass; Ray calls its methods one after another.

    Each method but `load` returns None first, by which the driver knows that the call has ended.
    """

    def __init__(
        self, recipes: Sequence[Recipe], uri: str, paths: Sequence[str], thumbnail_size: int, draft: int | None = None
    ) -> None:
        """Remember what to load; nothing is loaded yet."""
        sys.path.extend(path for path in paths if path not in sys.path)  # where the driver finds a user's own models
        self._recipes, self._uri, self._thumbnail_size, self._draft = recipes, uri, thumbnail_size, draft
        self._parts: list[Part] = []
        self._store: Store | None = None
        self._reader = ContainerReader()

    def load(self) -> None:
        """Load the models, unless they are loaded."""
        if len(self._parts) < len(self._recipes):
            torch.set_num_threads(1)  # the other cores have their own workers
            self._parts = [one.part() for one in self._recipes]

    def decode(self, refs: Sequence[ImageRef], numbers: Sequence[int]) -> tuple[None, Report, Stacks]:
        """Return images without pixels, or failures, in order; and the pixels of the usable ones, per part."""
        self.load()
        preprocess = [self._parts[number].model.preprocess for number in numbers]
        images = []
        for ref in refs:
            payload = fetch(self._reader, ref.uri) if ref.failure is None else SourceError(ref.failure)
            images.append(prepare(ref, payload, preprocess, self._thumbnail_size, self._draft))
        usable = [image.pixels for image in images if isinstance(image, Prepared)]
        stacks = [stacked(pixels).numpy() for pixels in zip(*usable, strict=True)]
        return None, [replace(image, pixels=()) if isinstance(image, Prepared) else image for image in images], stacks

    def compute(
        self, numbers: Sequence[int], uris: Sequence[str], rows: Sequence[tuple[int, int]], *chunks: Stacks
    ) -> tuple[None, BatchReport, WorkerOutput]:
        """Run the parts on one batch, rows start .. stop - 1 of each chunk; `uris` are the names of its images."""
        self.load()
        pixels = []
        for i in range(len(numbers)):
            # A copy: a model may write into its input, and the cluster's memory is read-only.
            batch = np.concatenate([chunk[i][start:stop] for chunk, (start, stop) in zip(chunks, rows, strict=True)])
            pixels.append(torch.from_numpy(batch))
        parts, broken = [self._parts[number] for number in numbers], None
        try:
            outputs = outputs_of(parts, uris, pixels, proven=False)
        except ModelError as exc:  # only the driver knows whether the models took an image before
            broken = str(exc)
            outputs = outputs_of(parts, uris, pixels, proven=True)
        arrays = {what: values.numpy() for what, values in outputs.values.items()}
        return None, BatchReport(outputs.rows, outputs.failures, broken), WorkerOutput(arrays, outputs.maps)

    def write(self, order: WriteOrder, *outputs: WorkerOutput) -> tuple[None, WrittenShard]:
        """Write one shard's rows, which no reader sees until they are appended."""
        self._store = self._store or open_uncommitted(self._uri)
        tables, digests = {}, {}
        if order.prepared is not None:
            tables[schema.IMAGES] = image_rows(order.mark, order.prepared)
            digests[schema.IMAGES] = shard_digest([tables[schema.IMAGES]])
        for info in order.infos:
            pieces = [output.values[info.what][slice(*rows)] for output, rows in zip(outputs, order.rows, strict=True)]
            tables[info.table] = commit.value_rows(info, order.mark, torch.from_numpy(np.concatenate(pieces)))
            digests[info.what] = shard_digest([tables[info.table]])
        fragments = {name: self._store.write_fragments(name, rows) for name, rows in tables.items()}
        return None, WrittenShard(fragments, digests)


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What a worker wrote of one shard: the fragments of each table, and the digest of each column's rows."""

    fragments: Mapping[str, list[str]]
    digests: Mapping[str, str]
