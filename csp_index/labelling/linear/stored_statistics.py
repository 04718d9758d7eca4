"""Statistics of texts' presence, kept in the store next to the sums over the dataset, by content and number of images.

A text's sigmoid depends on all images: where images were added, the statistics are computed again.
"""

from __future__ import annotations

from collections.abc import Callable

from csp_index.labelling.linear.correlation import TextStatistics
from csp_index.labelling.linear.presence import PresenceSigmoids
from csp_index.labelling.response.stored_sums import read_parts, store_parts
from csp_index.store import column_tables
from csp_index.store.catalog import EncoderInfo
from csp_index.store.runs import settings_hash
from csp_index.store.tables import Store


def statistics_key(source: EncoderInfo, texts_key: str, renormalise: bool) -> str:
    """Return the name of the statistics: a hash of what they depend on besides the number of images."""
    described = {"encoder_identity": source.identity, "texts": texts_key, "renormalise": renormalise}
    return settings_hash(described | {"of": "presence"})


def kept_statistics(
    store: Store, source: EncoderInfo, key: str, images: int, make: Callable[[], TextStatistics], *, keep: bool
) -> TextStatistics:
    """Return the statistics over `images` images: stored, or made; with `keep`, which needs the write lock, stored."""
    table = column_tables.sums_table(source.name)
    stored = store.memo(table, "text statistics", lambda: _read(store, table, key, images), variant=(key, images))
    if stored is not None:
        return stored
    made = make()
    if keep:
        values = made.sigmoids.slope, made.sigmoids.shift, made.mean, made.deviation
        store_parts(store, table, key, 0, images, dict(zip(column_tables.PRESENCE_PARTS, values, strict=True)))
    return made


def _read(store: Store, table: str, key: str, images: int) -> TextStatistics | None:
    parts = next((parts for first, count, parts in read_parts(store, table, key) if (first, count) == (0, images)), {})
    if set(parts) != set(column_tables.PRESENCE_PARTS):
        return None
    slope, shift, mean, deviation = (parts[name] for name in column_tables.PRESENCE_PARTS)
    return TextStatistics(images, PresenceSigmoids(slope.float(), shift.float()), mean, deviation)
