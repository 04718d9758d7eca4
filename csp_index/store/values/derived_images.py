"""Derived images: edited or generated ones, made for one neuron; their ids are valid wherever image ids are.

One table per encoder. They never enter the indexed images, their shards or the neurons' statistics: their ids begin at
`FIRST`, above all indexed images, and are unique over all tables. Rows are written whole and never changed, so the rows
of a killed run are complete. A row whose activation is not below the neuron's threshold records a failed attempt, which
the choice of contrastive images skips.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, overload

import numpy as np
import pyarrow as pa

from csp_index.errors import StoreError
from csp_index.records import DerivedKind, NeuronKey
from csp_index.store import catalog, column_tables
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store

Ids = TypeVar("Ids")  # an array or a tensor

FIRST: Final = 1 << 40
"""The lowest id of a derived image; indexed images have ids far below."""

_TOLD = ("image_id", "kind", "origin", "model", "layer", "neuron", "rank", "settings_hash", "recipe", "activation")


@dataclass(frozen=True, slots=True)
class DerivedImage:
    """An image made from an indexed one (`origin`) for a neuron, with its embedding and the neuron's activation.

    `rank` is the rank of `origin` in the neuron's activating set when the image was made; `activation` is that of the
    neuron on the picture. `recipe` reproduces it (edit, strength, region; or prompt, seed, model). `settings_hash`
    covers all settings that the image depends on.
    """

    kind: DerivedKind
    origin: int
    neuron: NeuronKey
    rank: int
    settings_hash: str
    activation: float
    embedding: np.ndarray  # [D] unit length
    picture: bytes  # PNG or JPEG
    recipe: Mapping[str, object] = field(default_factory=dict)
    run_id: str = ""


@overload
def is_derived(ids: int) -> bool: ...
@overload
def is_derived(ids: Ids) -> Ids: ...
def is_derived(ids: Any) -> Any:
    """Return which image ids (a number, an array or a tensor) belong to derived images.

    >>> is_derived(np.array([0, FIRST - 1, FIRST])).tolist()
    [False, False, True]
    """
    return ids >= FIRST


def append_derived(store: Store, source: EncoderInfo, rows: Sequence[DerivedImage]) -> list[int]:
    """Store derived images in one commit and return their ids, in order; only under the write lock."""
    if not rows:
        return []
    first = max([FIRST - 1, *(int(ids.max()) for _, ids in _all_ids(store) if len(ids))]) + 1
    ids = list(range(first, first + len(rows)))
    vectors = np.stack([np.asarray(row.embedding, dtype=np.float32) for row in rows])
    if vectors.shape[1] != source.width:
        raise StoreError(
            f"embeddings of derived images have {vectors.shape[1]} dimensions, the encoder {source.name} "
            f"{source.width}: embed them by that encoder"
        )
    columns: dict[str, object] = {
        "image_id": pa.array(ids, pa.int64()),
        "kind": [row.kind for row in rows],
        "origin": pa.array([row.origin for row in rows], pa.int64()),
        "model": [row.neuron.model for row in rows],
        "layer": [row.neuron.layer for row in rows],
        "neuron": pa.array([row.neuron.neuron for row in rows], pa.int32()),
        "rank": pa.array([row.rank for row in rows], pa.int32()),
        "settings_hash": [row.settings_hash for row in rows],
        "recipe": [json.dumps(dict(row.recipe), sort_keys=True, ensure_ascii=False) for row in rows],
        "activation": pa.array([row.activation for row in rows], pa.float32()),
        column_tables.EMBEDDING: pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), source.width),
        "picture": pa.array([row.picture for row in rows], pa.binary()),
        "run_id": [row.run_id for row in rows],
    }
    store.append(
        column_tables.derived_table(source.name), pa.table(columns, schema=column_tables.derived_schema(source.width))
    )
    store.checkpoint()
    return ids


def find_derived(
    store: Store, source: EncoderInfo, target: LayerInfo, neurons: Iterable[int], kind: DerivedKind, settings_hash: str
) -> pa.Table:
    """Return the derived images of some neurons under a settings hash, without embeddings and pictures.

    Columns: image_id, kind, origin, model, layer, neuron, rank, settings_hash, recipe, activation; in the order of ids.
    """
    table = column_tables.derived_table(source.name)
    if not store.has(table):
        return column_tables.derived_schema(source.width).empty_table().select(list(_TOLD))
    requested = sorted({int(neuron) for neuron in neurons})
    where = f"settings_hash = {catalog.sql_text(settings_hash)} AND kind = {catalog.sql_text(kind)}"
    where += f" AND {catalog.layer_filter(target)}"
    if len(requested) < target.neurons:
        where += f" AND neuron IN ({','.join(map(str, requested))})" if requested else " AND false"
    return store.read(table, list(_TOLD), where).sort_by("image_id")


def read_derived(
    store: Store, source: EncoderInfo, ids: Iterable[int], columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the rows of derived images in the order of `ids`; StoreError for an unknown id."""
    table = column_tables.derived_table(source.name)
    requested = np.fromiter(ids, dtype=np.int64)
    known = _ids(store, table)
    places = np.searchsorted(known, requested)
    absent = (
        (known[np.minimum(places, len(known) - 1)] != requested) if len(known) else np.ones(len(requested), dtype=bool)
    )
    if absent.any():
        raise StoreError(
            f"derived image {requested[absent.argmax()]} of {source.name} is not in the index: "
            "label again with --recompute"
        )
    selected = list(columns or column_tables.derived_schema(source.width).names)
    if not len(requested):
        return column_tables.derived_schema(source.width).empty_table().select(selected)
    distinct, inverse = np.unique(places, return_inverse=True)
    rows: pa.Table = store.take(table, distinct, selected)
    return rows.take(pa.array(inverse.reshape(-1)))


def derived_rows(store: Store, ids: Iterable[int], columns: Sequence[str]) -> dict[int, dict[str, object]]:
    """Return some columns of derived images by id, for any encoder; unknown ids are left out."""
    requested = sorted(set(ids))
    rows_by_id: dict[int, dict[str, object]] = {}
    if requested:
        where = f"image_id IN ({','.join(map(str, requested))})"
        for name in derived_tables(store):
            rows = store.read(name, ["image_id", *columns], where).to_pylist()
            rows_by_id |= {row.pop("image_id"): row for row in rows}
    return rows_by_id


def derived_tables(store: Store) -> list[str]:
    """Return the names of the tables of derived images, one per encoder that has some."""
    names = [column_tables.derived_table(info.name) for info in catalog.encoders(store)]
    return [name for name in names if store.has(name)]


def describe_recipe(recipe: str) -> str:
    """Return in a few words how a derived image was made, from its recipe as stored.

    >>> describe_recipe('{"edit": "blur", "strength": 0.3}'), describe_recipe('{"prompt": "a red star"}')
    ('blur 0.3', 'a red star')
    """
    fields = read_object(recipe, "derived", "recipe")
    words = [str(fields[name]) for name in ("edit", "strength") if name in fields]
    return " ".join(words) or str(fields.get("prompt", "derived"))


def _all_ids(store: Store) -> list[tuple[str, np.ndarray]]:
    return [(name, _ids(store, name)) for name in derived_tables(store)]


def _ids(store: Store, table: str) -> np.ndarray:
    """Return the ids of a table of derived images in the order of its rows, ascending; empty without a table."""

    def read() -> np.ndarray:
        if not store.has(table):
            return np.zeros(0, dtype=np.int64)
        ids: np.ndarray = store.read(table, ["image_id"])["image_id"].to_numpy()
        if (np.diff(ids) <= 0).any():
            raise StoreError(f"table {table} of {store.uri} is out of order: restore it from a copy")
        return ids

    return store.memo(table, "derived image ids", read)
