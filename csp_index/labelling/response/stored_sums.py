"""Sums over the dataset, kept in the store: computed once for an encoder's images and a vocabulary's content.

What is stored for the first images stays when images are added: the sums over the new ones are added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from csp_index.labelling.response.dataset_sums import DatasetSums
from csp_index.store import column_tables
from csp_index.store.catalog import EncoderInfo, sql_text
from csp_index.store.runs import settings_hash
from csp_index.store.tables import Store
from csp_index.tensors.library import torch

_KEYS = 16  # vocabularies with a scale whose sums are kept for an encoder, the newest ones


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
    table = column_tables.sums_table(source.name)
    stored = store.memo(table, "dataset sums", lambda: _read(store, table, key, images), variant=(key, images))
    first = 0 if stored is None else stored.images
    if stored is not None and first == images:
        return stored
    more = make(first)
    if keep:
        parts = {name: getattr(more, name) for name in column_tables.SUMS_PARTS}
        store_parts(store, table, key, first, more.images, parts)
    return more if stored is None else stored.and_of(more)


def read_parts(store: Store, table: str, key: str) -> list[tuple[int, int, dict[str, torch.Tensor]]]:
    """Return what is stored under a key: the first image, the number of images, and float64 values by part."""
    if not store.has(table):
        return []
    rows = store.read(table, None, f"key = {sql_text(key)}")
    parts: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
    names = rows["first_image"].to_pylist(), rows["images"].to_pylist(), rows["part"].to_pylist()
    for place, (first, images, name) in enumerate(zip(*names, strict=True)):
        values = torch.from_numpy(rows["values"][place].values.to_numpy().copy())
        parts.setdefault((first, images), {})[name] = values
    return [(*span, parts[span]) for span in sorted(parts)]


def _read(store: Store, table: str, key: str, images: int) -> DatasetSums | None:
    """Return the stored sums over the first images, as many of them as there are up to `images`; None without any."""
    result, width = None, 0
    for first, count, parts in read_parts(store, table, key):
        if first != width or first + count > images:
            break
        totals, share, root, embedding, products = (parts[name] for name in column_tables.SUMS_PARTS)
        more = DatasetSums(totals.float(), share, root, embedding, products.view(len(embedding), -1))
        result, width = more if result is None else result.and_of(more), first + count
    return result


def store_parts(store: Store, table: str, key: str, first: int, images: int, parts: Mapping[str, torch.Tensor]) -> None:
    """Store what was computed over images from `first` on, in place of what is stored of these under the key."""
    if store.has(table):
        kept = list(dict.fromkeys(store.read(table, ["key"])["key"].to_pylist()))
        for old in [other for other in kept if other != key][: max(0, len(kept) + (key not in kept) - _KEYS)]:
            store.delete(table, f"key = {sql_text(old)}")
        store.delete(table, f"key = {sql_text(key)} AND first_image >= {first}")
    values = [part.flatten().double().numpy() for part in parts.values()]
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    columns = [
        pa.array([key] * len(parts)),
        pa.array([first] * len(parts)),
        pa.array([images] * len(parts)),
        pa.array(list(parts)),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values))),
    ]
    store.append(table, pa.table(columns, schema=column_tables.sums_schema()))
    store.checkpoint()
