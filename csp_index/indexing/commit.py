"""How a shard gets into the store: registration, rows, marks with their digests, and the statistics that follow.

The marks come last, with a checkpoint. The pass over images and the import of arrays both use it.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import torch

from csp_index import settings
from csp_index.errors import AddressError, SettingError
from csp_index.models.weights import OBJECT
from csp_index.printable import printable
from csp_index.records import LayerKey
from csp_index.store import catalog, column_tables, schema
from csp_index.store.catalog import Column, EncoderInfo, LayerInfo, Shard
from csp_index.store.history.cleanup import clean_up
from csp_index.store.history.digests import shard_digest
from csp_index.store.maintenance import compact, table_state
from csp_index.store.runs import Run
from csp_index.store.tables import Store
from csp_index.store.values import streams
from csp_index.store.values.sparse import sparse_rows
from csp_index.store.values.statistics import NeuronStatistics, as_lists

#: What a model is called, and what the user allowed: its values do not depend on these.
_NAMES = frozenset({"spec", "class", "random"})

_SPARSE_FRAGMENTS = 4  # of a layer that is stored sparse, after a pass, at most


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """What one indexing pass did; `passed_over` counts the files of the source that are no images, by reason.

    `latents` has the number of latents of each layer of a sparse autoencoder, and how many are dead or dense.
    """

    run_id: str
    images: int
    added: int
    failed: int
    shards: int
    seconds: float
    layers: tuple[str, ...] = field(default=())
    encoders: tuple[str, ...] = field(default=())
    passed_over: dict[str, int] = field(default_factory=dict)
    latents: dict[str, dict[str, int]] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        cells = {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        cells["passed_over"] = ", ".join(f"{count} {reason}" for reason, count in self.passed_over.items())
        counts = [f"{n}: {c['latents']}, {c['dead']} dead, {c['dense']} dense" for n, c in self.latents.items()]
        cells["latents"] = "; ".join(counts)
        if not counts:  # there is no autoencoder
            del cells["latents"]
        cells["seconds"] = f"{self.seconds:.1f}"
        head = "".join(f"<th>{name}</th>" for name in cells)
        row = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells.values())
        return f"<table><thead><tr>{head}</tr></thead><tbody><tr>{row}</tr></tbody></table>"


def reconcile(store: Store, infos: Sequence[Column], dtype: str | None = None) -> list[Column]:
    """Return the columns as the index has them, new ones unchanged; refuse a different one under an existing name."""
    existing = {i.what: i for i in catalog.columns(store)}
    for info in infos:
        old = existing.get(info.what, info)
        differing = [
            f"{name} is {new}, was {before}"
            for name, (new, before) in _both(
                _traits(info, dtype), _traits(old, dtype and getattr(old, "dtype", None))
            ).items()
            if new != before
        ]
        if differing:
            raise SettingError(
                f"{info.what} differs from the one in the index ({'; '.join(differing)}): "
                "use the old one, or another name"
            )
    _check_objects([info for info in existing.values() if isinstance(info, LayerInfo)], infos)
    return [existing.get(info.what, info) for info in infos]


def _check_objects(existing: Sequence[LayerInfo], infos: Sequence[Column]) -> None:
    """Refuse a network under the name of another, where one of them is an object of the caller."""
    known = {info.key.model: (info, "in the index") for info in existing}
    for info in infos:
        if not isinstance(info, LayerInfo):
            continue
        old, where = known.setdefault(info.key.model, (info, "of the same call"))
        if not any(layer.network.startswith(f"{OBJECT}:") for layer in (info, old)):
            continue
        new, before = info.identity, old.identity
        differing = [
            f"{name} is {new.get(name)}, was {before.get(name)}"
            for name in ("weights", "source", "preprocessing")
            if new.get(name) != before.get(name)
        ]
        if differing:
            raise SettingError(
                f"{info.what} differs from the network of {old.what} {where} ({'; '.join(differing)}): "
                "use the old one, or another name"
            )


def _traits(info: Column, dtype: str | None) -> dict[str, object]:
    traits: dict[str, object] = {name: value for name, value in info.identity.items() if name not in _NAMES}
    if isinstance(info, LayerInfo):
        traits |= {"pool": info.pool, "neurons": info.neurons} | ({"dtype": dtype} if dtype else {})
    return traits


def _both(new: dict[str, object], old: dict[str, object]) -> dict[str, tuple[object, object]]:
    return {name: (new.get(name), old.get(name)) for name in sorted(new | old)}


def layer_table(key: LayerKey, *, sparse: bool) -> str:
    """Return the name of a new layer's table; `sparse` is whether zeros are left out where no setting decides.

    Raises AddressError as `check_address` does.
    """
    check_address(key)
    storage = settings.ACTIVATION_STORAGE.value()
    return column_tables.activations_table(str(key), sparse=sparse if storage == "auto" else storage == "sparse")


def check_address(key: LayerKey) -> None:
    """Refuse a layer that no page could show: a browser or the service would take its address for another.

    >>> check_address(LayerKey("net", ".."))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    csp_index.errors.AddressError: layer net/.. cannot have a page: take a name ...
    """
    unfit = printable(key) != str(key) or bool({key.model, key.layer} & {".", ".."}) or key.layer.endswith(".json")
    if unfit:
        raise AddressError(
            f"layer {printable(key)} cannot have a page: take a name without line breaks and signs like them, "
            "not . or .., that does not end in .json"
        )


def register(store: Store, infos: Sequence[Column], run: Run) -> None:
    """Write the rows of encoders and layers that are new to the index."""
    existing = {i.what for i in catalog.columns(store)}
    for info in infos:
        if info.what in existing:
            continue
        common: dict[str, object] = {
            "identity": json.dumps(info.identity, sort_keys=True),
            "table": info.table,
            "run_id": run.run_id,
        }
        if isinstance(info, EncoderInfo):
            name, row = schema.ENCODERS, {"encoder": info.name, "width": info.width, "logit_scale": info.logit_scale}
            same = f"encoder = {catalog.sql_text(info.name)}"
        else:
            same = catalog.layer_filter(info)
            name, row = schema.LAYERS, {"model": info.key.model, "layer": info.key.layer, "neurons": info.neurons}
            row |= {"pool": info.pool, "network": info.network, "weights": info.weights, "dtype": info.dtype}
        store.delete(name, same)  # of a column whose shards a repair took away, all of them
        store.append(name, pa.Table.from_pylist([row | common], schema=schema.table_schema(name)))


def write_values(store: Store, info: Column, shard: Shard, values: torch.Tensor) -> str:
    """Append one shard's embeddings or activations [n, W], a row per image; return the digest of the rows."""
    rows = value_rows(info, shard, values)
    store.append(info.table, rows)
    return shard_digest([rows])


def value_schema(info: Column) -> pa.Schema:
    """Return the schema of a column's table."""
    if isinstance(info, EncoderInfo):
        return column_tables.embeddings_schema(info.width)
    return column_tables.sparse_schema(info.dtype) if info.is_sparse else column_tables.activations_schema(info.dtype)


def value_rows(info: Column, shard: Shard, values: torch.Tensor) -> pa.Table:
    """Return the table rows of one shard's embeddings or activations [n, W], a row per image."""
    if isinstance(info, EncoderInfo):
        ids = np.arange(shard.first_image, shard.first_image + shard.rows)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.contiguous().reshape(-1).numpy()), info.width)
        columns = [pa.array(ids), pa.array(np.full(shard.rows, shard.number, np.int32)), vectors]
        return pa.table(columns, schema=value_schema(info))
    rows = (values.half() if info.dtype == "float16" else values).T.contiguous()
    if rows.numel() and not math.isfinite(sum(map(float, rows.aminmax()))):  # a single pass, which a NaN survives
        raise SettingError(f"activations of {info.key} exceed the range of {info.dtype}: index with --dtype float32")
    if info.is_sparse:
        return sparse_rows(info, shard, rows.numpy())
    numbers = pa.array(np.full(info.neurons, shard.number, np.int32))
    columns = [numbers, pa.array(np.arange(info.neurons, dtype=np.int32)), as_lists(rows)]
    return pa.table(columns, schema=value_schema(info))


def mark(store: Store, digests: Mapping[str, str], shard: Shard, run: Run) -> None:
    """Mark a shard: append one mark, with the digest of its rows, for each thing in it."""
    mark_all(store, [(digests, shard)], run)


def mark_all(store: Store, written: Sequence[tuple[Mapping[str, str], Shard]], run: Run) -> None:
    """Mark consecutive shards, each with the digests of what is in it; what is marked survives a kill."""
    rows = []
    for digests, shard in written:
        row: dict[str, object] = {"shard": shard.number, "first_image": shard.first_image, "rows": shard.rows}
        row |= {"settings_hash": run.settings_hash, "run_id": run.run_id}
        rows += [row | {"what": name, "digest": digest} for name, digest in digests.items()]
    store.append(schema.SHARDS, pa.Table.from_pylist(rows, schema=schema.table_schema(schema.SHARDS)))
    store.checkpoint()


def mark_rewritten_images(store: Store, digests: Mapping[int, str]) -> None:
    """Put new digests, by shard, into the marks of images whose rows were rewritten; the rest of the marks stays."""
    marks = store.read(schema.SHARDS, where=f"what = {catalog.sql_text(schema.IMAGES)}").to_pylist()
    changed = [row | {"digest": digests[row["shard"]]} for row in marks if row["shard"] in digests]
    table = pa.Table.from_pylist(changed, schema=schema.table_schema(schema.SHARDS))
    store.upsert(schema.SHARDS, ["what", "shard"], table)


def statistics_of(store: Store, info: LayerInfo, running: dict[str, NeuronStatistics], until: int) -> NeuronStatistics:
    """Return the layer's running statistics over the shards before `until`, computed from the store if missing."""
    if info.what not in running:
        catalog.check_activations(store, info)
        statistics = NeuronStatistics(info.neurons, settings.TOP_IMAGES.value())
        marks = [mark for mark in catalog.shards(store, info.what) if mark.number < until]
        for tile in streams.activation_tiles(store, info, marks):
            statistics.update(tile)
        running[info.what] = statistics
    return running[info.what]


def finish_statistics(store: Store, infos: Sequence[LayerInfo], running: dict[str, NeuronStatistics]) -> None:
    """Write the `neurons` rows of every layer whose stored statistics do not cover all of its shards."""
    for info in infos:
        marks = catalog.shards(store, info.what)
        current = f"{catalog.layer_filter(info)} AND images = {catalog.image_count(store, info.what)}"
        if marks and store.count(schema.NEURONS, current) < info.neurons:
            rows = statistics_of(store, info, running, len(marks)).to_arrow(info.key)
            store.upsert(schema.NEURONS, ["model", "layer", "neuron"], rows)


def finish_layers(store: Store, infos: Sequence[LayerInfo], running: dict[str, NeuronStatistics]) -> None:
    """Write the statistics of layers after their last shard, and merge the files of those that are stored sparse.

    Their shards are small, and each file costs a reader the same: of 16,384 latents over 25 shards of 2,048 images, one
    is read in 15 ms from 25 files, 4 ms from one.
    """
    finish_statistics(store, infos, running)
    for info in infos:
        if info.is_sparse and table_state(store, info.table).fragments > _SPARSE_FRAGMENTS:
            compact(store, info.table)


def drop_merged(store: Store, infos: Iterable[Column], *, merged: bool = False) -> None:
    """Remove what a pass wrote of sparse layers before their files were merged, which no reader ever saw.

    `merged` says that other tables were merged, too. Under the write lock, with nothing uncommitted.
    """
    if merged or any(isinstance(info, LayerInfo) and info.is_sparse for info in infos):
        clean_up(store, math.inf)


def count_in(
    store: Store, info: Column, running: dict[str, NeuronStatistics], shard: Shard, values: torch.Tensor
) -> None:
    """Add a written shard's activations [n, M] to the layer's running statistics, at their stored precision."""
    if isinstance(info, LayerInfo):
        stored = values.T.half().float() if info.dtype == "float16" else values.T
        statistics_of(store, info, running, shard.number).update(stored)
