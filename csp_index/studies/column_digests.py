"""What a study's settings hash says of the columns it read: a digest that changes whenever their values do."""

from __future__ import annotations

import hashlib

import pyarrow.compute as pc

from csp_index.store import schema
from csp_index.store.catalog import Column
from csp_index.store.tables import Store


def column_digest(store: Store, info: Column) -> str:
    """Return a digest of the values of an encoder or a layer over all images, from the marks of its shards.

    An index of format 2 has no digests of shards: there the model's identity and the rows of each shard stand for them.
    """
    names = ["shard", "rows", "settings_hash"]
    rows = store.read(schema.SHARDS)
    rows = rows.filter(pc.equal(rows["what"], info.what)).sort_by("shard")
    known = "digest" in rows.column_names and not rows["digest"].null_count
    content = [rows[name].to_pylist() for name in ([*names, "digest"] if known else names)]
    text = repr((sorted(info.identity.items()), content))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
