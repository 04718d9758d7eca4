"""What a verification reads: the index at one commit, its whole tables, and how much of each is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from csp_index.errors import StoreError
from csp_index.integrity.findings import Finding, Remedy, Verification, remedy_of
from csp_index.store import catalog, schema
from csp_index.store.catalog import Column, EncoderInfo, LayerInfo
from csp_index.store.tables import Store

_PIECE = 256  # rows


@dataclass
class Subject:
    """The index under verification; tables with `damaged` files are not read, as nobody wrote what they hold."""

    store: Store
    result: Verification
    damaged: Mapping[str, list[str]] = field(default_factory=dict)
    committed: bool = True  # False for an index of format 2, where rows without a mark do not exist
    images: int = 0  # as far as the marks can be read

    def sample(self, count: int, most: int) -> np.ndarray:
        """Return places below `count`, sorted: all with `full`, else at most `most` seeded random ones."""
        if self.result.full or count <= most:
            return np.arange(count)
        return np.sort(np.random.default_rng(count).choice(count, most, replace=False))

    def is_readable(self, table: str) -> bool:
        """Return whether a table exists and none of its files is damaged."""
        return table not in self.damaged and self.store.has(table)

    def rests_on(self, *tables: str) -> bool:
        """Return whether nothing was found about tables that a check takes for granted: else it is left out."""
        return not any(finding.table in tables for finding in self.result.findings)

    def find(
        self, table: str, what: str, where: str = "", remedy: Remedy | None = None, key: tuple[Any, ...] = ()
    ) -> None:
        """Add a finding."""
        self.result.findings.append(Finding(table, what, remedy or remedy_of(table), where, key or (table,)))

    @cached_property
    def encoders(self) -> list[EncoderInfo]:
        """The encoders whose rows can be read; a damaged list of them has a finding of its own."""
        return self._infos(catalog.encoders, schema.ENCODERS)

    @cached_property
    def layers(self) -> list[LayerInfo]:
        """The layers whose rows can be read; a damaged list of them has a finding of its own."""
        return self._infos(catalog.layers, schema.LAYERS)

    @cached_property
    def known_layers(self) -> dict[tuple[str, str], int]:
        """The neurons of each (model, layer) that the index names, also of those without a shard at the moment."""
        rows = self.store.read(schema.LAYERS, ["model", "layer", "neurons"]).to_pylist()
        return {(row["model"], row["layer"]): row["neurons"] for row in rows}

    @cached_property
    def known_encoders(self) -> set[str]:
        """The encoders that the index names, also those without a shard at the moment."""
        return set(self.store.read(schema.ENCODERS, ["encoder"])["encoder"].to_pylist())

    @property
    def columns(self) -> list[Column]:
        """The encoders and the layers."""
        return [*self.encoders, *self.layers]

    def _infos(self, read: Callable[[Store], list[Any]], table: str) -> list[Any]:
        if {table, schema.SHARDS} & self.damaged.keys():
            return []
        try:
            return read(self.store)
        except (StoreError, ValueError) as exc:
            self.find(table, str(exc), remedy="restore")
            return []


def rows_between(store: Store, table: str, columns: list[str], first: int, count: int) -> pa.Table:
    """Return `count` rows of a table from the row number `first` on, in the order they were written."""
    with store.reading(table):
        rows: pa.Table = store.dataset(table).scanner(columns=columns, offset=first, limit=count).to_table()
        return rows


def pieces_between(store: Store, table: str, columns: list[str], first: int, count: int) -> Iterator[pa.Table]:
    """Yield `count` rows of a table from the row number `first` on, in their order, a few at a time."""
    with store.reading(table):
        scanner = store.dataset(table).scanner(
            columns=columns, offset=first, limit=count, batch_size=_PIECE, batch_readahead=2
        )
        for batch in scanner.to_batches():
            yield pa.Table.from_batches([batch])


def many(places: list[Any], of: str) -> str:
    """Return how many places there are and the first few of them.

    >>> many([3, 5], "image")
    'image 3, 5'
    """
    more = f" and {len(places) - 4:,} more" if len(places) > 4 else ""
    return f"{of} {', '.join(map(str, places[:4]))}{more}"
