"""How many latents of sparse autoencoders are dead or dense, from the statistics that are stored anyway."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from csp_index.store import catalog, schema
from csp_index.store.catalog import Column, LayerInfo
from csp_index.store.tables import Store

DENSE: Final = 0.5
"""A latent that fires on more than this share of the images is dense: what it fires on says little."""


def count_latents(store: Store, infos: Iterable[Column]) -> dict[str, dict[str, int]]:
    """Return `latents`, `dead` (fire on no image) and `dense` ones of each autoencoder's layer, by its address."""
    counts = {}
    for info in infos:
        if not isinstance(info, LayerInfo) or "sparse" not in info.identity or not catalog.is_finished(store, info):
            continue
        rows = store.read(schema.NEURONS, columns=["firing_rate"], where=catalog.layer_filter(info))
        rates = rows["firing_rate"].combine_chunks()
        dead, dense = (_count(part) for part in (pc.equal(rates, 0), pc.greater(rates, DENSE)))
        counts[str(info.key)] = {"latents": len(rates), "dead": dead, "dense": dense}
    return counts


def _count(matches: pa.Array) -> int:
    return int(pc.sum(matches).as_py() or 0)
