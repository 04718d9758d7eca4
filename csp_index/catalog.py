"""What an index holds, and typed streams of it: encoders, layers, shard marks, embedding and activation tiles.

Reads only committed shards: a row whose shard has no mark does not exist.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch

from csp_index import schema
from csp_index.errors import LabelError, StoreError
from csp_index.records import LayerKey
from csp_index.store import Store


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """An encoder whose embeddings the index holds."""

    name: str
    width: int
    logit_scale: float | None
    identity: dict[str, str]
    table: str

    @property
    def what(self) -> str:
        """The encoder's name in the shard marks."""
        return f"embeddings:{self.name}"


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer whose activations the index holds."""

    key: LayerKey
    neurons: int
    pool: str
    network: str
    weights: str | None
    dtype: str
    identity: dict[str, str]
    table: str

    @property
    def what(self) -> str:
        """The layer's name in the shard marks."""
        return f"activations:{self.key}"


Column = EncoderInfo | LayerInfo  # what a shard holds beside its images


@dataclass(frozen=True, slots=True)
class Shard:
    """A committed shard: images first_image .. first_image + rows - 1."""

    number: int
    first_image: int
    rows: int
    settings_hash: str


def encoders(store: Store) -> list[EncoderInfo]:
    """Return the encoders of the index, in the order they were added; one without a committed shard is none."""
    rows = store.read(schema.ENCODERS).to_pylist()
    found = [
        EncoderInfo(r["encoder"], r["width"], r["logit_scale"], json.loads(r["identity"]), r["table"]) for r in rows
    ]
    marked = _marked(store)
    return [info for info in found if info.what in marked]


def columns(store: Store) -> list[Column]:
    """Return the encoders and the layers of the index."""
    return [*encoders(store), *layers(store)]


def encoder(store: Store, name: str | None = None) -> EncoderInfo:
    """Return the named encoder, or the only one."""
    found = encoders(store)
    if name is None and len(found) == 1:
        return found[0]
    for info in found:
        if info.name == name:
            return info
    names = ", ".join(info.name for info in found) or "none"
    asked = f"encoder {name!r} is not in the index" if name else "the index does not hold exactly one encoder: name one"
    raise LabelError(f"{asked} (has: {names})")


def layers(store: Store) -> list[LayerInfo]:
    """Return the layers of the index, in the order they were added; one without a committed shard is none."""
    found = [
        LayerInfo(
            LayerKey(r["model"], r["layer"]),
            r["neurons"],
            r["pool"],
            r["network"],
            r["weights"],
            r["dtype"],
            json.loads(r["identity"]),
            r["table"],
        )
        for r in store.read(schema.LAYERS).to_pylist()
    ]
    marked = _marked(store)
    return [info for info in found if info.what in marked]


def _marked(store: Store) -> set[str]:
    return set(store.read(schema.SHARDS, ["what"])["what"].unique().to_pylist())


def layer(store: Store, key: LayerKey) -> LayerInfo:
    """Return the layer, or say which ones there are."""
    found = layers(store)
    for info in found:
        if info.key == key:
            return info
    raise LabelError(f"layer {key} is not in the index (has: {', '.join(str(i.key) for i in found) or 'none'})")


def shards(store: Store, what: str) -> list[Shard]:
    """Return the committed shards of `images`, an encoder or a layer, in image order."""
    rows = store.read(schema.SHARDS, where=f"what = {sql_text(what)}").to_pylist()
    marks = [Shard(r["shard"], r["first_image"], r["rows"], r["settings_hash"]) for r in rows]
    marks.sort(key=lambda mark: mark.number)
    for before, mark in pairwise(marks):
        if mark.number != before.number + 1 or mark.first_image != before.first_image + before.rows:
            raise StoreError(f"shards of {what} do not follow each other at shard {mark.number}: index again")
    return marks


def image_count(store: Store, what: str = schema.IMAGES) -> int:
    """Return how many images are committed for `what`."""
    marks = shards(store, what)
    return marks[-1].first_image + marks[-1].rows if marks else 0


def embedding_tiles(store: Store, info: EncoderInfo, marks: Sequence[Shard]) -> Iterator[torch.Tensor]:
    """Stream the embeddings shard by shard, each [n, D]."""
    where = f"shard <= {marks[-1].number}" if marks else "false"
    batches = store.scan(info.table, ["image_id", "embedding"], where=where)
    waiting: list[np.ndarray] = []
    held, following = 0, iter(marks)
    mark = next(following, None)
    expected = 0
    for batch in batches:
        ids = batch.column("image_id").to_numpy()
        if len(ids) and (ids[0] != expected or ids[-1] != expected + len(ids) - 1):
            raise StoreError(f"embeddings of {info.name} are out of order at image {expected}: index again")
        expected += len(ids)
        column = batch.column("embedding")
        waiting.append(column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), info.width))
        held += len(column)
        while mark is not None and held >= mark.rows:
            joined = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
            yield torch.from_numpy(np.array(joined[: mark.rows]))
            waiting, held = [joined[mark.rows :]], held - mark.rows
            mark = next(following, None)
    if mark is not None:
        raise StoreError(f"embeddings of {info.name} end before shard {mark.number}: index again")


def activation_tiles(
    store: Store, info: LayerInfo, marks: Sequence[Shard], neurons: np.ndarray | None = None
) -> Iterator[torch.Tensor]:
    """Stream the activations of `neurons` (sorted, default all) shard by shard, each [M, n] float32.

    Only the rows of the neurons asked for are read.
    """
    if not marks:
        return
    where = f"shard <= {marks[-1].number}"
    wanted = np.arange(info.neurons) if neurons is None else np.asarray(neurons)
    if len(wanted) < info.neurons:
        where += f" AND neuron IN ({','.join(map(str, wanted.tolist()))})"
    rows: list[np.ndarray] = []
    following = iter(marks)
    for batch in store.scan(info.table, ["neuron", "values"], where=where, batch_rows=min(len(wanted), 4096)):
        neuron, column = batch.column("neuron").to_numpy(), batch.column("values")
        values = column.flatten().to_numpy(zero_copy_only=False)
        start = 0
        while start < len(neuron):
            have = sum(len(block) for block in rows)
            take = min(len(wanted) - have, len(neuron) - start)
            if not np.array_equal(neuron[start : start + take], wanted[have : have + take]):
                raise StoreError(f"activations of {info.key} are out of order: index again")
            low, high = column.offsets[start].as_py(), column.offsets[start + take].as_py()
            base = column.offsets[0].as_py()
            rows.append(values[low - base : high - base].reshape(take, -1))
            start += take
            if have + take == len(wanted):
                mark = next(following)
                tile = np.concatenate(rows) if len(rows) > 1 else rows[0]
                if tile.shape[1] != mark.rows:
                    raise StoreError(f"activations of {info.key} do not fill shard {mark.number}: index again")
                yield torch.from_numpy(tile.astype(np.float32))
                rows = []
    if rows or next(following, None) is not None:
        raise StoreError(f"activations of {info.key} end before shard {marks[-1].number}: index again")


def covered(store: Store, what: str, images: int) -> list[Shard]:
    """Return the shards that make up the first `images` images."""
    marks = [mark for mark in shards(store, what) if mark.first_image + mark.rows <= images]
    if not marks or marks[-1].first_image + marks[-1].rows != images:
        raise StoreError(f"{what} does not hold the {images} images of its statistics: run `csp-index index` again")
    return marks


def activations_of(store: Store, target: LayerInfo, neuron: int, images: int) -> torch.Tensor:
    """Return one neuron's activations over the first `images` images, [N]; reads that neuron's rows only."""
    marks = covered(store, target.what, images)
    parts = list(activation_tiles(store, target, marks, np.array([neuron])))
    return torch.cat([part[0] for part in parts])


def embeddings_of(store: Store, source: EncoderInfo, ids: np.ndarray) -> torch.Tensor:
    """Return the embeddings of image ids [I], in their order, as [I, D]; each distinct row is read once."""
    distinct, inverse = np.unique(np.asarray(ids, dtype=np.int64), return_inverse=True)
    if len(distinct) == 0:
        return torch.zeros(0, source.width)
    dataset = store.dataset(source.table)
    found = dataset.take(distinct, columns=["image_id", "embedding"])
    if not np.array_equal(found["image_id"].to_numpy(), distinct):
        raise StoreError(f"embeddings of {source.name} are out of order: index again")
    column = found["embedding"].combine_chunks()
    rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(distinct), source.width)
    return torch.from_numpy(rows[inverse.reshape(-1)])


def neuron_rows(store: Store, target: LayerInfo, neurons: Sequence[int] | None = None) -> pa.Table:
    """Return the statistics of the neurons (default all), sorted by neuron."""
    where = layer_filter(target)
    if neurons is not None and len(neurons) < target.neurons:
        where += f" AND neuron IN ({','.join(map(str, neurons))})"
    rows = store.read(schema.NEURONS, where=where).sort_by("neuron")
    if rows.num_rows == 0:
        raise LabelError(
            f"layer {target.key} is not finished: run `csp-index index` again, it goes on where it stopped"
        )
    return rows


def is_finished(store: Store, target: LayerInfo) -> bool:
    """Tell whether the layer's statistics are there, so that its neurons can be labelled."""
    return store.count(schema.NEURONS, layer_filter(target)) == target.neurons


def layer_filter(target: LayerInfo) -> str:
    """Return the SQL condition that picks a layer's rows."""
    return f"model = {sql_text(target.key.model)} AND layer = {sql_text(target.key.layer)}"


def sql_text(value: str) -> str:
    """Return a string as a SQL literal.

    >>> sql_text("it's")
    "'it''s'"
    """
    return "'" + value.replace("'", "''") + "'"
