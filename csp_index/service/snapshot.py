"""An index at one fixed version, as the service sees it: read once, shared by all threads, never written.

Knows nothing about models and does not load torch. A request for something that is missing raises NotFoundError.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import csp_index
from csp_index import settings
from csp_index.errors import NotFoundError
from csp_index.labelling.review.words import PINNED
from csp_index.lru_cache import LRUCache
from csp_index.records import ExamplePair, LayerKey, NeuronKey
from csp_index.service.documents.shapes import LayerRow, NeuronRow, VersionDocument
from csp_index.service.layer_table import LayerTable, Pairs, read_layer, read_pairs
from csp_index.service.pinned_labels import with_pins
from csp_index.service.reviews import Reviews
from csp_index.store import catalog, column_tables, runs, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.connect import open_snapshot, open_store
from csp_index.store.originals import ImageRoots
from csp_index.store.values.derived_images import derived_rows, describe_recipe, is_derived

_NAMES = 2**18  # images whose names are cached; in a larger index each request reads the names it needs


@dataclass(frozen=True, slots=True)
class Texts:
    """C texts and their directions [C, D], unit vectors in the encoder's space."""

    names: list[str]
    directions: np.ndarray


class Snapshot:
    """An index at the versions its tables had when it was opened.

    Only `reviews`, what readers say, may be of later versions.
    """

    def __init__(
        self,
        uri: str | Path,
        *,
        versions: Mapping[str, int] | None = None,
        held_bytes: int | None = None,
        live_reviews: bool = False,
    ) -> None:
        """Open an index, at given versions of its tables or the last ones; with `live_reviews` notes as they are now.

        `held_bytes` is the memory for layers and texts, by default half of the setting serve_held_bytes.
        """
        self.store = open_snapshot(uri, versions)
        self.reviews = Reviews(open_store(uri) if live_reviews else self.store, live=live_reviews)
        self.versions = self.store.versions()
        self.name = self.store.uri.rstrip("/").rpartition("/")[2] or "index"
        self.cache = LRUCache(settings.SERVE_HELD_BYTES.value() // 2 if held_bytes is None else held_bytes)
        self._layers = {info.key: info for info in catalog.layers(self.store)}
        self.encoders = catalog.encoders(self.store)
        self.images = catalog.image_count(self.store)
        self.runs = {row["run_id"]: row for row in runs.read_runs(self.store)}

    def __repr__(self) -> str:
        return f"Snapshot({self.name!r}, {self.version!r})"

    @cached_property
    def version(self) -> str:
        """A short hash of all that documents depend on: the versions of tables and package, and the runs."""
        seen = json.dumps([csp_index.__version__, self.versions, sorted(self.runs)], sort_keys=True)
        return hashlib.sha256(seen.encode()).hexdigest()[:16]

    @property
    def number(self) -> int | None:
        """The number of the version that `csp-index versions` lists; None in an index of an old format."""
        return None if self.store.commit_fixed is None else self.store.commit_fixed.number

    def version_document(self) -> VersionDocument:
        """Return what version this is."""
        record = self.store.commit_fixed
        made = ("", None) if record is None else (record.command, record.when.isoformat())
        return {"version": self.version, "number": self.number, "command": made[0], "when": made[1]}

    @property
    def encoder(self) -> EncoderInfo:
        """The encoder that saw the images: of several, the one added first."""
        if not self.encoders:
            raise NotFoundError(f"{self.name} holds no embeddings yet: run `csp-index index` again")
        return self.encoders[0]

    @cached_property
    def image_roots(self) -> ImageRoots:
        """The places, as of its first use, below which the originals of images may be opened."""
        return ImageRoots(self.store)

    def check_readable(self) -> None:
        """Read a row of each table. Raises StoreError if the versions that this snapshot holds cannot be read."""
        for name in self.versions:
            next(self.store.scan(name, self.store.dataset(name).schema.names, batch_rows=1), None)

    def layers(self) -> list[LayerInfo]:
        """Return the layers, in the order they were added."""
        return list(self._layers.values())

    def info(self, key: LayerKey) -> LayerInfo:
        """Return the description of a layer without reading its neurons."""
        return catalog.find_layer(self._layers, key)

    def info_of(self, key: NeuronKey) -> LayerInfo:
        """Return what is known of the layer of a neuron that exists."""
        info = self.info(key.layer_key)
        catalog.check_neurons(info, [key.neuron])
        return info

    def layer(self, key: LayerKey) -> LayerTable:
        """Return the neurons and newest labels of a layer, and the names that readers gave."""
        table, (state, pins) = self._layer(key), self.reviews.pins(self.info(key))
        if not pins:
            return table
        return self.cache.get(("named", key, state), lambda: with_pins(table, pins), lambda table: table.nbytes)

    def names_given(self, key: LayerKey) -> dict[int, str]:
        """Return the names that readers gave to neurons of a layer, by number; none of a layer that is not there."""
        info = self._layers.get(key)
        return {} if info is None else {neuron: pin.text for neuron, pin in self.reviews.pins(info)[1].items()}

    def _layer(self, key: LayerKey) -> LayerTable:
        info = self.info(key)
        return self.cache.get(("layer", key), lambda: read_layer(self.store, info), lambda table: table.nbytes)

    def pairs(self, key: LayerKey, method: str) -> Pairs:
        """Return the example pairs behind the newest labels of a layer by a method.

        Each method's are kept apart: those of an index with labels by many need more memory than there is for them.
        """
        table = self._layer(key)
        made = ("pairs", key, method)
        return self.cache.get(made, lambda: read_pairs(self.store, table, method), lambda pairs: pairs.nbytes)

    def pairs_of(self, key: NeuronKey, run_id: str) -> tuple[tuple[ExamplePair, ...], float | None]:
        """Return the pairs of a neuron's label, and the threshold below which an image counted as contrastive.

        There are none if the run's label is not the neuron's newest by its method.
        """
        methods = self._layer(key.layer_key).methods
        method = next((name for name, labels in methods.items() if labels.runs[key.neuron] == run_id), None)
        return ((), None) if method is None else self.pairs(key.layer_key, method).of(key.neuron, run_id)

    def neuron(self, key: NeuronKey) -> LayerTable:
        """Return the layer of a neuron that exists."""
        return self.layer(self.info_of(key).key)

    def neuron_row(self, key: NeuronKey, method: str | None = None) -> NeuronRow:
        """Return the row of a neuron in lists: its label by `method` (default: the label shown), state, statistics."""
        return self.neuron(key).row(key.neuron, method)

    def image_count(self, what: str) -> int:
        """Return how many images an encoder or a layer has, by its name in the shard marks."""
        return catalog.image_count(self.store, what)

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return the row of a run, or None if the index no longer has it."""
        return self.runs.get(run_id)

    def check_image(self, image_id: int) -> None:
        """Refuse an image that does not exist; reading its row checks a derived image."""
        if not 0 <= image_id < self.images and not is_derived(image_id):
            held = f"images 0 to {self.images - 1}" if self.images else "no images"
            raise NotFoundError(f"image {image_id} does not exist: the index has {held}")

    def image_rows(self, ids: Iterable[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Return some columns of indexed images by id; other ids are left out."""
        requested = sorted({image for image in ids if 0 <= image < self.images})
        if not requested:
            return {}
        names = ["image_id", *(name for name in columns if name != "image_id")]
        rows = self.store.take(schema.IMAGES, requested, names)
        if rows["image_id"].to_pylist() != requested:  # the rows are not in the order of their ids: look them up
            rows = self.store.read(schema.IMAGES, names, f"image_id IN ({','.join(map(str, requested))})")
        return {row["image_id"]: row for row in rows.to_pylist()}

    def names(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the file names of images, and the recipes of derived images, by id; unknown ids are left out."""
        requested = set(ids)
        uris = self._uris
        if uris is None:
            known = {image: str(row["uri"]) for image, row in self.image_rows(requested, ["uri"]).items()}
        else:
            indexed = sorted(image for image in requested if 0 <= image < len(uris))
            known = dict(zip(indexed, uris.take(pa.array(indexed, pa.int64())).to_pylist(), strict=True))
        names = {image: uri.rpartition("/")[2] for image, uri in known.items()}
        derived = derived_rows(self.store, (image for image in requested if is_derived(image)), ["recipe"])
        return names | {image: describe_recipe(str(row["recipe"])) for image, row in derived.items()}

    @cached_property
    def _uris(self) -> pa.Array | None:
        if self.images > _NAMES:
            return None
        rows = self.store.read(schema.IMAGES, ["image_id", "uri"], f"image_id < {self.images}").combine_chunks()
        in_order = np.array_equal(rows["image_id"].to_numpy(), np.arange(self.images))
        return rows["uri"].chunk(0) if in_order and self.images else None

    def texts(self, candidates: str) -> Texts | None:
        """Return the texts and vectors that a run names by `candidates`, else those stored last.

        None if the index has none, or if they would take more than half of the cache.
        """
        return self.cache.get(("texts", candidates), lambda: self._read_texts(candidates), _size_of_texts)

    def _read_texts(self, candidates: str) -> Texts | None:
        info = self.encoder
        table = column_tables.texts_table(info.name)
        if not self.store.has(table):
            return None
        names = ["vocabulary", "template_set"]
        counts = self.store.read(table, names).group_by(names).aggregate([([], "count_all")])
        sets = [row for row in counts.to_pylist() if "proposed@" not in row["vocabulary"]]
        named = [row for row in sets if f"{candidates} + ".startswith(f"{row['vocabulary']} {row['template_set']} + ")]
        if not sets:
            return None
        texts_set = (named or sets)[-1]
        if 8 * texts_set["count_all"] * info.width > self.cache.limit:
            return None
        where = " AND ".join(f"{name} = {catalog.sql_text(texts_set[name])}" for name in ("vocabulary", "template_set"))
        rows = self.store.read(table, ["position", "text", column_tables.EMBEDDING], f"{where} AND text != ''")
        rows = rows.sort_by("position").combine_chunks()
        vectors = np.asarray(rows[column_tables.EMBEDDING].chunk(0).flatten()).reshape(rows.num_rows, info.width)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return Texts(rows["text"].to_pylist(), vectors / np.maximum(lengths, 1e-12))

    def layer_rows(self) -> list[LayerRow]:
        """Return the row of each layer on the home page, in the order they were added."""
        rows = self.cache.get("layer rows", self._read_layer_rows, lambda rows: 500 * len(rows))
        return [self._named_row(row) for row in rows]

    def _named_row(self, row: LayerRow) -> LayerRow:
        """Return the row of a layer with the names that readers gave counted in."""
        key = LayerKey(row["model"], row["name"])
        if not row["ready"] or not self.reviews.pins(self.info(key))[1]:
            return row
        labels = self.layer(key).labels()
        return {**row, "labelled": labels.labelled if labels else 0, "methods": [*row["methods"], PINNED]}

    def _read_layer_rows(self) -> list[LayerRow]:
        by = ["model", "layer"]
        neurons = self.store.read(schema.NEURONS, [*by, "images", "max"])
        neurons = neurons.append_column("dead", pc.less_equal(neurons["max"], 0))
        counted = neurons.group_by(by).aggregate([([], "count_all"), ("dead", "sum"), ("images", "min")]).to_pylist()
        heads = self.store.read(schema.LABELS, [*by, "method", "neuron", "state"], "rank <= 0")
        methods = heads.group_by([*by, "method"]).aggregate([]).to_pylist()
        labelled = heads.filter(pc.equal(heads["state"], "labelled")).group_by(by)
        named = {(r["model"], r["layer"]): r for r in labelled.aggregate([("neuron", "count_distinct")]).to_pylist()}
        counts = {(row["model"], row["layer"]): row for row in counted}
        rows: list[LayerRow] = []
        for info in self.layers():
            key = (info.key.model, info.key.layer)
            own = counts.get(key, {"count_all": 0, "dead_sum": 0, "images_min": 0})
            rows.append(
                {
                    "layer": str(info.key),
                    "model": info.key.model,
                    "name": info.key.layer,
                    "neurons": info.neurons,
                    "dead": own["dead_sum"],
                    "labelled": named[key]["neuron_count_distinct"] if key in named else 0,
                    "methods": sorted(row["method"] for row in methods if (row["model"], row["layer"]) == key),
                    "pool": info.pool,
                    "images": self.image_count(info.what),
                    "ready": own["count_all"] == info.neurons and own["images_min"] == self.images,
                }
            )
        return rows


def _size_of_texts(texts: Texts | None) -> int:
    return 64 if texts is None else texts.directions.nbytes + 100 * len(texts.names)
