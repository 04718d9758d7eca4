"""Sums over the dataset, kept in the store: computed once for an encoder's images and a vocabulary's content.

What is stored for the first images stays when images are added: the sums over the new ones are added to it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.labelling.response.dataset_sums import DatasetSums
from csp_index.store import schema
from csp_index.store.catalog import EncoderInfo, sql_text
from csp_index.store.runs import settings_hash
from csp_index.store.tables import Store
from csp_index.tensors.library import torch

_KEYS = 16  # vocabularies with a scale whose sums are kept for an encoder, the newest ones
_PARTS = ("totals", "share", "root", "embedding", "products")


def sums_key(source: EncoderInfo, texts_key: str, renormalise: bool, scale: float) -> str:
    """Return the name of the sums: a hash of what they depend on besides the number of images."""
    described = {"encoder_identity": source.identity, "texts": texts_key, "renormalise": renormalise, "scale": scale}
    return settings_hash(described)


def kept_sums(
    store: Store, source: EncoderInfo, key: str, images: int, make: Callable[[int], DatasetSums], *, keep: bool
) -> DatasetSums:
    """Return the sums over the first `images` images; `make(first)` computes those over the images from `first` on.

    With `keep`, which requires the write lock, what was computed is stored.
    """
    table = schema.sums_table(source.name)
    stored = store.memo(table, "dataset sums", lambda: _read(store, table, key, images), variant=(key, images))
    first = 0 if stored is None else stored.images
    if stored is not None and first == images:
        return stored
    more = make(first)
    if keep:
        _store(store, table, key, first, more)
    return more if stored is None else stored.and_of(more)


def _read(store: Store, table: str, key: str, images: int) -> DatasetSums | None:
    """Return the stored sums over the first images, as many of them as there are up to `images`; None without any."""
    if not store.has(table):
        return None
    rows = store.read(table, None, f"key = {sql_text(key)}").sort_by("first_image")
    result, width = None, 0
    for first in sorted(set(rows["first_image"].to_pylist())):
        parts = rows.filter(pc.equal(rows["first_image"], first))
        count = parts["images"][0].as_py()
        if first != width or first + count > images:
            break
        more, width = _sums(parts), first + count
        result = more if result is None else result.and_of(more)
    return result


def _sums(rows: pa.Table) -> DatasetSums:
    names = rows["part"].to_pylist()
    totals, share, root, embedding, products = (
        torch.from_numpy(rows["values"][names.index(part)].values.to_numpy().copy()) for part in _PARTS
    )
    return DatasetSums(totals.float(), share, root, embedding, products.view(len(embedding), -1))


def _store(store: Store, table: str, key: str, first: int, sums: DatasetSums) -> None:
    if store.has(table):
        kept = list(dict.fromkeys(store.read(table, ["key"])["key"].to_pylist()))
        for old in [other for other in kept if other != key][: max(0, len(kept) + (key not in kept) - _KEYS)]:
            store.delete(table, f"key = {sql_text(old)}")
        store.delete(table, f"key = {sql_text(key)} AND first_image >= {first}")
    values = [getattr(sums, part).flatten().double().numpy() for part in _PARTS]
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    count = len(_PARTS)
    columns = [
        pa.array([key] * count),
        pa.array([first] * count),
        pa.array([sums.images] * count),
        pa.array(_PARTS),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values))),
    ]
    store.append(table, pa.table(columns, schema=schema.sums_schema()))
    store.checkpoint()
