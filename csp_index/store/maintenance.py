"""Vector indexes and fragments of tables. Knows nothing about images or neurons.

Changes require the store's write lock. Rows keep their order, and an interrupted change leaves the table as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from csp_index.store.column_tables import EMBEDDING
from csp_index.store.tables import Store

_FRAGMENT_BYTES = 2**30  # of one fragment after compaction, at most
_BATCH_BYTES = 8 * 2**20  # rows that compaction reads at a time
_SUB_VECTOR = 8  # dimensions that ivf_pq encodes together


@dataclass(frozen=True, slots=True)
class TableState:
    """A table's size at its last version."""

    rows: int
    fragments: int
    bytes: int


def table_state(store: Store, name: str) -> TableState:
    """Return the size of a table; its indexes are not counted."""
    fragments = store.dataset(name).get_fragments()
    files = [file for fragment in fragments for file in fragment.data_files()]
    return TableState(store.count(name), len(fragments), sum(file.file_size_bytes or 0 for file in files))


def partition_count(store: Store, name: str) -> int:
    """Return how many partitions a table's vector index has; it must have one."""
    with store.upkeep(name) as dataset:
        index_name = next(index.name for index in dataset.describe_indices() if index.field_names == [EMBEDDING])
        return int(dataset.stats.index_stats(index_name)["indices"][0].get("num_partitions", 0))


def build_vector_index(
    store: Store, name: str, kind: str, partitions: int, centres: np.ndarray | None = None, *, sampled: int = 256
) -> None:
    """Build the vector index of a table by cosine, replacing the present one.

    `centres` [P, D] are the partitions' centres if they were trained elsewhere; else Lance trains them, on `sampled`
    rows per partition.
    """
    with store.upkeep(name) as dataset:
        options: dict[str, Any] = {"num_partitions": partitions, "sample_rate": sampled}
        if centres is not None:
            options["ivf_centroids"] = centres
        if kind.endswith("pq"):
            width = dataset.schema.field(EMBEDDING).type.list_size
            options["num_sub_vectors"] = width // _SUB_VECTOR if width % _SUB_VECTOR == 0 else 1
        dataset.create_index(EMBEDDING, kind.upper(), metric="cosine", replace=True, **options)


def extend_indexes(store: Store, name: str) -> None:
    """Add the rows written since they were built to a table's indexes, without training again."""
    with store.upkeep(name) as dataset:
        dataset.optimize.optimize_indices()


def drop_vector_index(store: Store, name: str) -> None:
    """Drop the vector index of a table, if it has one."""
    with store.upkeep(name) as dataset:
        for index in dataset.describe_indices():
            if index.field_names == [EMBEDDING]:
                dataset.drop_index(index.name)


def index_column(store: Store, name: str, column: str) -> None:
    """Index a column of numbers, so that filters on it are fast; does nothing if it is indexed already."""
    with store.upkeep(name) as dataset:
        if all(index.field_names != [column] for index in dataset.describe_indices()):
            dataset.create_scalar_index(column, "BTREE")


def compact(store: Store, name: str) -> None:
    """Merge small fragments into large ones; the rows keep their order."""
    state = table_state(store, name)
    if state.fragments < 2:
        return
    row = max(1, state.bytes // max(1, state.rows))
    with store.upkeep(name) as dataset:
        dataset.optimize.compact_files(
            target_rows_per_fragment=max(1024, min(2**20, _FRAGMENT_BYTES // row)),
            batch_size=max(16, min(8192, _BATCH_BYTES // row)),
            num_threads=1,  # one task at a time bounds the memory
            compaction_mode="try_binary_copy",  # pages as they are, where no row was deleted: a third of the time
        )
