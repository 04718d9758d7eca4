"""What every layout is written from: the images of an index with their pictures, its neurons with the labels shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from csp_index.query.results import SqlResult
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store

BATCH: Final = 1024
"""Images that are in memory at once, with their thumbnails."""
_NEURON = """address, model, layer, neuron, state, neuron_labels.text AS label, method, score, score_low, score_high,
    confidence, probability, uncertain, note, mean, std, max, firing_rate, top_images, top_activations"""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is written: a store, layers of it, what runs a statement over it, and a layer's concept vectors [M, D]."""

    store: Store
    layers: tuple[LayerInfo, ...]
    ask: Callable[[str], SqlResult]
    vectors: Callable[[LayerInfo], np.ndarray]

    @property
    def encoder(self) -> EncoderInfo | None:
        """The first encoder of the index that has embeddings of all its images; None without one."""
        count = catalog.image_count(self.store)
        whole = (info for info in catalog.encoders(self.store) if catalog.image_count(self.store, info.what) == count)
        return next(whole, None)

    def neurons(self, layer: LayerInfo) -> pa.Table:
        """Return one row per neuron of a layer, in order: label shown, what speaks for it, statistics, top images."""
        return self.ask(
            f"SELECT {_NEURON} FROM neuron_labels JOIN neurons USING (address, model, layer, neuron) "
            f"WHERE {catalog.of_layer(layer.key)} ORDER BY neuron"
        ).to_arrow()

    def images(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the committed images in the order of their ids, `BATCH` at a time at most."""
        count = catalog.image_count(self.store)
        where = f"image_id < {count}"
        return self.store.scan(schema.IMAGES, columns, where=where, batch_rows=BATCH) if count else iter(())


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: for which tool, how many images and neurons, and what to type so that it opens the folder."""

    target: str
    images: int
    neurons: int
    opening: str


def pictures(thumbnails: pa.Array, names: list[str]) -> pa.Array:
    """Return thumbnails [N] with names as pictures that other libraries know: bytes and path, null without bytes."""
    absent = pa.array([not value.as_py() for value in thumbnails], pa.bool_())
    return pa.StructArray.from_arrays([thumbnails, pa.array(names, pa.string())], ["bytes", "path"], mask=absent)


def literal(text: str) -> str:
    """Return a text as a literal of Python.

    >>> print(literal('my "birds"'))
    "my \\"birds\\""
    """
    return json.dumps(text, ensure_ascii=False)


def file_name(text: str) -> str:
    """Return a name of an index as one of a file or folder, which leads to no other place.

    >>> file_name("a/b c"), file_name("..")
    ('a%2Fb%20c', '%2E%2E')
    """
    return quote(text, safe="") if text.strip(".") else "%2E" * len(text)


def names_of(uris: pa.Array) -> list[str]:
    """Return the names of images at some addresses: what stands after the last slash."""
    return [str(uri).rpartition("/")[2] for uri in uris.to_pylist()]


def write_parquet(tables: Iterable[pa.Table], path: Path) -> int:
    """Write tables of one schema into a file, one after the other, and return the rows; no file without a table."""
    writer: pq.ParquetWriter | None = None
    rows = 0
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows
